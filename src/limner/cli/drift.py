"""drift: whether new pictures are still what a model was trained on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from limner.cli.options import PARAMS, AsJson, ExportedModelArgument
from limner.cli.places import find_exported
from limner.cli.progress import work_progress
from limner.cli.results import print_json

if TYPE_CHECKING:
    from limner.steps.drift import Drift

app = typer.Typer()

DRIFTED = 3
"""Exit status of a drift, where it is asked for."""
MOST_NAMED = 20


@app.command()
def drift(
    model: ExportedModelArgument,
    pictures: Annotated[
        str,
        typer.Argument(
            metavar="FOLDER", help="New pictures: a folder, an archive, a glob, a packed dataset.", show_default=False
        ),
    ],
    *,
    alpha: Annotated[
        float, typer.Option("--alpha", metavar="X", help="How often pictures of the same kind may be found to differ.")
    ] = 0.05,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", help="So many of the new pictures, drawn at random.")
    ] = 1000,
    top: Annotated[int, typer.Option("--top", metavar="N", help="Name so many that lie furthest outside.")] = 5,
    split: Annotated[Literal["train", "validation"], typer.Option("--split", help="Of a packed dataset.")] = "train",
    domain: Annotated[
        str, typer.Option("--domain", metavar="NAME", help="Of a packed dataset.  [default: what the model eats]")
    ] = "",
    weights: Annotated[
        str,
        typer.Option("--weights", metavar="PATH|URL", help="Of a model that was judged by a network without its own."),
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the result there, as JSON.", show_default=False)
    ] = None,
    fail_on_drift: Annotated[
        bool, typer.Option("--fail-on-drift", help="Exit status 3 where the verdict is `drift`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say whether new pictures differ from those that a model was trained on.

    They are prepared as those were, and compared with the features that lie beside the exported model. The verdict is
    `no drift`, `a small shift`, `drift` or `too few pictures to say`; the exit status is 0 for each of them.

    \b
    Example:
      limner drift exports/print-to-hand scans
      limner drift models:/print-to-hand@champion scans/today --json --fail-on-drift
    """
    from limner.adapters import connect, user_cache
    from limner.steps.drift import DriftOptions, check_drift, write_drift

    options = DriftOptions(alpha=alpha, samples=samples, top=top, split=split, domain=domain, weights=weights)
    folder = find_exported(model)
    ports = connect(track=False) if PARAMS.is_file() else connect(track=False, cache=user_cache())
    with work_progress() as progress:
        found = check_drift(
            folder, pictures, options=options, ports=ports, progress=lambda *counts: progress("features", *counts)
        )
    if out:
        write_drift(out, found)
    if as_json:
        print_json(asdict(found))
    else:
        _print(found, most_furthest=max(top, MOST_NAMED))
    if fail_on_drift and found.verdict == "drift":
        raise typer.Exit(DRIFTED)


def _print(found: Drift, *, most_furthest: int) -> None:
    from limner.cli.results import print_table

    for note in found.notes:
        print(f"Note: {note}", file=sys.stderr)
    for entry in found.set_aside[:MOST_NAMED]:
        times = "" if entry["count"] == "1" else f"{entry['count']} x "
        print(f"Left out: {times}{entry['name']} ({entry['reason']})", file=sys.stderr)
    if len(found.set_aside) > MOST_NAMED:
        print(f"Left out: {len(found.set_aside) - MOST_NAMED} more; --json names all", file=sys.stderr)
    print(found.verdict)
    for reason in found.reasons:
        print(f"  {reason}")
    rows = [
        (name, _with_error(found.metrics, name), _with_error(found.held_out, name))
        for name in found.metrics
        if not name.endswith("_se")
    ]
    rows.append(("further outside than 99 % of held-out ones", f"{found.outlier_share:.1%}", "1%"))
    print_table(("distance to the training pictures", "new", "held-out"), rows)
    if found.furthest:
        print("furthest outside of the training pictures (1: usual of a held-out one)")
    for one in found.furthest[:most_furthest]:
        print(f"  {one.factor:5.2f}  {one.picture}")
    if len(found.furthest) > most_furthest:
        print(f"  {len(found.furthest) - most_furthest} more; --json names all")


def _with_error(values: Mapping[str, float], name: str) -> str:
    if name not in values:
        return "-"
    error = f" ± {values[f'{name}_se']:.2g}" if f"{name}_se" in values else ""
    return f"{values[name]:.4g}{error}"
