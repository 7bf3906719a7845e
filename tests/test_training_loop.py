"""The loop: what it saves and when, when it goes back, when it stops. Its player is so small that all is known."""

import os
import signal
import threading

import pytest
import torch
from torch import nn

from limner import training_loop
from limner.averaging import Average
from limner.checkpoint import Checkpoints, position
from limner.errors import LimnerError
from limner.guard import DIVERSITY
from limner.journal import Journal, read_journal
from limner.optimise import SgdSettings, build_optimizer, descend
from limner.settings import TrainSettings
from limner.training_loop import Best, Clock, Due, State, TrainingRun, train

RATE = 0.01


class Player:
    """Moves one weight by the rate times a batch's mean at every step."""

    task = "pictures"

    def __init__(self):
        self.weight = nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.weight.weight, 1.0)
        self.networks = nn.ModuleDict({"player": self.weight})
        settings = SgdSettings(name="sgd", learning_rate=RATE, momentum=0.0)
        self.optimizers = {"player": build_optimizer(settings, self.networks.parameters())}
        self.cautions = []

    def step(self, parts, moment):
        self.cautions.append(moment.caution)
        losses = [(self.weight.weight * part.batch).mean() for part in parts]
        told = {"loss/player": torch.stack(losses).mean().detach()}
        return told | descend(losses, self.optimizers["player"], player="player")

    def product(self):
        return self.weight

    def product_inputs(self, batch, rng):
        raise NotImplementedError

    def realness(self, images, batch):
        raise NotImplementedError


def batch_mean(step):
    return 1 + step % 7 / 10


class Numbers:
    """The batch of a step; `before(step)` may do something about it, and give another number."""

    def __init__(self, before=lambda step: None):
        self._before = before

    def at(self, step, *, part=0, parts=1):
        other = self._before(step)
        return torch.full((4,), batch_mean(step) if other is None else other)


def weight_after(*rates):
    """By hand, a rate for each step."""
    return 1.0 - sum(rate * batch_mean(step) for step, rate in enumerate(rates))


def run_of(folder, *, before=lambda step: None, watch=dict, judge=lambda: {"fd": 1.0}, method=None, **settings):
    """30 steps of 4 images, a line and a checkpoint every 5."""
    values = {"kimg": 0.12, "batch": 4, "log_kimg": 0.02, "checkpoint_kimg": 0.02, "precision": "fp32", **settings}
    method = method or Player()
    return TrainingRun(
        method=method,
        batches=Numbers(before),
        settings=TrainSettings.model_validate(values),
        device=torch.device("cpu"),
        average=Average(method.product(), half_life_kimg=0.0, ramp=0.05, total_images=120),
        best=Best(),
        checkpoints=Checkpoints(folder / "checkpoints", identity={}, keep=100),
        journal=Journal(folder / "journal.jsonl"),
        progress=lambda *_: None,
        draw_samples=lambda *_: None,
        watch=lambda product: watch(),
        judge=lambda product: judge(),
    )


def go(run):
    with run.journal, run.checkpoints:
        return train(run)


def saved(folder):
    """Steps that have a checkpoint, and how often each was written."""
    positions = [position(path.name) for path in (folder / "checkpoints").iterdir()]
    return sorted(step for step, _ in positions)


def events(folder, name):
    return [line for line in read_journal(folder / "journal.jsonl") if line.get("event") == name]


def weight_of(run):
    return run.method.weight.weight.item()


def once(steps, what):
    """A `before` that meets each of the steps once."""
    left = set(steps)

    def before(step):
        if step not in left:
            return None
        left.remove(step)
        return what(step)

    return before


def nan(step):
    return float("nan")


def in_turn(values):
    """Gives one value after the other, and the last one for ever."""
    left = list(values)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


# -- a run that goes well ---------------------------------------------------------------------------------------------


def test_a_run_takes_its_steps_and_saves_at_its_beginning_its_intervals_and_its_end(tmp_path):
    run = run_of(tmp_path)
    state = go(run)
    assert (state.step, state.images, state.stopped_early) == (30, 120, False)
    assert weight_of(run) == pytest.approx(weight_after(*[RATE] * 30), rel=1e-5)
    assert saved(tmp_path) == [0, 5, 10, 15, 20, 25, 30]
    lines = read_journal(tmp_path / "journal.jsonl")
    assert [line["images"] for line in lines] == [20, 40, 60, 80, 100, 120]
    weights = [weight_after(*[RATE] * step) for step in range(30)]
    told = [line["metrics"]["loss/player"] for line in lines]
    means = [sum(weights[s] * batch_mean(s) for s in range(first, first + 5)) / 5 for first in range(0, 30, 5)]
    assert told == pytest.approx(means, rel=1e-5)


def test_a_batch_comes_in_the_parts_that_were_asked_for(tmp_path):
    run = run_of(tmp_path, micro_batch=2, kimg=0.004)
    asked = []
    run.batches.at = lambda step, part, parts: asked.append((step, part, parts)) or torch.ones(2)
    go(run)
    assert asked == [(0, 0, 2), (0, 1, 2)]


def test_an_interval_is_due_when_it_is_crossed_and_everything_is_at_the_end():
    assert [Due(before=n, now=n + 7, total=100)(0.02) for n in (0, 7, 14, 21, 91, 93)] == [
        False,
        False,
        True,
        False,
        False,
        True,
    ]


# -- checkpoints by the clock -----------------------------------------------------------------------------------------


def test_a_checkpoint_is_written_at_least_every_so_many_minutes_once_the_guard_has_looked(tmp_path):
    go(run_of(tmp_path, checkpoint_kimg=10.0, checkpoint_minutes=1e-9, kimg=0.06))
    assert saved(tmp_path) == [0, 5, 10, 15], "at log lines"


def test_what_was_saved_between_two_log_lines_is_not_gone_back_to(tmp_path):
    """A run that is asked to stop saves as it is: the guard has not seen it, and it may be what has to be undone."""

    run = run_of(tmp_path, before=once([12], lambda step: os.kill(os.getpid(), signal.SIGTERM)))
    with pytest.raises(SystemExit):
        go(run)
    assert saved(tmp_path)[-2:] == [10, 13]
    resumed = run_of(tmp_path, before=once([13, 14], nan), guard=GUARD | {"patience": 2})
    go(resumed)
    (event,) = events(tmp_path, "went back")
    assert event["images"] == 40, "step 10, at a log line, and not step 13"


def test_the_clock_counts_minutes_from_the_last_time_that_it_was_time(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(training_loop.time, "monotonic", lambda: now[0])
    clock = Clock(State(seconds=50.0, images=100))
    found = []
    for seconds in (59, 2, 58, 3):
        now[0] += seconds
        found.append(clock.is_time(1.0))
    assert found == [False, True, False, True]
    assert clock.seconds() == 172.0, "what was trained before is counted too"
    assert clock.rate(222) == 1.0, "a rate is of the images since it was asked"


# -- going back -------------------------------------------------------------------------------------------------------

GUARD = {"patience": 3, "rollbacks": 2, "strikes": 2}


def test_steps_that_are_not_finite_are_skipped_and_told_where_they_are_few(tmp_path):
    run = run_of(tmp_path, before=once([11, 12], nan), guard=GUARD)
    assert go(run).step == 30
    (event,) = events(tmp_path, "skipped non-finite steps")
    assert (event["images"], event["count"]) == (60, 2)
    assert not events(tmp_path, "went back")
    assert weight_of(run) == pytest.approx(weight_after(*[0.0 if s in (11, 12) else RATE for s in range(30)]), rel=1e-5)


def test_a_run_that_stays_not_finite_goes_back_and_goes_on_with_half_the_rates(tmp_path):
    run = run_of(tmp_path, before=once([12, 13, 14], nan), guard=GUARD)
    state = go(run)
    assert (state.step, state.images) == (30, 120)
    (event,) = events(tmp_path, "went back")
    assert (event["images"], event["from_images"], event["times"]) == (40, 60, 1)
    assert "not finite: 3 steps were not" in event["reason"]
    assert run.method.optimizers["player"].param_groups[0]["lr"] == RATE / 2
    assert weight_of(run) == pytest.approx(weight_after(*[RATE] * 10, *[RATE / 2] * 20), rel=1e-5)
    assert run.average.network.weight.item() == weight_of(run)
    assert run.method.cautions == [1.0] * 15 + [2.0] * 20
    figures = [line["images"] for line in read_journal(tmp_path / "journal.jsonl") if "metrics" in line]
    assert figures == [20, 40, 60, 80, 100, 120], "what was undone is not in the journal"


def test_a_run_that_is_killed_after_it_went_back_goes_on_with_the_same_care(tmp_path):
    class PowerCut(Exception):
        pass

    def cut(step):
        raise PowerCut

    seen = []

    def before(step):
        seen.append(step)
        if step in (12, 13, 14):
            return float("nan")
        return cut(step) if seen.count(10) == 2 else None

    with pytest.raises(PowerCut):
        go(run_of(tmp_path, before=before, guard=GUARD))
    resumed = run_of(tmp_path, guard=GUARD)
    assert go(resumed).step == 30
    assert weight_of(resumed) == pytest.approx(weight_after(*[RATE] * 10, *[RATE / 2] * 20), rel=1e-5)


def test_a_run_that_cannot_be_helped_is_given_up_with_a_diagnosis_and_its_last_good_checkpoint(tmp_path):
    run = run_of(tmp_path, before=lambda step: float("nan") if step >= 12 else None, guard=GUARD)
    with pytest.raises(LimnerError, match=r"(?s)Training fails: figures are not finite.*went back 2 times.*precision"):
        go(run)
    assert [line["times"] for line in events(tmp_path, "went back")] == [1, 2]
    (event,) = events(tmp_path, "gave up")
    assert event["images"] == 60
    assert max(saved(tmp_path)) == 10
    again = run_of(tmp_path, guard=GUARD, kimg=0.04)
    assert go(again).step == 10, "there is nothing to do for a run that is to end there"
    assert weight_of(again) == pytest.approx(weight_after(*[RATE] * 10), rel=1e-5)


def test_the_networks_own_numbers_are_looked_at_before_they_are_saved(tmp_path):
    method = Player()
    poison = once([12], lambda step: method.weight.weight.data.fill_(float("nan")) and None)
    run = run_of(tmp_path, before=poison, method=method, guard=GUARD | {"patience": 100})
    assert go(run).step == 30
    (event,) = events(tmp_path, "went back")
    assert "the networks' own numbers are not" in event["reason"]
    assert torch.isfinite(method.weight.weight).all()


def test_a_collapse_goes_back_to_before_it_was_first_seen(tmp_path):
    ill, well = {DIVERSITY: 0.001}, {DIVERSITY: 1.0}
    run = run_of(tmp_path, watch=in_turn([well, well, ill, ill, well]), guard=GUARD)
    assert go(run).step == 30
    (event,) = events(tmp_path, "went back")
    assert (event["images"], event["from_images"]) == (40, 80)
    assert "collapsed" in event["reason"]


def test_nothing_is_saved_while_the_run_looks_ill(tmp_path):
    ill, well = {DIVERSITY: 0.001}, {DIVERSITY: 1.0}
    go(run_of(tmp_path, watch=in_turn([well, ill, ill, well]), guard=GUARD | {"strikes": 3}))
    assert saved(tmp_path) == [0, 5, 20, 25, 30]


def test_a_warning_is_in_the_journal_once(tmp_path):
    go(run_of(tmp_path, watch=lambda: {"overfitting/r_v": 0.99}, guard=GUARD))
    (event,) = events(tmp_path, "warning")
    assert "by heart" in event["text"]


# -- the best moment, and stopping early ------------------------------------------------------------------------------


def judged(folder, values, **settings):
    run = run_of(folder, judge=in_turn([{"fd": value, "other": -1.0} for value in values]), judge_kimg=0.02, **settings)
    return run, go(run)


def test_the_best_moment_is_kept(tmp_path):
    run, state = judged(tmp_path, [3.0, 1.0, 2.0])
    assert (state.best_value, state.best_images, state.stopped_early) == (1.0, 40, False)
    assert run.best.weights["weight"].item() == pytest.approx(weight_after(*[RATE] * 10), rel=1e-5)
    quick = [line["metrics"] for line in read_journal(tmp_path / "journal.jsonl") if "quick/fd" in line["metrics"]]
    assert quick[:3] == [{"quick/fd": value, "quick/other": -1.0} for value in (3.0, 1.0, 2.0)]


def test_the_best_moment_survives_an_interruption_and_a_way_back(tmp_path):
    class PowerCut(Exception):
        pass

    def cut(step):
        raise PowerCut

    values = in_turn([{"fd": value} for value in (3.0, 1.0, 2.0)])
    with pytest.raises(PowerCut):
        go(run_of(tmp_path, judge=values, judge_kimg=0.02, before=once([17], cut)))
    resumed = run_of(tmp_path, judge=lambda: {"fd": 2.0}, judge_kimg=0.02, before=once([22, 23, 24], nan), guard=GUARD)
    state = go(resumed)
    assert events(tmp_path, "went back")
    assert (state.best_value, state.best_images) == (1.0, 40)
    assert resumed.best.weights["weight"].item() == pytest.approx(weight_after(*[RATE] * 10), rel=1e-5)


def test_a_best_moment_that_was_undone_is_forgotten(tmp_path):
    """It was reached on the way that led astray, after the checkpoint that the run goes back to."""
    run, state = judged(
        tmp_path, [3.0, 2.0, 0.5, 2.5], before=once([17, 18, 19], nan), guard=GUARD, checkpoint_kimg=0.04
    )
    assert events(tmp_path, "went back")
    assert (state.best_value, state.best_images) == (2.0, 40)
    assert run.best.weights["weight"].item() == pytest.approx(weight_after(*[RATE] * 10), rel=1e-5)


def test_a_run_that_only_gets_worse_stops_early(tmp_path):
    run, state = judged(tmp_path, [3.0, 1.0, 1.6, 1.6, 0.1], stop_early={"evaluations": 2, "worse_by": 1.5})
    assert (state.stopped_early, state.images) == (True, 80)
    (event,) = events(tmp_path, "stopped early")
    assert (event["best"], event["best_images"]) == (1.0, 40)
    assert run.best.weights["weight"].item() == pytest.approx(weight_after(*[RATE] * 10), rel=1e-5)
    again = run_of(tmp_path, judge_kimg=0.02)
    assert go(again).images == 80, "and stays stopped"
    assert torch.equal(again.best.weights["weight"], run.best.weights["weight"])


@pytest.mark.parametrize("values", [[3.0, 1.0, 1.6, 1.4, 1.6, 1.4], [1.0, 1.4]], ids=["not in a row", "not by much"])
def test_a_run_that_is_not_worse_in_a_row_or_not_by_much_goes_on(tmp_path, values):
    _, state = judged(tmp_path, values, stop_early={"evaluations": 2, "worse_by": 1.5})
    assert not state.stopped_early
    assert state.images == 120


def test_without_a_rule_a_run_never_stops_early(tmp_path):
    _, state = judged(tmp_path, [1.0, 99.0])
    assert not state.stopped_early


# -- signals ----------------------------------------------------------------------------------------------------------


def ask_to_stop(number):
    def ask(step):
        sender = threading.Thread(target=os.kill, args=(os.getpid(), number))
        sender.start()
        sender.join()

    return ask


@pytest.mark.parametrize(("number", "raised"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
def test_a_signal_saves_at_the_very_step_and_the_run_goes_on_from_there(tmp_path, number, raised):
    with pytest.raises(raised):
        go(run_of(tmp_path, before=once([7], ask_to_stop(number))))
    assert saved(tmp_path) == [0, 5, 8]
    resumed = run_of(tmp_path)
    assert go(resumed).step == 30
    assert weight_of(resumed) == pytest.approx(weight_after(*[RATE] * 30), rel=1e-5)
    (event,) = events(tmp_path, "resumed")
    assert (event["images"], event["step"]) == (32, 8)


def test_a_signal_does_not_save_what_looks_ill(tmp_path):
    run = run_of(tmp_path, before=once([7], ask_to_stop(signal.SIGTERM)), watch=lambda: {DIVERSITY: 100.0})
    with pytest.raises(SystemExit, match="143"):
        go(run)
    assert saved(tmp_path) == [0]


def test_a_signal_at_a_moment_of_trouble_stops_without_going_back(tmp_path):
    def before(step):
        if step == 14:
            ask_to_stop(signal.SIGTERM)(step)
        return float("nan") if step >= 12 else None

    with pytest.raises(SystemExit, match="143"):
        go(run_of(tmp_path, before=before, guard=GUARD))
    assert saved(tmp_path) == [0, 5, 10]
    assert not events(tmp_path, "went back")
