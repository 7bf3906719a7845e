"""Means on the device, and the end of a run that cannot be saved."""

import pytest
import torch

from limner.errors import LimnerError
from limner.guard import Tally, refuse_divergence


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


def test_a_good_step_ends_the_row_and_a_reading_does_not():
    tally = Tally()
    tally.add(losses(float("nan")))
    tally.read()
    tally.add(losses(float("nan")))
    assert tally.read()[1:] == (1, 2)
    tally.add(losses(1.0))
    assert tally.read()[1:] == (0, 0)


def test_divergence_is_refused_with_the_last_figures_and_advice():
    refuse_divergence(4, patience=5, means={})
    with pytest.raises(LimnerError, match=r"(?s)5 steps in a row.*loss 0\.25.*learning rates"):
        refuse_divergence(5, patience=5, means={"loss": 0.25})
