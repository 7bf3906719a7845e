"""Whether a candidate becomes the champion: a pure function of two judged versions and the policy."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from limner.ports import ModelVersion
from limner.settings import PromoteSettings

ALIAS = "champion"
"""Name, in the registry, of the version that is in use."""

Verdict = Literal["promote", "hold", "reject"]
"""`reject`: the candidate is not good enough by itself. `hold`: it is, but it does not beat the champion."""


@dataclass(frozen=True)
class Decision:
    """The verdict on a candidate and what led to it, in sentences."""

    verdict: Verdict
    reasons: tuple[str, ...]


def decide(candidate: ModelVersion, champion: ModelVersion | None, policy: PromoteSettings) -> Decision:
    """Judge a candidate against the policy's limits, then against the champion.

    Figures are compared only where both were measured in the same way, that is under equal protocols.
    """
    metric = compared_metric(candidate.metrics, policy)
    if not metric:
        named = ", ".join(sorted(candidate.metrics)) or "none"
        why = f"It is not clear which metric to compare. Measured: {named}. Name one as promote.metric."
        return Decision("reject", (why,))
    failures = (*_unusable(candidate.metrics, {metric, *policy.at_most, *policy.at_least}), *_limits(candidate, policy))
    if failures:
        return Decision("reject", failures)
    value = candidate.metrics[metric]
    if champion is None:
        return Decision("promote", (f"There is no champion yet; {metric} is {value:g}.",))
    if candidate.export_digest and candidate.export_digest == champion.export_digest:
        return Decision("promote", (f"It is the champion already, as version {champion.number}.",))
    unlike = unlike_protocols(candidate.protocol, champion.protocol)
    if unlike:
        why = f"Champion version {champion.number} was measured in another way: {'; '.join(unlike)}."
        return Decision("hold", (why, "Evaluate and promote the champion again under this protocol, then this model."))
    return _compare(metric, value, champion, policy)


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


def unlike_protocols(candidate: Mapping[str, str], champion: Mapping[str, str]) -> list[str]:
    """What was done in another way, key by key; empty where two protocols are the same."""
    return [
        f"{name} was {champion.get(name, '(not recorded)')}, is {candidate.get(name, '(not recorded)')}"
        for name in sorted({*candidate, *champion})
        if candidate.get(name) != champion.get(name)
    ]


def _compare(metric: str, value: float, champion: ModelVersion, policy: PromoteSettings) -> Decision:
    best = champion.metrics.get(metric, math.nan)
    if not math.isfinite(best):
        return Decision("hold", (f"No usable {metric} is recorded for champion version {champion.number}.",))
    improvement = best - value if policy.better == "lower" else value - best
    figures = f"{metric} is {value:g}, champion version {champion.number} has {best:g}; {policy.better} is better"
    if improvement <= 0:
        return Decision("hold", (f"It does not beat the champion: {figures}.",))
    if improvement < policy.min_improvement:
        margin = f"{improvement:g} of the {policy.min_improvement:g} that promote.min_improvement asks for"
        return Decision("hold", (f"It beats the champion by only {margin}: {figures}.",))
    return Decision("promote", (f"It beats the champion: {figures}.",))
