"""A place in an S3 bucket. Which server, as whom, in which region: the AWS_* environment, as everywhere."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import S3TransferRetriesExceededError, TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    HTTPClientError,
    IncompleteReadError,
    NoCredentialsError,
    PartialCredentialsError,
    SSLError,
)
from botocore.response import StreamingBody

from limner.errors import LimnerError

CONNECT_SECONDS, READ_SECONDS, ATTEMPTS = 10, 60, 4
PAUSE_SECONDS = 0.5
"""Before a transfer that broke off is taken up again; doubled each time in a row."""
PIECE = 2**18
"""Bytes; what has come of a piece is lost where the connection breaks."""
DELETED_AT_ONCE = 1000
"""The most keys that S3 takes in one request."""
# Parallel parts for big files; few enough that the training beside them keeps its processor.
TRANSFER = TransferConfig(multipart_threshold=16 * 2**20, multipart_chunksize=16 * 2**20, max_concurrency=4)


class S3Store:
    """An object store at `s3://bucket/prefix`: keys are relative to it. Its errors are LimnerErrors."""

    def __init__(self, url: str) -> None:
        """Nothing is asked of the server yet. Raises LimnerError where the url, or AWS_ENDPOINT_URL, is none."""
        try:
            parts = urlsplit(url)
        except ValueError:  # an unclosed bracket, which begins an address of IPv6
            parts = urlsplit("")
        if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment:
            raise LimnerError(
                f"{url!r} is not a place in an object store.",
                why="It has to be s3://BUCKET/PREFIX.",
                fix="The server is no part of it: that is AWS_ENDPOINT_URL in the environment.",
            )
        self._url = url.rstrip("/")
        self._bucket = parts.netloc
        self._root = f"{parts.path.strip('/')}/".lstrip("/")
        config = Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            # boto3's default sends checksums in a form that other servers than Amazon's may refuse. Checkpoints do not
            # need them: their manifests have sha256.
            request_checksum_calculation=os.environ.get("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required"),
        )
        with self._errors_in_words():
            self._client = boto3.Session().client("s3", config=config)  # boto3.client would share a session

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of each key below a prefix."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._root + prefix)
        with self._errors_in_words():
            return {
                found["Key"].removeprefix(self._root): int(found["Size"])
                for page in pages
                for found in page.get("Contents", ())
                if not found["Key"].endswith("/")  # what some tools leave for an empty folder
            }

    def put(self, key: str, path: Path) -> None:
        """Store a file's bytes; a key has the old ones until all new ones are there."""
        with self._errors_in_words():
            self._client.upload_file(str(path), self._bucket, self._root + key, Config=TRANSFER)

    def get(self, key: str, path: Path) -> None:
        """Fetch a key's bytes into a file, which is there as a whole or not at all."""
        partial = path.with_name(f"{path.name}.partial")
        try:
            with self._errors_in_words(), partial.open("wb") as file:
                self._client.download_fileobj(self._bucket, self._root + key, file, Config=TRANSFER)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)

    def read(self, key: str, *, start: int = 0) -> Iterator[bytes] | None:
        """A key's bytes from `start` on, piece by piece; None where there is no such key.

        Where the connection breaks or stalls, reading goes on from there over a new one.
        """
        body = self._body(key, start)
        return None if body is None else self._pieces(key, start, body)

    def write(self, key: str, content: bytes) -> None:
        """Store a few bytes; a key has the old ones until all new ones are there."""
        with self._errors_in_words():
            self._client.put_object(Bucket=self._bucket, Key=self._root + key, Body=content)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete keys, batch by batch in their order; one that does not exist is no error."""
        left = iter(keys)
        while batch := [{"Key": self._root + key} for key in islice(left, DELETED_AT_ONCE)]:
            with self._errors_in_words():
                answer = self._client.delete_objects(Bucket=self._bucket, Delete={"Objects": batch, "Quiet": True})
            if refused := answer.get("Errors"):  # the request as a whole counts as successful all the same
                raise self._error(f"{refused[0]['Key']}: {refused[0].get('Message') or refused[0]['Code']}")

    def _body(self, key: str, start: int) -> StreamingBody | None:
        span = {"Range": f"bytes={start}-"} if start else {}
        with self._errors_in_words():
            try:
                return self._client.get_object(Bucket=self._bucket, Key=self._root + key, **span)["Body"]
            except ClientError as error:
                match _code(error):
                    case "NoSuchKey" | "404":
                        return None
                    case "InvalidRange" | "416":  # there is nothing behind `start`
                        return StreamingBody(io.BytesIO(), 0)
                raise

    def _pieces(self, key: str, done: int, body: StreamingBody | None) -> Iterator[bytes]:
        broken = 0
        while body is not None:
            with self._errors_in_words():
                try:
                    for piece in body.iter_chunks(PIECE):
                        done, broken = done + len(piece), 0
                        yield piece
                    return
                except (HTTPClientError, IncompleteReadError):
                    broken += 1
                    if broken == ATTEMPTS:
                        raise
                finally:
                    body.close()
            time.sleep(PAUSE_SECONDS * 2 ** (broken - 1))
            body = self._body(key, done)
        raise self._error(f"{self._root}{key} was deleted while it was read.")

    def __str__(self) -> str:
        return self._url

    @contextmanager
    def _errors_in_words(self) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, Boto3Error, ClientError, S3TransferRetriesExceededError, ValueError) as error:
            # boto3's own error of an upload has the server's answer only as its context.
            cause = error.__context__ if isinstance(error, Boto3Error) and error.__context__ else error
            raise self._error(str(cause).splitlines()[0], _remedy(cause)) from error

    def _error(self, why: str, fix: str = "") -> LimnerError:
        return LimnerError(f"The object store at {self._url} does not do what it is asked.", why=why, fix=fix)


def _remedy(error: BaseException) -> str:
    server = "AWS_ENDPOINT_URL names another server than Amazon's."
    match error:
        case NoCredentialsError() | PartialCredentialsError() | CredentialRetrievalError():
            return "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or log in as your AWS account wants it."
        case EndpointConnectionError() | ConnectTimeoutError() | SSLError() | HTTPClientError() | IncompleteReadError():
            return f"Look whether that server is up and can be reached from here. {server}"
        case ValueError():
            return "Write AWS_ENDPOINT_URL as http://HOST:PORT or https://HOST."
        case ClientError():
            return _remedy_of_refusal(_code(error), server)
    return ""


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _remedy_of_refusal(code: str, server: str) -> str:
    match code:
        case "NoSuchBucket":
            return f"Create the bucket, or correct its name. {server}"
        case "AccessDenied" | "403" | "AllAccessDisabled":
            return "Give these credentials the rights to list, read, write and delete there."
        case "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "ExpiredToken" | "InvalidToken":
            return "Renew AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if you use one, AWS_SESSION_TOKEN."
        case "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException":
            return "Set AWS_DEFAULT_REGION to the bucket's region."
        case "InternalError" | "ServiceUnavailable" | "SlowDown" | "500" | "502" | "503" | "504":
            return f"See how that server is, then start the same command again. {server}"
    return ""
