"""Judge the champion on other data than it was judged on, so that a model which learnt from these can be compared."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from limner.errors import LimnerError
from limner.packing import PackedDataset
from limner.ports import Ports
from limner.settings import MethodSettings, ModelSettings
from limner.steps.evaluate import open_bench
from limner.steps.train import training_shape
from limner.trained import WEIGHTS, open_trained, save_config


def rejudge(settings: ModelSettings[MethodSettings], *, name: str, dataset: Path, ports: Ports) -> str:
    """Put the figures that the champion reaches on `dataset` in the place of those it has; returns what was done.

    A champion whose network is not the one that the settings describe keeps its figures: it cannot be drawn here.
    """
    champion = ports.registry.champion(settings.promote.registered_name or name)
    if champion is None:
        return "There is no champion yet."
    if not champion.export_digest:
        return f"Champion version {champion.number} keeps its figures: it was registered by hand."
    packed = PackedDataset(dataset)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with tempfile.TemporaryDirectory(prefix="limner-") as place:
        export = ports.registry.fetch(f"models:/{champion.name}/{champion.number}", Path(place, "export"))
        model = Path(place, "model")
        (model / "best").mkdir(parents=True)
        save_config(model, settings.method, training_shape(settings, packed), packed.classes())
        shutil.copy2(export / WEIGHTS, model / "best" / WEIGHTS)
        trained = open_trained(model, device=device)
        try:
            trained.product("best")
        except (LimnerError, RuntimeError) as error:
            why = str(error).splitlines()[0]
            return f"Champion version {champion.number} keeps its figures: the settings describe another network. {why}"
        found = open_bench(settings.evaluate, packed, trained, ports=ports).judge("best").evaluation
        judged = replace(champion, metrics=dict(found.metrics), protocol=dict(found.protocol))
        ports.registry.register(judged, export, run_id="")
    return f"Champion version {champion.number} was judged on these data."
