"""Weights from addresses, against real servers on this machine."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest

from limner.adapters import connect
from limner.errors import LimnerError
from tests import s3_stand

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """Serves CONTENT at every path but /missing; /broken promises more than it sends."""

    def __init__(self):
        self.asked = []
        self.content = CONTENT
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                path = self.path.partition("?")[0]
                if path == "/missing":
                    self.send_error(404)
                    return
                if path == "/moved":
                    self.send_response(302)
                    self.send_header("Location", "/weights.pth")
                    self.end_headers()
                    return
                self.send_response(200)
                self.send_header("Content-Length", str(len(outer.content) + 1000 * (path == "/broken")))
                self.end_headers()
                self.wfile.write(outer.content)

            def log_message(self, *words):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server():
    running = Server()
    yield running
    running.stop()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "weights"


@pytest.fixture
def fetch(cache):
    return connect(track=False).fetch


def files(folder):
    return [path.name for path in folder.rglob("*")] if folder.exists() else []


@pytest.mark.parametrize("sha256", [SHA256, SHA256[:8], SHA256[:12].upper()])
def test_a_file_is_fetched_once_and_is_there_when_the_server_is_not(server, fetch, cache, sha256):
    path = fetch(f"{server.address}/weights.pth", sha256=sha256)
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-weights.pth")
    assert files(cache) == [path.name]
    server.stop()
    assert fetch(f"{server.address}/weights.pth", sha256=sha256) == path
    assert server.asked == ["/weights.pth"]


def test_the_same_name_elsewhere_is_another_file(server, fetch):
    paths = {fetch(f"{server.address}/{folder}/weights.pth", sha256=SHA256) for folder in "ab"}
    assert len(paths) == len(server.asked) == 2


def test_a_redirection_is_followed(server, fetch):
    assert fetch(f"{server.address}/moved", sha256=SHA256).read_bytes() == CONTENT


def test_another_file_than_the_one_asked_for_is_not_kept(server, fetch, cache):
    with pytest.raises(LimnerError, match=f"http://.*/weights.pth does not hold[\\s\\S]*is {SHA256}, and 6726825d is"):
        fetch(f"{server.address}/weights.pth", sha256="6726825d")
    assert files(cache) == []


@pytest.mark.parametrize("damage", ["cut off", "new version asked for"])
def test_a_kept_file_that_is_another_one_is_fetched_again(server, fetch, damage):
    path = fetch(f"{server.address}/weights.pth", sha256=SHA256)
    wanted = SHA256
    if damage == "cut off":
        path.write_bytes(CONTENT[:100])
    else:
        server.content = b"second version"
        wanted = hashlib.sha256(server.content).hexdigest()
    assert fetch(f"{server.address}/weights.pth", sha256=wanted).read_bytes() == server.content


def test_a_missing_file_is_told(server, fetch, cache):
    with pytest.raises(LimnerError, match=r"/missing cannot be fetched[\s\S]*answers 404 Not Found"):
        fetch(f"{server.address}/missing", sha256=SHA256)
    assert files(cache) == []


def test_a_transfer_that_breaks_off_leaves_nothing(server, fetch, cache):
    with pytest.raises(LimnerError, match=r"/broken cannot be fetched[\s\S]*broke off after 256000 of 257000 bytes"):
        fetch(f"{server.address}/broken", sha256=SHA256)
    assert files(cache) == []


def test_a_dead_server_is_told(server, fetch):
    server.stop()
    with pytest.raises(LimnerError, match=r"cannot be fetched[\s\S]*refused"):
        fetch(f"{server.address}/weights.pth", sha256=SHA256)


def test_an_address_without_a_sha256_is_refused(server, fetch):
    for address in (f"{server.address}/weights.pth", "s3://bucket/weights.pth"):
        with pytest.raises(LimnerError, match=r"without their SHA-256[\s\S]*8 digits"):
            fetch(address, sha256="")
    with pytest.raises(LimnerError, match="'123' is not a SHA-256"):
        fetch(f"{server.address}/weights.pth", sha256="123")
    assert server.asked == []


@pytest.mark.parametrize(
    "address", ["ftp://host/weights.pth", "file:///etc/passwd", "https://user:geheim@host/weights.pth"]
)
def test_other_addresses_are_refused(fetch, address):
    with pytest.raises(LimnerError, match="cannot be fetched from") as caught:
        fetch(address, sha256=SHA256)
    assert "geheim" not in str(caught.value)


def test_no_message_shows_the_secret_part_of_an_address(server, fetch):
    for path, sha256 in (("missing", SHA256), ("broken", SHA256), ("weights.pth", "6726825d"), ("weights.pth", "")):
        with pytest.raises(LimnerError, match=f"/{path}") as caught:
            fetch(f"{server.address}/{path}?X-Amz-Signature=geheim#geheim", sha256=sha256)
        assert "geheim" not in str(caught.value)


def test_a_path_is_returned_as_it_is(fetch, cache, tmp_path):
    path = tmp_path / "own.pth"
    path.write_bytes(CONTENT)
    assert fetch(str(path), sha256="") == fetch(str(path), sha256=SHA256) == path
    with pytest.raises(LimnerError, match=r"own\.pth does not hold the weights"):
        fetch(str(path), sha256="6726825d")
    assert fetch("missing.pth", sha256=SHA256) == Path("missing.pth")  # told by who reads it
    assert files(cache) == []


def test_a_file_in_a_bucket_is_fetched_once(fetch, cache, monkeypatch):
    with s3_stand.server() as address:
        bucket = s3_stand.bucket(monkeypatch, address)
        client = boto3.Session().client("s3")
        for key in ("weights.pth", "nets/weights.pth"):
            client.put_object(Bucket=bucket, Key=key, Body=CONTENT)
            assert fetch(f"s3://{bucket}/{key}", sha256=SHA256[:8]).read_bytes() == CONTENT
        with pytest.raises(LimnerError, match=r"The object store at s3://[\s\S]*404"):
            fetch(f"s3://{bucket}/missing.pth", sha256=SHA256)
        client.put_object(Bucket=bucket, Key="nets/other.pth", Body=b"other")
        with pytest.raises(LimnerError, match=f"s3://{bucket}/nets/other.pth does not hold"):
            fetch(f"s3://{bucket}/nets/other.pth", sha256=SHA256)
        client.close()
    assert fetch(f"s3://{bucket}/nets/weights.pth", sha256=SHA256).read_bytes() == CONTENT
    assert len(files(cache)) == 2
