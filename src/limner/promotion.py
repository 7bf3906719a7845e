"""Whether a candidate becomes the champion: a pure function of two judged versions and the policy.

What a history of champions says, too: what a rollback undoes, and which version was rolled back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from limner.errors import LimnerError
from limner.ports import ModelVersion, Movement
from limner.settings import PromoteSettings

ALIAS = "champion"
"""Name, in the registry, of the version that is in use."""

CHALLENGER = "challenger"
"""Name of the newest version that is good enough by itself and has not become the champion."""

UNKNOWN = "unknown"
"""Who has moved a champion without writing it down."""

Verdict = Literal["promote", "hold", "reject"]
"""`reject`: the candidate is not good enough by itself. `hold`: it is, but it does not beat the champion."""


@dataclass(frozen=True)
class Decision:
    """The verdict on a candidate and what led to it, in sentences."""

    verdict: Verdict
    reasons: tuple[str, ...]


def decide(
    candidate: ModelVersion, champion: ModelVersion | None, policy: PromoteSettings, *, history: Sequence[Movement] = ()
) -> Decision:
    """Judge a candidate against the policy's limits, then against the champion.

    Figures are compared only where both were measured in the same way, that is under equal protocols. A version that
    `history` says was rolled back is held, and so is any where the champion was taken out of use: a person has judged.
    """
    metric = compared_metric(candidate.metrics, policy)
    if not metric:
        measured = ", ".join(sorted(candidate.metrics)) or "none"
        why = f"It is not clear which metric to compare. Measured: {measured}. Name one as promote.metric."
        return Decision("reject", (why,))
    needed = {metric, *policy.required, *policy.at_most, *policy.at_least}
    failures = (*_unusable(candidate.metrics, needed), *_limits(candidate, policy), *_over_budget(candidate, policy))
    if failures:
        return Decision("reject", failures)
    value = candidate.metrics[metric]
    if undone := rolled_back(history, candidate.number):
        why = f"Version {undone.before} was rolled back by {undone.who} at {undone.when}: {undone.why}"
        return Decision("hold", (why, f"Promote it by hand if it is to return: limner models promote {candidate.name}"))
    if champion is None and history:
        last = history[-1]
        why = f"The champion, {named(last.before)}, was taken out of use by {last.who} at {last.when}: {last.why}"
        return Decision("hold", (why, f"Say by hand which is to be the next: limner models promote {candidate.name}"))
    if champion is None:
        return Decision("promote", (f"There is no champion yet; {metric} is {value:g}.",))
    if candidate.export_digest and candidate.export_digest == champion.export_digest:
        return Decision("promote", (f"It is the champion already, as version {champion.number}.",))
    unlike = unlike_protocols(candidate.protocol, champion.protocol)
    if unlike:
        why = f"Champion version {champion.number} was measured in another way: {'; '.join(unlike)}."
        return Decision("hold", (why, "Evaluate and promote the champion again under this protocol, then this model."))
    return _compare(metric, candidate, champion, policy)


def undone_next(history: Sequence[Movement]) -> Movement | None:
    """The last promotion that is not undone yet, which a rollback would undo; None where there is none."""
    standing: list[Movement] = []
    for movement in history:
        if movement.kind == "promotion":
            standing.append(movement)
        elif standing:
            standing.pop()
    return standing[-1] if standing else None


def rolled_back(history: Sequence[Movement], number: str) -> Movement | None:
    """The rollback that took this version out of use; None where it was none, or the version returned since.

    One that was not written down counts, too: the alias went back to a version that had been the champion, or to none.
    """
    for place, movement in reversed(list(enumerate(history))):
        if number and movement.version == number:
            return None
        if number and movement.before == number:
            former = {"", *(each.version for each in history[:place])}
            back = movement.who == UNKNOWN and movement.version in former
            return movement if back or movement.kind == "rollback" else None
    return None


def champion_before(name: str, history: Sequence[Movement]) -> str:
    """The version to which a rollback leads; empty: to none. Raises LimnerError where it leads nowhere."""
    last = undone_next(history)
    now = history[-1].version if history else ""
    if not now:
        raise LimnerError(f"{name} has no champion: nothing can be rolled back.", fix="Promote a version first.")
    if last is None or last.version != now or (last.who == UNKNOWN and not last.before):
        raise LimnerError(
            f"What was the champion of {name} before {named(now)} is not recorded: nothing has moved.",
            why=last.why if last else "",
            fix=f"Promote the version that you want: limner models promote {name} VERSION --force --reason ...",
        )
    return last.before


def refuse_other_champion(name: str, history: Sequence[Movement], expected: str) -> None:
    """Raises LimnerError where the champion, the last that the history tells of, is not the version `expected`."""
    last = history[-1] if history else None
    now = last.version if last else ""
    if now != expected:
        raise LimnerError(
            f"The champion of {name} is {named(now)}, no longer {named(expected)}: nothing has moved.",
            why=f"A {last.kind} by {last.who} at {last.when}: {last.why}" if last else "",
            fix=f"Compare with the present champion and try again: limner models status {name}",
        )


def refuse_later_movement(name: str, history: Sequence[Movement], seen: Sequence[Movement]) -> None:
    """Raises LimnerError where the champion of `name` has moved since one saw its history, be it there and back."""
    if len(history) > len(seen):
        last = history[-1]
        raise LimnerError(
            f"The champion of {name} has moved since this was decided: nothing has moved now.",
            why=f"A {last.kind} by {last.who} at {last.when}: {last.why}",
            fix=f"Look at it and try again: limner models history {name}",
        )


def named(number: str) -> str:
    """A version's number in a sentence."""
    return f"version {number}" if number else "no version"


BESIDE = ("_source", "_ratio", "_real", "_se", "_infinity")
"""Endings of what stands beside a distance: yardsticks, the standard error, the extrapolation."""


def compared_metric(metrics: Mapping[str, float], policy: PromoteSettings) -> str:
    """The policy's metric; without one `fid`, or else the only `fid_...` or `fd_...`; empty where that is ambiguous."""
    if policy.metric:
        return policy.metric
    distances = [name for name in metrics if name.startswith(("fd_", "fid_")) and not name.endswith(BESIDE)]
    distances = ["fid"] if "fid" in metrics else distances
    return distances[0] if len(distances) == 1 else ""


def _unusable(metrics: Mapping[str, float], needed: set[str]) -> Iterator[str]:
    for name in sorted(needed):
        if name not in metrics:
            yield f"{name} was not measured."
        elif not math.isfinite(metrics[name]):
            yield f"{name} is {metrics[name]}, which is no measurement."


def _limits(candidate: ModelVersion, policy: PromoteSettings) -> Iterator[str]:
    for name, limit in sorted(policy.at_most.items()):
        if candidate.metrics.get(name, -math.inf) > limit:
            yield f"{name} is {candidate.metrics[name]:g}; promote.at_most allows {limit:g}."
    for name, limit in sorted(policy.at_least.items()):
        if candidate.metrics.get(name, math.inf) < limit:
            yield f"{name} is {candidate.metrics[name]:g}; promote.at_least asks for {limit:g}."


def _over_budget(candidate: ModelVersion, policy: PromoteSettings) -> Iterator[str]:
    for name, limit in sorted(policy.budgets.items()):
        cost = candidate.costs.get(name, math.nan)
        if not math.isfinite(cost):
            yield f"No {name} is recorded of the exported model, and promote.budgets limits it to {limit:g}."
        elif cost > limit:
            yield f"{name} is {cost:g}; promote.budgets allows {limit:g}."


def unlike_protocols(candidate: Mapping[str, str], champion: Mapping[str, str]) -> list[str]:
    """What was done in another way, key by key; empty where two protocols are the same."""
    return [
        f"{name} was {champion.get(name, '(not recorded)')}, is {candidate.get(name, '(not recorded)')}"
        for name in sorted({*candidate, *champion})
        if candidate.get(name) != champion.get(name)
    ]


def _compare(metric: str, candidate: ModelVersion, champion: ModelVersion, policy: PromoteSettings) -> Decision:
    value, best = candidate.metrics[metric], champion.metrics.get(metric, math.nan)
    if not math.isfinite(best):
        return Decision("hold", (f"No usable {metric} is recorded for champion version {champion.number}.",))
    improvement = best - value if policy.better == "lower" else value - best
    figures = f"{metric} is {value:g}, champion version {champion.number} has {best:g}; {policy.better} is better"
    if improvement <= 0:
        return Decision("hold", (f"It does not beat the champion: {figures}.",))
    if improvement < policy.min_improvement:
        margin = f"{improvement:g} of the {policy.min_improvement:g} that promote.min_improvement asks for"
        return Decision("hold", (f"It beats the champion by only {margin}: {figures}.",))
    chance, said = _error_bars(metric, candidate, champion, policy)
    if improvement <= chance:
        return Decision("hold", (f"It may beat the champion by chance, by {improvement:g}: {figures}.", *said))
    return Decision("promote", (f"It beats the champion: {figures}.", *said))


def _error_bars(
    metric: str, candidate: ModelVersion, champion: ModelVersion, policy: PromoteSettings
) -> tuple[float, tuple[str, ...]]:
    """What an improvement must exceed to be none of chance, and the sentences about it.

    The two were measured independently of each other: the variance of their difference is the sum of theirs.
    """
    if not policy.error_bars:
        return 0.0, ()
    errors = {"the candidate": _standard_error(metric, candidate), "the champion": _standard_error(metric, champion)}
    unknown = " or ".join(whose for whose, error in errors.items() if math.isnan(error))
    margin = policy.error_bars * math.hypot(*(0.0 if math.isnan(error) else error for error in errors.values()))
    said = [f"No standard error of {metric} is recorded for {unknown}; it counts as 0."] if unknown else []
    if margin:
        bars = f"{policy.error_bars:g} standard errors of the difference"
        said.append(f"An improvement counts beyond {margin:g}, which are {bars} (promote.error_bars).")
    return margin, tuple(said)


def _standard_error(metric: str, version: ModelVersion) -> float:
    error = version.metrics.get(f"{metric}_se", math.nan)
    return error if error >= 0 else math.nan
