"""Whether there is anything to learn that the champion does not know: the first step of a scheduled retraining."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from limner.errors import LimnerError
from limner.ports import Ports
from limner.steps import catalog_from_json


@dataclass(frozen=True)
class Probed:
    """What to do, why, and the settings to do it with."""

    verdict: Literal["train", "skip"]
    reason: str
    settings: str


def probe(settings: str, *, name: str, dataset_md5: str, fine_tune: bool, ports: Ports) -> Probed:
    """Skip where a model has learnt from just these data; else train, beginning with the champion's weights if wished.

    That model need not be the champion: one that was held would be held again.

    `settings` are one JSON string, as are those that come back: they name the champion by its version, since the alias
    may move while the training waits for its turn.
    """
    model = catalog_from_json(settings).model(name)
    if not dataset_md5:
        raise LimnerError(
            "Nothing says which data to look at.", fix="Name the dataset's md5, or the s3:// address of its pointer."
        )
    registered_name = model.promote.registered_name or name
    champion = ports.registry.champion(registered_name)
    if known := ports.registry.trained_on(registered_name, dataset_md5):
        return Probed("skip", f"Version {known.number} was trained on {dataset_md5}.", settings)
    if champion is None:
        return Probed("train", "There is no champion yet.", settings)
    reason = f"Champion version {champion.number} was trained on {champion.dataset_md5 or 'unknown data'}."
    if not fine_tune:
        return Probed("train", reason, settings)
    document = json.loads(settings)
    document["models"][name]["train"]["init"] = f"models:/{champion.name}/{champion.number}"
    return Probed("train", reason, json.dumps(document, sort_keys=True, ensure_ascii=False))
