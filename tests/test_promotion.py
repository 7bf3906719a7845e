import math
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limner.errors import LimnerError
from limner.ports import ModelVersion, Movement
from limner.promotion import UNKNOWN, champion_before, compared_metric, decide, undone_next
from limner.settings import PromoteSettings

PROTOCOL = {"features": "classifier", "weights": "ab", "reference": "cd", "samples": "2000", "resize": "none"}


def version(
    number: str = "", *, digest: str = "", protocol: dict[str, str] | None = None, **metrics: float
) -> ModelVersion:
    return ModelVersion("digits", number, (), metrics, PROTOCOL if protocol is None else protocol, digest or number)


def costing(**costs: float) -> ModelVersion:
    return replace(version(fd_classifier=3.0), costs=costs)


CHAMPION = version("7", fd_classifier=4.0, precision=0.5)
SURE = version("7", fd_classifier=4.0, fd_classifier_se=0.3)


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
        (version(fd_classifier=3.0, recall=0.4), CHAMPION, {"required": ["recall"]}, "promote", "beats"),
        (version(fd_classifier=3.0), CHAMPION, {"required": ["recall"]}, "reject", "recall was not measured"),
        (version(fd_classifier=3.0, recall=math.inf), CHAMPION, {"required": ["recall"]}, "reject", "recall is inf"),
        # what it costs, on and beside the line, and where that is not known
        (costing(latency_ms=20.0), CHAMPION, {"budgets": {"latency_ms": 20.0}}, "promote", "beats"),
        (costing(latency_ms=20.1), CHAMPION, {"budgets": {"latency_ms": 20.0}}, "reject", "is 20.1; promote.budgets"),
        (costing(latency_ms=20.1), None, {"budgets": {"latency_ms": 20.0}}, "reject", "promote.budgets allows 20"),
        (costing(size_mib=3.0), CHAMPION, {"budgets": {"size_mib": 4.0}}, "promote", "beats"),
        (costing(size_mib=5.0), CHAMPION, {"budgets": {"size_mib": 4.0}}, "reject", "size_mib is 5"),
        (costing(parity=1e-5), CHAMPION, {"budgets": {"parity": 1e-4}}, "promote", "beats"),
        (costing(parity=1e-3), CHAMPION, {"budgets": {"parity": 1e-4}}, "reject", "parity is 0.001"),
        (costing(), CHAMPION, {"budgets": {"parity": 1e-4}}, "reject", "No parity is recorded of the exported model"),
        (costing(parity=math.nan), CHAMPION, {"budgets": {"parity": 1}}, "reject", "No parity is recorded"),
        # beyond the error bars: 2 * hypot(0.3, 0.4) = 1, on and beside the line
        (version(fd_classifier=2.9, fd_classifier_se=0.4), SURE, {}, "promote", "beyond 1, which are 2 standard"),
        (version(fd_classifier=3.0, fd_classifier_se=0.4), SURE, {}, "hold", "may beat the champion by chance, by 1:"),
        (version(fd_classifier=3.4, fd_classifier_se=0.4), SURE, {"error_bars": 1.0}, "promote", "beyond 0.5, which"),
        (version(fd_classifier=3.6, fd_classifier_se=0.4), SURE, {"error_bars": 1.0}, "hold", "beyond 0.5, which"),
        (version(fd_classifier=3.9, fd_classifier_se=0.4), SURE, {"error_bars": 0.0}, "promote", "beats the champion"),
        (version(fd_classifier=2.9, fd_classifier_se=math.inf), SURE, {}, "hold", "by chance"),
        # errors that are not recorded count as 0, and that is said
        (version(fd_classifier=3.3), SURE, {}, "promote", "recorded for the candidate; it counts as 0"),
        (version(fd_classifier=3.5), SURE, {}, "hold", "recorded for the candidate; it counts as 0"),
        (version(fd_classifier=3.3, fd_classifier_se=0.3), CHAMPION, {}, "promote", "for the champion; it counts as 0"),
        (version(fd_classifier=3.9), CHAMPION, {}, "promote", "for the candidate or the champion; it counts as 0"),
        (version(fd_classifier=3.9, fd_classifier_se=math.nan), CHAMPION, {}, "promote", "the candidate or the cham"),
        (version(fd_classifier=3.9, fd_classifier_se=-5.0), CHAMPION, {}, "promote", "the candidate or the champion"),
        (version(fd_classifier=3.9), CHAMPION, {"error_bars": 0.0}, "promote", "lower is better."),
        # both margins at once: the wider one counts
        (version(fd_classifier=2.5, fd_classifier_se=0.4), SURE, {"min_improvement": 2.0}, "hold", "only 1.5 of the 2"),
        (version(fd_classifier=3.5, fd_classifier_se=0.4), SURE, {"min_improvement": 0.5}, "hold", "by chance"),
        (version(fd_classifier=2.5, fd_classifier_se=0.4), SURE, {"min_improvement": 1.5}, "promote", "beats"),
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


def moved(kind: Literal["promotion", "rollback"], number: str, before: str) -> Movement:
    return Movement(kind, number, before, "ann@studio", "2026-01-02T03:04:05+00:00", "Its sevens look like ones.")


PROMOTED, BETTER = moved("promotion", "7", ""), moved("promotion", "8", "7")
UNDONE = moved("rollback", "7", "8")


@pytest.mark.parametrize(
    ("history", "verdict"),
    [
        ((PROMOTED,), "promote"),
        ((PROMOTED, BETTER), "promote"),
        ((PROMOTED, BETTER, UNDONE), "hold"),
        ((PROMOTED, BETTER, UNDONE, BETTER, moved("promotion", "9", "8")), "promote"),
        ((PROMOTED, BETTER, UNDONE, moved("rollback", "", "7")), "hold"),
        ((PROMOTED, BETTER, replace(UNDONE, kind="promotion", who=UNKNOWN)), "hold"),  # moved back without Limner
        ((PROMOTED, BETTER, replace(UNDONE, kind="promotion", who=UNKNOWN, version="")), "hold"),
        ((PROMOTED, BETTER, replace(UNDONE, kind="promotion", who=UNKNOWN, version="9")), "promote"),
    ],
)
def test_version_that_was_rolled_back_is_held(history: tuple[Movement, ...], verdict: str) -> None:
    decision = decide(version("8", fd_classifier=1.0), CHAMPION, PromoteSettings(), history=history)
    assert decision.verdict == verdict
    if verdict == "hold":
        assert decision.reasons[0] in [
            f"Version 8 was rolled back by {who} at 2026-01-02T03:04:05+00:00: Its sevens look like ones."
            for who in ("ann@studio", UNKNOWN)
        ]


@pytest.mark.parametrize("last", [moved("rollback", "", "7"), replace(PROMOTED, version="", before="7", who=UNKNOWN)])
def test_nothing_is_promoted_by_itself_where_the_champion_was_taken_out_of_use(last: Movement) -> None:
    assert decide(version("9", fd_classifier=500.0), None, PromoteSettings()).verdict == "promote"
    decision = decide(version("9", fd_classifier=500.0), None, PromoteSettings(), history=(PROMOTED, last))
    assert decision.verdict == "hold"
    assert decision.reasons[0].startswith(f"The champion, version 7, was taken out of use by {last.who} at 2026")


@pytest.mark.parametrize(
    ("history", "leads_to"),
    [
        ((PROMOTED,), ""),
        ((PROMOTED, BETTER), "7"),
        ((PROMOTED, BETTER, UNDONE), ""),
        ((PROMOTED, BETTER, UNDONE, moved("promotion", "9", "7")), "7"),
        ((PROMOTED, BETTER, moved("promotion", "9", "8"), moved("rollback", "8", "9")), "7"),
    ],
)
def test_rollback_leads_to_what_was_before_the_last_promotion_that_stands(
    history: tuple[Movement, ...], leads_to: str
) -> None:
    assert champion_before("digits", history) == leads_to


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ((), "has no champion"),
        ((PROMOTED, moved("rollback", "", "7")), "has no champion"),
        ((moved("rollback", "7", "8"),), "before version 7 is not recorded"),
        ((replace(PROMOTED, who=UNKNOWN),), "before version 7 is not recorded"),
    ],
)
def test_rollback_that_leads_nowhere_is_refused(history: tuple[Movement, ...], problem: str) -> None:
    with pytest.raises(LimnerError, match=problem):
        champion_before("digits", history)


@given(st.lists(st.one_of(st.integers(1, 9), st.none()), max_size=40))
def test_rollbacks_are_undone_like_a_stack(wishes: list[int | None]) -> None:
    """A number promotes it, None rolls back; the champions there were are kept beside."""
    history, champions = list[Movement](), [""]
    for wish in wishes:
        now = champions[-1]
        if wish is None and now:
            champions.pop()
            assert champion_before("digits", history) == champions[-1]
            history.append(moved("rollback", champions[-1], now))
        elif wish is not None and str(wish) != now:
            champions.append(str(wish))
            history.append(moved("promotion", str(wish), now))
        standing = undone_next(history)
        assert (standing.version if standing else "") == champions[-1]


numbers = st.floats(allow_nan=True, allow_infinity=True)


errors = st.one_of(st.none(), st.floats(min_value=0, max_value=1e300))


def measured(number: str, value: float, error: float | None) -> ModelVersion:
    found = {"fd_classifier": value} if error is None else {"fd_classifier": value, "fd_classifier_se": error}
    return version(number, **found)


@given(numbers, numbers, errors, errors, st.sampled_from(["lower", "higher"]), st.floats(0, 1e300), st.floats(0, 1e3))
def test_worse_or_unmeasured_model_is_never_promoted(
    new: float, old: float, new_error: float | None, old_error: float | None, better: str, margin: float, bars: float
) -> None:
    policy = PromoteSettings.model_validate({"better": better, "min_improvement": margin, "error_bars": bars})
    decision = decide(measured("", new, new_error), measured("1", old, old_error), policy)
    finite = math.isfinite(new) and math.isfinite(old)
    beaten = finite and (new < old if better == "lower" else new > old) and abs(new - old) >= margin
    by_chance = bars * math.hypot(new_error or 0.0, old_error or 0.0)
    assert (decision.verdict == "promote") == (beaten and abs(new - old) > by_chance)
    assert all(reason.endswith(".") for reason in decision.reasons)


finite = st.floats(allow_nan=False, allow_infinity=False)


@given(finite, finite, finite, errors, errors, st.sampled_from(["lower", "higher"]), st.floats(0, 1e300), finite)
def test_better_figure_never_makes_the_verdict_worse(
    one: float, other: float, old: float, error: float | None, old_error: float | None, better: str, margin: float,
    limit: float,
) -> None:  # fmt: skip
    worse, best = sorted((one, other), reverse=better == "lower")
    side = "at_most" if better == "lower" else "at_least"
    policy = PromoteSettings.model_validate(
        {"better": better, "min_improvement": margin, side: {"fd_classifier": limit}}
    )
    rank = ["reject", "hold", "promote"]
    verdicts = [
        rank.index(decide(measured("", value, error), measured("1", old, old_error), policy).verdict)
        for value in (worse, best)
    ]
    assert verdicts == sorted(verdicts)


@given(numbers, st.floats(0, 1e300))
def test_model_over_its_budget_is_never_promoted(cost: float, budget: float) -> None:
    policy = PromoteSettings.model_validate({"budgets": {"latency_ms": budget}})
    decision = decide(costing(latency_ms=cost), CHAMPION, policy)
    assert (decision.verdict == "promote") == (math.isfinite(cost) and cost <= budget)
