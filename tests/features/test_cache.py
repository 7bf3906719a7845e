"""The cache of tensors: computed once, rebuilt when damaged, never half written."""

import pytest
import torch

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


def test_the_digest_sees_names_shapes_types_and_values():
    base = {"a": torch.zeros(2, 3)}
    others = (
        {"b": torch.zeros(2, 3)},
        {"a": torch.zeros(3, 2)},
        {"a": torch.zeros(2, 3).int()},
        {"a": torch.ones(2, 3)},
    )
    assert len({tensors_sha256(tensors) for tensors in (base, *others)}) == 5
