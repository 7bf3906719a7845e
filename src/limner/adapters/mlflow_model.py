"""An exported model as MLflow serves it. MLflow keeps this file with each version and runs it: nothing is pickled.

    mlflow.pyfunc.load_model("models:/digits-gan@champion").predict(None, params={"count": 4, "seed": 1, "label": 7})
    POST /invocations {"inputs": [], "params": {"count": 4, "seed": 1}}

The result is uint8 [N, H, W, C]. The same seed gives the same pictures; without a label the classes come in turn.
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

    # The hint `np.ndarray` tells MLflow to check nothing: the input is not used, all that matters is in `params`.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> NDArray[np.uint8]:
        """`count` pictures. Raises LimnerError for a count or a label out of range."""
        asked = {"count": 1, "seed": 0, "label": NO_LABEL} | (params or {})
        label = None if asked["label"] == NO_LABEL else asked["label"]
        return self._model.generate(asked["count"], seed=asked["seed"], label=label)


set_model(ServedModel())
