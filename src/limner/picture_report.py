"""What the report says about a generator beside its figures: what can go wrong unseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from limner.report import Safeguard

LEAST_READABLE, LEAST_EVEN, LEAST_DIVERSITY = 0.75, 0.95, 0.5
"""Shares of what real pictures have (of evenness: of what even classes have) below which a safeguard warns."""
MOST_COPIES = 0.05
"""Share of the pictures, beyond that of held-out real ones, from which on it warns."""


def safeguards(metrics: Mapping[str, float]) -> Iterator[Safeguard]:
    """A sentence on each thing that goes wrong with generators, and whether it went wrong here."""
    if "sure_share_ratio" in metrics:
        yield _readable(metrics)
    if "class_entropy" in metrics:
        yield _even(metrics["class_entropy"])
    for name in ("within_class_diversity", "diversity"):
        if name in metrics:
            yield _varied(metrics[name])
    yield _copies(metrics)


def _readable(metrics: Mapping[str, float]) -> Safeguard:
    made, real = f"{metrics['sure_share']:.1%}", f"{metrics['sure_share_real']:.1%}"
    if metrics["sure_share_ratio"] < LEAST_READABLE:
        return Safeguard(False, f"Only {made} of the pictures can be read with certainty, and {real} of real ones.")
    return Safeguard(True, f"The pictures can be read: {made} with certainty, and {real} of real ones.")


def _even(share: float) -> Safeguard:
    if share < LEAST_EVEN:
        return Safeguard(
            False,
            f"Some classes are drawn far less often than others: their evenness is {share:.1%}. Where those of the "
            "training pictures are as uneven, that is right.",
        )
    return Safeguard(True, f"The classes are drawn evenly: their evenness is {share:.1%}.")


def _varied(share: float) -> Safeguard:
    if share < LEAST_DIVERSITY:
        return Safeguard(
            False,
            f"The pictures are only {share:.0%} as varied as real ones: much of the noise becomes one picture.",
        )
    return Safeguard(True, f"Different noise becomes different pictures: {share:.0%} as varied as real ones.")


def _copies(metrics: Mapping[str, float]) -> Safeguard:
    share = metrics["copy_share"]
    if share > metrics.get("copy_share_real", 0.0) + MOST_COPIES:
        return Safeguard(False, f"{share:.1%} of the pictures copy a training picture: they were learnt by heart.")
    if share:
        return Safeguard(True, f"Few pictures copy a training picture: {share:.2%} do.")
    return Safeguard(True, "No picture copies a training picture.")
