"""An exported model as an MLflow model: its signature, its code, and what has to be installed to run it."""

from __future__ import annotations

import json
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np
from mlflow.models import Model, ModelSignature
from mlflow.types import DataType, ParamSchema, ParamSpec, Schema, TensorSpec

import limner
from limner.tasks import TRANSLATION

MODEL_FILE = Path(__file__).with_name("mlflow_model.py")
SIGNATURE = ModelSignature(
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, -1))]),
    params=ParamSchema(
        [
            ParamSpec("count", DataType.long, 1),
            ParamSpec("seed", DataType.long, 0),
            ParamSpec("label", DataType.long, -1),
        ]
    ),
)
TRANSLATOR_SIGNATURE = ModelSignature(
    inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, -1))]),
    outputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, -1, -1, -1))]),
)
NEEDED_TO_SERVE = ("mlflow", "numpy", "pillow", "torch")
"""What that file and `limner.inference` import; pinned to what is installed here."""


def save_mlflow_model(folder: Path, export: Path, note: Model) -> None:
    """Write an MLflow model: this package's code, the export, and what has to be installed to run them."""
    with warnings.catch_warnings():
        # It misses an example of the input, and there is none: a generator is asked by parameters.
        warnings.filterwarnings("ignore", message=".*input example was not provided", category=UserWarning)
        # On import it warns of the type hints of its own classes.
        warnings.filterwarnings("ignore", message=".*Any type hint is inferred as AnyType", category=UserWarning)
        import mlflow.pyfunc

        mlflow.pyfunc.save_model(
            str(folder),
            mlflow_model=note,
            python_model=str(MODEL_FILE),
            artifacts={"export": str(export)},
            signature=TRANSLATOR_SIGNATURE if _translates(export) else SIGNATURE,
            code_paths=[str(Path(limner.__file__).parent)],
            # Without the local part: "2.11.0+cpu" is on no index.
            pip_requirements=[f"{name}=={metadata.version(name).partition('+')[0]}" for name in NEEDED_TO_SERVE],
        )


def _translates(export: Path) -> bool:
    return json.loads((export / "config.json").read_text(encoding="utf-8")).get("task") in TRANSLATION
