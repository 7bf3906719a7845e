"""Schedules: their formula, their bounds, and what is said about one that cannot be."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from limner.errors import LimnerError
from limner.params import Catalog, validate
from limner.schedules import NonNegativeSchedule, PositiveSchedule, Ramp, Schedule, ShareSchedule, value_at
from limner.settings import MethodSettings, Settings

numbers = st.floats(-1e12, 1e12)
shares = st.floats(1e-6, 1)
progresses = st.floats(0, 1)
ramps = st.builds(
    Ramp,
    start=numbers,
    end=numbers,
    share=st.floats(0.5, 1),
    hold=st.floats(0, 0.499),
    shape=st.sampled_from(["cosine", "linear"]),
)


@pytest.mark.parametrize(
    ("progress", "expected"),
    [(0.0, 2e-4), (0.25, 2e-4), (0.5, 2e-4), (0.75, 1.01e-4), (1.0, 2e-6)],  # half-way down: the mean of both ends
)
def test_a_ramp_may_wait_before_it_moves(progress, expected):
    ramp = Ramp(start=2e-4, end=2e-6, hold=0.5, shape="linear")
    assert value_at(ramp, progress) == pytest.approx(expected, rel=1e-12)


def test_a_ramp_that_waits_until_it_should_have_ended_is_refused():
    with pytest.raises(ValidationError, match="hold has to be below share"):
        Ramp(start=1.0, end=0.0, hold=0.5, share=0.5)


@pytest.mark.parametrize(
    ("shape", "progress", "expected"),
    [
        ("linear", 0.1, 8.0),  # t = 1/4: 10 - 8/4
        ("linear", 0.2, 6.0),
        ("cosine", 0.1, 10 - 8 * (1 - math.sqrt(0.5)) / 2),  # cos(pi/4)
        ("cosine", 0.2, 6.0),  # cos(pi/2) = 0
        ("cosine", 0.4, 2.0),
        ("linear", 0.7, 2.0),
        ("cosine", 1.0, 2.0),
    ],
)
def test_a_ramp_follows_its_formula(shape, progress, expected):
    ramp = Ramp(start=10.0, end=2.0, share=0.4, shape=shape)
    assert value_at(ramp, progress) == pytest.approx(expected, rel=1e-14)


@given(numbers, progresses)
def test_a_number_is_the_same_all_the_time(number, progress):
    assert value_at(number, progress) == number


@given(ramps)
def test_both_ends_are_met_exactly_and_the_last_one_is_kept(ramp):
    assert value_at(ramp, 0.0) == ramp.start
    assert value_at(ramp, ramp.share) == ramp.end
    assert value_at(ramp, 1.0) == ramp.end


@given(ramps, progresses)
def test_no_value_lies_outside_the_ends(ramp, progress):
    assert min(ramp.start, ramp.end) <= value_at(ramp, progress) <= max(ramp.start, ramp.end)


@given(ramps, progresses, progresses)
def test_a_ramp_never_turns_round(ramp, first, second):
    earlier, later = sorted((first, second))
    rounding = 1e-15 * (abs(ramp.start) + abs(ramp.end))
    move = (value_at(ramp, later) - value_at(ramp, earlier)) * math.copysign(1, ramp.end - ramp.start)
    assert move >= -rounding


@given(numbers, shares, progresses)
@example(0.78, 1.0, 0.3)  # 0.78 * 0.7 + 0.78 * 0.3 is less than 0.78 in floating point
def test_a_ramp_between_equal_ends_is_that_number(number, share, progress):
    assert value_at(Ramp(start=number, end=number, share=share, shape="linear"), progress) == number


# -- in settings ------------------------------------------------------------------------------------------------------


class Toy(MethodSettings):
    learning_rate: PositiveSchedule = Field(2e-4, description="of Adam")
    gamma: NonNegativeSchedule = 0.0
    beta2: ShareSchedule = Ramp(start=0.9, end=0.99)
    shift: Schedule = 0.0


def read(**method):
    raw = {
        "datasets": {"d": {"source": {"kind": "mnist5k"}, "image": {"size": 32}}},
        "models": {"m": {"dataset": "d", "method": {"name": "toy", **method}, "train": {"kimg": 1}}},
    }
    return Catalog(raw, origin="params.yaml", method_settings=lambda name: Toy)


def test_a_number_or_a_ramp_may_stand_where_a_schedule_is_asked_for():
    settings = read(learning_rate=10, gamma={"start": 1, "end": 0.0, "share": 0.5, "shape": "linear"}).model("m").method
    assert settings.learning_rate == 10.0
    assert isinstance(settings.learning_rate, float)
    assert settings.gamma == Ramp(start=1.0, end=0.0, share=0.5, shape="linear")
    assert settings.beta2 == Ramp(start=0.9, end=0.99)


def test_a_ramp_survives_the_json_that_travels(recwarn):
    catalog = read(gamma={"start": 1, "end": 0.5})
    text = catalog.to_json("m")
    assert '"gamma": {"end": 0.5, "hold": 0.0, "shape": "cosine", "share": 1.0, "start": 1.0}' in text
    assert not recwarn.list


AT = r"^params.yaml: models.m.method\."


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"learning_rate": -1}, r"learning_rate = -1 is not right.\nevery value has to be > 0\nAllowed: > 0. It is"),
        ({"learning_rate": 0}, r"learning_rate = 0 is not right.\nevery value has to be > 0\n"),
        ({"learning_rate": "many"}, r"learning_rate = 'many' is not right.\nInput should be a valid number\nAllowed"),
        ({"learning_rate": True}, r"learning_rate = True is not right.\nInput should be a valid number\n"),
        ({"learning_rate": float("inf")}, r"learning_rate = inf is not right.\nInput should be a finite number\n"),
        ({"learning_rate": None}, r"learning_rate = None is not right.\nInput should be a valid number\n"),
        (
            {"learning_rate": {"start": 1, "ende": 2}},
            r"learning_rate is not right.\nthere is no key 'ende' here. Did you mean 'end'\? There is: [a-z, ]*\.\n",
        ),
        ({"learning_rate": {"start": 1}}, r"learning_rate.end is not right.\nField required$"),
        ({"learning_rate": {"start": 1, "end": "low"}}, r"learning_rate.end = 'low' is not right.\n.*valid number$"),
        (
            {"learning_rate": {"start": 1, "end": 0}},
            r"learning_rate is not right.\nevery value has to be > 0, but its end is 0.0\nAllowed: > 0",
        ),
        ({"learning_rate": {"start": 1, "end": 2, "share": 0}}, r"learning_rate.share = 0 [^(]*greater than 0$"),
        ({"gamma": {"start": -0.5, "end": 0}}, r"gamma is not right.\nevery value has to be >= 0, but its start is -"),
        ({"beta2": 1}, r"beta2 = 1 is not right.\nevery value has to be < 1\nAllowed: >= 0, < 1."),
        ({"beta2": {"start": 0, "end": 1}}, r"beta2 is not right.\nevery value has to be < 1, but its end is 1.0"),
        ({"shift": float("nan")}, r"shift = nan is not right.\nInput should be a finite number$"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_once_and_in_its_place(method, message):
    with pytest.raises(LimnerError, match=AT + message):
        read(**method).model("m")


def test_two_mistakes_are_counted_as_two():
    with pytest.raises(LimnerError, match=r"\(1 more mistakes in this entry.\)"):
        read(learning_rate=-1, beta2=7).model("m")


def test_a_schedule_may_be_any_finite_number_unless_it_says_otherwise():
    class Free(Settings):
        shift: Schedule

    assert validate(Free, {"shift": {"start": -3, "end": 4}}, origin="x", at=()).shift == Ramp(start=-3.0, end=4.0)
