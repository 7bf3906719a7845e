"""A real S3 server for tests: SeaweedFS in a process of its own. Unlike moto it looks at who asks; it can be ended."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from tests import s3_stand

PROGRAM = Path(sys.executable).with_name("weed")
PARTS = ("admin", "filer", "master", "s3", "volume")
PATIENCE_SECONDS = 30


@dataclass(frozen=True)
class Weed:
    """A running server, and who may use it."""

    address: str
    access_key: str
    secret_key: str
    process: subprocess.Popen[bytes]
    """Stopped with SIGSTOP it keeps its callers waiting; killed it is away."""

    @property
    def environment(self) -> dict[str, str]:
        """The variables that lead there."""
        keys = {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}
        return s3_stand.SETTINGS | keys | {"AWS_ENDPOINT_URL": self.address}


@contextmanager
def server(folder: Path) -> Iterator[Weed]:
    """A server that keeps its data in `folder`, on free ports of this machine, while the context lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    for attempt in range(4):  # somebody else may take a port before the server does
        with _process(folder) as weed:
            if _answers(weed):
                yield weed
                return
        log = (folder / "weed.log").read_text(errors="replace")
        (folder / "weed.log").rename(folder / f"weed.{attempt}.log")
    raise RuntimeError(f"SeaweedFS does not start: {log[-3000:]}")


def bucket(monkeypatch: pytest.MonkeyPatch, weed: Weed) -> str:
    """Name of a new bucket on that server; the environment leads there."""
    for name, value in weed.environment.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "LIMNER_CHECKPOINTS"):
        monkeypatch.delenv(name, raising=False)
    name = f"data-{uuid4().hex[:12]}"
    boto3.Session().client("s3").create_bucket(Bucket=name)
    return name


@contextmanager
def _process(folder: Path) -> Iterator[Weed]:
    access_key, secret_key = "limner", uuid4().hex
    identity = {
        "name": "limner",
        "credentials": [{"accessKey": access_key, "secretKey": secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    free = iter(_free_ports(2 * len(PARTS)))
    ports = {f"{part}.{kind}": next(free) for part in PARTS for kind in ("port", "port.grpc")}
    words = [
        *("-logtostderr=true", "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"),
        *("-master.telemetry=false", "-admin.ui=false", "-webdav=false", f"-s3.config={config}"),
        *("-s3.port.iceberg=0", "-s3.port.lance=0"),
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    # It would take the caller's credentials for those of an administrator.
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    with (folder / "weed.log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, *words], cwd=folder, env=surroundings, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield Weed(f"http://127.0.0.1:{ports['s3.port']}", access_key, secret_key, process)
    finally:
        process.kill()  # an orderly end takes it three seconds, and its data are thrown away
        process.wait()
        for part in PARTS:
            port = ports[f"{part}.port"]
            for name in (f"{part}-grpc-{ports[f'{part}.port.grpc']}", f"{part}-{port}"):
                Path(f"/tmp/seaweedfs-{name}.sock").unlink(missing_ok=True)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:  # all are held until all are known, or one would be given twice
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _answers(weed: Weed) -> bool:
    """Waits until the server stores something; False where its process ends instead."""
    client = boto3.Session().client(
        "s3",
        endpoint_url=weed.address,
        aws_access_key_id=weed.access_key,
        aws_secret_access_key=weed.secret_key,
        region_name="us-east-1",
        config=Config(connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 1}),
    )
    deadline = time.monotonic() + PATIENCE_SECONDS
    while weed.process.poll() is None and time.monotonic() < deadline:
        try:
            client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
        except (BotoCoreError, ClientError):
            time.sleep(0.1)
        else:
            return True
    return False
