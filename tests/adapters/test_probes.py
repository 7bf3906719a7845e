from __future__ import annotations

import hashlib
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import boto3
import pytest

from limner.adapters.object_store import S3Store
from limner.adapters.probes import Probes, ask, clock, kubeflow, sdk_against_backend, stores
from limner.errors import LimnerError
from limner.findings import Finding
from tests import s3_stand, weed_stand

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@contextmanager
def answering(answers: Mapping[str, tuple[int, str]]) -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Address of an HTTP server with these answers by path, and the headers of what it has been asked."""
    asked: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(dict(self.headers))
            status, text = answers.get(self.path, (404, "not found"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def nobody_listens() -> str:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    with s3_stand.server() as address:
        yield address


@pytest.fixture
def place(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    return f"s3://{s3_stand.bucket(monkeypatch, moto)}/some/prefix"


def examine(*, checkpoints: str = "", remote: str = "", dataset_md5: str = "") -> dict[str, Finding]:
    return {found.check: found for found in stores(checkpoints=checkpoints, remote=remote, dataset_md5=dataset_md5)}


class TestCheckpoints:
    def test_a_place_that_keeps_them_is_left_as_it_was(self, place: str, tmp_path: Path) -> None:
        (tmp_path / "mine").write_bytes(b"mine")
        S3Store(place).put("mine", tmp_path / "mine")
        found = examine(checkpoints=place)
        assert found["clock"].status == "ok"
        assert found["checkpoints"].status == "ok"
        assert S3Store(place).sizes("") == {"mine": 4}

    def test_a_bucket_that_is_not_there_is_named_so(self, place: str) -> None:
        found = examine(checkpoints="s3://no-such-bucket/prefix")["checkpoints"]
        assert found.status == "error"
        assert "NoSuchBucket" in found.what
        assert "Create the bucket" in found.fix

    def test_credentials_that_are_missing_are_named_so(self, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        found = examine(checkpoints=place)["checkpoints"]
        assert found.status == "error"
        assert "credentials" in found.what
        assert "AWS_ACCESS_KEY_ID" in found.fix

    def test_a_server_that_is_down_is_told_once_and_at_once(self, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", nobody_listens())
        found = examine(checkpoints=place, remote=place)
        assert list(found) == ["object store"]
        assert found["object store"].status == "error"
        assert "Nothing listens" in found["object store"].fix

    def test_an_address_that_is_none_is_an_error(self, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
        assert "http://HOST:PORT" in examine(checkpoints=place)["object store"].fix

    def test_a_place_that_is_none_is_an_error(self, place: str) -> None:
        found = examine(checkpoints="https://bucket/prefix")["checkpoints"]
        assert (found.status, "s3://BUCKET/PREFIX" in found.what) == ("error", True)


def test_right_credentials_may_do_all_and_wrong_ones_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By SeaweedFS, which looks at who asks; moto does not."""
    with weed_stand.server(tmp_path) as weed:
        place = f"s3://{weed_stand.bucket(monkeypatch, weed)}/runs"
        assert examine(checkpoints=place)["checkpoints"].status == "ok"
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "something else")
        wrong_secret = examine(checkpoints=place, remote=place)
        assert wrong_secret["clock"].status == "ok"
        for check in ("checkpoints", "remote"):
            assert wrong_secret[check].status == "error"
            assert "SignatureDoesNotMatch" in wrong_secret[check].what
            assert "Renew" in wrong_secret[check].fix
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
        assert "InvalidAccessKeyId" in examine(checkpoints=place)["checkpoints"].what


class TestRemote:
    @pytest.fixture
    def dataset(self, place: str) -> str:
        """A folder of three files as `dvc push` leaves it on the remote; its md5."""
        bucket, _, prefix = place.removeprefix("s3://").partition("/")
        client = boto3.Session().client("s3")

        def put(content: bytes, suffix: str = "") -> str:
            md5 = hashlib.md5(content).hexdigest() + suffix
            client.put_object(Bucket=bucket, Key=f"{prefix}/files/md5/{md5[:2]}/{md5[2:]}", Body=content)
            return md5

        files = [{"md5": put(name.encode()), "relpath": name} for name in ("a", "b", "c")]
        return put(json.dumps(files).encode(), ".dir")

    def test_a_whole_dataset_is_fine(self, place: str, dataset: str) -> None:
        found = examine(remote=place, dataset_md5=dataset)["remote"]
        assert (found.status, dataset in found.what) == ("ok", True)

    def test_a_dataset_that_was_not_pushed_is_an_error(self, place: str, dataset: str) -> None:
        found = examine(remote=place, dataset_md5=f"{'0' * 32}.dir")["remote"]
        assert (found.status, "does not have the dataset" in found.what) == ("error", True)
        assert "dvc push" in found.fix

    def test_files_that_did_not_arrive_are_counted(self, place: str, dataset: str) -> None:
        for name in (b"a", b"c"):
            md5 = hashlib.md5(name).hexdigest()
            S3Store(place).delete([f"files/md5/{md5[:2]}/{md5[2:]}"])
        found = examine(remote=place, dataset_md5=dataset)["remote"]
        assert (found.status, "lacks 2 of the files" in found.what) == ("error", True)

    def test_without_a_dataset_its_reach_is_all(self, place: str) -> None:
        assert examine(remote=place)["remote"].status == "ok"

    def test_a_dataset_without_a_remote_is_skipped_with_the_option(self) -> None:
        found = examine(dataset_md5=f"{'0' * 32}.dir")["dataset on remote"]
        assert (found.status, "--remote" in found.fix) == ("skipped", True)


@pytest.mark.parametrize(
    ("minutes", "status"), [(0, "ok"), (4, "ok"), (6, "warning"), (-6, "warning"), (16, "error"), (-16, "error")]
)
def test_a_clock_that_is_far_off_is_told_before_s3_refuses(minutes: int, status: str) -> None:
    found = clock(format_datetime(NOW - timedelta(minutes=minutes), usegmt=True), now=NOW)
    assert found.status == status
    assert status == "ok" or ("ahead of" if minutes > 0 else "behind") in found.what


@pytest.mark.parametrize("date", ["", "yesterday"])
def test_a_server_without_a_date_says_nothing_of_the_clock(date: str) -> None:
    assert clock(date, now=NOW).status == "skipped"


class TestKubeflow:
    def examine(self, status: int, text: str) -> Finding:
        with answering({"/pipeline/apis/v2beta1/healthz": (status, text)}) as (address, _):
            (found,) = kubeflow(f"{address}/pipeline/")
        return found

    @pytest.mark.parametrize("key", ["tag_name", "apiServerTagName"])
    def test_a_server_of_the_sdks_version_is_fine(self, key: str) -> None:
        found = self.examine(200, json.dumps({key: "99.0.0", "multi_user": True}))
        assert (found.status, "99.0.0" in found.what) == ("ok", True)

    def test_an_older_server_is_an_error_that_quotes_what_would_be_seen(self) -> None:
        found = self.examine(200, '{"commit_sha": "abc", "tag_name": "2.5.0"}')
        assert found.status == "error"
        assert '"unknown field"' in found.what
        assert "kfp[kubernetes]==2.5.0" in found.fix

    def test_a_server_that_keeps_its_version_to_itself_is_a_warning(self) -> None:
        assert self.examine(200, '{"tag_name": "unknown"}').status == "warning"

    @pytest.mark.parametrize("status", [401, 403])
    def test_a_closed_door_is_an_error_with_the_ways_in(self, status: int) -> None:
        found = self.examine(status, "RBAC: access denied")
        assert (found.status, str(status) in found.what) == ("error", True)
        assert "port-forward" in found.fix

    @pytest.mark.parametrize(
        ("status", "text"), [(200, "<html>Log in to Your Account</html>"), (500, "oh"), (200, "1")]
    )
    def test_another_server_is_not_taken_for_kubeflow(self, status: int, text: str) -> None:
        assert "does not answer as the pipelines' API" in self.examine(status, text).what

    def test_a_pods_token_is_shown(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "token").write_text("secret\n", encoding="utf-8")
        monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
        with answering({"/apis/v2beta1/healthz": (200, '{"tag_name": "99.0.0"}')}) as (address, asked):
            (found,) = kubeflow(address)
        assert (found.status, asked[0]["Authorization"]) == ("ok", "Bearer secret")

    def test_nobody_there_is_an_error(self) -> None:
        (found,) = kubeflow(nobody_listens())
        assert (found.status, "does not answer" in found.what) == ("error", True)

    def test_a_host_without_http_is_told(self) -> None:
        (found,) = kubeflow("kubeflow.example")
        assert (found.status, "http://" in found.fix) == ("error", True)

    @pytest.mark.parametrize(
        ("sdk", "backend", "status"),
        [
            ("2.17.0", "2.17.0", "ok"),
            ("2.17.0", "2.16.9", "error"),
            ("2.17.1", "2.17.0", "ok"),
            ("2.17.0", "2.18.0-rc.1", "ok"),
            ("2.17.0", "", "warning"),
        ],
    )
    def test_only_a_newer_sdk_is_trouble(self, sdk: str, backend: str, status: str) -> None:
        assert sdk_against_backend(sdk, backend).status == status


class TestAsking:
    def test_a_silent_server_is_given_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("limner.adapters.probes.SECONDS", 0.2)
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            pytest.raises(LimnerError, match="does not answer") as refused,
        ):
            ask(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "firewalls" in refused.value.fix

    def test_an_unknown_name_is_told(self) -> None:
        with pytest.raises(LimnerError, match="does not answer") as refused:
            ask("http://no-such-host.invalid")
        assert "does not know that name" in refused.value.fix

    def test_http_where_https_is_wanted_is_told(self) -> None:
        with answering({}) as (address, _), pytest.raises(LimnerError, match="does not answer") as refused:
            ask(address.replace("http://", "https://"))
        assert "certificate" in refused.value.fix


class TestWhatIsAsked:
    def names(self, probes: Probes) -> list[str]:
        return [name for name, _ in probes.checks(dataset_md5="")]

    def test_kubeflow_only_where_it_is_named(self) -> None:
        assert self.names(Probes()) == ["object store", "mlflow"]
        assert self.names(Probes(kubeflow="http://here")) == ["object store", "mlflow", "kubeflow"]

    def test_without_a_place_no_object_store_is_asked(self) -> None:
        (_, check), *_ = Probes().checks(dataset_md5="")
        assert list(check()) == []

    def test_the_environment_names_the_place_of_checkpoints(self, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LIMNER_CHECKPOINTS", place)
        (_, check), *_ = Probes().checks(dataset_md5="")
        assert [found.check for found in check()] == ["clock", "checkpoints"]
        monkeypatch.setenv("LIMNER_CHECKPOINTS", "/mnt/disk")
        (_, check), *_ = Probes().checks(dataset_md5="")
        assert list(check()) == []
