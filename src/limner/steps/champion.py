"""The champion, to be shown beside a model that is judged. A registry that is unwell costs a note and some seconds.

The note is the problem alone: what a server or its client said, the reason, may hold an address with a password.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from limner.errors import LimnerError
from limner.ports import ModelRegistry, ModelVersion
from limner.promotion import unlike_protocols
from limner.report import Rival
from limner.steps.bench import Bench, Judged
from limner.trained import Which

ASK_SECONDS, FETCH_SECONDS = 30.0, 90.0
"""What an evaluation waits for the registry at most: to name the champion, and to hand it over."""

T = TypeVar("T")


def beside_champion(
    registered_name: str, judged: Judged, which: Which, *, digest: str, bench: Bench, registry: ModelRegistry
) -> tuple[Rival | None, str]:
    """The champion of that name beside a moment that was judged, whose weights have this digest.

    None where there is none, or none can be had; then the second says why. Never raises because of the registry.
    """
    try:
        champion = _within(ASK_SECONDS, lambda: registry.champion(registered_name))
    except LimnerError as error:
        return None, f"It was not compared with a champion: {error.problem}"
    if champion is None:
        return None, f"There is no champion of {registered_name} yet."
    unlike = unlike_protocols(judged.evaluation.protocol, champion.protocol) if champion.metrics else []
    rival = Rival(
        title=f"version {champion.number} of {champion.name}",
        metrics=champion.metrics,
        unlike=unlike,
        same_weights=digest == champion.export_digest,
        notes=() if champion.metrics else ("No figures are recorded for it.",),
    )
    return rival if rival.same_weights else _with_pictures(rival, champion, judged, which, bench, registry), ""


def _with_pictures(
    rival: Rival, champion: ModelVersion, judged: Judged, which: Which, bench: Bench, registry: ModelRegistry
) -> Rival:
    address = f"models:/{champion.name}/{champion.number}"
    with tempfile.TemporaryDirectory(prefix="limner-", ignore_cleanup_errors=True) as place:
        try:
            export = _within(FETCH_SECONDS, lambda: registry.fetch(address, Path(place, "export")))
            return replace(rival, sheets=[bench.beside(judged, which, export)])
        except LimnerError as error:
            return replace(rival, notes=[*rival.notes, f"Its pictures are not here: {error.problem}"])


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What the call returns. Raises LimnerError where it fails, whatever the reason, or takes longer.

    A thread that is late is left alone and ends with the process: nothing can stop what waits for a server.
    """
    results: list[T] = []
    problems: list[Exception] = []

    def work() -> None:
        try:
            results.append(call())
        except Exception as error:  # noqa: BLE001 - a registry is beside the point here: nothing of it may fail the evaluation
            problems.append(error)

    thread = threading.Thread(target=work, name="limner-registry", daemon=True)
    thread.start()
    thread.join(seconds)
    if results:
        return results[0]
    if not problems:
        raise LimnerError(f"The model registry did not answer within {seconds:g} seconds.")
    problem = problems[0]
    if isinstance(problem, LimnerError):
        raise problem
    raise LimnerError(f"The model registry failed: {type(problem).__name__}.", why=str(problem)) from problem
