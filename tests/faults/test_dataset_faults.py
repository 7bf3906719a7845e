"""Fetching a dataset while its object store, the network, the disk or the process itself fails.

Each fault is ridden out, or told in words; nothing is half-written, and the next run goes on with what has arrived. The
store is a real S3 server that looks at credentials (SeaweedFS), behind a network that can be made as bad as one wishes.
"""

import errno
import hashlib
import json
import math
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import urlsplit

import boto3
import pytest

import limner.adapters.object_store as object_store
from limner.adapters.dvc_cache import DvcCache, open_remote
from limner.errors import LimnerError
from limner.lineage import directory_md5
from limner.packing import PackedDataset
from limner.steps import catalog_from_json
from limner.steps.fetch import fetch
from limner.steps.prepare import prepare
from tests import dvc_stand, weed_stand

CATALOG = {
    "datasets": {
        "big": {
            "source": {"kind": "printed-digits", "count": 40},
            "image": {"size": 256, "channels": 3},
            "shard_mib": 1,
        }
    },
    "models": {},
}
"""Eight shards of just under a megabyte each, four of them alike in no byte."""
SETTINGS = catalog_from_json(json.dumps(CATALOG)).dataset("big")
PATIENCE_SECONDS = 60


class Network:
    """A way to a server on which answers are slow, stall or break off. Notes what is asked."""

    def __init__(self, address):
        self._upstream = (urlsplit(address).hostname, urlsplit(address).port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked = []
        """Key and first byte of each object that was asked for."""
        self.pause = 0.0
        """Seconds before every 64 KiB of an answer."""
        self.after = 300_000
        """Bytes of a connection's answers that pass before it stalls or breaks."""
        self.stalls = self.breaks = 0
        """How many connections will still do so."""
        self.left = math.inf
        """Bytes of answers that pass before all connections stall for good."""
        self.passed = 0
        """Bytes of answers that have passed."""
        self._closed = threading.Event()
        self._sockets = [self._listener]
        self._threads = []
        self._start(self._serve)

    def close(self):
        self._closed.set()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)  # wakes who waits for it
            each.close()
        for thread in self._threads:
            thread.join(5)

    def _start(self, target, *arguments):
        self._threads.append(threading.Thread(target=target, args=arguments, daemon=True))
        self._threads[-1].start()

    def _serve(self):
        with suppress(OSError):
            while True:
                near = self._listener.accept()[0]
                self._sockets.append(near)
                far = socket.create_connection(self._upstream)
                self._sockets.append(far)
                self._start(self._there, near, far)
                self._start(self._back, far, near)

    def _there(self, near, far):
        with suppress(OSError):
            while data := near.recv(65536):
                for path in re.findall(rb"GET /[^/]+/([^? ]+) HTTP", data):
                    start = re.search(rb"(?i)\nrange: bytes=(\d+)", data)
                    self.asked.append((path.decode(), int(start[1]) if start else 0))
                far.sendall(data)
        _end(near, far)

    def _back(self, far, near):
        passed = 0
        with suppress(OSError):
            while data := far.recv(65536):
                time.sleep(self.pause)
                passed += len(data)
                if passed > self.after and self.breaks > 0:
                    self.breaks -= 1
                    break
                if self.passed >= self.left or (passed > self.after and self.stalls > 0):
                    self.stalls -= self.stalls > 0
                    self._closed.wait()
                    break
                self.passed += len(data)
                near.sendall(data)
        _end(near, far)


def _end(*sockets):
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A packed dataset that DVC has pushed to a server; `shards` has their md5 by name."""
    root = tmp_path_factory.mktemp("repository")
    folder = root / "data" / "prepared" / "big"
    prepare(SETTINGS, name="big", output=folder)
    shards = {
        path.relative_to(folder).as_posix(): hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
        for path in folder.rglob("*.raw")
    }
    assert len(shards) >= 8
    with pytest.MonkeyPatch.context() as monkeypatch, weed_stand.server(tmp_path_factory.mktemp("s3")) as weed:
        bucket = weed_stand.bucket(monkeypatch, weed)
        remote = f"s3://{bucket}/dvc"
        (md5,) = dvc_stand.push(root, "data/prepared/big", remote=remote).values()
        client = boto3.Session().client("s3")
        assert md5 == directory_md5(folder)
        yield SimpleNamespace(
            md5=md5, shards=shards, folder=folder, weed=weed, bucket=bucket, remote=remote, client=client
        )


@pytest.fixture
def network(stored, monkeypatch):
    """The way to that server; the environment leads there, and nobody waits long."""
    way = Network(stored.weed.address)
    for name, value in (stored.weed.environment | {"AWS_ENDPOINT_URL": way.address}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(object_store, "READ_SECONDS", 1.0)
    monkeypatch.setattr(object_store, "CONNECT_SECONDS", 1.0)
    monkeypatch.setattr(object_store, "ATTEMPTS", 3)
    monkeypatch.setattr(object_store, "PAUSE_SECONDS", 0.01)
    monkeypatch.setenv("LIMNER_CACHE", str(Path.cwd() / "cache"))
    yield way
    way.close()


def get(stored, output=Path("out")):
    """Fetch the dataset from another machine: the current folder is its disk."""
    contents = open_remote(stored.remote)
    return fetch(SETTINGS, name="big", md5=stored.md5, place="", contents=contents, output=output)


def refuse_half(stored, *, cached=None):
    """There is no output, whole or half; all that the cache has under its name is right."""
    assert {path.name for path in Path.cwd().iterdir()} <= {"cache"}
    names = [path for path in Path("cache").rglob("*") if path.is_file() and path.suffix != ".partial"]
    for path in names:
        name = (path.parent.name + path.name).removesuffix(".dir")
        assert hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() == name
    assert cached is None or len(names) == cached


def is_whole(stored, output=Path("out")):
    dataset = PackedDataset(output, verify=True)
    return dataset.digest == PackedDataset(stored.folder).digest


def key(md5):
    return f"dvc/files/md5/{md5[:2]}/{md5[2:]}"


# -- the server and the way to it -------------------------------------------------------------------------------------


def test_a_server_that_is_away_is_told_and_the_next_run_succeeds(stored, network, monkeypatch):
    with socket.socket() as nobody:  # bound, and nobody listens
        nobody.bind(("127.0.0.1", 0))
        with monkeypatch.context() as away:
            away.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{nobody.getsockname()[1]}")
            with pytest.raises(LimnerError, match=r"(?s)Could not connect.*is up and can be reached"):
                get(stored)
    refuse_half(stored, cached=0)
    get(stored)
    assert is_whole(stored)


def test_a_server_that_stalls_for_a_while_is_ridden_out(stored, network):
    network.stalls = 3
    get(stored)
    assert network.stalls == 0
    assert is_whole(stored)


def test_connections_that_break_are_taken_up_where_they_broke(stored, network):
    network.breaks = 8
    get(stored)
    assert network.breaks == 0
    assert is_whole(stored)
    again = [start for _, start in network.asked if start]
    assert len(again) >= 8
    assert all(start >= 2**17 for start in again), "what had come is not fetched anew"


def test_a_slow_server_is_waited_for(stored, network):
    network.pause = 0.02
    get(stored)
    assert is_whole(stored)


def test_a_server_that_stalls_for_good_is_told_and_the_next_run_goes_on(stored, network, monkeypatch):
    monkeypatch.setattr(object_store, "ATTEMPTS", 2)
    network.left = 5_000_000
    with pytest.raises(LimnerError, match=r"(?s)Read timeout.*is up and can be reached"):
        get(stored)
    refuse_half(stored)
    network.passed, network.left = 0, math.inf
    get(stored)
    assert is_whole(stored)
    size = sum(path.stat().st_size for path in stored.folder.rglob("*") if path.is_file())
    assert network.passed < size - 2_000_000, "what had come is not fetched anew, but for pieces under way"


def test_a_server_that_hangs_without_a_word_is_given_up(stored, network, monkeypatch):
    monkeypatch.setattr(object_store, "ATTEMPTS", 2)
    os.kill(stored.weed.process.pid, signal.SIGSTOP)
    try:
        with pytest.raises(LimnerError, match=r"(?s)Read timeout.*is up and can be reached"):
            get(stored)
    finally:
        os.kill(stored.weed.process.pid, signal.SIGCONT)
    refuse_half(stored, cached=0)
    get(stored)
    assert is_whole(stored)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("AWS_SECRET_ACCESS_KEY", "wrong", "SignatureDoesNotMatch"),
        ("AWS_ACCESS_KEY_ID", "nobody", "InvalidAccessKeyId"),
    ],
)
def test_wrong_credentials_are_refused_and_told(stored, network, monkeypatch, name, value, code):
    with monkeypatch.context() as wrong:
        wrong.setenv(name, value)
        with pytest.raises(LimnerError, match=rf"(?s){re.escape(stored.remote)}.*{code}.*Renew AWS_ACCESS_KEY_ID"):
            get(stored)
    refuse_half(stored, cached=0)
    assert len(network.asked) == 1, "a refusal is not asked again"


# -- what is stored ---------------------------------------------------------------------------------------------------


def test_a_shard_with_another_content_is_named_with_both_md5s_and_the_next_run_fetches_it_alone(stored, network):
    (name, md5), *others = sorted(stored.shards.items())
    good = (stored.folder / name).read_bytes()
    bad = good[:5000] + b"?" + good[5001:]
    found = hashlib.md5(bad, usedforsecurity=False).hexdigest()
    stored.client.put_object(Bucket=stored.bucket, Key=key(md5), Body=bad)
    try:
        with pytest.raises(
            LimnerError, match=rf"(?s){name} in the DVC remote.* is {found}, .* should be {md5}.*dvc push"
        ):
            get(stored)
    finally:
        stored.client.put_object(Bucket=stored.bucket, Key=key(md5), Body=good)
    refuse_half(stored)
    brought = {path.parent.name + path.name for path in Path("cache").rglob("*") if path.is_file()}
    whole = {key(each) for _, each in others if each in brought}
    network.asked.clear()
    get(stored)
    assert is_whole(stored)
    asked = {path for path, _ in network.asked}
    assert key(md5) in asked
    assert not asked & whole


# -- the disk ---------------------------------------------------------------------------------------------------------


def words(stored):
    Path("params.json").write_text(json.dumps(CATALOG))
    options = ["--md5", stored.md5, "--remote", stored.remote, "--params", "params.json", "--output", "out"]
    return [sys.executable, "-m", "limner", "prepare", "big", *options]


def test_a_file_that_the_disk_does_not_take_is_told_and_the_next_run_goes_on(stored, network):
    """The limit on a file's size stands in for the full disk, which not everybody may make."""
    limited = subprocess.run(
        words(stored),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000)),
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert limited.returncode == 2, limited.stderr
    assert re.search(
        r"(?s)Error: .*cannot be kept on this disk.*File too large.*Make room.*LIMNER_CACHE", limited.stderr
    )
    Path("params.json").unlink()
    refuse_half(stored)
    get(stored)
    assert is_whole(stored)


def may_mount():
    program = "mount -t tmpfs tmpfs /mnt"
    words = [shutil.which("unshare") or "", "--user", "--map-root-user", "--mount", "sh", "-c", program]
    return bool(words[0]) and subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="this machine does not let one mount a small disk of one's own")
def test_a_full_disk_is_told_and_the_same_command_goes_on_when_there_is_room(stored, network):
    """A disk of 3 MiB for a dataset of 8; then it grows."""
    program = (
        "mkdir cache && mount -t tmpfs -o size=3m tmpfs cache || exit 99\n"
        '"$@"; first=$?\n'
        "ls out 2>/dev/null; find cache -type f ! -name '*.partial' | wc -l\n"
        "mount -o remount,size=64m cache\n"
        '"$@" && test $first = 2 && cp -r out whole\n'
    )
    surroundings = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", program, "sh"]
    said = subprocess.run(
        [*surroundings, *words(stored)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert said.returncode == 0, said.stdout + said.stderr
    assert re.search(r"(?s)Error: .*cannot be kept on this disk.*No space left on device.*Make room", said.stderr)
    files = sum(path.is_file() for path in stored.folder.rglob("*"))
    assert 1 <= int(said.stdout.splitlines()[0]) < files, "some files had arrived, and nothing else was there"
    assert is_whole(stored, Path("whole"))


def test_an_output_on_a_disk_that_fills_up_is_as_it_was(stored, network, monkeypatch):
    """Where the cache lies on another disk, files are copied, and the copy meets the end of it."""
    get(stored)
    before = directory_md5(Path("out"))
    copied = []

    def refuse_links(self, target):
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    def fill_up(source, target):
        copied.append(target)
        if len(copied) == 3:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        Path(target).write_bytes(Path(source).read_bytes())

    with monkeypatch.context() as full:
        full.setattr(Path, "hardlink_to", refuse_links)
        full.setattr("limner.adapters.dvc_cache.shutil.copyfile", fill_up)
        with pytest.raises(LimnerError, match=r"(?s)cannot be kept.*No space left"):
            get(stored)
    assert directory_md5(Path("out")) == before
    assert {path.name for path in Path.cwd().iterdir()} == {"cache", "out"}


# -- the process ------------------------------------------------------------------------------------------------------


@contextmanager
def running(stored):
    with Path("screen.txt").open("wb") as screen:
        process = subprocess.Popen(
            words(stored), env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=screen, stderr=screen
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def cached():
    return {
        path.parent.name + path.name
        for path in Path("cache").rglob("*")
        if path.is_file() and path.suffix != ".partial"
    }


def test_a_fetch_killed_twice_goes_on_and_fetches_only_what_lacks(stored, network):
    network.pause = 0.05
    for wanted in (1, 4):
        with running(stored) as process:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while len(cached() & set(stored.shards.values())) < wanted:
                assert process.poll() is None, Path("screen.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
        assert not Path("out").exists()
    for litter in ("screen.txt", "params.json"):
        Path(litter).unlink()
    for path in Path.cwd().glob(".out.*"):  # nobody can tidy up after SIGKILL; it holds links to the cache, or nothing
        shutil.rmtree(path)
    refuse_half(stored)
    whole = {key(md5) for md5 in cached()}
    begun = {
        key(path.parent.name + path.name.removesuffix(".partial")): path.stat().st_size
        for path in Path("cache").rglob("*.partial")
    }
    assert len(whole) >= 5
    assert any(begun.values())
    network.pause = 0.0
    network.asked.clear()
    get(stored)
    assert is_whole(stored)
    asked = dict(network.asked)
    assert not set(asked) & whole
    assert {path: start for path, start in asked.items() if start} == {path: n for path, n in begun.items() if n}
    assert not list(Path("cache").rglob("*.partial"))


def test_several_processes_fetch_into_one_cache_at_a_time(stored, network):
    Path("params.json").write_text(json.dumps(CATALOG))
    network.pause = 0.01
    command = words(stored)
    processes = [
        subprocess.Popen([*command[:-1], f"out{number}"], env={**os.environ, "OMP_NUM_THREADS": "1"})
        for number in range(2)
    ]
    assert [process.wait(timeout=PATIENCE_SECONDS) for process in processes] == [0, 0]
    assert is_whole(stored, Path("out0"))
    assert is_whole(stored, Path("out1"))
    asked = [path for path, _ in network.asked]
    assert len(asked) == len(set(asked)), "each file came once"
    assert DvcCache(open_remote(stored.remote).store, Path("cache") / "dvc").missing(stored.md5) == []
