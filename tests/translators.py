"""A small exported translator, as `limner export` leaves it, for tests that stylize."""

import json

import torch

from limner.adapters.untracked import UntrackedRegistry, UntrackedTracker
from limner.lineage import file_sha256, write_lineage
from limner.methods import load_method
from limner.ports import Ports
from limner.settings import ExportSettings, ModelSettings, TrainSettings
from limner.steps.export import export
from limner.tasks import PictureShape
from limner.trained import save_config, save_product

RESNET = {"name": "resnet", "width": 4, "blocks": 1, "halvings": 1}


def write_trained(folder, method, *, channels=3, size=32, prepare=None):
    """A trained model's folder and its evaluation's; `prepare` may change the product's weights."""
    loaded = load_method(method["name"])
    params, shape = loaded.params.model_validate(method), PictureShape(channels, size, size, classes=0)
    model, evaluation = folder / "model", folder / "evaluation"
    model.mkdir(parents=True)
    evaluation.mkdir()
    torch.manual_seed(0)
    product = loaded.build(params, shape).product()
    if prepare:
        prepare(product)
    save_config(model, params, shape, ())
    save_product(model / "best", product)
    write_lineage(model, {"step": "train", "model": "toy", "run_id": "", "dataset_digest": "0" * 64})
    (evaluation / "metrics.json").write_text(json.dumps({"chosen": "best"}))
    write_lineage(evaluation, {"export_digest": file_sha256(model / "best" / "model.safetensors")})
    settings = ModelSettings(dataset="toy", method=params, train=TrainSettings(kimg=1))
    return settings, model, evaluation


def export_translator(folder, method=None, *, formats=("pt2",), **options):
    """The exported model's folder."""
    method = method or {"name": "fastcut", "generator": RESNET}
    settings, model, evaluation = write_trained(folder, method, **options)
    settings = settings.model_copy(update={"export": ExportSettings(formats=list(formats))})
    ports = Ports(UntrackedTracker(), UntrackedRegistry(), progress=lambda *_: None, cache=folder / "cache")
    return export(
        settings, name="toy", model=model, evaluation=evaluation, output=folder / "export", ports=ports
    ).output
