"""Write the model card of an exported model: out of what the model, its evaluation and its export say of themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import safe_open

from limner.card import CardContent, render_card, render_short_card
from limner.card_files import CARD, CURVE, FACTS, PICTURES, SAMPLES, SHORT
from limner.curves import events_of, training_png
from limner.errors import LimnerError
from limner.exported import PROGRAM, WEIGHTS, read_config
from limner.journal import read_journal
from limner.lineage import read_lineage
from limner.metric_words import with_errors
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
ORIGIN = {
    "git_commit": "commit",
    "git_dirty": "uncommitted changes",
    "image_digest": "image",
    "dataset_digest": "dataset",
    "dataset_md5": "dataset, DVC's md5",
    "params_digest": "settings, SHA-256",
    "export_digest": "weights, SHA-256",
    "init": "begun from",
    "init_digest": "its weights, SHA-256",
    "run_id": "MLflow run",
    "kubeflow_run": "Kubeflow run",
    **{f"{name}_version": name for name in ("limner", "torch", "torchvision", "numpy", "python")},
    "platform": "platform",
}
"""Key of the lineage -> what it is called."""
FOUND_AGAIN_BY = ("git_commit", "dataset_digest", "run_id")
"""Those of the short card."""
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels -> what Pillow calls such pictures."""


def write_card(
    folder: Path, *, trained: Path, evaluation: Path, lineage: Mapping[str, str], registered_name: str = ""
) -> None:
    """Write MODEL_CARD.md, its pictures and the short card into the folder of an export whose other files are there.

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
    metrics, protocol, made = document[document["chosen"]], document["protocol"], read_lineage(trained)
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
        protocol=protocol,
        training=_training(method, made, folder) | _moment(document["chosen"], journal, made),
        uses=list(_uses(config, facts)),
        not_uses=list(_not_uses(config, facts, metrics)),
        limits=[
            *_limits(config, facts, metrics, protocol),
            *_origins(facts, made),
            *_selection(document["chosen"], journal, task=config["task"], protocol=protocol),
        ],
        lineage={words: lineage.get(key, "") for key, words in ORIGIN.items()},
        formats=list(_formats(folder, config.get("parity", {}))),
        origin={ORIGIN[key]: lineage.get(key, "") for key in FOUND_AGAIN_BY},
        mode=MODES.get(config["image"]["channels"], "RGB"),
        classes=config["classes"] if _takes_classes(config) else (),
        costs=_costs(config),
        samples=facts["samples"] if has_samples else "",
        curve=curve is not None,
        events=[f"After {event.images:,} images: {event.sentence}" for event in events_of(journal)],
    )
    (folder / CARD).write_text(render_card(content), encoding="utf-8")
    (pictures / SHORT).write_text(render_short_card(content), encoding="utf-8")


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
    classes = f", of a class that is asked for ({', '.join(config['classes'])})" if _takes_classes(config) else ""
    return f"Makes {_size(config)} out of noise{classes}, like those of the dataset {facts['dataset']}."


def _takes_classes(config: Mapping[str, Any]) -> bool:
    return any(described["name"] == "labels" for described in config["inputs"])


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
        "images seen, whole training": f"{int(seen):,}" if seen.isdecimal() else seen,
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


def _not_uses(config: Mapping[str, Any], facts: Mapping[str, Any], metrics: Mapping[str, float]) -> Iterator[str]:
    if config["task"] in TRANSLATION:
        yield f"Pictures of another kind than the sources of {facts['dataset']}."
    else:
        yield f"Pictures of another kind than those of {facts['dataset']}."
        if metrics.get("sure_share", 1) < 1:
            real = f"; of real ones {metrics['sure_share_real']:.1%}" if "sure_share_real" in metrics else ""
            yield f"Where each picture has to be readable: of {metrics['sure_share']:.1%} the class is certain{real}."
    if metrics.get("label_agreement", 1) < 1:
        means = "its source shows" if config["task"] in TRANSLATION else "was asked for"
        yield f"Where each picture has to show what {means}: {1 - metrics['label_agreement']:.1%} are read otherwise."


def _limits(
    config: Mapping[str, Any], facts: Mapping[str, Any], metrics: Mapping[str, float], protocol: Mapping[str, str]
) -> Iterator[str]:
    yield from facts["warnings"]
    if config["task"] in TRANSLATION:
        yield f"It was trained and judged on {_size(config)}; it takes others, but nobody has judged those here."
    else:
        yield f"It makes {_size(config)}, and no others."
    yield f"The figures come from {int(protocol['samples']):,} pictures."
    if "copy_share" in metrics:
        shown = with_errors(metrics, protocol)
        real = f"; of held-out real pictures {shown['copy_share_real']}" if "copy_share_real" in metrics else ""
        yield f"Copies of a picture that it has learnt from ({protocol['copy']}): {shown['copy_share']}{real}."
    yield from facts["notes"]


def _origins(facts: Mapping[str, Any], lineage: Mapping[str, str]) -> Iterator[str]:
    """What it knows: the pictures, and what the weights knew that it began from."""
    counts = {domain: splits.get("train", 0) for domain, splits in facts["counts"].items()}
    told = " and ".join(f"{n:,}" + (f" of the {d}" if len(counts) > 1 else "") for d, n in counts.items())
    if lineage.get("init"):
        yield f"It has learnt from {told} pictures, and began from {lineage['init']}: what that had learnt is in it."
    else:
        yield f"It has learnt from {told} pictures, and from nothing else."


def _moment(chosen: str, journal: Sequence[Mapping[str, Any]], lineage: Mapping[str, str]) -> dict[str, str]:
    """Which moment is exported, and after how many images it was reached."""
    seen = lineage.get("images_seen", "")
    if chosen == "best" and (best := _best_judged(journal)):
        seen = str(best)
    return {"exported moment": f"{chosen}, after {int(seen):,} images" if seen.isdecimal() else chosen}


def _selection(
    chosen: str, journal: Sequence[Mapping[str, Any]], *, task: str, protocol: Mapping[str, str]
) -> Iterator[str]:
    """What the choice of the moment does to the figures: see `limner.quick_judging` on which pictures it looks at."""
    if chosen != "best" or not _best_judged(journal):
        return
    words = "Its moment was chosen by a quick judgement of the same kind as the figures"
    if task == "unpaired" and protocol.get("source_split") == "validation":
        yield f"{words}, of training sources; the figures are of held-out ones."
    else:
        yield f"{words}, of the same kind of pictures; that makes them look a little better than they are."


def _best_judged(journal: Sequence[Mapping[str, Any]]) -> int:
    """Images of the quick judgement that was best; 0 where there was none, and the last moment counts as best.

    The first figure of a judgement is the one to get low. What the guard went back from does not count.
    """
    judged: list[tuple[float, int]] = []
    for line in journal:
        if line.get("event") == "went back":
            judged = [(value, images) for value, images in judged if images <= line["images"]]
        figures = [value for name, value in line.get("metrics", {}).items() if name.startswith("quick/")]
        judged += [(figures[0], line["images"])] if figures else []
    return min(judged)[1] if judged else 0


def _costs(config: Mapping[str, Any]) -> dict[str, str]:
    costs, image = config.get("costs", {}), config["image"]
    size = f"{image['width']}x{image['height']}"
    words = {
        "latency_ms": f"milliseconds for one picture of {size} on the CPU of the machine that exported it",
        "size_mib": "MiB of all files",
    }
    return {text: f"{costs[key]:.3g}" for key, text in words.items() if key in costs}


def _formats(folder: Path, parity: Mapping[str, float]) -> Iterator[tuple[str, str, str]]:
    for file, (name, words) in FORMATS.items():
        if (folder / file).is_file():
            yield file, words, f"{parity[name]:.2g}" if name in parity else ""
