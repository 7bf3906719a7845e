"""The model card: what a model is, what it learnt from, how good it is and what it cannot do, in Markdown.

Its front matter is what the Hugging Face Hub reads (https://huggingface.co/docs/hub/model-cards).
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
from ruamel.yaml import YAML

from limner.metric_words import explained, with_errors

CARD, PICTURES = "MODEL_CARD.md", "card"
"""The card, and the folder beside it with the pictures that it shows."""
CURVE, SAMPLES, FACTS = "curve.png", "samples.png", "facts.json"
"""In that folder: the training curve, what the model makes; and, of an evaluation, what the card has to know of it."""
SHORT_MOST = 5000
"""Characters that MLflow takes as the description of a version."""
INLINE_MOST = 390_000
"""Characters of Markdown: Kubeflow's user interface cuts off what is beyond 400,000."""

# Identifiers of https://huggingface.co/docs/hub/repositories-licenses for what pictures are licensed under.
_LICENCES = frozenset(
    {
        *("apache-2.0", "mit", "bsd", "bsd-2-clause", "bsd-3-clause", "gpl-3.0", "lgpl-3.0", "agpl-3.0", "mpl-2.0"),
        *("afl-3.0", "artistic-2.0", "unlicense", "pddl", "odbl", "odc-by", "gfdl", "openrail"),
        *("cdla-sharing-1.0", "cdla-permissive-1.0", "cdla-permissive-2.0", "cc", "cc0-1.0", "cc-by-2.0", "cc-by-2.5"),
        *("cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0", "cc-by-nc-4.0"),
        *("cc-by-nd-4.0", "cc-by-nc-nd-3.0", "cc-by-nc-nd-4.0", "cc-by-nc-sa-2.0", "cc-by-nc-sa-3.0"),
        "cc-by-nc-sa-4.0",
    }
)


@dataclass(frozen=True)
class CardContent:
    """All that a card says."""

    name: str
    registered_name: str
    translates: bool
    """Whether it turns pictures into others; else it makes them out of noise."""
    has_program: bool
    """Whether limner.inference can open it."""
    summary: str
    """What it does, in a sentence."""
    licence: str
    """Of the pictures it has learnt from, as their dataset has it."""
    dataset: str
    data: Mapping[str, str]
    metrics: Mapping[str, float]
    protocol: Mapping[str, str]
    training: Mapping[str, str]
    uses: Sequence[str]
    limits: Sequence[str]
    lineage: Mapping[str, str]
    formats: Sequence[tuple[str, str, str]]
    """File, what it is, and how far it is from the trained model."""
    costs: Mapping[str, str] = field(default_factory=dict)
    samples: str = ""
    """What the sample pictures show; empty where there are none."""
    curve: bool = False
    events: Sequence[str] = ()
    """What happened in its training, in the order of the numbers in the curve."""


def render_card(content: CardContent) -> str:
    """The card as Markdown with YAML front matter; pictures are files in `card/`. The same content, the same text."""
    loader = jinja2.PackageLoader("limner", "templates")
    environment = jinja2.Environment(  # noqa: S701 - Markdown, escaped by `cell` and `plain`
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(cell=_cell, plain=_plain)
    shown = with_errors(content.metrics)
    return environment.get_template("MODEL_CARD.md.j2").render(
        content=content,
        front_matter=_front_matter(content),
        metrics=[(name, shown[name], better, meaning) for name, better, meaning in explained({"": shown})],
        pictures=PICTURES,
        samples_file=SAMPLES,
        curve_file=CURVE,
    )


def short_card(markdown: str) -> str:
    """A card as a description: without front matter and pictures, and parts of it left out where it is too long.

    At most SHORT_MOST characters, those of the card's end at the least.
    """
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)\n*(?:\*[^*\n]*\*\n)?", "", _body(markdown))  # nor what stands below them
    text = re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
    if len(text) <= SHORT_MOST:
        return text
    note = f"\n*Shortened: the whole card is {CARD}, among the model's files.*\n"
    first, *rest = re.split(r"(?m)^(?=## )", text)
    kept = first[: SHORT_MOST - len(note)]
    for part in rest:
        if len(kept) + len(part) + len(note) <= SHORT_MOST:
            kept += part
    return kept + note


def inline_card(folder: Path) -> str:
    """The card of an exported model as one text that holds its pictures, without front matter.

    A picture for which there is no room is left as its description.
    """
    text = _body((folder / CARD).read_text(encoding="utf-8"))
    room = INLINE_MOST - len(text)

    def inline(found: re.Match[str]) -> str:
        nonlocal room
        data = base64.b64encode((folder / found["path"]).read_bytes()).decode()
        if len(data) + 30 > room:
            return f"*{found['words']}*"
        room -= len(data) + 30
        return f"![{found['words']}](data:image/png;base64,{data})"

    return re.sub(rf"!\[(?P<words>[^\]]*)\]\((?P<path>{PICTURES}/[\w.-]+)\)", inline, text)


def _body(markdown: str) -> str:
    """Without the front matter."""
    return re.sub(r"\A---\n.*?\n---\n+", "", markdown, flags=re.DOTALL)


def _front_matter(content: CardContent) -> str:
    task = "image-to-image" if content.translates else "unconditional-image-generation"
    licence = _hub_licence(content.licence)
    document: dict[str, Any] = {"license": licence}
    if licence == "other":
        document["license_name"] = content.licence
    tags = dict.fromkeys(["gan", content.training["method"], "pytorch"])
    document |= {"library_name": "limner", "pipeline_tag": task, "tags": list(tags)}
    judged = [name for name, better, _ in explained({"": with_errors(content.metrics)}) if better]
    document["model-index"] = [
        {
            "name": content.name,
            "results": [
                {
                    "task": {"type": task},
                    "dataset": {"type": content.dataset, "name": content.dataset},
                    "metrics": [{"type": name, "value": content.metrics[name]} for name in judged],
                }
            ],
        }
    ]
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(document, text)
    return text.getvalue()


def _hub_licence(licence: str) -> str:
    """The Hub's identifier; `other` for one that it does not know, `unknown` where nothing is said."""
    words = "-".join(licence.lower().replace("_", " ").split())
    words = {"cc0": "cc0-1.0"}.get(words, words)
    if not words:
        return "unknown"
    return words if words in _LICENCES else "other"


def _plain(text: str) -> str:
    """On one line, and nothing of it is Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(str(text).split()))


def _cell(text: str) -> str:
    """A name or a number in a table, in the type of code."""
    words = " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")
    return f"`{words}`" if words else ""
