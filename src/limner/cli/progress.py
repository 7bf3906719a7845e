"""How a training run goes, on standard error: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from limner.ports import Notice, Progress  # imports numpy: too slow for `limner --help`


SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class Screen:
    """What a person sees of a training run."""

    progress: Progress
    notice: Notice


@contextmanager
def training_progress(
    model: str, *, stream: TextIO = sys.stderr, clock: Callable[[], float] = time.monotonic
) -> Iterator[Screen]:
    """What to give to a step as its `progress` and its `notice`; on leaving the bar ends."""
    if not stream.isatty():
        yield Screen(_Lines(model, stream, clock), lambda text: print(f"{model}  {text}", file=stream, flush=True))
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), console=Console(file=stream)
    ) as bar:
        task = bar.add_task(model, total=None, text="first step")

        def report(images: int, total: int, losses: Mapping[str, float]) -> None:
            bar.update(task, completed=images, total=total, text=describe(images, total, losses))

        yield Screen(report, lambda text: bar.console.print(f"{model}  {text}", markup=False, highlight=False))


def describe(images: int, total: int, losses: Mapping[str, float]) -> str:
    """Kimg done and to do, images a second, time left, and the losses."""
    rate = losses.get("images_per_second", 0.0)
    left = f"{_duration((total - images) / rate)} left" if rate > 0 else ""
    terms = (f"{name.removeprefix('loss/')} {value:.3f}" for name, value in losses.items() if name.startswith("loss/"))
    parts = (f"{images / 1000:.1f} of {total / 1000:g} kimg", f"{rate:.0f} images/s", left, *terms)
    return "  ".join(part for part in parts if part)


@dataclass(frozen=True)
class PictureScreen:
    """What a person sees while pictures are worked on."""

    progress: Callable[[int, int], None]
    notice: Notice


@contextmanager
def picture_progress(work: str = "stylize", *, stream: TextIO | None = None) -> Iterator[PictureScreen]:
    """How many pictures are through the work, as a bar on a terminal, and what is wrong with single ones."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield PictureScreen(lambda done, total: None, lambda text: print(text, file=stream, flush=True))
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    with Bar(
        *Bar.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), console=Console(file=stream)
    ) as bar:
        task = bar.add_task(work, total=None)
        yield PictureScreen(
            lambda done, total: bar.update(task, completed=done, total=total),
            lambda text: bar.console.print(text, markup=False, highlight=False),
        )


@contextmanager
def work_progress(*, stream: TextIO | None = None) -> Iterator[Callable[[str, int, int], None]]:
    """Tells what is done and how many of how many pictures are through: bars on a terminal, else lines."""
    stream = stream or sys.stderr
    if not stream.isatty():
        yield _WorkLines(stream)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import MofNCompleteColumn, TaskID, TimeRemainingColumn
    from rich.progress import Progress as Bar

    tasks: dict[str, TaskID] = {}
    with Bar(
        *Bar.get_default_columns()[:2], MofNCompleteColumn(), TimeRemainingColumn(), console=Console(file=stream)
    ) as bar:

        def tell(work: str, done: int, total: int) -> None:
            if work not in tasks:
                tasks[work] = bar.add_task(escape(work), total=total)
            bar.update(tasks[work], completed=done)

        yield tell


class _WorkLines:
    def __init__(self, stream: TextIO) -> None:
        self._stream, self._begun = stream, dict[str, float]()
        self._last = time.monotonic()

    def __call__(self, work: str, done: int, total: int) -> None:
        now = time.monotonic()
        begun = self._begun.setdefault(work, now)
        if now - self._last >= SECONDS_BETWEEN_LINES:
            self._last = now
            rate = f", {done / (now - begun):.1f} a second" if now > begun else ""
            print(f"{work}: {done} of {total} pictures{rate}", file=self._stream, flush=True)


class _Lines:
    """At most a line every ten seconds, and one at the end."""

    def __init__(self, model: str, stream: TextIO, clock: Callable[[], float]) -> None:
        self._model, self._stream, self._clock = model, stream, clock
        self._last = -SECONDS_BETWEEN_LINES

    def __call__(self, images: int, total: int, losses: Mapping[str, float]) -> None:
        now = self._clock()
        if images < total and now - self._last < SECONDS_BETWEEN_LINES:
            return
        self._last = now
        print(f"{self._model}  {describe(images, total, losses)}", file=self._stream, flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"
