"""An exported model as MLflow serves it. MLflow keeps this file with each version and runs it: nothing is pickled.

    mlflow.pyfunc.load_model("models:/digits-gan@champion").predict(
        np.empty(0), params={"count": 4, "seed": 1, "label": 7}
    )
    POST /invocations {"inputs": [], "params": {"count": 4, "seed": 1}}

A translator takes pictures, as arrays [H, W, C] of whole numbers 0..255 or as image files in base64, and returns as
many of the same sizes. The result is uint8 [N, H, W, C] where all have one size, else a list of pictures; or with the
parameter output="png" a list of PNG files in base64. What is wrong with a request is an MlflowException, status 400.
"""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, TEMPORARILY_UNAVAILABLE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

BATCH, WAIT_SECONDS, CAPACITY = 16, 0.002, 512


class ServedModel(PythonModel):
    """Pictures on request. What several threads ask for at a time is computed together."""

    def load_context(self, context: PythonModelContext) -> None:
        """Open the export that lies beside this file."""
        from limner.batching import Batcher
        from limner.inference import open_model
        from limner.scoring import Limits, fulfil

        self._model = model = open_model(Path(context.artifacts["export"]))
        # MLflow has parsed the request already, and hands over arrays, which take no more than the files of pictures.
        self._limits = Limits(array_pixels=Limits.pixels)
        self._batcher = Batcher(
            partial(fulfil, model), size=BATCH, wait_seconds=WAIT_SECONDS, capacity=CAPACITY, weigh=attrgetter("count")
        )

    # The hint `np.ndarray` tells MLflow to check nothing: what a model takes is `limner.scoring`'s to say.
    def predict(
        self, context: PythonModelContext, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> Any:
        """Pictures out of noise, or those of `model_input` in another style."""
        from limner.batching import Busy
        from limner.errors import LimnerError
        from limner.scoring import read_order, write_answer

        try:
            inputs = model_input["inputs"] if isinstance(model_input, dict) else model_input  # as the signature has it
            order = read_order(self._model, inputs, params, self._limits)
            pictures = self._batcher.submit(order).result()
        except Busy as error:
            raise MlflowException(str(error), error_code=TEMPORARILY_UNAVAILABLE) from error
        except LimnerError as error:
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
        answer = write_answer(pictures, order.output)
        if order.output == "array" and len({picture.shape for picture in pictures}) == 1:
            return np.stack(pictures)
        return answer


set_model(ServedModel())
