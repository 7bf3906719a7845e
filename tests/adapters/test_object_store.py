"""The S3 adapter against a real S3 API over HTTP."""

import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import boto3
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

import limner.adapters
import limner.adapters.object_store as module
from limner.adapters import connect
from limner.adapters.object_store import S3Store
from limner.errors import LimnerError
from tests import s3_stand


@pytest.fixture(scope="module")
def address():
    with s3_stand.server() as address:
        yield address


@pytest.fixture
def bucket(address, monkeypatch):
    return s3_stand.bucket(monkeypatch, address)


@pytest.fixture
def store(bucket):
    return S3Store(f"s3://{bucket}/team/runs/")


@pytest.fixture
def unwilling(bucket, monkeypatch):
    """A server that answers every request with one error."""

    def answer_with(status, code):
        class Handler(BaseHTTPRequestHandler):
            def answer(self):
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                body = f"<Error><Code>{code}</Code><Message>said the server</Message></Error>".encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_PUT = do_POST = do_HEAD = answer

            def log_message(self, *words):
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        return S3Store(f"s3://{bucket}")

    servers = []
    yield answer_with
    for server in servers:
        server.shutdown()
        server.server_close()


def write(path, content):
    path.write_bytes(content)
    return path


def put(store, key, content, tmp_path):
    store.put(key, write(tmp_path / "sent", content))


@pytest.mark.parametrize("content", [b"", b"a" * 1000, bytes(range(256)) * 80_000], ids=["empty", "small", "parts"])
def test_bytes_come_back_as_they_were_sent(store, bucket, tmp_path, content):
    put(store, "run/a b/é.bin", content, tmp_path)
    store.get("run/a b/é.bin", tmp_path / "got")
    assert (tmp_path / "got").read_bytes() == content
    assert store.sizes("run/") == {"run/a b/é.bin": len(content)}
    keys = [found["Key"] for found in boto3.Session().client("s3").list_objects_v2(Bucket=bucket)["Contents"]]
    assert keys == ["team/runs/run/a b/é.bin"]


def test_a_bucket_without_a_prefix_is_a_place_too(bucket, tmp_path):
    put(S3Store(f"s3://{bucket}"), "run/a", b"1", tmp_path)
    assert S3Store(f"s3://{bucket}/").sizes("run/") == {"run/a": 1}
    assert S3Store(f"s3://{bucket}/run").sizes("") == {"a": 1}


def test_more_keys_than_one_answer_holds_are_listed_and_deleted(store, bucket):
    client = boto3.Session().client("s3")
    inside = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]  # a thousand requests would take ten seconds
    for number in range(1105):
        inside.put_object(bucket, f"team/runs/run/{number:04d}", b"12")
    client.put_object(Bucket=bucket, Key="team/runs/run-b/0", Body=b"")
    client.put_object(Bucket=bucket, Key="team/runs/run/folder/", Body=b"")  # as consoles make folders
    found = store.sizes("run/")
    assert len(found) == 1105
    assert set(found.values()) == {2}
    asked = []
    events = store._client.meta.events
    events.register("provide-client-params.s3.DeleteObjects", lambda params, **_: asked.append(params["Delete"]))
    store.delete(iter(found))
    assert [len(request["Objects"]) for request in asked] == [1000, 105]  # Amazon's takes no more; moto would
    assert store.sizes("run") == {"run-b/0": 0}
    store.delete(["run/never-there"])
    store.delete([])


def test_a_file_that_cannot_be_fetched_leaves_what_was_there(store, tmp_path):
    path = write(tmp_path / "got", b"old")
    with pytest.raises(LimnerError, match="Not Found"):
        store.get("run/none", path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == {"got": b"old"}


@pytest.mark.parametrize("url", ["gs://bucket/a", "s3:///a", "bucket/a", "s3://", "s3://bucket/a?b=c", "s3://[b"])
def test_what_is_no_place_in_a_bucket_is_refused(url):
    with pytest.raises(LimnerError, match=r"(?s)is not a place.*s3://BUCKET/PREFIX.*AWS_ENDPOINT_URL"):
        S3Store(url)


def test_a_bucket_that_is_not_there_is_named(bucket, tmp_path):
    store = S3Store("s3://no-such-bucket/runs")
    actions = (lambda: store.sizes(""), lambda: put(store, "a", b"", tmp_path), lambda: store.delete(["a"]))
    for action in actions:
        with pytest.raises(LimnerError, match=r"(?s)s3://no-such-bucket/runs.*NoSuchBucket.*Create the bucket"):
            action()


def test_without_credentials_the_error_says_which_to_set(bucket, monkeypatch):
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(LimnerError, match=r"(?s)Unable to locate credentials.*Set AWS_ACCESS_KEY_ID"):
        S3Store(f"s3://{bucket}").sizes("")


def test_a_wrong_address_is_refused_at_once(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "minio:9000")
    with pytest.raises(LimnerError, match=r"(?s)Invalid endpoint.*http://HOST:PORT"):
        S3Store(f"s3://{bucket}")


def test_a_server_that_is_away_is_given_up_in_bounded_time(bucket, monkeypatch, tmp_path):
    with socket.socket() as free:  # bound, and nobody listens
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
        monkeypatch.setattr(module, "ATTEMPTS", 2)
        store = S3Store(f"s3://{bucket}")
        with pytest.raises(LimnerError, match=r"(?s)Could not connect.*is up and can be reached"):
            store.sizes("")
        with pytest.raises(LimnerError, match=r"(?s)Could not connect.*is up and can be reached"):
            put(store, "a", b"1", tmp_path)


def test_a_server_that_never_answers_is_given_up_in_bounded_time(bucket, monkeypatch):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr(module, "READ_SECONDS", 0.2)
        monkeypatch.setattr(module, "ATTEMPTS", 2)
        with pytest.raises(LimnerError, match=r"(?s)Read timeout.*is up and can be reached"):
            S3Store(f"s3://{bucket}").sizes("")


@pytest.mark.parametrize(
    ("status", "code", "advice"),
    [
        (403, "AccessDenied", "the rights to list, read, write and delete"),
        (403, "SignatureDoesNotMatch", "Renew AWS_ACCESS_KEY_ID"),
        (400, "AuthorizationHeaderMalformed", "Set AWS_DEFAULT_REGION"),
    ],
)
def test_a_refusal_is_told_with_advice_whatever_is_asked(unwilling, tmp_path, status, code, advice):
    store = unwilling(status, code)
    actions = (lambda: store.sizes(""), lambda: put(store, "a", b"1", tmp_path), lambda: store.delete(["a"]))
    for action in actions:
        with pytest.raises(LimnerError, match=rf"(?s){code}.*said the server.*{advice}"):
            action()
    if status == 403:
        with pytest.raises(LimnerError, match=r"(?s)Forbidden.*the rights to list"):
            store.get("a", tmp_path / "got")


def test_a_key_that_the_server_does_not_delete_is_an_error(store, monkeypatch):
    """The server answers 200 and lists the refused keys in its answer; moto never does."""
    answer = {"Errors": [{"Key": "team/runs/a", "Code": "AccessDenied", "Message": "locked"}]}
    monkeypatch.setattr(store._client, "delete_objects", lambda **request: answer)
    with pytest.raises(LimnerError, match="team/runs/a: locked"):
        store.delete(["a"])


def test_a_key_is_read_from_any_byte_on_and_a_missing_one_is_none(store, tmp_path):
    content = bytes(range(256)) * 3000
    store.write("run/a", content)
    for start in (0, 1, len(content) - 1):
        assert b"".join(store.read("run/a", start=start)) == content[start:]
    assert b"".join(store.read("run/a", start=len(content))) == b""
    assert b"".join(store.read("run/a", start=len(content) + 7)) == b""
    assert store.read("run/b") is None
    store.write("run/a", b"")
    assert b"".join(store.read("run/a")) == b""
    with pytest.raises(LimnerError, match="NoSuchBucket"):
        S3Store("s3://no-such-bucket").read("a")


class Breaking(BaseHTTPRequestHandler):
    """Answers with the rest of CONTENT, but closes the connection after at most `self.server.bytes` of it."""

    CONTENT = bytes(range(256)) * 4000
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        self.server.starts.append(start)
        if len(self.server.starts) > self.server.answers:
            body = b"<Error><Code>NoSuchKey</Code></Error>"
            self.send_response(404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.CONTENT) - start))
        self.end_headers()
        self.wfile.write(self.CONTENT[start : start + self.server.bytes])
        self.close_connection = True

    def log_message(self, *words):
        pass


@pytest.fixture
def breaking(bucket, monkeypatch):
    with HTTPServer(("127.0.0.1", 0), Breaking) as server:
        server.starts, server.answers, server.bytes = [], 99, 400_000
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(module, "PAUSE_SECONDS", 0.01)
        monkeypatch.setattr(module, "ATTEMPTS", 3)
        yield server
        server.shutdown()


def test_reading_goes_on_where_a_connection_broke(breaking):
    assert b"".join(S3Store("s3://bucket").read("a")) == Breaking.CONTENT
    assert breaking.starts[0] == 0
    assert len(breaking.starts) >= 3
    gains = [later - earlier for earlier, later in zip(breaking.starts, breaking.starts[1:], strict=False)]
    assert all(400_000 - module.PIECE <= gain <= 400_000 for gain in gains)


def test_reading_is_given_up_where_nothing_more_comes(breaking):
    breaking.bytes = 0
    with pytest.raises(LimnerError, match=r"(?s)s3://bucket does not do.*is up and can be reached"):
        list(S3Store("s3://bucket").read("a"))
    assert breaking.starts == [0, 0, 0]


def test_a_key_that_is_deleted_while_it_is_read_is_an_error(breaking):
    breaking.answers = 1
    with pytest.raises(LimnerError, match="a was deleted while it was read"):
        list(S3Store("s3://bucket").read("a"))


def test_connect_takes_the_place_from_the_argument_or_the_environment(bucket, monkeypatch, tmp_path):
    assert connect(track=False).store is None
    assert connect(track=False, checkpoints=str(tmp_path)).store is None
    monkeypatch.setenv("LIMNER_CHECKPOINTS", str(tmp_path))
    assert connect(track=False).store is None
    monkeypatch.setenv("LIMNER_CHECKPOINTS", f"s3://{bucket}/environment")
    from_environment = connect(track=False).store
    put(from_environment, "a", b"1", tmp_path)
    assert S3Store(f"s3://{bucket}").sizes("") == {"environment/a": 1}
    argument = connect(track=False, checkpoints=f"s3://{bucket}/argument").store
    assert argument.sizes("") == {}
    with pytest.raises(LimnerError, match="is not a place in an object store"):
        connect(track=False, checkpoints="gs://bucket")


def test_without_boto3_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "boto3", None)  # what import raises for an absent package
    monkeypatch.delitem(sys.modules, "limner.adapters.object_store")
    monkeypatch.delattr(limner.adapters, "object_store")
    with pytest.raises(LimnerError, match=r"(?s)boto3 is not installed.*limner\[pipeline\]"):
        connect(track=False, checkpoints="s3://bucket")


def test_without_a_store_boto3_is_not_even_imported(tmp_path):
    program = "import sys; from limner.adapters import connect; connect(track=False); print('boto3' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.strip() == "False"
