"""Statistics of a set of pictures as a file: the `.npz` that pytorch-fid, clean-fid and StudioGAN read and write.

mu    float64 [D]      sigma  float64 [D, D]      theirs, and all that they look at
count int64            protocol  JSON text        ours: how many pictures, and how the numbers came to be
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from limner.errors import LimnerError
from limner.frechet import Gaussian

SUFFIX = ".npz"
NEEDED, OURS = ("mu", "sigma"), "limner"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)  # of a later version it may say more

    count: int | None = None
    protocol: dict[str, str] | None = None


@dataclass(frozen=True)
class Statistics:
    """What a statistics file says."""

    gaussian: Gaussian
    count: int | None = None
    """Pictures; None where the file does not say."""
    protocol: Mapping[str, str] | None = None
    """How they were made; None where the file does not say."""
    notes: tuple[str, ...] = ()
    """Sentences on what was left aside in the file."""


def is_statistics_file(path: Path) -> bool:
    """Whether a path is meant as a statistics file, by its name."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def read_statistics(path: Path) -> Statistics:
    """The content of a statistics file. Raises LimnerError where it is missing or holds anything else; runs no code."""
    try:
        with path.open("rb") as opened:  # which numpy would leave open where the file is damaged
            if not zipfile.is_zipfile(opened):  # numpy would take it for a pickle, and tell how to run that
                raise ValueError("It is not an .npz file, whatever its name says, or only a part of one.")
            opened.seek(0)
            file = np.load(opened, allow_pickle=False)
            if missing := [name for name in NEEDED if name not in file.files]:
                raise ValueError(f"It has no {' and no '.join(missing)}; it has: {', '.join(file.files) or 'nothing'}.")
            mean, covariance = (_numbers(name, file[name]) for name in NEEDED)
            record, notes = _record(path, file) if OURS in file.files else (_Record(), ())
    except FileNotFoundError:
        raise LimnerError(f"There is no statistics file {path}.", fix="Check the path.") from None
    except Exception as error:  # on a damaged file zipfile and numpy raise nearly anything
        pickled = "allow_pickle" in str(error)
        raise LimnerError(
            f"{path} holds no statistics of pictures.",
            why="It holds Python objects, which are not read." if pickled else str(error) or type(error).__name__,
            fix="It has to be an .npz file with `mu` [D] and `sigma` [D, D], such as pytorch-fid, clean-fid, StudioGAN "
            "and `limner fid A --save FILE.npz` write.",
        ) from error
    try:
        # Of a single feature numpy makes a variance without rows and columns.
        gaussian = Gaussian.of_statistics(
            torch.from_numpy(np.atleast_1d(mean)), torch.from_numpy(np.atleast_2d(covariance))
        )
    except (LimnerError, RuntimeError) as error:  # torch's LinAlgError is one
        raise LimnerError(
            f"{path} holds no usable statistics.",
            why=str(error),
            fix="Make the file again from the pictures, or get another copy of it.",
        ) from error
    return Statistics(gaussian, record.count, record.protocol, notes)


def refuse_unwritable(path: Path) -> None:
    """Raise LimnerError where a statistics file of this name could not be written; leaves no trace."""
    if path.suffix.lower() != SUFFIX:
        raise LimnerError(f"{path} is no name for a statistics file.", fix=f"Let it end in {SUFFIX}.")
    if path.is_dir():
        raise LimnerError(f"{path} is a folder.", fix="Name a file in it.")
    folder = path.absolute().parent
    while not folder.exists():
        folder = folder.parent
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise LimnerError(f"{path} cannot be written.", why=f"{folder}: {error.strerror or error}") from error


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Write a statistics file as a whole or not at all. Raises LimnerError where that is not possible."""
    refuse_unwritable(path)
    protocol = None if statistics.protocol is None else dict(statistics.protocol)
    record = np.array(_Record(count=statistics.count, protocol=protocol).model_dump_json())
    mean, covariance = statistics.gaussian.mean.cpu().numpy(), statistics.gaussian.covariance.cpu().numpy()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{path.stem}-", dir=path.parent) as folder:
            partial = Path(folder) / path.name
            with partial.open("wb") as file:
                np.savez(file, allow_pickle=False, mu=mean, sigma=covariance, **{OURS: record})
            partial.replace(path)
    except OSError as error:
        raise LimnerError(f"{path} cannot be written.", why=str(error.strerror or error)) from error


def _numbers(name: str, array: NDArray[Any]) -> NDArray[np.float64]:
    if np.iscomplexobj(array):  # numpy would drop the imaginary parts
        raise ValueError(f"Its {name} holds complex numbers.")
    return np.asarray(array, dtype=np.float64)


def _record(path: Path, file: Mapping[str, NDArray[Any]]) -> tuple[_Record, tuple[str, ...]]:
    """What we say of ourselves; somebody else may have used the same name for something else."""
    try:
        return _Record.model_validate_json(str(file[OURS])), ()
    except ValueError:  # also of objects that numpy would have to unpickle
        return _Record(), (f"{path}: its entry {OURS!r} is not of this Limner's form, and is left aside.",)
