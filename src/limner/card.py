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

from limner.card_files import CARD, CURVE, PICTURES, SAMPLES, SHORT
from limner.metric_words import explained, with_errors

SHORT_MOST = 5000
"""Characters that MLflow takes as the description of a version."""
INLINE_MOST = 390_000
"""Characters of Markdown: Kubeflow's user interface cuts off what is beyond 400,000."""


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
    not_uses: Sequence[str]
    """What it is not for, as far as the figures say."""
    limits: Sequence[str]
    lineage: Mapping[str, str]
    formats: Sequence[tuple[str, str, str]]
    """File, what it is, and how far it is from the trained model."""
    origin: Mapping[str, str]
    """The few lines of the lineage by which it is found again."""
    mode: str = "L"
    """Pillow's name for pictures of its channels."""
    classes: Sequence[str] = ()
    """Of which pictures can be asked for."""
    costs: Mapping[str, str] = field(default_factory=dict)
    samples: str = ""
    """What the sample pictures show; empty where there are none."""
    curve: bool = False
    events: Sequence[str] = ()
    """What happened in its training, in the order of the numbers in the curve."""


def render_card(content: CardContent) -> str:
    """The card as Markdown with YAML front matter; pictures are files in `card/`. The same content, the same text."""
    shown = with_errors(content.metrics, content.protocol)
    return (
        _environment()
        .get_template("MODEL_CARD.md.j2")
        .render(
            content=content,
            front_matter=_front_matter(content),
            metrics=[(name, shown[name], better, meaning) for name, better, meaning in explained({"": shown})],
            pictures=PICTURES,
            samples_file=SAMPLES,
            curve_file=CURVE,
        )
    )


def render_short_card(content: CardContent) -> str:
    """What matters most of the card, as Markdown without pictures: at most SHORT_MOST characters.

    Limits that have no room are left out, the last ones first, and it says so.
    """
    template = _environment().get_template("SHORT_CARD.md.j2")
    shown = with_errors(content.metrics, content.protocol)
    figures = [(name, shown[name], better) for name, better, _ in explained({"": shown}) if better]
    text = ""
    for count in range(len(content.limits), -1, -1):
        text = template.render(content=content, limits=content.limits[:count], figures=figures, card=CARD)
        if len(text) <= SHORT_MOST:
            break
    return text[:SHORT_MOST]


def short_card(folder: Path) -> str:
    """The short card of an exported model, for MLflow's pages; empty where an older export has none."""
    path = folder / PICTURES / SHORT
    return path.read_text(encoding="utf-8") if path.is_file() else ""


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


def _environment() -> jinja2.Environment:
    loader = jinja2.PackageLoader("limner", "templates")
    environment = jinja2.Environment(  # noqa: S701 - Markdown, escaped by `cell` and `plain`
        loader=loader, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(cell=_cell, plain=_plain)
    return environment


def _body(markdown: str) -> str:
    """Without the front matter."""
    return re.sub(r"\A---\n.*?\n---\n+", "", markdown, flags=re.DOTALL)


def _front_matter(content: CardContent) -> str:
    """No `license`: on the Hub that would be the model's, and only that of the pictures is known."""
    task = "image-to-image" if content.translates else "unconditional-image-generation"
    tags = dict.fromkeys(["gan", content.training["method"], "pytorch"])
    judged = [name for name, better, _ in explained({"": with_errors(content.metrics)}) if better]
    document: dict[str, Any] = {
        "library_name": "limner",
        "pipeline_tag": task,
        "tags": list(tags),
        "model-index": [
            {
                "name": content.name,
                "results": [
                    {
                        "task": {"type": task},
                        "dataset": {"type": content.dataset, "name": content.dataset},
                        "metrics": [{"type": name, "value": float(f"{content.metrics[name]:.4g}")} for name in judged],
                    }
                ],
            }
        ],
    }
    text = io.StringIO()
    yaml = YAML()
    yaml.width = 4096
    yaml.dump(document, text)
    return text.getvalue()


def _plain(text: str) -> str:
    """On one line, and nothing of it is Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", " ".join(str(text).split()))


def _cell(text: str) -> str:
    """A name or a number in a table, in the type of code."""
    words = " ".join(str(text).split()).replace("|", "\\|").replace("`", "'")
    return f"`{words}`" if words else ""
