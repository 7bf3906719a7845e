"""track replay: give MLflow what it missed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from limner.cli import places
from limner.cli.options import AsJson
from limner.cli.results import print_json, print_table
from limner.errors import LimnerError

app = typer.Typer(help="Look after what MLflow has recorded.", no_args_is_help=True)


@app.callback()
def track() -> None:
    """Look after what MLflow has recorded."""


@app.command()
def replay(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="The model whose journals are sent.  [default: all]")
    ] = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Send to MLflow what it missed while it did not answer: the journal of a training has all of it.

    \b
    Example:
      limner track replay
      limner track replay digits-gan
    """
    from limner.adapters import replay as send

    sent = []
    for name, journal, finished in _journals(model):
        run_id, points = send(journal, name=name, run_id=_run_id(journal), finished=finished)
        sent.append({"model": name, "journal": str(journal), "run_id": run_id, "points": points})
    if not sent:
        raise LimnerError(
            f"There is no journal of {model or 'any model'} here.",
            why=f"Looked in {places.model('')} and {places.scratch('')}.",
            fix="Go to the project's folder; a training writes a journal: limner train MODEL",
        )
    if as_json:
        print_json(sent)
    else:
        print_table(
            ("model", "run", "points sent"), [[str(row[key]) for key in ("model", "run_id", "points")] for row in sent]
        )


def _journals(model: str) -> Iterator[tuple[str, Path, bool]]:
    """Name, journal, and whether the training has ended: those of finished models, then those under way."""
    for journal in sorted(places.model("").glob(f"{model or '*'}/journal.jsonl")):
        yield journal.parent.name, journal, True
    for journal in sorted(places.scratch("").glob(f"{model or '*'}/*/journal.jsonl")):
        yield journal.parents[1].name, journal, False


def _run_id(journal: Path) -> str:
    try:
        return str(json.loads((journal.parent / "run.json").read_text(encoding="utf-8"))["run_id"])
    except (OSError, ValueError, KeyError):
        return ""  # a run of its own, then
