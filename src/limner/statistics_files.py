"""Statistics of a set of pictures as a file: the `.npz` that pytorch-fid, clean-fid and StudioGAN read and write.

mu    float64 [D]      sigma  float64 [D, D]      theirs, and all that they look at
count int64            protocol  JSON text        ours: how many pictures, and how the numbers came to be
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
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


def is_statistics_file(path: Path) -> bool:
    """Whether a path is meant as a statistics file, by its name."""
    return path.suffix.lower() == SUFFIX and not path.is_dir()


def read_statistics(path: Path) -> Statistics:
    """The content of a statistics file. Raises LimnerError where it is missing or holds anything else; runs no code."""
    try:
        with path.open("rb") as opened:  # which numpy would leave open where the file is damaged
            file = np.load(opened, allow_pickle=False)
            if not isinstance(file, np.lib.npyio.NpzFile):
                raise ValueError("it is a single array, and no .npz file")
            if missing := [name for name in NEEDED if name not in file.files]:
                raise ValueError(f"it has no {' and no '.join(missing)}; it has: {', '.join(file.files) or 'nothing'}")
            mean, covariance = (np.asarray(file[name], dtype=np.float64) for name in NEEDED)
            record = _Record.model_validate_json(str(file[OURS])) if OURS in file.files else _Record()
    except FileNotFoundError:
        raise LimnerError(f"There is no statistics file {path}.", fix="Check the path.") from None
    except Exception as error:  # on a damaged file zipfile and numpy raise nearly anything
        raise LimnerError(
            f"{path} holds no statistics of pictures.",
            why=str(error) or type(error).__name__,
            fix="It has to be an .npz file with `mu` [D] and `sigma` [D, D], such as pytorch-fid, clean-fid, StudioGAN "
            "and `limner fid A --save FILE.npz` write.",
        ) from error
    try:
        gaussian = Gaussian.of_statistics(torch.from_numpy(mean), torch.from_numpy(covariance))
    except LimnerError as error:
        raise LimnerError(f"{path} holds no usable statistics.", why=str(error), fix="Make them again.") from error
    return Statistics(gaussian, record.count, record.protocol)


def write_statistics(path: Path, statistics: Statistics) -> None:
    """Write a statistics file as a whole or not at all. Raises LimnerError where that is not possible."""
    if path.suffix.lower() != SUFFIX:
        raise LimnerError(f"{path} is no name for a statistics file.", fix=f"Let it end in {SUFFIX}.")
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
