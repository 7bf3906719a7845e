"""An exported model as an MLflow model: its signature, the code that runs it, and what has to be installed for that."""

from __future__ import annotations

import base64
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from numpy.typing import NDArray

import limner
from limner.exported import PROGRAM
from limner.inference import GenerativeModel, open_model
from limner.pixels import encode_png
from limner.scoring import DEFAULTS, Limits, fulfil, read_order

MODEL_FILE = Path(__file__).with_name("mlflow_model.py")
INPUTS = "inputs"
TYPES = {int: DataType.long, float: DataType.double, str: DataType.string}
SIGNATURE = ModelSignature(
    # MLflow lets anything pass as such a tensor, and it has to: a picture is an array or a base64 string, and of a
    # generator the list is empty. Without a schema, KServe's MLflow runtime would not load the model.
    inputs=Schema([TensorSpec(np.dtype(object), (-1,), INPUTS)]),
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, -1))]),
    params=ParamSchema([ParamSpec(name, TYPES[type(value)], value) for name, value in DEFAULTS.items()]),
)
"""Of every model."""
SHIPPED = (
    "__init__",
    "batching",
    "errors",
    "exported",
    "inference",
    "pixels",
    "precision",
    "program_vetting",
    "randomness",
    "scoring",
    "spatial_statistics",
    "tasks",
    "tiling",
)
"""The modules of this package that run a model: none that trains one."""
NEEDED_TO_SERVE = ("mlflow", "numpy", "pillow", "torch")
"""What they import; pinned to what is installed here."""
EXAMPLE_SIDE = 32


def save_mlflow_model(folder: Path, export: Path, note: Model) -> float | None:
    """Write an MLflow model: the code that runs it, the export, and what has to be installed.

    Returns how far it is from the export, in grey levels, over the answer to its input example; None where the export
    has no program that could be asked. Raises LimnerError where the export cannot be opened.
    """
    asked = open_model(export) if (export / PROGRAM).is_file() else None
    channels = None if asked is None or isinstance(asked, GenerativeModel) else asked.channels
    example = _example(channels)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as temporary:
        # On import it warns of the type hints of its own classes.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType", category=UserWarning)
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(
            str(folder),
            mlflow_model=note,
            python_model=str(MODEL_FILE),
            artifacts={"export": str(export)},
            signature=SIGNATURE,
            input_example=example,
            code_paths=[str(_copy_code(Path(temporary)))],
            # Without the local part: "2.11.0+cpu" is on no index.
            pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in NEEDED_TO_SERVE],
        )
        if asked is None:
            return None
        (expected,) = fulfil(asked, [read_order(asked, example[0][INPUTS], example[1], Limits())])
        with _module_path_kept():  # a model's folder with code is put into it, for ever
            packed: NDArray[np.uint8] = mlflow.pyfunc.load_model(str(folder)).predict(*example)
    return float(np.abs(packed.astype(np.int16) - np.stack(expected)).max())


def _example(channels: int | None) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """What a translator of so many channels, or a generator, can be asked for."""
    if channels is None:
        return {INPUTS: np.empty(0, object)}, {"count": 2, "seed": 1}
    ramp = np.linspace(0, 255, EXAMPLE_SIDE).astype(np.uint8)
    picture = np.stack([np.roll(np.add.outer(ramp // 2, ramp // 2), 8 * band, axis=0) for band in range(channels)], -1)
    text = base64.b64encode(encode_png(picture)).decode("ascii")
    return {INPUTS: np.array([text], object)}, {"strength": 1.0}


def _copy_code(folder: Path) -> Path:
    """The package `limner` as far as it is shipped."""
    package = folder / "limner"
    package.mkdir()
    for name in SHIPPED:
        shutil.copy2(Path(limner.__file__).with_name(f"{name}.py"), package)
    return package


@contextmanager
def _module_path_kept() -> Iterator[None]:
    before = sys.path[:]
    try:
        yield
    finally:
        sys.path[:] = before
