from __future__ import annotations

import io

import pytest

from limner.cli import progress
from limner.cli.progress import describe, training_progress, work_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_progress_tells_how_far_how_fast_how_long_and_the_losses() -> None:
    figures = {"loss/generator": 0.69314, "loss/discriminator": 1.5, "images_per_second": 500.0, "memory_gib": 1.0}
    assert describe(100_000, 400_000, figures) == (
        "100.0 of 400 kimg  500 images/s  10 min 00 s left  generator 0.693  discriminator 1.500"
    )


def test_time_left_is_told_in_the_unit_that_fits() -> None:
    left = [describe(0, seconds, {"images_per_second": 1.0}).rpartition("images/s  ")[2] for seconds in (9, 90, 9000)]
    assert left == ["9 s left", "1 min 30 s left", "2 h 30 min left"]


def test_progress_does_without_a_rate() -> None:
    assert describe(0, 1000, {}) == "0.0 of 1 kimg  0 images/s"


def test_away_from_a_terminal_there_is_a_line_every_ten_seconds_and_a_last_one() -> None:
    stream, clock = io.StringIO(), Clock()
    with training_progress("digits", stream=stream, clock=clock) as screen:
        for second in range(25):
            clock.now = float(second)
            screen.progress((second + 1) * 1000, 25_000, {})
    told = [line.split()[1] for line in stream.getvalue().splitlines()]
    assert told == ["1.0", "11.0", "21.0", "25.0"]


def test_on_a_terminal_there_is_a_bar() -> None:
    stream = Terminal()
    with training_progress("digits", stream=stream) as screen:
        screen.progress(1000, 2000, {"images_per_second": 10.0})
    assert "digits" in stream.getvalue()
    assert "1.0 of 2 kimg" in stream.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_every_piece_of_work_is_told_by_its_name(kind: type[io.StringIO], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    stream = kind()
    with work_progress(stream=stream) as tell:
        tell("looking over [bold]", 3, 3)
        tell("features", 1, 7)
        tell("features", 7, 7)
    words = " ".join(stream.getvalue().split())
    assert "looking over [bold]" in words
    assert "features" in words
    assert ("3 of 3 pictures" if kind is io.StringIO else "3/3") in words
    assert ("7 of 7 pictures" if kind is io.StringIO else "7/7") in words


def test_lines_of_work_are_seconds_apart() -> None:
    stream = io.StringIO()
    with work_progress(stream=stream) as tell:
        for done in range(100):
            tell("features", done, 100)
    assert stream.getvalue() == ""


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_what_a_person_should_know_is_told_at_once_in_its_own_line(kind: type[io.StringIO]) -> None:
    stream = kind()
    with training_progress("digits", stream=stream) as screen:
        screen.progress(1000, 2000, {})
        screen.notice("went back at 640 images: [bold] figures")
        screen.notice("and again")
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    assert any(line.endswith("digits  went back at 640 images: [bold] figures") for line in lines)
    assert any(line.endswith("digits  and again") for line in lines)
