"""The model card of an export is made of what lies in the folders of the model and of its evaluation."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from limner.card import CARD, CURVE, FACTS, PICTURES, SAMPLES
from limner.errors import LimnerError
from limner.lineage import write_lineage
from limner.steps.card import write_card

FOUND = {
    "dataset": "digits",
    "digest": "d" * 64,
    "licence": "CC BY-SA 3.0",
    "source": "mnist5k",
    "classes": ["0", "1"],
    "counts": {"pictures": {"train": 4534, "validation": 466}},
    "rejected": {"pictures": 3},
    "notes": ["There is no validation split."],
    "warnings": ["12.0% of the results hardly differ from their sources."],
    "samples": "A grid of generated pictures.",
}
METRICS = {"fd_pixels": 1.5, "fd_pixels_se": 0.5, "copy_share": 0.0125, "copy_share_real": 0.01}
LINEAGE = {"git_commit": "abc123", "run_id": "r1", "kubeflow_run": "k1", "params_digest": "p1", "torch_version": "2"}


@pytest.fixture
def folders(tmp_path):
    """An export, its model and its evaluation, as the steps leave them, but for what no card speaks of."""
    export, model, evaluation = (tmp_path / name for name in ("export", "model", "evaluation"))
    for folder in (export, model, evaluation / PICTURES):
        folder.mkdir(parents=True)
    save_file({"weight": np.zeros((3, 5), np.float32), "scale": np.zeros((), np.float32)}, export / "model.safetensors")
    (export / "model.pt2").write_bytes(b"program")
    write(export / "config.json", config())
    write(model / "config.json", {"method": {"name": "gan", "generator": {"name": "dcgan"}, "loss": "rpgan"}})
    lines = [{"metrics": {"loss/generator": 0.7}}, {"event": "warning", "text": "more data"}]
    journal = [json.dumps({"images": 1000, "step": 1, **line}) + "\n" for line in lines]
    (model / "journal.jsonl").write_text("".join(journal))
    write_lineage(model, {"images_seen": "140032", "seed": "7", "device": "cpu"})
    protocol = {"samples": "2000", "copy": "within one grey level"}
    write(evaluation / "metrics.json", {"chosen": "best", "best": METRICS, "last": {}, "protocol": protocol})
    write(evaluation / PICTURES / FACTS, FOUND)
    (evaluation / PICTURES / SAMPLES).write_bytes(b"PNG")
    return export, model, evaluation


def config(**changes):
    described = {"name": "digits-gan", "task": "pictures", "classes": ["0", "1"], "inputs": [{"name": "latent"}]}
    image = {"channels": 1, "height": 32, "width": 32}
    return {**described, "image": image, "parity": {"pt2": 2e-7}, "costs": {"latency_ms": 10.25}} | changes


def write(path, document):
    path.write_text(json.dumps(document), encoding="utf-8")


def make(folders, **options):
    export, model, evaluation = folders
    write_card(export, trained=model, evaluation=evaluation, lineage=LINEAGE, **options)
    return (export / CARD).read_text(encoding="utf-8")


def test_it_gathers_what_is_known_of_the_model(folders):
    text = make(folders)
    for words in (
        "Makes grey pictures of 32x32 pixels out of noise, like those of the dataset digits.",
        "| pictures | 4,534 train, 466 validation |",
        "| set aside | 3 that could not be used |",
        "| licence | CC BY-SA 3.0 |",
        "| `fd_pixels` | 1.5 \N{PLUS-MINUS SIGN} 0.5 | lower |",
        "| numbers in the weights | 16 |",
        "| images seen | 140,032 |",
        "| generator | dcgan |",
        "| moment | best |",
        "1. After 1,000 images: Warning: more data.",
        "| `model.pt2` | PyTorch program (torch.export) | 2e-07 |",
        "milliseconds a picture, on the machine that exported it: 10.2",
        "| commit | `abc123` |",
        "| settings, SHA-256 | `p1` |",
        "| Kubeflow run | `k1` |",
    ):
        assert words in text
    assert "onnx" not in text


def test_the_limits_follow_from_what_was_found(folders):
    text = make(folders)
    limits = text.partition("## Limits")[2].partition("##")[0]
    for words in (
        "learnt from 4,534 pictures",
        "32x32 pixels, and no others",
        "from 2,000 pictures",
        "1.25% of its pictures copy",
        "of held-out real pictures 1.00% do",
        FOUND["notes"][0],
        FOUND["warnings"][0],
    ):
        assert words in limits


def test_a_translator_is_told_as_one(folders):
    write(folders[0] / "config.json", config(task="unpaired"))
    counts = {"source": {"train": 100}, "target": {"train": 200}}
    write(folders[2] / PICTURES / FACTS, {**FOUND, "counts": counts, "rejected": {}})
    text = make(folders, registered_name="print")
    assert "Turns pictures into others" in text
    assert "| pictures, source | 100 train |" in text
    assert "learnt from 100 of the source and 200 of the target pictures" in text
    assert 'load_model("models:/print@champion")' in text


def test_the_pictures_lie_beside_it(folders):
    text, folder = make(folders), folders[0] / PICTURES
    assert (folder / SAMPLES).read_bytes() == b"PNG"
    assert (folder / CURVE).read_bytes().startswith(b"\x89PNG")
    assert all(f"]({PICTURES}/{name})" in text for name in (SAMPLES, CURVE))
    (folders[2] / PICTURES / SAMPLES).unlink()
    (folder / SAMPLES).unlink()
    assert f"{PICTURES}/{SAMPLES}" not in make(folders)


def test_the_same_files_give_the_same_card(folders):
    first = make(folders), (folders[0] / PICTURES / CURVE).read_bytes()
    assert (make(folders), (folders[0] / PICTURES / CURVE).read_bytes()) == first


def test_an_evaluation_that_says_too_little_is_told(folders):
    (folders[2] / PICTURES / FACTS).unlink()
    with pytest.raises(LimnerError, match="so there is no model card"):
        make(folders)
