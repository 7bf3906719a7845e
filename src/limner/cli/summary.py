"""summary: what has come out so far, as one table, and what to do next."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import typer

from limner.cli import places
from limner.cli.options import PARAMS, AsJson, Overrides, ParamsFile
from limner.cli.results import figures, print_json, print_table
from limner.errors import LimnerError
from limner.metric_words import HEADLINES, TRANSFER_HEADLINES, family, with_errors

app = typer.Typer()

FIRST = {**HEADLINES, **TRANSFER_HEADLINES}


@app.command()
def summary(*, params: ParamsFile = PARAMS, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Show what has come out, and what to do next.

    For each model: its data, its metrics, and its version in the registry.

    \b
    Example:
      limner summary
      limner summary --json
    """
    from limner.steps import open_catalog

    catalog = open_catalog(params, overrides or ())
    results = {name: _results(name, dataset=catalog.model(name).dataset) for name in catalog.models}
    if not any(result["metrics"] for result in results.values()):
        raise LimnerError("No model has been evaluated yet.", fix="Run the pipeline: make run")
    if as_json:
        print_json(results)
        return
    print_table(("model", "metrics", "registry"), [_row(name, result) for name, result in results.items()])
    print("Next:")
    for command in _next_commands({name: result["task"] for name, result in results.items() if result["exported"]}):
        print(f"  {command}")


def _results(name: str, *, dataset: str) -> dict[str, Any]:
    evaluation = _read(places.evaluation(name) / "metrics.json")
    promotion = _read(places.promotion(name) / "promotion.json")
    export = _read(places.export(name) / "config.json")
    return {
        "dataset": dataset,
        "dataset_digest": _read(places.model(name) / "lineage.json").get("dataset_digest", ""),
        "chosen": evaluation.get("chosen", ""),
        "metrics": evaluation.get(evaluation.get("chosen", ""), {}),
        "exported": bool(export),
        "task": export.get("task", ""),
        "verdict": promotion.get("verdict", ""),
        "reasons": promotion.get("reasons", []),
        "version": promotion.get("version", {}).get("number", ""),
        "alias": promotion.get("alias", ""),
    }


def _read(path: Path) -> dict[str, Any]:
    """A JSON file, or nothing where its step has not run yet."""
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise LimnerError(f"{path} is damaged.", why=str(error), fix="Make it again: make run") from error
    return document


def _row(name: str, result: dict[str, Any]) -> tuple[str, str, str]:
    registry = f"version {result['version']}" if result["version"] else "no version"
    registry = " ".join(part for part in (registry, result["alias"] and f"({result['alias']})") if part)
    return (
        f"{name}\n{result['dataset']} {result['dataset_digest'][:12]}",
        _metrics(result["metrics"]) if result["metrics"] else "not evaluated yet",
        figures([registry, f"{result['verdict']}: {' '.join(result['reasons'])}"])
        if result["verdict"]
        else "not promoted yet",
    )


def _metrics(found: dict[str, float]) -> str:
    """Those that deserve to be seen first; all are in the report and in --json."""
    return "\n".join(f"{name} {value}" for name, value in with_errors(found).items() if family(name) in FIRST)


def _next_commands(exported: dict[str, str]) -> list[str]:
    """What to do with the exported models, whose tasks are given by name."""
    limner = os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).name == "limner" else "limner"
    opener = "open" if sys.platform == "darwin" else "xdg-open"
    commands = ["make ui    # runs, pictures and the registry, in a browser"]
    for name, task in exported.items():
        commands.append(f"{opener} {places.evaluation(name) / 'report.html'}")
        if task in ("unpaired", "paired"):
            commands.append(f"{limner} stylize YOUR_PICTURES --model {places.export(name)} --out stylized/{name}")
        else:
            pictures = "--count 64 --seed 0"
            commands.append(f"{limner} generate --model {places.export(name)} {pictures} --out generated/{name}")
    return commands
