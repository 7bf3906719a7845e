"""models: the versions in the registry, which of them is in use, and how that changed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limner.cli.options import PARAMS, AsJson, Overrides, ParamsFile
from limner.cli.results import figures, print_json, print_table
from limner.errors import LimnerError

if TYPE_CHECKING:
    from limner.params import Catalog
    from limner.ports import ModelVersion, Movement
    from limner.steps.models import ModelState, Moved

app = typer.Typer(help="Look at registered models, promote them, roll back.", no_args_is_help=True)

RegisteredName = Annotated[str, typer.Argument(metavar="NAME", help="A model in the registry.", show_default=False)]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is kept in the history.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would happen, and change nothing.")]


@app.callback()
def models() -> None:
    """Look at registered models, promote them, roll back. The registry is MLFLOW_TRACKING_URI, or mlflow.db here."""


@app.command()
def status(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A model in the registry.  [default: all]")] = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Show the versions of a model, or which version of each model is in use.

    \b
    Example:
      limner models status
      limner models status digits-gan --json
    """
    from limner.adapters import connect
    from limner.steps.models import model_state

    registry = connect().registry
    names = (name,) if name else registry.names()
    states = [model_state(registry, each) for each in names]
    if as_json:
        print_json([asdict(state) for state in states])
    elif not states:
        print("The registry has no models yet. Register one: limner promote MODEL")
    elif name:
        _print_versions(states[0])
    else:
        print_table(("model", "champion", "challenger", "newest", "last change"), [_row(state) for state in states])


@app.command()
def promote(
    name: RegisteredName,
    version: Annotated[str, typer.Argument(metavar="[VERSION]", help="Its number, or @ALIAS.")] = "@challenger",
    *,
    reason: Reason = "",
    force: Annotated[bool, typer.Option("--force", help="Even if the policy does not say so; with --reason.")] = False,
    dry_run: DryRun = False,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Make a registered version the champion.

    It is judged as `limner promote` judges: by the policy of the model in params.yaml that is registered under NAME.

    \b
    Example:
      limner models promote digits-gan --dry-run
      limner models promote digits-gan 3 --force --reason 'The grids are better.'
    """
    from limner.adapters import connect
    from limner.steps.models import policy_of, promote_by_hand

    policy = policy_of(_catalog(params, overrides), name)
    registry = connect().registry
    moved = promote_by_hand(registry, name, version, policy=policy, reason=reason, force=force, dry_run=dry_run)
    _tell(moved, as_json=as_json, dry_run=dry_run)


@app.command()
def rollback(name: RegisteredName, *, reason: Reason = "", dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Undo the last promotion: the champion before it is the champion again.

    Once more undoes the promotion before that.

    \b
    Example:
      limner models rollback digits-gan --dry-run
      limner models rollback digits-gan --reason 'Its sevens look like ones.'
    """
    from limner.adapters import connect
    from limner.steps.models import roll_back

    moved = roll_back(connect().registry, name, reason=reason, dry_run=dry_run)
    _tell(moved, as_json=as_json, dry_run=dry_run)


@app.command()
def history(name: RegisteredName, *, as_json: AsJson = False) -> None:
    """Show how the champion of a model changed: who did it, when and why.

    \b
    Example:
      limner models history digits-gan
    """
    from limner.adapters import connect

    movements = connect().registry.history(name)
    if as_json:
        print_json([asdict(movement) for movement in movements])
    elif not movements:
        print(f"{name} never had a champion. Promote a version: limner models promote {name} VERSION")
    else:
        print_table(
            ("when (UTC)", "what", "champion", "who and why"),
            [
                (_minute(m), m.kind, f"{m.before or 'none'} → {m.version or 'none'}", f"{m.who}: {m.why}")
                for m in movements
            ],
        )


def _catalog(params: Path, overrides: list[str] | None) -> Catalog | None:
    """The catalog; None where nobody named one, and none is here."""
    from limner.steps import open_catalog

    if params == PARAMS and not params.exists():
        if overrides:
            raise LimnerError(f"There is no {params} here to be changed by --set.", fix="Name one with --params.")
        return None
    return open_catalog(params, overrides or ())


def _tell(moved: Moved, *, as_json: bool, dry_run: bool) -> None:
    if as_json:
        print_json({**asdict(moved), "dry_run": dry_run})
        return
    for sentence in moved.reasons:
        print(sentence)
    if moved.version == moved.before:
        print("Nothing has to move.")
        return
    done = "would be" if dry_run else "is"
    print(f"The champion of {moved.name} {done} {_version(moved.version)}; before: {_version(moved.before)}.")


def _version(number: str) -> str:
    return f"version {number}" if number else "none"


def _minute(movement: Movement) -> str:
    return movement.when[:16].replace("T", " ")


def _row(state: ModelState) -> tuple[str, ...]:
    champion, challenger = state.carrying("champion"), state.carrying("challenger")
    last = state.last_movement
    return (
        state.name,
        champion.number if champion else "none",
        challenger.number if challenger else "-",
        state.versions[0].number if state.versions else "-",
        f"{_minute(last)} {last.kind} by {last.who}: {last.why}" if last else "-",
    )


def _print_versions(state: ModelState) -> None:
    if not state.versions:
        print(f"{state.name} has no versions.")
        return
    rows = [
        (each.number, " ".join(each.aliases) or "-", figures(each.costs), _metrics(each)) for each in state.versions
    ]
    print_table(("version", "alias", "costs", "metrics"), rows)
    if state.last_movement:
        last = state.last_movement
        print(f"Last change: {last.kind} to {_version(last.version)} by {last.who} at {last.when}: {last.why}")


def _metrics(version: ModelVersion) -> str:
    """Those that deserve to be seen first; all are in --json."""
    from limner.metric_words import HEADLINES, TRANSFER_HEADLINES, family, with_errors

    first: dict[str, Any] = {**HEADLINES, **TRANSFER_HEADLINES}
    return figures({name: value for name, value in with_errors(version.metrics).items() if family(name) in first})
