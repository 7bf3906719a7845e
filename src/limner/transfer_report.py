"""What the report says about a translation beside its figures: the yardsticks, and what can go wrong unseen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from limner.report import Safeguard, Yardstick

MOST_UNCHANGED, MOST_INVERTED, MOST_COPIES = 0.1, 0.05, 0.05
"""Shares of the results from which on a safeguard warns."""
STRONGEST_PATTERN = 3.0
"""Times as in real targets. On digits noise and blur stay under 2.5, a checkerboard of ten grey levels is over 5."""
LEAST_DIVERSITY = 0.5


def yardsticks(metrics: Mapping[str, float]) -> Iterator[Yardstick]:
    """Each figure beside that of the untouched sources and of real targets."""
    distance = next((name.removesuffix("_source") for name in metrics if _is_distance_of_source(name)), "")
    agreement = "label_agreement"
    # A figure that is none of the metrics stands for itself: what follows from what the metric is.
    rows = (
        ("mean difference to the truth", "{:.1%}", "l1", "l1_identity", "0"),
        ("signal to noise against the truth", "{:.1f} dB", "psnr", "psnr_identity", ""),
        ("structural similarity to the truth", "{:.2f}", "ssim", "ssim_identity", "1"),
        ("distance to the target style", "{:.3g}", distance, f"{distance}_source", f"{distance}_real"),
        ("read as what the source shows", "{:.1%}", agreement, f"{agreement}_source", f"{agreement}_real"),
        ("structural similarity to the source", "{:.2f}", "ssim_source", "1", ""),
    )
    for words, form, *figures in rows:
        if figures[0] in metrics:
            known = (form.format(metrics[name]) if name in metrics else name for name in figures)
            yield Yardstick(words, *("" if "_" in figure else figure for figure in known))


def safeguards(metrics: Mapping[str, float]) -> Iterator[Safeguard]:
    """A sentence on each thing that goes wrong with translations, and whether it went wrong here."""
    yield _identity(metrics)
    if "inverted_share" in metrics:
        yield _inversion(metrics)
    if "checkerboard" in metrics:
        yield _pattern(metrics["checkerboard"])
    for name in ("within_class_diversity", "diversity"):
        if name in metrics:
            yield _variety(metrics[name])
    if "label_agreement" in metrics:
        yield _content(metrics)
    yield _copies(metrics)


def _identity(metrics: Mapping[str, float]) -> Safeguard:
    share, change = metrics["identity_share"], metrics["change"]
    if share > MOST_UNCHANGED:
        return Safeguard(
            False,
            f"{share:.1%} of the results hardly differ from their sources: the model may repeat what it is given.",
        )
    return Safeguard(True, f"The results are no mere copies of their sources: they differ by {change:.1%} on average.")


def _inversion(metrics: Mapping[str, float]) -> Safeguard:
    share, usual = metrics["inverted_share"], metrics.get("inverted_share_truth", 0.0)
    if share > usual + MOST_INVERTED:
        sentence = f"{share:.1%} of the results look like negatives of their sources"
        ending = (
            f" ({usual:.1%} of the truth do)." if "inverted_share_truth" in metrics else ", unless the style is one."
        )
        return Safeguard(False, sentence + ending)
    return Safeguard(True, "What is light in a source stays light in its result: colours are not inverted.")


def _pattern(strength: float) -> Safeguard:
    if strength > STRONGEST_PATTERN:
        return Safeguard(
            False,
            f"A pattern of 2 or 4 pixels stands out {strength:.1f} times as much as in real targets: a checkerboard, "
            "as upsampling leaves it.",
        )
    return Safeguard(
        True, "There is no checkerboard: patterns of 2 or 4 pixels stand out hardly more than in real targets."
    )


def _variety(share: float) -> Safeguard:
    if share < LEAST_DIVERSITY:
        return Safeguard(
            False, f"The results are only {share:.0%} as varied as real targets: many sources become the same picture."
        )
    return Safeguard(True, f"Different sources become different pictures: {share:.0%} as varied as real targets.")


def _content(metrics: Mapping[str, float]) -> Safeguard:
    result, untouched = metrics["label_agreement"], metrics["label_agreement_source"]
    if result < untouched:
        return Safeguard(
            False,
            f"Fewer results ({result:.1%}) than untouched sources ({untouched:.1%}) are read as what they show: "
            "content is lost.",
        )
    return Safeguard(True, f"Content survives: {result:.1%} are read as what their sources show.")


def _copies(metrics: Mapping[str, float]) -> Safeguard:
    share = metrics["copy_share"]
    if share > metrics.get("copy_share_real", 0.0) + MOST_COPIES:
        return Safeguard(False, f"{share:.1%} of the results copy a training picture: they were learnt by heart.")
    return Safeguard(True, "The results are no copies of training pictures.")


def _is_distance_of_source(name: str) -> bool:
    return name.startswith(("fid", "fd_")) and name.endswith("_source")
