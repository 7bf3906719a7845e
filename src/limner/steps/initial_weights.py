"""Begin a training with the weights of a model that exists: fine-tuning."""

from __future__ import annotations

import tempfile
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from limner.errors import LimnerError
from limner.lineage import file_sha256
from limner.methods import TrainingMethod
from limner.ports import Ports
from limner.settings import MethodSettings, ModelSettings
from limner.trained import WEIGHTS

REGISTERED = "models:/"


def start_from(
    settings: ModelSettings[MethodSettings], method: TrainingMethod, *, ports: Ports
) -> ModelSettings[MethodSettings]:
    """Give the method's product the weights that `train.init` names; the other networks keep their random ones.

    Returns the settings with the weights' SHA-256 in the place of the name, because an alias names another model
    tomorrow: it is what tells this run from others. Raises LimnerError where there is no such model, or one with
    another network.
    """
    address = settings.train.init
    if not address:
        return settings
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        export = ports.registry.fetch(address, Path(folder)) if address.startswith(REGISTERED) else Path(address)
        weights = export / WEIGHTS
        try:
            state, digest = load_file(weights), file_sha256(weights)
        except (OSError, SafetensorError) as error:
            raise LimnerError(
                f"train.init names {address}, which has no weights: {weights.name} cannot be read.",
                why=str(error).splitlines()[0],
                fix="Name a registered model, models:/NAME@champion, or a folder that `limner export` wrote.",
            ) from error
    try:
        method.product().load_state_dict(state)
    except RuntimeError as error:
        raise LimnerError(
            f"The weights of {address} do not fit the network that the settings describe.",
            why=" ".join(str(error).split())[:300],
            fix="Give method.generator the values that model was trained with, or leave train.init out.",
        ) from error
    return settings.model_copy(update={"train": settings.train.model_copy(update={"init": f"sha256:{digest}"})})
