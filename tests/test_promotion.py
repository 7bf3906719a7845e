import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.ports import ModelVersion
from limner.promotion import compared_metric, decide
from limner.settings import PromoteSettings

PROTOCOL = {"features": "classifier", "weights": "ab", "reference": "cd", "samples": "2000", "resize": "none"}


def version(
    number: str = "", *, digest: str = "", protocol: dict[str, str] | None = None, **metrics: float
) -> ModelVersion:
    return ModelVersion("digits", number, (), metrics, PROTOCOL if protocol is None else protocol, digest or number)


CHAMPION = version("7", fd_classifier=4.0, precision=0.5)


@pytest.mark.parametrize(
    ("candidate", "champion", "policy", "verdict", "reason"),
    [
        # no champion yet
        (version(fd_classifier=9.0), None, {}, "promote", "no champion yet"),
        (version(fd_classifier=9.0), None, {"min_improvement": 5.0}, "promote", "no champion yet"),
        (version(fd_classifier=9.0), None, {"at_most": {"fd_classifier": 5.0}}, "reject", "at_most allows 5"),
        # better, equal, worse
        (version(fd_classifier=3.0), CHAMPION, {}, "promote", "beats the champion: fd_classifier is 3"),
        (version(fd_classifier=4.0), CHAMPION, {}, "hold", "does not beat the champion"),
        (version(fd_classifier=5.0), CHAMPION, {}, "hold", "champion version 7 has 4"),
        # the same where higher is better
        (version(precision=0.6), CHAMPION, {"metric": "precision", "better": "higher"}, "promote", "higher is better"),
        (version(precision=0.5), CHAMPION, {"metric": "precision", "better": "higher"}, "hold", "does not beat"),
        (version(precision=0.4), CHAMPION, {"metric": "precision", "better": "higher"}, "hold", "does not beat"),
        # by how much
        (version(fd_classifier=3.0), CHAMPION, {"min_improvement": 1.0}, "promote", "beats the champion"),
        (version(fd_classifier=3.5), CHAMPION, {"min_improvement": 1.0}, "hold", "only 0.5 of the 1 that"),
        # limits, on and beside the line
        (version(fd_classifier=3.0), CHAMPION, {"at_most": {"fd_classifier": 3.0}}, "promote", "beats"),
        (version(fd_classifier=3.1), CHAMPION, {"at_most": {"fd_classifier": 3.0}}, "reject", "fd_classifier is 3.1"),
        (version(fd_classifier=3.0, recall=0.4), CHAMPION, {"at_least": {"recall": 0.4}}, "promote", "beats"),
        (version(fd_classifier=3.0, recall=0.3), CHAMPION, {"at_least": {"recall": 0.4}}, "reject", "asks for 0.4"),
        # what was not measured, or is not a number
        (version(fd_classifier=3.0), CHAMPION, {"at_least": {"recall": 0.4}}, "reject", "recall was not measured"),
        (version(fd_classifier=3.0), CHAMPION, {"metric": "fid"}, "reject", "fid was not measured"),
        (version(fd_classifier=math.nan), CHAMPION, {}, "reject", "fd_classifier is nan"),
        (version(fd_classifier=-math.inf), CHAMPION, {}, "reject", "fd_classifier is -inf"),
        (version(fd_classifier=3.0, recall=math.nan), CHAMPION, {"at_least": {"recall": 0}}, "reject", "recall is nan"),
        (version(), CHAMPION, {}, "reject", "not clear which metric"),
        (version(fd_a=1.0, fd_b=1.0), CHAMPION, {}, "reject", "Measured: fd_a, fd_b. Name one"),
        (version(fd_a=1.0), version("2", fd_b=1.0), {}, "hold", "No usable fd_a is recorded for champion version 2"),
        (version(fd_a=1.0), version("2", fd_a=math.nan), {}, "hold", "No usable fd_a"),
        # the champion itself, judged again
        (version(digest="7", fd_classifier=5.0), CHAMPION, {}, "promote", "champion already, as version 7"),
        (version(digest="7", fd_classifier=5.0), CHAMPION, {"at_most": {"fd_classifier": 4.5}}, "reject", "at_most"),
    ],
)
def test_verdict_and_reason(
    candidate: ModelVersion, champion: ModelVersion | None, policy: dict[str, object], verdict: str, reason: str
) -> None:
    decision = decide(candidate, champion, PromoteSettings.model_validate(policy))
    assert decision.verdict == verdict
    assert reason in " ".join(decision.reasons)


@pytest.mark.parametrize("field", list(PROTOCOL))
def test_unlike_protocols_hold_and_name_the_field(field: str) -> None:
    candidate = version(protocol={**PROTOCOL, field: "other"}, fd_classifier=0.1)
    decision = decide(candidate, CHAMPION, PromoteSettings())
    assert decision.verdict == "hold"
    assert f"{field} was {PROTOCOL[field]}, is other" in decision.reasons[0]
    assert not any(other in decision.reasons[0] for other in PROTOCOL if other != field)


def test_protocol_that_one_side_does_not_state_is_unlike() -> None:
    candidate = version(protocol={k: v for k, v in PROTOCOL.items() if k != "resize"}, fd_classifier=0.1)
    decision = decide(candidate, CHAMPION, PromoteSettings())
    assert decision.verdict == "hold"
    assert "resize was none, is (not recorded)" in decision.reasons[0]


def test_all_failures_are_told_at_once() -> None:
    policy = PromoteSettings(at_most={"fd_classifier": 1.0}, at_least={"recall": 0.5, "precision": 0.5})
    decision = decide(version(fd_classifier=2.0, precision=0.1), None, policy)
    assert len(decision.reasons) == 3


@pytest.mark.parametrize(
    ("metrics", "policy", "metric"),
    [
        ({"fid": 1.0, "fd_pixels": 1.0}, {}, "fid"),
        ({"fd_pixels": 1.0, "kd_pixels": 1.0}, {}, "fd_pixels"),
        ({"fd_pixels": 1.0, "fd_pixels_source": 2.0, "fd_pixels_ratio": 0.5, "fd_pixels_real": 0.1}, {}, "fd_pixels"),
        ({"kd_pixels": 1.0}, {}, ""),
        ({"fid": 1.0}, {"metric": "recall"}, "recall"),
    ],
)
def test_compared_metric_is_the_policys_or_the_frechet_distance(
    metrics: dict[str, float], policy: dict[str, str], metric: str
) -> None:
    assert compared_metric(metrics, PromoteSettings.model_validate(policy)) == metric


numbers = st.floats(allow_nan=True, allow_infinity=True)


@given(numbers, numbers, st.sampled_from(["lower", "higher"]), st.floats(min_value=0, max_value=1e300))
def test_worse_or_unmeasured_model_is_never_promoted(new: float, old: float, better: str, margin: float) -> None:
    policy = PromoteSettings.model_validate({"better": better, "min_improvement": margin})
    decision = decide(version(fd_classifier=new), version("1", fd_classifier=old), policy)
    finite = math.isfinite(new) and math.isfinite(old)
    beaten = finite and (new < old if better == "lower" else new > old) and abs(new - old) >= margin
    assert (decision.verdict == "promote") == beaten
    assert decision.reasons
