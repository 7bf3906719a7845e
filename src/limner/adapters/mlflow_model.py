"""An exported model as MLflow serves it. MLflow keeps this file with each version and runs it: nothing is pickled.

    mlflow.pyfunc.load_model("models:/digits-gan@champion").predict(None, params={"count": 4, "seed": 1, "label": 7})
    POST /invocations {"inputs": [], "params": {"count": 4, "seed": 1}}

The result is uint8 [N, H, W, C]. The same seed gives the same pictures; without a label the classes come in turn.

A translator takes pictures uint8 [N, H, W, C] of its channels and of any size, and returns as many of the same shape:

    mlflow.pyfunc.load_model("models:/monet@champion").predict(pictures)
    POST /invocations {"inputs": [[[[0, 127, 255], ...], ...], ...]}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray

NO_LABEL = -1
"""MLflow's parameters have no None. The registry's `SIGNATURE` has this as the default."""


class ServedModel(PythonModel):
    """Pictures on request."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the export that lies beside this file."""
        from limner.inference import open_model

        self._model = open_model(Path(context.artifacts["export"]))

    # The hint `np.ndarray` tells MLflow to check nothing: a generator has no input, all that matters is in `params`.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.uint8]:
        """`count` pictures, or each of `model_input` translated. Raises LimnerError for what the model cannot do."""
        from limner.inference import StyleModel

        if isinstance(self._model, StyleModel):
            return self._model.stylize_batch(as_pictures(model_input))
        asked = {"count": 1, "seed": 0, "label": NO_LABEL} | (params or {})
        label = None if asked["label"] == NO_LABEL else asked["label"]
        return self._model.generate(asked["count"], seed=asked["seed"], label=label)


def as_pictures(values: np.ndarray) -> NDArray[np.uint8]:
    """What was sent as pictures: JSON's numbers arrive as int64. Raises LimnerError where they are none."""
    from limner.errors import LimnerError

    values = np.asarray(values)
    if values.ndim != 4 or values.dtype.kind not in "iu" or values.size == 0 or values.min() < 0 or values.max() > 255:
        raise LimnerError(
            "The model takes pictures: whole numbers from 0 to 255 of the shape [N, H, W, C].",
            why=f"These are {values.dtype} of the shape {list(values.shape)}.",
        )
    return values.astype(np.uint8)


set_model(ServedModel())
