"""A real S3 API over HTTP for tests: moto's server, in this process, with a bucket of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import boto3
import pytest

SETTINGS = {
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "secret",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


@contextmanager
def server() -> Iterator[str]:
    """Address of a server that runs while the context lasts."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        running.stop()


def bucket(monkeypatch: pytest.MonkeyPatch, address: str) -> str:
    """Name of a new bucket on that server; the environment leads there."""
    for name, value in {**SETTINGS, "AWS_ENDPOINT_URL": address}.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "LIMNER_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    name = f"runs-{uuid4().hex[:12]}"
    boto3.Session().client("s3").create_bucket(Bucket=name)
    return name
