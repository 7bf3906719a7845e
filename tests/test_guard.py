"""Means on the device, and a judge of them who knows when to go back and when to give up."""

import io

import pytest
import torch

from limner import guard
from limner.guard import Guard, Tally
from limner.settings import GuardSettings


def losses(value, norm=1.0):
    return {"loss": torch.tensor(value), "gradient": torch.tensor(norm)}


def test_means_are_over_the_steps_since_the_last_reading():
    tally = Tally()
    tally.add(losses(1.0))
    tally.add(losses(3.0))
    assert tally.read() == ({"loss": 2.0, "gradient": 1.0}, 0, 0)
    tally.add(losses(10.0))
    assert tally.read()[0]["loss"] == 10.0


def test_a_term_that_comes_only_now_and_then_is_averaged_over_its_own_steps():
    tally = Tally()
    tally.add(losses(1.0) | {"penalty": torch.tensor(8.0)})
    tally.add(losses(1.0))
    assert tally.read()[0]["penalty"] == 8.0


def test_a_value_that_is_not_finite_is_counted_and_kept_out_of_the_means():
    tally = Tally()
    tally.add(losses(1.0))
    tally.add(losses(float("nan")))
    tally.add(losses(2.0, norm=float("inf")))
    means, bad, in_a_row = tally.read()
    assert means == {"loss": 1.5, "gradient": 1.0}
    assert (bad, in_a_row) == (2, 2)


def test_the_largest_change_of_an_interval_is_told_beside_the_mean():
    tally = Tally()
    for share in (0.5, 0.01, float("nan"), 0.03):
        tally.add({"update/generator": torch.tensor(share)})
    means, _, _ = tally.read()
    assert means == {"update/generator": pytest.approx(0.18), "update/generator/peak": 0.5}
    tally.add({"update/generator": torch.tensor(0.25)})
    assert tally.read()[0] == {"update/generator": 0.25, "update/generator/peak": 0.25}


def test_a_good_step_ends_the_row_and_a_reading_does_not():
    tally = Tally()
    tally.add(losses(float("nan")))
    tally.read()
    tally.add(losses(float("nan")))
    assert tally.read()[1:] == (1, 2)
    tally.add(losses(1.0))
    assert tally.read()[1:] == (0, 0)


def test_a_tally_goes_on_exactly_from_its_state():
    """Through a file, as in a checkpoint, in the middle of an interval and of a row of bad steps."""
    steps = [losses(0.1), losses(0.7) | {"penalty": torch.tensor(8.0)}, losses(float("nan")), losses(float("nan"))]
    whole, begun, resumed = Tally(), Tally(), Tally()
    for terms in (*steps, losses(float("inf"), norm=0.3)):
        whole.add(terms)
    for terms in steps:
        begun.add(terms)
    file = io.BytesIO()
    torch.save(begun.state_dict(), file)
    begun.add(losses(100.0))  # what goes on elsewhere does not matter
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    resumed.add(losses(float("inf"), norm=0.3))
    assert resumed.read() == whole.read()
    for tally in (whole, resumed):
        tally.add(losses(float("nan")))
    assert resumed.read() == whole.read() == ({"gradient": 1.0}, 1, 4)


def test_a_loaded_state_is_not_changed_by_going_on():
    one, other = Tally(), Tally()
    one.add(losses(1.0))
    state = one.state_dict()
    other.load_state_dict(state)
    other.add(losses(3.0))
    assert one.read()[0]["loss"] == 1.0


def test_the_largest_change_of_an_interval_is_told_beside_its_mean():
    tally = Tally()
    for change in (0.1, 0.9, 0.2, float("nan")):
        tally.add({"update/generator": torch.tensor(change)})
    assert tally.read()[0] == pytest.approx({"update/generator": 0.4, "update/generator/peak": 0.9})
    tally.add({"update/generator": torch.tensor(0.3)})
    resumed = Tally()
    resumed.load_state_dict(tally.state_dict())
    resumed.add({"update/generator": torch.tensor(0.1)})
    assert resumed.read()[0]["update/generator/peak"] == pytest.approx(0.3), "each interval has its own, saved"


# -- the guard --------------------------------------------------------------------------------------------------------

GOOD = {guard.DIVERSITY: 0.8, "update/generator": 1e-3, "update/discriminator": 1e-3, guard.DISCRIMINATOR_LOSS: 0.6}
ILL = {
    guard.COLLAPSED: ({guard.DIVERSITY: 0.01}, "differ by 0.01 of the real ones' difference"),
    guard.EXPLODED: ({guard.DIVERSITY: 50.0}, "differ by 50 times the real ones' difference"),
    guard.RESTLESS: ({"update/generator": 0.5}, "a step changed a player's weights by 0.5 of their size"),
}


def watcher(**settings):
    return Guard(GuardSettings.model_validate({"strikes": 3, **settings}))


def look(it, means, *, bad_in_a_row=0):
    return it.look(GOOD | means, bad_in_a_row=bad_in_a_row)


def test_a_healthy_run_is_left_alone():
    it = watcher()
    for _ in range(20):
        assert look(it, {}) is None
        assert it.warnings(GOOD) == []
        assert not it.suspicious
    assert it.look({}, bad_in_a_row=0) is None, "a line may be without a figure"


@pytest.mark.parametrize("problem", [guard.COLLAPSED, guard.EXPLODED])
def test_ill_pictures_are_a_reason_after_so_many_lines_in_a_row(problem):
    it, (means, figure) = watcher(strikes=3), ILL[problem]
    assert [look(it, means) for _ in range(2)] == [None, None]
    reason = look(it, means)
    assert reason.startswith(problem)
    assert figure in reason
    assert reason.endswith("for 3 log lines")


def test_restless_weights_are_a_reason_at_once():
    """Adam's steps become small beside the weights that its first ones have blown up: later lines look calm."""
    it, (means, figure) = watcher(strikes=3), ILL[guard.RESTLESS]
    reason = look(it, means)
    assert reason.startswith(guard.RESTLESS)
    assert reason.endswith(figure)


def test_a_generator_may_be_as_it_began_until_a_twentieth_of_the_run_is_over():
    it, (means, _) = watcher(strikes=1), ILL[guard.COLLAPSED]
    it.look(GOOD, bad_in_a_row=0, progress=0.01)
    assert it.look(GOOD | means, bad_in_a_row=0, progress=0.04) is None
    assert not it.suspicious
    assert it.look(GOOD | means, bad_in_a_row=0, progress=0.06).startswith(guard.COLLAPSED)


@pytest.mark.parametrize("problem", [guard.COLLAPSED, guard.EXPLODED])
def test_a_good_line_ends_the_row(problem):
    it, (means, _) = watcher(strikes=3), ILL[problem]
    for _ in range(4):
        assert look(it, means) is None
        assert look(it, means) is None
        assert it.suspicious
        assert look(it, {}) is None
        assert not it.suspicious


@pytest.mark.parametrize("problem", ILL)
def test_the_limits_are_the_settings(problem):
    wide = watcher(strikes=1, collapsed=0.001, exploded=100.0, restless=0.9)
    assert look(wide, ILL[problem][0]) is None
    assert look(watcher(strikes=1), ILL[problem][0]) is not None


def test_a_generator_that_has_always_been_flat_gets_a_quarter_of_the_run():
    """A U-Net begins so, and to go back to the beginning with half the learning rate would not help it."""
    it, (means, _) = watcher(strikes=1), ILL[guard.COLLAPSED]
    assert it.look(GOOD | means, bad_in_a_row=0, progress=0.25) is None
    assert not it.suspicious
    other = watcher(strikes=1)
    other.load_state_dict(it.state_dict())
    assert other.look(GOOD | means, bad_in_a_row=0, progress=0.26).startswith(guard.COLLAPSED)


def test_one_step_too_large_is_seen_behind_a_good_mean():
    assert look(watcher(), {"update/generator/peak": 0.5}).startswith(guard.RESTLESS)


def test_either_players_weights_can_be_restless():
    assert look(watcher(strikes=1), {"update/discriminator": 0.5}).startswith(guard.RESTLESS)


def test_bad_steps_in_a_row_are_a_reason_once_patience_is_over():
    it = watcher(patience=5)
    assert look(it, {}, bad_in_a_row=4) is None
    reason = f"{guard.NOT_FINITE}: 5 steps were not, and were skipped; no log line is free of them"
    assert look(it, {}, bad_in_a_row=5) == reason


def test_a_run_that_is_only_warned_about_is_not_suspicious():
    """Suspicious is what one would not want to come back to."""
    it = watcher(strikes=1)
    assert it.warnings({guard.MEMORISED: 0.99})
    assert not it.suspicious


@pytest.mark.parametrize(
    ("means", "words"),
    [
        ({guard.MEMORISED: 0.95}, "by heart"),
        ({guard.DISCRIMINATOR_LOSS: 1e-5}, "has won"),
    ],
)
def test_a_warning_is_told_once_each_time_it_begins(means, words):
    it = watcher(strikes=2)
    told = [it.warnings(GOOD | each) for each in (means, means, means, means, {}, means, means, means)]
    assert [len(each) for each in told] == [0, 1, 0, 0, 0, 0, 1, 0]
    assert words in told[1][0]


def test_a_negative_discriminator_loss_is_no_victory():
    """The Wasserstein loss has no lower end."""
    assert watcher(strikes=1).warnings({guard.DISCRIMINATOR_LOSS: -5.0}) == []


def test_going_back_is_remembered_and_the_row_begins_anew():
    it = watcher(strikes=2, rollbacks=2)
    for _ in range(2):
        reason = look(it, ILL[guard.COLLAPSED][0])
    it.load_state_dict(it.more_careful(reason))
    assert it.rollbacks == 1
    assert not it.suspicious
    assert look(it, ILL[guard.COLLAPSED][0]) is None
    it.load_state_dict(it.more_careful("again"))
    assert it.rollbacks == 2
    assert it.more_careful("and again") is None
    assert it.state_dict()["history"] == [reason, "again"]


def test_without_rollbacks_there_is_no_going_back():
    assert watcher(rollbacks=0).more_careful("any") is None


@pytest.mark.parametrize("problem", [guard.NOT_FINITE, *ILL])
def test_a_diagnosis_tells_what_was_tried_the_last_figures_and_what_to_do(problem):
    it = watcher(strikes=1, patience=1)
    for earlier in ("something else", "something else", "a third thing"):
        it.load_state_dict(it.more_careful(earlier))
    means, _ = ILL.get(problem, ({}, ""))
    reason = look(it, means, bad_in_a_row=int(problem == guard.NOT_FINITE))
    error = it.diagnosis(reason)
    text = str(error)
    assert f"Training fails: {reason}." in text
    assert "went back 3 times" in text
    assert text.count("something else") == 1, "once is enough"
    assert "a third thing" in text
    assert "loss/discriminator 0.6" in text
    assert "ower the learning rates" in text


def test_a_diagnosis_does_without_any_figure():
    it = watcher()
    it.look({}, bad_in_a_row=20)
    assert "no finite figure at all" in str(it.diagnosis(f"{guard.NOT_FINITE}: 20 steps"))


def test_every_problem_has_its_advice():
    assert guard._ADVICE.keys() == {guard.NOT_FINITE, *ILL}


def test_a_resumed_guard_judges_as_if_it_had_never_stopped():
    whole, cut = watcher(strikes=3), watcher(strikes=3)
    ill = ILL[guard.EXPLODED][0] | {guard.MEMORISED: 0.95}
    for it in (whole, cut):
        it.load_state_dict(it.more_careful("first"))
        for _ in range(2):
            assert look(it, ill) is None
            assert it.warnings(ill) == []
    file = io.BytesIO()
    torch.save(cut.state_dict(), file)
    file.seek(0)
    resumed = watcher(strikes=3)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert resumed.suspicious
    assert look(resumed, ill) == look(whole, ill) is not None
    assert resumed.warnings(ill) == whole.warnings(ill) != []
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.rollbacks == 1


def test_what_fails_every_few_steps_only_is_a_reason_too():
    """A lazy penalty that overflows is bad at every fourth step: never in a row."""
    it = watcher(patience=5)
    assert it.look({}, bad=3, bad_in_a_row=0) is None
    copied = watcher(patience=5)
    copied.load_state_dict(it.state_dict())
    assert "5 steps were not" in (copied.look({}, bad=2, bad_in_a_row=0) or "")
    assert it.look({}, bad=0, bad_in_a_row=0) is None, "a line free of them ends it"
    assert it.look({}, bad=4, bad_in_a_row=0) is None
