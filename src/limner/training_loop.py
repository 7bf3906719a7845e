"""The training loop: batch, step, average, log, save. Every method and every kind of data runs through it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from limner import distributed
from limner.averaging import Average
from limner.checkpoint import Checkpoints, Savable
from limner.game import MicroBatch, Moment
from limner.guard import NOT_FINITE, Guard, Tally
from limner.interruption import StopRequests
from limner.journal import Journal
from limner.methods import TrainingMethod
from limner.optimise import set_rates
from limner.ports import Progress
from limner.precision import autocast, choose_precision
from limner.randomness import derive_seed, generator
from limner.settings import TrainSettings


class Batches(Protocol):
    """Batches by step."""

    def at(self, step: int, *, part: int = 0, parts: int = 1) -> Any:
        """One of the equal parts of a step's batch, on the device."""


@dataclass
class State:
    """How far a run has come. All of it is in every checkpoint."""

    step: int = 0
    images: int = 0
    seconds: float = 0.0
    best_value: float | None = None
    best_images: int = 0
    worse_in_a_row: int = 0
    stopped_early: bool = False
    judged: bool = True
    """Whether the guard has looked at the run as it is here: what is saved between two log lines may be ill."""


class Best:
    """The weights of the product at its best moment so far; none before anybody has judged."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def take(self, product: nn.Module) -> None:
        """This is the best moment."""
        self.weights = {name: value.detach().clone() for name, value in product.state_dict().items()}

    def state_dict(self) -> dict[str, Any]:
        """The weights."""
        return self.weights

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The weights of an earlier best moment."""
        self.weights = dict(state)


@dataclass(frozen=True)
class TrainingRun:
    """What the loop works with."""

    method: TrainingMethod
    batches: Batches
    settings: TrainSettings
    device: torch.device
    average: Average
    best: Best
    checkpoints: Checkpoints
    journal: Journal
    progress: Progress
    draw_samples: Callable[[nn.Module, int], None]
    """Pictures of the averaged product, after so many images."""
    watch: Callable[[nn.Module], Mapping[str, float]]
    """Cheap signs of health of the averaged product, for the guard."""
    judge: Callable[[nn.Module], Mapping[str, float]]
    """Quick metrics of the averaged product; the first is the one to get low."""

    @cached_property
    def tally(self) -> Tally:
        """Means since the last log line."""
        return Tally()

    @cached_property
    def guard(self) -> Guard:
        """Judges the log lines."""
        return Guard(self.settings.guard)

    @property
    def total_images(self) -> int:
        """Images that the discriminator will have seen in the end."""
        return round(self.settings.kimg * 1000)


def train(run: TrainingRun) -> State:
    """Run to `settings.kimg`, from the newest checkpoint if there is one. SIGINT and SIGTERM save before they stop."""
    settings, total = run.settings, run.total_images
    state = resume(run)
    clock = Clock(state)
    with StopRequests() as requests:
        stop = owed = False
        while state.images < total and not state.stopped_early and not stop:
            advance(run, state)
            state.seconds = clock.seconds()

            # Asked once: what ends the loop is what saves.
            stop, save_now = distributed.anywhere(requests.asked, clock.is_time(settings.checkpoint_minutes))
            due, trouble = Due(before=state.images - settings.batch, now=state.images, total=total), None
            owed = owed or save_now or due(settings.checkpoint_kimg)
            state.judged = due(settings.log_kimg)
            if state.judged:
                trouble = log(run, state, rate=clock.rate(state.images))
            if due(settings.sample_kimg):
                run.draw_samples(run.average.network, state.images)
            if settings.judge_kimg and due(settings.judge_kimg) and not trouble and is_finite(run.average.network):
                judge(run, state)
            # Only a run that was looked at just now is worth going back to; one that is asked to stop saves as it is.
            if not trouble and (stop or state.stopped_early or (owed and state.judged)):
                trouble, owed = save(run, state), False
            if trouble and not stop:
                state = go_back(run, state, reason=trouble)
                clock = Clock(state)
    run.checkpoints.wait()
    if run.guard.suspicious and not stop:
        text = "the last figures looked ill; they were too few to go back for"
        run.journal.event("warning", images=state.images, step=state.step, text=text)
    requests.stop_if_asked()
    if stop:  # another process was asked
        raise SystemExit(143)
    return state


def advance(run: TrainingRun, state: State) -> None:
    """One step of the method, at the rates of the moment, and of the average."""
    settings, care = run.settings, run.guard.rollbacks
    moment = Moment(state.step, state.images, run.total_images, care, settings.seed)
    set_rates(run.method.optimizers, moment.progress, factor=0.5**care)
    with autocast(choose_precision(settings.precision, run.device), run.device):
        run.tally.add(run.method.step(micro_batches(run, state.step), moment))
    state.step, state.images = state.step + 1, state.images + settings.batch
    run.average.update(run.method.product(), batch=settings.batch, images_seen=state.images)


def micro_batches(run: TrainingRun, step: int) -> list[MicroBatch[Any]]:
    """This process's parts of a step's batch, each with its randomness."""
    seed, settings = run.settings.seed, run.settings
    parts = settings.batch // (settings.micro_batch or settings.batch)
    mine = distributed.my_parts(parts)
    return [
        MicroBatch(
            run.batches.at(step, part=part, parts=parts),
            generator(seed, "step", step, part, device=run.device),
            derive_seed(seed, "dropout", step, part),
        )
        for part in mine
    ]


def log(run: TrainingRun, state: State, *, rate: float) -> str | None:
    """Write the means since the last line, and warnings. Returns why the run cannot go on from here, or None."""
    means, bad, bad_in_a_row = run.tally.read()
    with autocast(choose_precision(run.settings.precision, run.device), run.device):
        means |= distributed.from_first(dict(run.watch(run.average.network)))
    trouble = run.guard.look(means, bad=bad, bad_in_a_row=bad_in_a_row, progress=state.images / run.total_images)
    told = means | {"images_per_second": rate, "memory_gib": peak_memory_gib(run.device)}
    run.journal.metrics(told, images=state.images, step=state.step, seconds=state.seconds)
    if bad:
        run.journal.event("skipped non-finite steps", images=state.images, step=state.step, count=bad)
    for warning in run.guard.warnings(means):
        run.journal.event("warning", images=state.images, step=state.step, text=warning)
    run.progress(state.images, run.total_images, told)
    return trouble


def judge(run: TrainingRun, state: State) -> None:
    """Judge the averaged product; keep it where it is the best so far, stop early where it only gets worse."""
    found = distributed.from_first(dict(run.judge(run.average.network)))
    run.journal.metrics(
        {f"quick/{k}": v for k, v in found.items()}, images=state.images, step=state.step, seconds=state.seconds
    )
    value, rule = next(iter(found.values())), run.settings.stop_early
    if state.best_value is None or value < state.best_value:
        state.best_value, state.best_images = value, state.images
        run.best.take(run.average.network)
    state.worse_in_a_row = state.worse_in_a_row + 1 if value > rule.worse_by * state.best_value else 0
    if rule.evaluations and state.worse_in_a_row >= rule.evaluations:
        state.stopped_early = True
        run.journal.event(
            "stopped early", images=state.images, step=state.step, best=state.best_value, best_images=state.best_images
        )


def resume(run: TrainingRun) -> State:
    """Where the newest checkpoint leaves off; the beginning, which is saved as well, where there is none."""
    found = _restore(run)
    state = State(**found) if found else State()
    run.journal.rewind(images=state.images if found else -1)
    if found:
        run.journal.event("resumed", images=state.images, step=state.step)
    else:
        _write(run, state)
    return state


def save(run: TrainingRun, state: State) -> str | None:
    """Write a checkpoint unless the run looks ill. Returns why the run cannot go on from here, or None."""
    if not (is_finite(run.method.networks) and is_finite(run.average.network)):
        return f"{NOT_FINITE}: the networks' own numbers are not"
    if not run.guard.suspicious:
        _write(run, state)
    return None


def go_back(run: TrainingRun, at: State, *, reason: str) -> State:
    """Restore the newest checkpoint, to go on with more care. Raises LimnerError where that has been tried enough."""
    memory = run.guard.more_careful(reason)
    if memory is None:
        run.journal.event("gave up", images=at.images, step=at.step, reason=reason)
        raise run.guard.diagnosis(reason)
    found = _restore(run, accept=lambda state: bool(state["judged"])) or _restore(run)
    assert found, "the beginning was saved"
    state = State(**found)
    run.guard.load_state_dict(memory)
    run.journal.rewind(images=state.images)
    run.journal.event(
        "went back",
        images=state.images,
        step=state.step,
        from_images=at.images,
        times=run.guard.rollbacks,
        reason=reason,
    )
    _write(run, state)  # so that a run which is killed now goes on with the same care
    return state


def is_finite(network: nn.Module) -> bool:
    """Whether all its weights and statistics are finite."""
    return all(bool(torch.isfinite(value).all()) for value in network.state_dict().values())


class Clock:
    """Training time, interruptions not counted."""

    def __init__(self, state: State) -> None:
        now = time.monotonic()
        self._began, self._saved = now - state.seconds, now
        self._last_images, self._last_time = state.images, now

    def seconds(self) -> float:
        """Since the run began."""
        return time.monotonic() - self._began

    def rate(self, images: int) -> float:
        """Images per second since the last call."""
        now = time.monotonic()
        rate = (images - self._last_images) / max(now - self._last_time, 1e-9)
        self._last_images, self._last_time = images, now
        return rate

    def is_time(self, minutes: float) -> bool:
        """Whether so much time has gone by since it last was; it is asked once a step."""
        due = time.monotonic() - self._saved > 60 * minutes
        self._saved = time.monotonic() if due else self._saved
        return due


@dataclass(frozen=True)
class Due:
    """Whether a step crossed a multiple of an interval. The last step is always due."""

    before: int
    now: int
    total: int

    def __call__(self, kimg: float) -> bool:
        """Whether it is time for something that happens every `kimg`."""
        return self.now // (kimg * 1000) > self.before // (kimg * 1000) or self.now >= self.total


def _parts(run: TrainingRun) -> dict[str, Savable]:
    """Everything that remembers something from one step to the next."""
    optimizers = {f"{name}_optimizer": optimizer for name, optimizer in run.method.optimizers.items()}
    networks = {"networks": run.method.networks, "average": run.average.network}
    return {**networks, **optimizers, "best": run.best, "tally": run.tally, "guard": run.guard}


def _write(run: TrainingRun, state: State) -> None:
    if distributed.is_first():
        run.checkpoints.save(_parts(run), asdict(state))


def _restore(
    run: TrainingRun, *, accept: Callable[[Mapping[str, Any]], bool] = lambda state: True
) -> dict[str, Any] | None:
    """The first process reads, the others are told."""
    parts = _parts(run)
    found = run.checkpoints.restore(parts, accept=accept) if distributed.is_first() else None
    if distributed.processes() > 1:
        states = {name: part.state_dict() for name, part in parts.items()} if found else {}
        found, states = distributed.from_first((found, states))
        for name in states if not distributed.is_first() else ():
            parts[name].load_state_dict(states[name])
    return found


def peak_memory_gib(device: torch.device) -> float:
    """Most memory that this process has held, on the device where that is an accelerator."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    unit = 2**30 if sys.platform == "darwin" else 2**20  # bytes there, KiB on Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
