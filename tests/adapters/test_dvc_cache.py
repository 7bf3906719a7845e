"""What a real `dvc push` leaves in a real S3 API is fetched by its md5: whole, verified, once."""

import fcntl
import hashlib
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from limner.adapters import dvc_cache
from limner.adapters.dvc_cache import DvcCache, open_remote, publish, resolve_md5
from limner.adapters.object_store import S3Store
from limner.errors import LimnerError
from limner.lineage import directory_md5
from tests import dvc_stand, s3_stand

NAMES = ("a.bin", "b/c.bin", "b/ü 画.bin", "b/deep/er/empty", "b/the-same-as-a.bin")


def content(name):
    if name.endswith("empty"):
        return b""
    return b"the content of a.bin" if "a.bin" in name else name.encode() * 1000


@pytest.fixture(scope="module")
def address():
    with s3_stand.server() as address:
        yield address


@pytest.fixture(scope="module")
def there(address, tmp_path_factory):
    """A bucket with what DVC has pushed there, and the md5 of each thing."""
    root = tmp_path_factory.mktemp("repository")
    for name in NAMES:
        path = root / "data" / "raw" / "things" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(name))
    (root / "data" / "raw" / "archive.tar").write_bytes(b"not really" * 1000)
    with pytest.MonkeyPatch.context() as monkeypatch:
        bucket = s3_stand.bucket(monkeypatch, address)
        targets = ("data/raw/things", "data/raw/archive.tar")
        folder, file = dvc_stand.push(root, *targets, remote=f"s3://{bucket}/team/dvc").values()
        store = S3Store(f"s3://{bucket}/team/dvc")
    return There(bucket, folder, file, store)


class There(NamedTuple):
    """What is in the bucket. A test that changes it puts it right again: a client costs half a second."""

    bucket: str
    folder: str
    file: str
    store: S3Store

    def replace(self, md5, data):
        self.store._client.put_object(Bucket=self.bucket, Key=key(md5), Body=data)

    def delete(self, md5):
        self.store._client.delete_object(Bucket=self.bucket, Key=key(md5))

    def store_listing(self, entries):
        """Put a folder's list there as DVC does, whatever is in it; returns the folder's md5."""
        text = entries if isinstance(entries, bytes) else json.dumps(entries, sort_keys=True).encode()
        self.replace(f"{md5_of(text)}.dir", text)
        return f"{md5_of(text)}.dir"


@pytest.fixture
def environment(there, address, monkeypatch):
    """Variables that lead there."""
    for name, value in {**s3_stand.SETTINGS, "AWS_ENDPOINT_URL": address}.items():
        monkeypatch.setenv(name, value)
    return there


@pytest.fixture
def cache(there, tmp_path):
    return DvcCache(there.store, tmp_path / "cache")


@pytest.fixture
def asked(there):
    """What is fetched: keys and spans."""
    requests = []

    def note(params, **_):
        requests.append((params["Key"], params.get("Range", "")))

    events = there.store._client.meta.events
    events.register("provide-client-params.s3.GetObject", note)
    yield requests
    events.unregister("provide-client-params.s3.GetObject", note)


def key(md5):
    return f"team/dvc/files/md5/{md5[:2]}/{md5[2:]}"


def md5_of(data):
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def files_below(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- what comes ------------------------------------------------------------------------------------------------------


def test_a_folder_comes_as_dvc_pushed_it(cache, there, tmp_path):
    cache.fetch(there.folder, tmp_path / "out")
    assert files_below(tmp_path / "out") == {name: content(name) for name in NAMES}
    assert directory_md5(tmp_path / "out") == there.folder
    assert cache.missing(there.folder) == []


def test_a_file_comes_as_dvc_pushed_it(cache, there, tmp_path):
    cache.fetch(there.file, tmp_path / "out.tar")
    assert (tmp_path / "out.tar").read_bytes() == b"not really" * 1000
    assert cache.missing(there.file) == []


def test_what_the_cache_has_is_not_fetched_again_and_equal_files_once(cache, there, tmp_path, asked):
    cache.fetch(there.folder, tmp_path / "one")
    assert sorted(asked) == sorted({(key(md5_of(content(name))), "") for name in NAMES} | {(key(there.folder), "")})
    asked.clear()
    cache.fetch(there.folder, tmp_path / "two")
    assert asked == []
    assert files_below(tmp_path / "two") == files_below(tmp_path / "one")
    names = {path.relative_to(cache.folder).as_posix() for path in cache.folder.rglob("*") if path.is_file()}
    assert names == {
        f"md5/{each[:2]}/{each[2:]}" for each in (there.folder, *(md5_of(content(name)) for name in NAMES))
    }


def test_a_spoilt_entry_of_the_cache_is_found_and_fetched_anew(cache, there, tmp_path, asked):
    cache.fetch(there.folder, tmp_path / "one")
    asked.clear()
    wanted = md5_of(content("b/c.bin"))
    (cache.folder / "md5" / wanted[:2] / wanted[2:]).write_bytes(b"spoilt")
    cache.fetch(there.folder, tmp_path / "two")
    assert asked == [(key(wanted), "")]
    assert files_below(tmp_path / "two") == {name: content(name) for name in NAMES}


@pytest.mark.parametrize("left", [content("b/c.bin")[:999], b"x" * 999, content("b/c.bin"), b"x" * 99_999])
def test_what_a_killed_process_left_of_a_file_is_taken_up_or_thrown_away(cache, asked, tmp_path, left):
    wanted = md5_of(content("b/c.bin"))
    partial = cache.folder / "md5" / wanted[:2] / f"{wanted[2:]}.partial"
    partial.parent.mkdir(parents=True)
    partial.write_bytes(left)
    cache.fetch(wanted, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content("b/c.bin")
    assert not partial.exists()
    good = content("b/c.bin").startswith(left)
    assert [span for _, span in asked] == [f"bytes={len(left)}-"] + ([] if good else [""])


def test_a_cache_on_another_disk_is_copied_from(cache, there, tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    cache.fetch(there.folder, tmp_path / "out")
    assert files_below(tmp_path / "out") == {name: content(name) for name in NAMES}


def test_two_who_fetch_the_same_at_a_time_fetch_it_once(cache, there, tmp_path, asked):
    wanted = md5_of(content("b/c.bin"))
    path = cache.folder / "md5" / wanted[:2] / wanted[2:]
    path.parent.mkdir(parents=True)
    with path.with_name(f"{path.name}.partial").open("ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread = threading.Thread(target=cache.fetch, args=(wanted, tmp_path / "out"))
        thread.start()
        thread.join(0.3)
        assert thread.is_alive(), "it waits for the other one"
        path.write_bytes(content("b/c.bin"))
    thread.join(30)
    assert (tmp_path / "out").read_bytes() == content("b/c.bin")
    assert asked == []


# -- what is refused -------------------------------------------------------------------------------------------------


def test_an_md5_that_the_remote_lacks_is_named_with_what_to_do(cache, tmp_path):
    nothing = "0" * 32 + ".dir"
    with pytest.raises(LimnerError, match=rf"(?s)s3://.*/team/dvc does not have.*{nothing}.*dvc push"):
        cache.fetch(nothing, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert cache.missing(nothing) == [nothing]
    with pytest.raises(LimnerError, match=r"does not have out \(0{32}\)"):
        cache.fetch("0" * 32, tmp_path / "out")


def test_a_file_that_the_remote_lacks_is_named_and_the_others_stay(cache, there, tmp_path, asked):
    lost = md5_of(content("b/c.bin"))
    there.delete(lost)
    assert cache.missing(there.folder) == ["b/c.bin"]
    with pytest.raises(LimnerError, match=rf"(?s)does not have b/c\.bin \({lost}\).*dvc push"):
        cache.fetch(there.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    asked.clear()
    there.replace(lost, content("b/c.bin"))
    cache.fetch(there.folder, tmp_path / "out")
    assert (key(lost), "") in asked
    assert (key(there.folder), "") not in asked
    assert files_below(tmp_path / "out") == {name: content(name) for name in NAMES}


def test_another_content_than_its_md5_says_is_refused_with_both_md5s(cache, there, tmp_path):
    wanted, data = md5_of(content("b/c.bin")), b"somebody else's"
    there.replace(wanted, data)
    for _ in range(2):
        with pytest.raises(LimnerError, match=rf"(?s)b/c\.bin .*its md5 is {md5_of(data)}.*should be {wanted}.*Delete"):
            cache.fetch(there.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert not (cache.folder / "md5" / wanted[:2] / wanted[2:]).exists()
    there.replace(wanted, content("b/c.bin"))
    cache.fetch(there.folder, tmp_path / "out")
    assert directory_md5(tmp_path / "out") == there.folder


A = md5_of(content("a.bin"))


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([{"md5": A, "relpath": "../outside"}], "no path below a folder"),
        ([{"md5": A, "relpath": "x/../../outside"}], "no path below a folder"),
        ([{"md5": A, "relpath": "/outside"}], "no path below a folder"),
        ([{"md5": A, "relpath": "x//y"}], "no path below a folder"),
        ([{"md5": A, "relpath": "x/./y"}], "no path below a folder"),
        ([{"md5": A, "relpath": ""}], "no path below a folder"),
        ([{"md5": A, "relpath": "x\0y"}], "no path below a folder"),
        ([{"md5": A, "relpath": "x"}, {"md5": A, "relpath": "x/y"}], "lies below a file"),
        ([{"md5": A, "relpath": "x"}, {"md5": A, "relpath": "x"}], "twice"),
        ([{"md5": "../../../../etc/passwd", "relpath": "x"}], "no md5 of a file"),
        ([{"md5": f"{A}.dir", "relpath": "x"}], "no md5 of a file"),
        ([{"relpath": "x"}], "'md5'"),
        (["x"], "string"),
        ({"a": 1}, ""),
        (7, ""),
        (b"\xff\xfe", ""),
        (b"[", ""),
    ],
)
def test_a_list_of_files_that_leads_elsewhere_or_makes_no_sense_is_refused(cache, there, tmp_path, entries, why):
    before = set(tmp_path.iterdir())
    with pytest.raises(LimnerError, match=rf"(?s)no sound list of files.*{why}"):
        cache.fetch(there.store_listing(entries), tmp_path / "a" / "b" / "out")
    assert set(tmp_path.iterdir()) - before == {tmp_path / "cache"}


def test_an_empty_folder_is_one(cache, there, tmp_path):
    cache.fetch(there.store_listing([]), tmp_path / "out")
    assert files_below(tmp_path / "out") == {}
    assert (tmp_path / "out").is_dir()


@pytest.mark.parametrize(
    "md5", ["", "abc", "A" * 32, "0" * 33, "0" * 32 + ".dir.dir", "../" + "0" * 29, "0" * 32 + "\n"]
)
def test_what_is_no_md5_is_refused_before_anything_is_asked(md5, tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    cache = DvcCache(S3Store("s3://bucket"), tmp_path)
    for ask in (lambda: cache.fetch(md5, tmp_path / "out"), lambda: cache.missing(md5)):
        with pytest.raises(LimnerError, match=r"(?s)is no md5 of DVC.*\.dir"):
            ask()


# -- the pointer -----------------------------------------------------------------------------------------------------


def test_a_pointer_leads_to_the_md5_that_was_published_last(environment):
    url = f"s3://{environment.bucket}/newest/digits.md5"
    publish("1" * 32, url)
    publish("2" * 32 + ".dir", url)
    assert resolve_md5(url) == "2" * 32 + ".dir"
    assert environment.store._client.get_object(Bucket=environment.bucket, Key="newest/digits.md5")["Body"].read() == (
        b"2" * 32 + b".dir\n"
    )
    publish("3" * 32, f"s3://{environment.bucket}/top")
    assert resolve_md5(f"s3://{environment.bucket}/top") == "3" * 32


def test_an_md5_is_its_own_answer():
    assert resolve_md5(f" {'4' * 32}.dir\n") == "4" * 32 + ".dir"
    with pytest.raises(LimnerError, match="'main' is no md5 of DVC"):
        resolve_md5("main")


def test_a_pointer_that_is_missing_or_holds_something_else_is_told(environment):
    with pytest.raises(LimnerError, match=rf"(?s)There is no object s3://{environment.bucket}/none.*Publish one"):
        resolve_md5(f"s3://{environment.bucket}/none")
    environment.store._client.put_object(Bucket=environment.bucket, Key="page", Body=b"<html>\xff" * 1000)
    with pytest.raises(LimnerError, match=rf"In s3://{environment.bucket}/page: '<html>.{{0,80}}' is no md5"):
        resolve_md5(f"s3://{environment.bucket}/page")
    environment.store._client.put_object(Bucket=environment.bucket, Key="nothing", Body=b"")
    with pytest.raises(LimnerError, match="'' is no md5"):
        resolve_md5(f"s3://{environment.bucket}/nothing")


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/", "gs://bucket/key", "nowhere"])
def test_what_names_no_object_cannot_be_published_to(url):
    with pytest.raises(LimnerError, match=r"names no object|is not a place in an object store"):
        publish("1" * 32, url)
    with pytest.raises(LimnerError, match="is no md5"):
        publish("1" * 31, "s3://bucket/key")


# -- the environment -------------------------------------------------------------------------------------------------


def test_the_cache_lies_where_the_environment_says(environment, tmp_path, monkeypatch):
    url = f"s3://{environment.bucket}/team/dvc"
    assert open_remote(url).folder == Path("runs/cache/dvc")
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "elsewhere"))
    open_remote(url).fetch(environment.file, tmp_path / "out")
    assert (tmp_path / "elsewhere" / "dvc" / "md5" / environment.file[:2] / environment.file[2:]).is_file()
    with pytest.raises(LimnerError, match="is not a place in an object store"):
        open_remote("https://example.org")


def test_without_boto3_the_error_says_what_to_install(monkeypatch):
    import limner.adapters

    monkeypatch.setitem(sys.modules, "boto3", None)  # what import raises for an absent package
    monkeypatch.delitem(sys.modules, "limner.adapters.object_store")
    monkeypatch.delattr(limner.adapters, "object_store")
    with pytest.raises(LimnerError, match=r"(?s)boto3 is not installed.*limner\[pipeline\]"):
        dvc_cache.open_remote("s3://bucket")


def test_boto3_is_not_imported_before_it_is_needed(tmp_path):
    program = "import sys; import limner.adapters.dvc_cache; print('boto3' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.strip() == "False"
