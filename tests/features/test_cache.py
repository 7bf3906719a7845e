"""The cache of tensors: computed once, rebuilt when damaged, never half written."""

from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from limner.features import cache
from limner.features.cache import load_or_build, tensors_sha256


class Builder:
    """Counts how often it has to work."""

    def __init__(self, value=1.0):
        self.built = 0
        self.value = value

    def __call__(self):
        self.built += 1
        return {"weights": torch.full((2, 3), self.value), "count": torch.tensor([7])}


def files(folder):
    return sorted(path.name for path in folder.rglob("*"))


def test_what_is_there_is_not_built_again(tmp_path):
    build = Builder()
    first = load_or_build(tmp_path / "new" / "cache", "things", {"dataset": "a"}, build)
    second = load_or_build(tmp_path / "new" / "cache", "things", {"dataset": "a"}, build)
    assert build.built == 1
    assert tensors_sha256(first) == tensors_sha256(second)
    assert len(files(tmp_path / "new" / "cache")) == 1


def test_something_else_is_built_beside_it(tmp_path):
    build = Builder()
    for dataset in ("a", "b", "a"):
        load_or_build(tmp_path, "things", {"dataset": dataset}, build)
    assert build.built == 2


@pytest.mark.parametrize("damage", ["cut off", "empty", "one byte", "other content", "folder gone"])
def test_a_damaged_file_is_rebuilt(tmp_path, damage):
    load_or_build(tmp_path, "things", {"dataset": "a"}, Builder())
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    match damage:
        case "cut off":
            path.write_bytes(content[:-5])
        case "empty":
            path.write_bytes(b"")
        case "one byte":
            path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        case "other content":
            load_or_build(tmp_path, "things", {"dataset": "b"}, Builder(2.0))
            (other,) = set(tmp_path.iterdir()) - {path}
            other.replace(path)
        case "folder gone":
            path.unlink()
            tmp_path.rmdir()
    build = Builder()
    tensors = load_or_build(tmp_path, "things", {"dataset": "a"}, build)
    assert build.built == 1
    assert tensors["weights"][0, 0] == 1
    load_or_build(tmp_path, "things", {"dataset": "a"}, build)
    assert build.built == 1


def test_a_failed_build_leaves_nothing(tmp_path):
    def fail():
        raise ZeroDivisionError("as if the disk were full")

    with pytest.raises(ZeroDivisionError, match="disk"):
        load_or_build(tmp_path, "things", {"dataset": "a"}, fail)
    assert files(tmp_path) == []


@pytest.mark.parametrize("folder", ["a file", "below a file", "/proc/nope"])
def test_where_nothing_can_be_kept_the_tensors_come_all_the_same(tmp_path, caplog, folder):
    (tmp_path / "file").touch()
    place = {"a file": tmp_path / "file", "below a file": tmp_path / "file" / "cache"}.get(folder, Path(folder))
    build = Builder()
    for _ in range(2):
        assert load_or_build(place, "things", {"dataset": "a"}, build)["weights"].shape == (2, 3)
    assert build.built == 2
    assert f"Nothing is kept in the cache {place}" in caplog.text
    assert files(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SafetensorError("I/O error")])
def test_a_full_disk_costs_only_what_would_be_kept(tmp_path, monkeypatch, caplog, error):
    def full(*_, **__):
        raise error

    monkeypatch.setattr(cache, "save_file", full)
    assert load_or_build(tmp_path, "things", {"dataset": "a"}, Builder())["count"] == 7
    assert str(error) in caplog.text
    assert files(tmp_path) == []


def test_what_was_computed_in_another_way_is_not_taken(tmp_path, monkeypatch):
    load_or_build(tmp_path, "things", {"dataset": "a"}, Builder())
    monkeypatch.setattr(cache, "LAYOUT", "of another version")
    build = Builder()
    load_or_build(tmp_path, "things", {"dataset": "a"}, build)
    assert build.built == 1
    (old, new) = tmp_path.iterdir()
    for one, other in ((old, new), (new, old)):  # not even under the other's name
        content = one.read_bytes()
        one.write_bytes(other.read_bytes())
        load_or_build(tmp_path, "things", {"dataset": "a"}, build)
        one.write_bytes(content)
    assert build.built == 2


def test_the_digest_sees_names_shapes_types_and_values():
    base = {"a": torch.zeros(2, 3)}
    others = (
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3).int()},
        {"a": torch.ones(2, 3)},
    )
    assert len({tensors_sha256(tensors) for tensors in (base, *others)}) == 5
