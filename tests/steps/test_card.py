"""The model card of an export is made of what lies in the folders of the model and of its evaluation."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from limner.card_files import CARD, CURVE, FACTS, PICTURES, SAMPLES, SHORT
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
    protocol = {"samples": "2000", "held_out_pictures": "466", "copy": "within one grey level"}
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
        "| `fd_pixels` | 1.50 \N{PLUS-MINUS SIGN} 0.50 | lower |",
        "| numbers in the weights | 16 |",
        "| images seen, whole training | 140,032 |",
        "| generator | dcgan |",
        "| exported moment | best, after 140,032 images |",
        "1. After 1,000 images: Warning: more data.",
        "| `model.pt2` | PyTorch program (torch.export) | 2e-07 |",
        "milliseconds for one picture of 32x32 on the CPU of the machine that exported it: 10.2",
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
        "(within one grey level): 25 of 2,000; of held-out real pictures 5 of 466.",
        FOUND["notes"][0],
        FOUND["warnings"][0],
    ):
        assert words in limits


def test_other_weights_that_it_began_from_are_told(folders):
    lineage = {"init": "models:/digits/3", "init_digest": "a" * 64}
    write_lineage(folders[1], {"images_seen": "1000", **lineage})
    write_card(folders[0], trained=folders[1], evaluation=folders[2], lineage={**LINEAGE, **lineage})
    text = (folders[0] / CARD).read_text(encoding="utf-8")
    assert "and from nothing else" not in text
    assert "learnt from 4,534 pictures, and began from models:/digits/3" in text
    assert "| begun from | `models:/digits/3` |" in text
    assert f"| its weights, SHA-256 | `{'a' * 64}` |" in text


def judgements(model, *lines):
    lines = [{"step": 1, **line} for line in lines]
    (model / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def judged(images, value):
    return {"images": images, "metrics": {"quick/fd_pixels": value, "quick/sure_share": 0.0}}


def test_the_exported_moment_is_the_one_that_was_judged_best(folders):
    judgements(folders[1], judged(35_000, 2.0), judged(70_000, 1.0), judged(105_000, 1.0), judged(140_032, 3.0))
    text = make(folders)
    assert "| exported moment | best, after 70,000 images |" in text
    assert "chosen by a quick judgement of the same kind" in text
    back = {"images": 40_000, "event": "went back", "from_images": 90_000, "times": 1, "reason": "it fails"}
    judgements(folders[1], judged(35_000, 2.0), judged(70_000, 1.0), back, judged(75_000, 3.0))
    assert "| exported moment | best, after 35,000 images |" in make(folders), "what was undone does not count"
    document = json.loads((folders[2] / "metrics.json").read_text())
    write(folders[0] / "config.json", config(task="unpaired"))
    write(folders[2] / "metrics.json", document | {"protocol": document["protocol"] | {"source_split": "validation"}})
    assert "of training sources; the figures are of held-out ones." in make(folders)
    write(folders[2] / "metrics.json", {**document, "chosen": "last", "last": METRICS})
    text = make(folders)
    assert "| exported moment | last, after 140,032 images |" in text
    assert "quick judgement of the same kind" not in text


def test_what_it_is_not_for_follows_from_its_figures(folders):
    document = json.loads((folders[2] / "metrics.json").read_text())
    figures = METRICS | {"sure_share": 0.4155, "sure_share_real": 0.951, "label_agreement": 0.98}
    write(folders[2] / "metrics.json", {**document, "best": figures})
    text = make(folders).partition("Not for:")[2].partition("##")[0]
    assert "of 41.5% the class is certain; of real ones 95.1%" in text
    assert "what was asked for: 2.0% are read otherwise" in text
    write(folders[2] / "metrics.json", document)
    assert "readable" not in make(folders)


def test_the_short_card_lies_among_its_pictures(folders):
    make(folders)
    text = (folders[0] / PICTURES / SHORT).read_text(encoding="utf-8")
    assert text.startswith("# digits-gan")
    assert "| `fd_pixels` | 1.50 \N{PLUS-MINUS SIGN} 0.50 | lower |" in text
    assert "- commit: `abc123`" in text


def test_a_class_is_asked_for_where_the_model_takes_classes(folders):
    assert "label=0" not in make(folders)
    write(folders[0] / "config.json", config(inputs=[{"name": "latent"}, {"name": "labels"}]))
    assert "label=0" in make(folders)


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
