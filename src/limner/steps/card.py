"""Write the model card of an exported model: out of what the model, its evaluation and its export say of themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from limner.card import CARD, CURVE, FACTS, PICTURES, SAMPLES, CardContent, render_card
from limner.curves import events_of, training_png
from limner.errors import LimnerError
from limner.exported import PROGRAM, WEIGHTS, read_config
from limner.journal import read_journal
from limner.lineage import read_lineage
from limner.tasks import TRANSLATION
from limner.trained import CONFIG

FORMATS = {
    "model.safetensors": ("", "the weights themselves, to train on from"),
    "model.pt2": ("pt2", "PyTorch program (torch.export)"),
    "back.pt2": ("back", "PyTorch program of the way back"),
    "model.onnx": ("onnx", "ONNX program"),
    "model.bf16.onnx": ("onnx-bf16", "ONNX program, weights rounded to bfloat16; the difference is the mean one"),
    "model.int8.onnx": ("onnx-int8", "ONNX program, weights rounded to int8; the difference is the mean one"),
    "drift.safetensors": ("", "features of training pictures, by which new ones are held against them"),
}
"""A file -> its name in `parity`, and what it is."""
COSTS = {"latency_ms": "milliseconds a picture, on the machine that exported it", "size_mib": "MiB of all files"}
ORIGIN = {
    "git_commit": "commit",
    "git_dirty": "uncommitted changes",
    "image_digest": "image",
    "dataset_digest": "dataset",
    "dataset_md5": "dataset, DVC's md5",
    "params_digest": "settings, SHA-256",
    "export_digest": "weights, SHA-256",
    "run_id": "MLflow run",
    "kubeflow_run": "Kubeflow run",
    **{f"{name}_version": name for name in ("limner", "torch", "torchvision", "numpy", "python")},
    "platform": "platform",
}
"""Key of the lineage -> what it is called."""


def write_card(
    folder: Path, *, trained: Path, evaluation: Path, lineage: Mapping[str, str], registered_name: str = ""
) -> None:
    """Write MODEL_CARD.md and its pictures into the folder of an export whose other files are all there.

    `trained` and `evaluation` are the folders of the model and of its evaluation, `lineage` is the export's. The same
    files give the same card. Raises LimnerError where the evaluation is none that a card can be made of.
    """
    config, document, facts = read_config(folder), _json(evaluation / "metrics.json"), _facts(evaluation)
    method = _json(trained / CONFIG)["method"]
    pictures = folder / PICTURES
    pictures.mkdir(exist_ok=True)
    if has_samples := (evaluation / PICTURES / SAMPLES).is_file():
        shutil.copyfile(evaluation / PICTURES / SAMPLES, pictures / SAMPLES)
    journal = read_journal(trained / "journal.jsonl")
    if curve := training_png(journal):
        (pictures / CURVE).write_bytes(curve)
    metrics = document[document["chosen"]]
    content = CardContent(
        name=config["name"],
        registered_name=registered_name or config["name"],
        translates=config["task"] in TRANSLATION,
        has_program=(folder / PROGRAM).is_file(),
        summary=_summary(config, facts),
        licence=facts["licence"],
        dataset=facts["dataset"],
        data=_data(facts),
        metrics=metrics,
        protocol=document["protocol"],
        training=_training(method, read_lineage(trained), folder) | {"moment": str(document["chosen"])},
        uses=list(_uses(config, facts)),
        limits=list(_limits(config, facts, metrics, document["protocol"])),
        lineage={words: lineage.get(key, "") for key, words in ORIGIN.items()},
        formats=list(_formats(folder, config.get("parity", {}))),
        costs={words: f"{config['costs'][key]:.3g}" for key, words in COSTS.items() if key in config.get("costs", {})},
        samples=facts["samples"] if has_samples else "",
        curve=curve is not None,
        events=[f"After {event.images:,} images: {event.sentence}" for event in events_of(journal)],
    )
    (folder / CARD).write_text(render_card(content), encoding="utf-8")


def _facts(evaluation: Path) -> dict[str, Any]:
    return _json(evaluation / PICTURES / FACTS)


def _json(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LimnerError(
            f"{path} cannot be read, so there is no model card.",
            why=str(error),
            fix="Evaluate the model again: limner evaluate MODEL",
        ) from error
    return document


# -- what the card says -----------------------------------------------------------------------------------------------


def _size(config: Mapping[str, Any]) -> str:
    image = config["image"]
    colours = {1: "grey", 3: "colour"}.get(image["channels"], f"{image['channels']}-channel")
    return f"{colours} pictures of {image['width']}x{image['height']} pixels"


def _summary(config: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if config["task"] in TRANSLATION:
        return f"Turns pictures into others: from the sources of the dataset {facts['dataset']} to its targets."
    asked = any(described["name"] == "labels" for described in config["inputs"])
    classes = f", of a class that is asked for ({', '.join(config['classes'])})" if asked else ""
    return f"Makes {_size(config)} out of noise{classes}, like those of the dataset {facts['dataset']}."


def _data(facts: Mapping[str, Any]) -> dict[str, str]:
    counts = {
        f"pictures, {domain}" if len(facts["counts"]) > 1 else "pictures": ", ".join(
            f"{count:,} {split}" for split, count in splits.items()
        )
        for domain, splits in facts["counts"].items()
    }
    rejected = sum(facts["rejected"].values())
    return {
        "dataset": facts["dataset"],
        "source": facts["source"],
        "licence": facts["licence"] or "not named",
        "digest": facts["digest"],
        **counts,
        "set aside": f"{rejected:,} that could not be used" if rejected else "",
        "classes": ", ".join(facts["classes"]),
    }


def _training(method: Mapping[str, Any], lineage: Mapping[str, str], folder: Path) -> dict[str, str]:
    networks = {
        player: str(method[player]["name"])
        for player in ("generator", "discriminator")
        if "name" in method.get(player, {})
    }
    seen = lineage.get("images_seen", "")
    return {
        "method": str(method["name"]),
        **networks,
        "loss": str(method.get("loss", "")),
        "numbers in the weights": f"{_weights(folder / WEIGHTS):,}",
        "images seen": f"{int(seen):,}" if seen.isdecimal() else seen,
        "seed": lineage.get("seed", ""),
        "device": lineage.get("device", ""),
    }


def _weights(path: Path) -> int:
    with safe_open(path, framework="numpy") as file:
        shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 - it is no mapping
    total = 0
    for shape in shapes:
        size = 1
        for side in shape:
            size *= side
        total += size
    return total


def _uses(config: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[str]:
    if config["task"] in TRANSLATION:
        yield f"Give it pictures like the sources of {facts['dataset']} ({facts['source']})."
    else:
        yield f"Ask it for pictures like those of {facts['dataset']} ({facts['source']})."
        if any(described["name"] == "latent" for described in config["inputs"]):
            yield "The same seed gives the same pictures; truncation makes them more typical and less varied."


def _limits(
    config: Mapping[str, Any], facts: Mapping[str, Any], metrics: Mapping[str, float], protocol: Mapping[str, str]
) -> Iterator[str]:
    counts = {domain: splits.get("train", 0) for domain, splits in facts["counts"].items()}
    told = " and ".join(f"{n:,}" + (f" of the {d}" if len(counts) > 1 else "") for d, n in counts.items())
    yield f"It has learnt from {told} pictures, and from nothing else."
    if config["task"] in TRANSLATION:
        yield f"It was trained and judged on {_size(config)}; it takes others, but nobody has judged those here."
    else:
        yield f"It makes {_size(config)}, and no others."
    yield f"The figures come from {int(protocol['samples']):,} pictures; what they do not say was not measured."
    if "copy_share" in metrics:
        real = (
            f"; of held-out real pictures {metrics['copy_share_real']:.2%} do" if "copy_share_real" in metrics else ""
        )
        copies = f"{metrics['copy_share']:.2%} of its pictures copy one that it has learnt from"
        yield f"{copies} ({protocol['copy']}){real}."
    yield from facts["warnings"]
    yield from facts["notes"]


def _formats(folder: Path, parity: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
    for file, (name, words) in FORMATS.items():
        if (folder / file).is_file():
            yield file, words, f"{parity[name]:.2g}" if name in parity else ""
