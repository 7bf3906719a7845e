"""What `limner doctor` asks of the servers around Limner: object stores and Kubeflow; `mlflow_probes` has MLflow."""

from __future__ import annotations

import json
import os
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen
from uuid import uuid4

from limner.errors import LimnerError
from limner.findings import Check, Finding, Status, refused

T = TypeVar("T")
SECONDS = 5
"""How long a server may take to answer."""
SKEW_SECONDS = 15 * 60
"""By which a clock may differ from S3's before requests are refused: RequestTimeTooSkewed."""


@dataclass(frozen=True)
class Probes:
    """The servers that the options and the environment name."""

    checkpoints: str = ""
    """s3://bucket/prefix; empty: LIMNER_CHECKPOINTS, where that is one."""
    remote: str = ""
    """The DVC remote, s3://bucket/prefix."""
    kubeflow: str = ""
    """Address of the pipelines' API."""
    write: bool = False
    """Whether MLflow may be tried with a run that is deleted again."""

    def checks(self, *, dataset_md5: str) -> Sequence[tuple[str, Check]]:
        """What can be asked, by name. With a dataset also whether the DVC remote holds it."""
        from limner.adapters.mlflow_probes import mlflow

        named = self.checkpoints or os.environ.get("LIMNER_CHECKPOINTS", "")
        checkpoints = named if "://" in named else ""
        return [
            ("object store", partial(stores, checkpoints=checkpoints, remote=self.remote, dataset_md5=dataset_md5)),
            ("mlflow", partial(mlflow, write=self.write)),
            *([("kubeflow", partial(kubeflow, self.kubeflow))] if self.kubeflow else ()),
        ]


# --- object stores


def stores(*, checkpoints: str, remote: str, dataset_md5: str) -> Iterator[Finding]:
    """Reach of the object store, its clock, and what may be done at each place in it."""
    if not checkpoints and not remote:
        if dataset_md5:
            fix = "Name the DVC remote: --remote s3://bucket/prefix"
            yield Finding("dataset on remote", "skipped", f"Nobody said where {dataset_md5} should be.", fix)
        return
    try:
        import boto3
        from botocore.exceptions import BotoCoreError
    except ModuleNotFoundError as error:
        yield Finding("object store", "error", f"{error.name} is not installed.", "pip install 'limner[pipeline]'")
        return
    try:
        answer = ask(boto3.Session().client("s3").meta.endpoint_url)
    except (BotoCoreError, ValueError) as error:
        fix = "Write AWS_ENDPOINT_URL as http://HOST:PORT or https://HOST; see AWS_PROFILE and AWS_DEFAULT_REGION."
        yield Finding("object store", "error", str(error), fix)
        return
    except LimnerError as error:
        yield refused("object store", error)
        return
    yield clock(answer.headers.get("Date", ""), now=datetime.now(UTC))
    if checkpoints:
        yield from keeping(checkpoints)
    if remote:
        yield from fetching(remote, dataset_md5=dataset_md5)


def clock(date: str, *, now: datetime) -> Finding:
    """Whether this machine's clock agrees with a server's `Date`."""
    try:
        ahead = (now - parsedate_to_datetime(date)).total_seconds()
    except (TypeError, ValueError):
        return Finding("clock", "skipped", "The object store does not tell its time.")
    if abs(ahead) < SKEW_SECONDS / 3:  # `Date` has no fractions, and an answer takes its time
        return Finding("clock", "ok", f"within {max(1, round(abs(ahead)))} s of the object store's")
    side = "ahead of" if ahead > 0 else "behind"
    what = f"This machine's clock is {abs(ahead) / 60:.0f} minutes {side} the object store's"
    status: Status = "error" if abs(ahead) >= SKEW_SECONDS else "warning"
    return Finding("clock", status, f"{what}: S3 refuses 15 (RequestTimeTooSkewed).", "Set the clock, best by NTP.")


def keeping(place: str) -> Iterator[Finding]:
    """Whether a place can keep checkpoints: list, write, read and delete there, with a small object."""
    from limner.adapters.object_store import S3Store

    key, content = f"limner-doctor-{uuid4().hex}", b"written by limner doctor, which deletes it again\n"
    with tempfile.TemporaryDirectory() as folder:
        sent, fetched = Path(folder, "sent"), Path(folder, "fetched")
        sent.write_bytes(content)
        try:
            store = _doing("be opened", lambda: S3Store(place))
            _doing("be listed", lambda: store.sizes(key))
            _doing("be written to", lambda: store.put(key, sent))
            try:
                _doing("be read", lambda: store.get(key, fetched))
            finally:
                _doing("be deleted from", lambda: store.delete([key]))
            left = store.sizes(key)
        except LimnerError as error:
            yield _place_refused("checkpoints", place, error)
            return
        if fetched.read_bytes() != content or left:
            what = f"{place} does not give back what was written, or keeps what was deleted."
            yield Finding("checkpoints", "error", what, "Look whether a cache or a policy stands before this store.")
            return
    yield Finding("checkpoints", "ok", f"{place} can be listed, written, read and deleted from")


def fetching(place: str, *, dataset_md5: str) -> Iterator[Finding]:
    """Whether a DVC remote can be read, and has all of a dataset."""
    from limner.adapters.dvc_cache import DvcCache
    from limner.adapters.object_store import S3Store

    try:
        store = _doing("be opened", lambda: S3Store(place))
        _doing("be listed", lambda: store.sizes("files/md5/00/0000"))
        if not dataset_md5:
            yield Finding("remote", "ok", f"{place} can be listed; which dataset is wanted, nobody said")
            return
        with tempfile.TemporaryDirectory() as folder:
            lacking = _doing("be read", lambda: DvcCache(store, Path(folder)).missing(dataset_md5))
    except LimnerError as error:
        yield _place_refused("remote", place, error)
        return
    if not lacking:
        yield Finding("remote", "ok", f"{place} has all of {dataset_md5}")
        return
    fix = "dvc push, where the data are; perhaps to this remote by name: dvc push --remote NAME"
    what = f"{place} lacks {len(lacking)} of the files of {dataset_md5}, such as {lacking[0]}."
    if lacking == [dataset_md5]:
        what = f"{place} does not have the dataset {dataset_md5}."
    yield Finding("remote", "error", what, fix)


def _doing(what: str, work: Callable[[], T]) -> T:
    try:
        return work()
    except LimnerError as error:
        raise LimnerError(f"It cannot {what}.", error.why or error.problem, error.fix) from error


def _place_refused(check: str, place: str, error: LimnerError) -> Finding:
    return Finding(check, "error", f"{place}: {error.problem} {error.why}", error.fix)


# --- Kubeflow


def kubeflow(host: str) -> Iterator[Finding]:
    """Reach of the pipelines' API, and whether its version can take what this SDK compiles."""
    path, headers = os.environ.get("KF_PIPELINES_SA_TOKEN_PATH", ""), {}
    if path and Path(path).is_file():
        headers["Authorization"] = f"Bearer {Path(path).read_text(encoding='utf-8').strip()}"
    try:
        answer = ask(f"{host.rstrip('/')}/apis/v2beta1/healthz", headers=headers)
    except LimnerError as error:
        yield refused("kubeflow", error)
        return
    if answer.status in (401, 403):
        what = f"{host} does not let us in: {answer.status} {answer.first_line}"
        fix = (
            "Ask from a pod with a service account token (KF_PIPELINES_SA_TOKEN_PATH), or through kubectl port-forward."
        )
        yield Finding("kubeflow", "error", what, fix)
        return
    about = answer.json
    if answer.status != 200 or not isinstance(about, dict):
        what = f"{host} does not answer as the pipelines' API does but with {answer.status}: {answer.first_line}"
        fix = "Name the pipelines' own address, often with /pipeline; around a login page lead kubectl port-forward."
        yield Finding("kubeflow", "error", what, fix)
        return
    # The user interface, which passes the question on, has a name of its own for the version.
    backend = str(about.get("tag_name") or about.get("apiServerTagName") or "")
    try:
        yield sdk_against_backend(metadata.version("kfp"), backend)
    except metadata.PackageNotFoundError:
        yield Finding("kubeflow", "ok", f"{host} answers; its version is {backend or 'not told'}")


def sdk_against_backend(sdk: str, backend: str) -> Finding:
    """Whether the server is new enough for what the SDK compiles."""
    from packaging.version import InvalidVersion, Version

    try:
        there, here = Version(backend), Version(sdk)
    except InvalidVersion:
        what = (
            f"The server does not tell its version ({backend or 'nothing'}), so nobody knows if kfp {sdk} is too new."
        )
        return Finding("kubeflow", "warning", what, "Ask who runs it; then pip install 'kfp[kubernetes]==THAT'.")
    if here.release[:2] <= there.release[:2]:
        return Finding("kubeflow", "ok", f"server {backend}, kfp {sdk}")
    return Finding(
        "kubeflow",
        "error",
        f'kfp {sdk} is newer than the server, {backend}: what it compiles may be refused with "unknown field".',
        f"Compile with the server's version: pip install 'kfp[kubernetes]=={there.base_version}'; or update it.",
    )


# --- HTTP


@dataclass(frozen=True)
class Answer:
    """What a server said."""

    status: int
    text: str
    headers: Mapping[str, str]

    @property
    def first_line(self) -> str:
        """The beginning of its text, short enough for a line."""
        return next(iter(self.text.strip().splitlines()), "")[:200]

    @property
    def json(self) -> Any:
        """The text as JSON; None where it is not."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None


def ask(url: str, *, headers: Mapping[str, str] | None = None) -> Answer:
    """GET an address, whatever its status. Raises LimnerError where no server answers."""
    if not url.startswith(("http://", "https://")):
        raise LimnerError(f"{url!r} is not an address of a server.", fix="Write it with http:// or https:// before it.")
    try:
        with urlopen(Request(url, headers=dict(headers or {})), timeout=SECONDS) as found:  # noqa: S310 - checked above
            return Answer(found.status, found.read(2**16).decode("utf-8", "replace"), dict(found.headers))
    except HTTPError as error:
        with error:
            return Answer(error.code, error.read(2**16).decode("utf-8", "replace"), dict(error.headers))
    except (URLError, OSError, ValueError) as error:
        cause = error.reason if isinstance(error, URLError) else error
        raise LimnerError(f"{url} does not answer.", why=str(cause), fix=_unreached(cause)) from error


def _unreached(cause: object) -> str:
    match cause:
        case socket.gaierror():
            return (
                "This machine does not know that name. In a cluster it is SERVICE.NAMESPACE.svc; outside, forward it."
            )
        case ssl.SSLError():
            return "Look at the server's certificate; where http is spoken there, write http://."
        case ConnectionRefusedError():
            return "Nothing listens there: look whether the server runs, and on which port."
        case TimeoutError():
            return f"Nothing within {SECONDS} s: look at firewalls, network policies and proxies."
    return "Look whether the server is up and can be reached from here."
