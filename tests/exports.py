"""A small exported generator, as `limner export` leaves it, for tests that use exported models."""

import json

import torch

from limner.lineage import file_sha256, write_lineage
from limner.methods import load_method
from limner.settings import ExportSettings, ModelSettings, TrainSettings
from limner.steps.export import export
from limner.tasks import PictureShape
from limner.trained import save_config, save_product
from tests.packed import quiet_ports

CLASSES = ("bar", "dot", "ring")
NETWORK = {"name": "dcgan", "latent": 8, "width": 8, "max_width": 16}
GENERATOR = {"name": "gan", "generator": NETWORK}


def export_generator(folder, *, formats=("pt2",), classes=CLASSES, generator=NETWORK):
    """The exported model's folder; the trained model is in `model` beside it. Its weights are those of a beginning."""
    loaded, shape = load_method("gan"), PictureShape(1, 16, 16, classes=len(classes))
    params = loaded.params.model_validate(GENERATOR | {"generator": generator})
    model, evaluation = folder / "model", folder / "evaluation"
    model.mkdir(parents=True)
    evaluation.mkdir()
    torch.manual_seed(0)
    save_config(model, params, shape, classes)
    save_product(model / "best", loaded.build(params, shape).product())
    write_lineage(model, {"step": "train", "model": "toy", "run_id": "", "dataset_digest": "0" * 64})
    (evaluation / "metrics.json").write_text(json.dumps({"chosen": "best"}))
    write_lineage(evaluation, {"export_digest": file_sha256(model / "best" / "model.safetensors")})
    settings = ModelSettings(
        dataset="toy", method=params, train=TrainSettings(kimg=1), export=ExportSettings(formats=list(formats))
    )
    return export(
        settings,
        name="toy",
        model=model,
        evaluation=evaluation,
        output=folder / "export",
        ports=quiet_ports(folder / "cache"),
    ).output
