"""How sets of pictures compare, against sums written out by hand and against what has to hold for any pictures."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from limner import metrics
from limner.errors import LimnerError
from limner.metrics import (
    class_entropy,
    density_coverage,
    inception_score,
    kernel_distance,
    mean_pairwise_distance,
    nearest,
    precision_recall,
    unbiased_squared_mmd,
)


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(count, dims, seed=0):
    return torch.randn(count, dims, generator=rng(seed), dtype=torch.float64)


# -- kernel distance --------------------------------------------------------------------------------------------------


def test_squared_mmd_equals_its_sums_written_out():
    a, b = normal(4, 3), normal(5, 3, 1)
    kernel = lambda x, y: (float(x @ y) / 3 + 1) ** 3  # noqa: E731
    within_a = sum(kernel(a[i], a[j]) for i in range(4) for j in range(4) if i != j) / 12
    within_b = sum(kernel(b[i], b[j]) for i in range(5) for j in range(5) if i != j) / 20
    between = sum(kernel(x, y) for x in a for y in b) / 20
    assert unbiased_squared_mmd(a, b) == pytest.approx(within_a + within_b - 2 * between)


def test_squared_mmd_of_equal_distributions_is_zero_on_average():
    values = torch.tensor([unbiased_squared_mmd(normal(8, 3, 2 * i), normal(8, 3, 2 * i + 1)) for i in range(2000)])
    error = values.std() / math.sqrt(len(values))
    assert abs(values.mean()) < 3 * error
    assert (values < 0).any(), "an estimate that is never below zero is biased"


def test_kernel_distance_of_known_distributions_is_right_on_average():
    # In one dimension the kernel is 1 + 3 xy + 3 (xy)^2 + (xy)^3: its means are products of the two sides' moments.
    here, there = (0, 1, 0), (0.5, 1.25, 1.625)  # E x, E x^2, E x^3 of normal numbers round 0 and round 0.5
    mean = lambda p, q: 1 + 3 * p[0] * q[0] + 3 * p[1] * q[1] + p[2] * q[2]  # noqa: E731
    expected = mean(here, here) + mean(there, there) - 2 * mean(here, there)
    found = [
        kernel_distance(normal(40, 1, 2 * i), normal(40, 1, 2 * i + 1) + 0.5, rng=rng(i), subsets=4).value
        for i in range(2000)
    ]
    assert abs(np.mean(found) - expected) < 3 * np.std(found) / math.sqrt(len(found))
    assert np.std(found) / math.sqrt(len(found)) < 0.15 * expected, "not enough draws to show anything"


def test_kernel_distance_of_equal_distributions_is_near_zero_and_of_others_is_not():
    real = normal(600, 8)
    same = kernel_distance(real, normal(600, 8, 1), rng=rng())
    other = kernel_distance(real, normal(600, 8, 2) + 0.5, rng=rng())
    assert abs(same.value) < 0.05
    assert other.value > 10 * other.standard_error
    assert other.value > 0.3


def test_kernel_distance_depends_on_nothing_but_its_generator():
    a, b = normal(100, 4), normal(100, 4, 1)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert kernel_distance(a, b, rng=rng(5)) == kernel_distance(a, b, rng=rng(5))
    assert kernel_distance(a, b, rng=rng(5)) != kernel_distance(a, b, rng=rng(6))
    assert torch.equal(torch.get_rng_state(), before)


def test_kernel_distance_of_few_pictures_still_knows_its_error():
    assert kernel_distance(normal(10, 4), normal(10, 4, 1), rng=rng()).standard_error > 0
    with pytest.raises(LimnerError, match="at least 4 pictures on each side, not 3 and 10"):
        kernel_distance(normal(3, 4), normal(10, 4), rng=rng())


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_error_of_a_kernel_distance_is_its_spread_over_sets_drawn_anew(shift):
    found = [
        kernel_distance(normal(200, 8, 2 * i), normal(160, 8, 2 * i + 1) + shift, rng=rng(i), subsets=10)
        for i in range(60)
    ]
    spread = np.std([each.value for each in found])
    told = np.mean([each.standard_error for each in found])
    assert 0.8 < told / spread < 2, "near 0 the jackknife errs on the side of caution"


def test_leaving_out_a_group_is_having_never_had_it():
    a, b = normal(24, 3), normal(30, 3, 1)
    groups = torch.tensor_split(a, 10)
    sums = metrics._KernelSums.of(groups)
    for number, found in enumerate(sums.means_without_each()):
        rest = torch.cat([group for other, group in enumerate(groups) if other != number])
        kernel = (rest @ rest.T / 3 + 1) ** 3
        expected = (kernel.sum() - kernel.trace()) / (len(rest) * (len(rest) - 1))
        assert float(found) == pytest.approx(float(expected))
    assert metrics._resampling_error(a, b) > 0


# -- precision and recall ---------------------------------------------------------------------------------------------


def test_precision_and_recall_by_hand():
    # On a line, k = 1. Balls of the real ones: 0±1, 1±1, 10±9. Of the generated ones: 2±0.5, 2.5±0.5, 30±27.5.
    real, generated = torch.tensor([[0.0], [1.0], [10.0]]), torch.tensor([[2.0], [2.5], [30.0]])
    found = precision_recall(real, generated, neighbours=1)
    assert found.precision == pytest.approx(2 / 3)  # 2 and 2.5 lie in real balls, 30 does not
    assert found.recall == pytest.approx(1 / 3)  # 10 lies in 30±27.5; 0 and 1 in none


def test_precision_sees_a_bad_picture_and_recall_a_missing_one():
    real = torch.cat([normal(100, 2), normal(100, 2, 1) + 50])
    half = normal(200, 2, 2)
    found = precision_recall(real, half, neighbours=3)
    assert found.precision > 0.9
    assert found.recall < 0.55
    far = precision_recall(real, torch.cat([half[:100], normal(100, 2, 3) + 500]), neighbours=3)
    assert far.precision < 0.55


@given(st.integers(5, 30), st.integers(1, 4), st.integers(0, 2**32))
@settings(deadline=None, max_examples=25)
def test_precision_and_recall_change_places_with_the_sets(count, neighbours, seed):
    a, b = normal(count, 3, seed), normal(count, 3, seed + 1)
    there, back = precision_recall(a, b, neighbours=neighbours), precision_recall(b, a, neighbours=neighbours)
    assert (there.precision, there.recall) == (back.recall, back.precision)
    itself = precision_recall(a, a, neighbours=neighbours)
    assert (itself.precision, itself.recall) == (1, 1)


def test_too_few_pictures_for_precision_are_refused():
    with pytest.raises(LimnerError, match="more than 3 pictures on each side, not 3 and 10"):
        precision_recall(normal(3, 2), normal(10, 2), neighbours=3)


def test_an_odd_real_picture_lets_everything_pass_for_precise_but_not_for_dense():
    real, bad = normal(200, 2), normal(200, 2, 1) * 3 + torch.tensor([30, 0])
    odd = torch.cat([real[:-1], torch.tensor([[60.0, 0]])])  # its ball reaches back to all the others
    assert precision_recall(real, bad, neighbours=5).precision == 0
    assert precision_recall(odd, bad, neighbours=5).precision > 0.9
    assert density_coverage(real, bad, neighbours=5).density == 0
    assert 0.18 < density_coverage(odd, bad, neighbours=5).density <= 0.2  # the one ball of 5
    assert density_coverage(odd, bad, neighbours=5).coverage == 1 / 200


def test_coverage_falls_by_the_share_of_a_mode_that_is_missing():
    clusters = torch.cat([normal(200, 3), normal(200, 3, 1) + 50])
    whole = density_coverage(clusters, torch.cat([normal(200, 3, 2), normal(200, 3, 3) + 50]), neighbours=5)
    half = density_coverage(clusters, normal(400, 3, 4), neighbours=5)
    assert whole.coverage > 0.9
    assert 0.45 < half.coverage <= 0.5
    assert whole.density == pytest.approx(1, abs=0.15)
    assert half.density == pytest.approx(1, abs=0.15), "a mode that is missing makes no picture worse"


@pytest.mark.parametrize("neighbours", [1, 3, 5])
def test_density_and_coverage_of_equal_distributions_are_those_of_the_paper(neighbours):
    found = [
        density_coverage(normal(150, 4, 2 * i), normal(150, 4, 2 * i + 1), neighbours=neighbours) for i in range(30)
    ]
    assert np.mean([each.density for each in found]) == pytest.approx(1, abs=0.05)
    assert np.mean([each.coverage for each in found]) == pytest.approx(1 - 0.5**neighbours, abs=0.02)


@given(st.integers(5, 14), st.integers(2, 12), st.integers(1, 4), st.integers(0, 2**32))
@settings(deadline=None, max_examples=30)
def test_density_and_coverage_equal_their_sums_written_out(count, generated_count, neighbours, seed):
    real, generated = normal(count, 2, seed), normal(generated_count, 2, seed + 1)
    inside = np.zeros((generated_count, count))
    for i in range(count):
        radius = sorted(float((real[i] - other).norm()) for j, other in enumerate(real) if j != i)[neighbours - 1]
        for j in range(generated_count):
            inside[j, i] = float((generated[j] - real[i]).norm()) <= radius
    found = density_coverage(real, generated, neighbours=neighbours)
    assert found.density == pytest.approx(inside.sum() / (neighbours * generated_count))
    assert found.coverage == pytest.approx(inside.any(0).mean())
    crowd = inside.sum(1) / neighbours
    assert found.density_se == pytest.approx(crowd.std(ddof=1) / math.sqrt(generated_count), abs=1e-9)
    assert precision_recall(real, generated.repeat(5, 1), neighbours=neighbours).precision == inside.any(1).mean()


def test_shares_are_the_same_in_one_piece_and_in_many(monkeypatch):
    real, generated = normal(40, 3), normal(30, 3, 1)
    whole = [judge(real, generated, neighbours=3) for judge in (precision_recall, density_coverage)]
    monkeypatch.setattr("limner.metrics._DISTANCES_AT_ONCE", 90)
    assert [judge(real, generated, neighbours=3) for judge in (precision_recall, density_coverage)] == whole


def test_standard_errors_are_the_spread_over_generated_pictures_drawn_anew():
    real = normal(300, 2)
    found = []
    for seed in range(60):
        generated = normal(300, 2, 100 + seed) * 1.5
        shares, density = (judge(real, generated, neighbours=3) for judge in (precision_recall, density_coverage))
        found.append({**vars(shares), **vars(density)})
    for name, low in (("precision", 0.75), ("recall", 0.5), ("density", 0.75), ("coverage", 0.75)):
        spread = np.std([each[name] for each in found], ddof=1)
        ratio = np.mean([each[f"{name}_se"] for each in found]) / spread
        assert low < ratio < 1.35, name


def test_a_share_of_none_or_all_is_not_certain():
    found = precision_recall(normal(20, 2), normal(20, 2, 1) + 99, neighbours=3)
    assert (found.precision, found.recall) == (0, 0)
    assert 0.02 < found.precision_se < 0.1
    itself = precision_recall(normal(20, 2), normal(20, 2), neighbours=3)
    assert itself.precision == 1
    assert itself.precision_se == found.precision_se


@pytest.mark.parametrize("counts", [(3, 10), (10, 1)])
def test_too_few_pictures_for_density_are_refused(counts):
    with pytest.raises(LimnerError, match=f"more than 3 real pictures.*not {counts[0]} and {counts[1]}"):
        density_coverage(normal(counts[0], 2), normal(counts[1], 2), neighbours=3)


# -- inception score --------------------------------------------------------------------------------------------------


def test_inception_score_is_the_number_of_classes_where_all_are_sure_and_equally_many():
    sure = torch.eye(5)[torch.arange(100) % 5]
    assert inception_score(sure).value == pytest.approx(5)
    assert inception_score(sure).standard_deviation == pytest.approx(0, abs=1e-12)
    assert inception_score(torch.eye(5)[torch.zeros(100, dtype=torch.int64)]).value == pytest.approx(1)
    assert inception_score(torch.full((100, 5), 0.2)).value == pytest.approx(1)


def test_inception_score_equals_its_definition_over_the_parts():
    probabilities = normal(60, 7).softmax(1)
    scores = []
    for part in probabilities.numpy().reshape(4, 15, 7):
        divergence = (part * (np.log(part) - np.log(part.mean(0)))).sum(1)
        scores.append(math.exp(divergence.mean()))
    found = inception_score(probabilities.float(), splits=4)
    assert found.value == pytest.approx(np.mean(scores), rel=1e-6)
    assert found.standard_deviation == pytest.approx(np.std(scores), rel=1e-5)


@pytest.mark.parametrize(
    ("probabilities", "problem"),
    [
        (torch.full((9, 2), 0.5), r"10 parts needs as many pictures.*not \[9, 2\]"),
        (torch.full((20,), 0.5), r"\[N, K\], not \[20\]"),
        (torch.ones(20, 2), "needs probabilities"),
        (torch.tensor([[1.5, -0.5]]).expand(20, 2), "needs probabilities"),
        (torch.full((20, 2), math.nan), "needs probabilities"),
    ],
)
def test_what_has_no_inception_score_is_refused(probabilities, problem):
    with pytest.raises(LimnerError, match=problem):
        inception_score(probabilities)


# -- the rest ---------------------------------------------------------------------------------------------------------


def test_nearest_is_the_same_in_one_piece_and_in_many(monkeypatch):
    queries, targets = normal(50, 4), normal(30, 4, 1)
    whole = nearest(queries, targets, neighbours=3)
    expected = (queries[:, None] - targets).norm(dim=2).sort(1)
    torch.testing.assert_close(whole.distances, expected.values[:, :3])
    assert torch.equal(whole.indices, expected.indices[:, :3])
    monkeypatch.setattr("limner.metrics._DISTANCES_AT_ONCE", 70)
    assert torch.equal(nearest(queries, targets, neighbours=3).indices, whole.indices)


def test_nearest_finds_an_exact_copy_among_large_numbers():
    targets = normal(200, 100) * 255
    found = nearest(targets[17:18].float(), targets.float(), neighbours=1)
    assert found.indices.item() == 17
    assert found.distances.item() < 1e-3


def test_mean_pairwise_distance_counts_each_pair_once_and_no_picture_with_itself():
    assert mean_pairwise_distance(torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])) == pytest.approx(10 / 3)
    with pytest.raises(LimnerError, match="at least two pictures"):
        mean_pairwise_distance(normal(1, 3))


def test_class_entropy_is_one_for_equal_shares_and_zero_for_one_class():
    assert class_entropy(torch.arange(30) % 10, classes=10) == pytest.approx(1)
    assert class_entropy(torch.zeros(30, dtype=torch.int64), classes=10) == 0
    # Two classes of four, half each: ln 2 / ln 4
    assert class_entropy(torch.tensor([0, 1]), classes=4) == pytest.approx(0.5)
    with pytest.raises(LimnerError, match="at least two classes"):
        class_entropy(torch.zeros(3, dtype=torch.int64), classes=1)
