"""CIFAR-10 as its authors publish it, 32x32 RGB: the `python` or the `binary` version, as .tar.gz or unpacked.

The archive's test batch is the publisher's own held-out set: it becomes the validation split. Krizhevsky, "Learning
multiple layers of features from tiny images", 2009; both layouts: https://www.cs.toronto.edu/~kriz/cifar.html.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limner.errors import LimnerError
from limner.sources import Picture, PictureSource
from limner.sources.archive import open_tar, tar_members
from limner.sources.tree import is_folder

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAINING = tuple(f"data_batch_{number}" for number in range(1, 6))
HELD_OUT = "test_batch"
SIDE = 32
RECORD_BYTES = 1 + 3 * SIDE * SIDE

Read = Callable[[], bytes]


def open_cifar10(path: str) -> PictureSource:
    """The training batches in order, then the test batch where there is one, as held out.

    Raises LimnerError where `path` is missing or is not CIFAR-10, or one of the five training batches is missing.
    """
    place = Path(path).expanduser()
    batches = _in_folder(place) if is_folder(place) else _in_archive(place)
    missing = [name for name in TRAINING if name not in batches]
    if missing:
        raise LimnerError(
            f"{place} is not the whole of CIFAR-10: {', '.join(missing)} missing.",
            why="The published archive has data_batch_1 to data_batch_5 and test_batch, as pickles or as .bin.",
            fix="Give cifar-10-python.tar.gz, cifar-10-binary.tar.gz or the folder that one of them unpacks to.",
        )
    return PictureSource(_pictures(batches, place), CLASSES, has_held_out=HELD_OUT in batches)


def _in_folder(place: Path) -> dict[str, Read]:
    try:
        inner = [place / name for name in ("cifar-10-batches-py", "cifar-10-batches-bin") if (place / name).is_dir()]
        files = [file for folder in (place, *inner) for file in folder.iterdir() if file.is_file()]
    except OSError as error:
        raise LimnerError(f"{place} cannot be read.", why=str(error.strerror)) from error
    return {name: file.read_bytes for file in files if (name := _batch_name(file.name))}


def _in_archive(place: Path) -> dict[str, Read]:
    with open_tar(place) as tar:
        members = [member.name for member in tar_members(tar) if member.isreg()]

    def reader(member: str) -> Read:
        def read() -> bytes:  # opened anew for each of the six: they need not lie in order
            with open_tar(place) as tar:
                file = tar.extractfile(member)
                return file.read() if file else b""

        return read

    return {name: reader(member) for member in members if (name := _batch_name(PurePosixPath(member).name))}


def _batch_name(file_name: str) -> str | None:
    name = file_name.removesuffix(".bin")
    return name if name in (*TRAINING, HELD_OUT) else None


def _pictures(batches: dict[str, Read], place: Path) -> Iterator[Picture]:
    for name in (*TRAINING, HELD_OUT):
        if name not in batches:
            continue
        try:
            pixels, labels = _parse(batches[name]())
        except LimnerError:
            raise
        except Exception as error:  # a damaged pickle raises nearly anything
            raise LimnerError(
                f"{place}: {name} is not a batch of CIFAR-10.", why=str(error), fix="Download the archive again."
            ) from error
        for index, label in enumerate(labels):
            fetch = pixels[index].__array__
            yield Picture(f"{name}/{index:05d}", fetch, int(label), held_out=name == HELD_OUT)


def _parse(content: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Pixels [N, 32, 32, 3] and labels [N] of a batch of either version. Raises all sorts of things."""
    if content[:1] == pickle.PROTO:  # a binary record begins with its label, which is below 10
        batch = _ArraysOnly(io.BytesIO(content), encoding="bytes").load()
        fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        flat, labels = np.asarray(fields["data"]), np.asarray(fields["labels"], dtype=np.int64)
    else:
        records = np.frombuffer(content, np.uint8).reshape(-1, RECORD_BYTES)
        flat, labels = records[:, 1:], records[:, 0].astype(np.int64)
    if flat.dtype != np.uint8 or flat.shape != (len(labels), RECORD_BYTES - 1) or len(labels) == 0:
        raise ValueError(f"its data are {flat.dtype} {flat.shape} for {len(labels)} labels")
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise ValueError(f"its labels go from {labels.min()} to {labels.max()}")
    return np.ascontiguousarray(flat.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)), labels


class _ArraysOnly(pickle.Unpickler):
    """Reads containers, numbers, strings and numpy arrays. A pickle that names anything else is refused, not run."""

    def find_class(self, module: str, name: str) -> Any:
        rebuild = np.empty(0).__reduce__()[0]  # numpy's own function, wherever this version of numpy keeps it
        allowed = {
            ("numpy.core.multiarray", "_reconstruct"): rebuild,
            ("numpy._core.multiarray", "_reconstruct"): rebuild,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it names {module}.{name}: only numpy arrays are read from a pickle")
        return allowed[module, name]
