"""CIFAR-10 in the two layouts of its authors, packed and unpacked; and pickles that want more than to be read."""

import pickle
import struct
import tarfile
from typing import ClassVar

import numpy as np
import pytest

from limner.errors import LimnerError
from limner.sources.cifar10 import CLASSES, open_cifar10

NAMES = (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch")


class Python2Pickler(pickle._Pickler):
    """Writes as Python 2 and the numpy of 2009 did: byte strings as `str`, arrays by numpy.core.multiarray."""

    def save_str(self, text):
        self.write(pickle.BINSTRING + struct.pack("<i", len(text)) + text)
        self.memoize(text)

    def save_global(self, thing, name=None):
        known = {np.ndarray: b"numpy\nndarray\n", np.dtype: b"numpy\ndtype\n"}
        self.write(pickle.GLOBAL + known.get(thing, b"numpy.core.multiarray\n_reconstruct\n"))
        self.memoize(thing)

    dispatch: ClassVar = {
        **pickle._Pickler.dispatch,
        bytes: save_str,
        str: lambda self, text: self.save_str(text.encode("latin-1")),
        type: save_global,
        type(np.empty(0).__reduce__()[0]): save_global,
    }


@pytest.fixture(scope="module")
def batches():
    rng = np.random.default_rng(0)
    return {
        name: (rng.integers(0, 256, (12, 3072), dtype=np.uint8), rng.integers(0, 10, 12).tolist()) for name in NAMES
    }


@pytest.fixture(scope="module")
def python_folder(batches, tmp_path_factory):
    folder = tmp_path_factory.mktemp("python") / "cifar-10-batches-py"
    folder.mkdir()
    for name, (data, labels) in batches.items():
        with (folder / name).open("wb") as file:
            Python2Pickler(file, protocol=2).dump({b"batch_label": b"x", b"labels": labels, b"data": data})
    (folder / "batches.meta").write_bytes(b"")
    (folder / "readme.html").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def binary_folder(batches, tmp_path_factory):
    folder = tmp_path_factory.mktemp("binary") / "cifar-10-batches-bin"
    folder.mkdir()
    for name, (data, labels) in batches.items():
        (folder / f"{name}.bin").write_bytes(np.column_stack([np.array(labels, np.uint8), data]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES))
    return folder


def copy(folder, destination):
    destination.mkdir()
    for file in folder.iterdir():
        (destination / file.name).write_bytes(file.read_bytes())
    return destination


def test_every_layout_gives_the_same_pictures_in_the_order_of_the_batches(
    batches, python_folder, binary_folder, tmp_path
):
    for folder, name in ((python_folder, "python.tar.gz"), (binary_folder, "binary.tar.gz")):
        with tarfile.open(tmp_path / name, "w:gz") as archive:
            archive.add(folder, folder.name)
    pixels = np.concatenate([data.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for data, _ in batches.values()])
    labels = [label for _, labels in batches.values() for label in labels]
    for path in (
        python_folder,
        python_folder.parent,
        binary_folder,
        binary_folder.parent,
        tmp_path / "python.tar.gz",
        tmp_path / "binary.tar.gz",
    ):
        source = open_cifar10(str(path))
        pictures = list(source.pictures)
        assert source.classes == CLASSES
        assert np.array_equal(np.stack([picture.fetch() for picture in pictures]), pixels)
        assert [picture.label for picture in pictures] == labels
        assert [picture.name for picture in pictures][:2] == ["data_batch_1/00000", "data_batch_1/00001"]
        assert [picture.held_out for picture in pictures] == [False] * 60 + [True] * 12
        assert source.has_held_out


def test_without_the_test_batch_nothing_is_held_out(binary_folder, tmp_path):
    (copy(binary_folder, tmp_path / "x") / "test_batch.bin").unlink()
    source = open_cifar10(str(tmp_path / "x"))
    assert not source.has_held_out
    assert len(list(source.pictures)) == 60


def test_a_missing_training_batch_is_an_error(binary_folder, tmp_path):
    (copy(binary_folder, tmp_path / "x") / "data_batch_3.bin").unlink()
    with pytest.raises(LimnerError, match=r"(?s)not the whole of CIFAR-10: data_batch_3 missing.*\.tar\.gz"):
        open_cifar10(str(tmp_path / "x"))


def test_another_folder_is_not_cifar10(tmp_path):
    with pytest.raises(LimnerError, match="not the whole of CIFAR-10: data_batch_1, data_batch_2"):
        open_cifar10(str(tmp_path))


def test_a_missing_path_is_an_error_with_the_nearest_name(binary_folder):
    with pytest.raises(LimnerError, match=r"(?s)no folder or archive .*Did you mean .*cifar-10-batches-bin"):
        open_cifar10(f"{binary_folder}s")


def test_another_archive_is_refused(tmp_path):
    (tmp_path / "cifar-10-python.tar.gz").write_bytes(b"<html>404</html>")
    with pytest.raises(LimnerError, match=r"cifar-10-python\.tar\.gz is damaged or incomplete"):
        open_cifar10(str(tmp_path / "cifar-10-python.tar.gz"))


class Malice:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def array_pickle(**changes):
    fields = {"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]} | changes
    return pickle.dumps({key: value for key, value in fields.items() if value is not None}, protocol=4)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "for 0 labels"),
        (b"\x00" * 3072, "cannot reshape"),
        (b"\x0b" + b"\x00" * 3072, "its labels go from 11 to 11"),
        (array_pickle()[:-400], "truncated"),
        (array_pickle(labels=None), "labels"),
        (array_pickle(labels=[0, 10]), "its labels go from 0 to 10"),
        (array_pickle(labels=[0, -1]), "its labels go from -1 to 0"),
        (array_pickle(labels=[0]), r"\(2, 3072\) for 1 labels"),
        (array_pickle(data=np.zeros((2, 3072))), "its data are float64"),
        (array_pickle(data=np.zeros((2, 100), np.uint8)), r"\(2, 100\)"),
        (pickle.dumps([1, 2]), "items"),
        (pickle.dumps({"data": np.array([np.str_, np.int64])}), r"it names numpy\.(str_|int64|core)"),
    ],
)
def test_a_batch_of_another_content_is_refused(binary_folder, tmp_path, content, why):
    (copy(binary_folder, tmp_path / "x") / "data_batch_2.bin").write_bytes(content)
    with pytest.raises(LimnerError, match=f"(?s)data_batch_2 is not a batch of CIFAR-10.*{why}"):
        list(open_cifar10(str(tmp_path / "x")).pictures)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_a_pickle_that_names_anything_but_arrays_is_refused_and_not_run(binary_folder, tmp_path, protocol):
    harm = tmp_path / "harm"
    content = pickle.dumps({"data": Malice(harm), "labels": [0]}, protocol=protocol)
    (copy(binary_folder, tmp_path / "x") / "data_batch_1.bin").write_bytes(content)
    with pytest.raises(LimnerError, match=r"it names (io|_io|__builtin__|builtins)\.open: only numpy arrays are read"):
        list(open_cifar10(str(tmp_path / "x")).pictures)
    assert not harm.exists()
