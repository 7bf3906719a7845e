"""The best of several judged models."""

import math

import pytest

from limner.errors import LimnerError
from limner.steps.choose import choose
from tests.steps.test_promote import PROTOCOL, evaluation


@pytest.fixture
def among(catalog, tmp_path):
    def among(*values, protocols=(), **policy):
        settings = catalog.model("toy")
        changed = settings.model_copy(update={"promote": settings.promote.model_copy(update=policy)})
        folders = [
            evaluation(
                tmp_path / str(n),
                protocol=protocols[n] if protocols else PROTOCOL,
                fd_classifier=v,
                recall=(v or 0) / 9,
            )
            for n, v in enumerate(values)
        ]
        return choose([changed] * len(folders), name="toy", evaluations=folders)

    return among


def test_the_lowest_distance_wins_and_all_are_listed(among):
    found = among(3.0, 1.5, 2.0)
    assert (found.best, found.metric, found.values) == (1, "fd_classifier", (3.0, 1.5, 2.0))
    assert "| 2 (best) | 1.5 |" in found.table
    assert "| trial | fd_classifier | recall |" in found.table


def test_where_higher_is_better_the_highest_wins(among):
    assert among(3.0, 1.5, 2.0, metric="recall", better="higher").best == 0


def test_of_equal_ones_the_first_wins(among):
    assert among(2.0, 1.0, 1.0).best == 1


def test_a_value_that_is_no_number_never_wins(among):
    assert among(None, math.inf, 7.0).best == 2


def test_without_a_usable_value_nothing_is_chosen(among):
    with pytest.raises(LimnerError, match="None of the 2 trials has a usable fd_classifier"):
        among(None, math.nan)


def test_unlike_protocols_are_not_compared(among):
    with pytest.raises(LimnerError, match=r"(?s)Trial 2 was judged in another way.*samples was 10, is 2000"):
        among(1.0, 2.0, protocols=[{**PROTOCOL, "samples": "10"}, PROTOCOL])


def test_every_model_needs_its_evaluation(catalog):
    with pytest.raises(LimnerError, match="settings of 1 models and evaluations of 0"):
        choose([catalog.model("toy")], name="toy", evaluations=[])
