"""The measure of mode coverage against samples made by hand, and the benchmark from end to end in small."""

import json
import math

import pytest
import torch

from benchmarks.mode_coverage import RECIPES, Coverage, Protocol, main, measure_coverage, mixtures, summarise, train

GRID = mixtures()["grid of 25"]


def test_the_centres_themselves_cover_all_modes_evenly():
    found = measure_coverage(GRID.centres.repeat(20, 1), GRID, least_samples=20)
    assert (found.modes, found.modes_touched, found.quality) == (25, 25, 1.0)
    assert found.divergence == pytest.approx(0.0, abs=1e-9)


def test_one_mode_alone_is_ln_m_away_from_uniform():
    found = measure_coverage(GRID.centres[7].repeat(50, 1), GRID, least_samples=20)
    assert (found.modes, found.modes_touched) == (1, 1)
    assert found.divergence == pytest.approx(math.log(25))


def test_a_mode_is_covered_from_the_least_number_of_samples_on():
    samples = torch.cat([GRID.centres[0].repeat(20, 1), GRID.centres[1].repeat(19, 1)])
    found = measure_coverage(samples, GRID, least_samples=20)
    assert (found.modes, found.modes_touched) == (1, 2)


def test_a_sample_is_good_within_three_deviations_only():
    offsets = torch.tensor([[2.99, 0.0], [0.0, -2.99], [3.01, 0.0], [2.5, 2.5]]) * GRID.deviation
    found = measure_coverage(GRID.centres[12] + offsets, GRID, least_samples=1)
    assert found.quality == 0.5


def test_samples_of_the_mixture_are_nearly_all_good():
    rng = torch.Generator().manual_seed(0)
    samples = GRID.centres.repeat(400, 1) + GRID.deviation * torch.randn(10_000, 2, generator=rng)
    found = measure_coverage(samples, GRID, least_samples=20)
    assert found.quality == pytest.approx(1 - math.exp(-4.5), abs=0.005)
    assert found.modes == 25


def test_samples_that_are_not_finite_are_neither_good_nor_anywhere():
    samples = torch.cat([GRID.centres[:1], torch.full((3, 2), math.nan)])
    found = measure_coverage(samples, GRID, least_samples=1)
    assert (found.modes, found.quality) == (1, 0.25)
    lost = measure_coverage(torch.full((3, 2), math.inf), GRID, least_samples=1)
    assert lost == Coverage(modes=0, modes_touched=0, quality=0.0, divergence=math.log(25))


def test_a_summary_gives_the_median_the_worst_and_the_seeds_that_found_all():
    coverages = [Coverage(modes, modes, quality, 0.1 * modes) for modes, quality in ((25, 0.9), (20, 0.5), (25, 0.7))]
    summary = summarise(coverages, modes=25)
    assert (summary["seeds_with_all_modes"], summary["modes_median"], summary["modes_worst"]) == (2, 25, 20)
    assert summary["quality_worst"] == 0.5
    assert summary["median_seed"] == 2


def test_a_seed_does_not_depend_on_those_trained_beside_it():
    protocol = Protocol(steps=5)
    recipe = RECIPES["RpGAN + R1 + R2"]
    alone = train(recipe, GRID, protocol, seeds=[3]).samples[0]
    beside = train(recipe, GRID, protocol, seeds=[0, 3]).samples[1]
    torch.testing.assert_close(alone, beside, rtol=1e-3, atol=1e-3)


def test_the_recipes_differ_in_their_samples_and_a_seed_repeats():
    protocol = Protocol(steps=5)
    samples = [train(recipe, GRID, protocol, seeds=[0]).samples for recipe in RECIPES.values()]
    assert all(not torch.equal(one, other) for i, one in enumerate(samples) for other in samples[:i])
    assert torch.equal(samples[-1], train(RECIPES["RpGAN + R1 + R2"], GRID, protocol, seeds=[0]).samples)


def test_a_quick_run_writes_every_seed_and_a_figure(tmp_path, capsys):
    report, figure = tmp_path / "new" / "coverage.json", tmp_path / "coverage.png"
    main(["--quick", "--json", str(report), "--figure", str(figure)])
    record = json.loads(report.read_text())
    assert {(row["set"], row["recipe"]) for row in record["results"]} == {
        (name, recipe) for name in ("ring of 8", "grid of 25") for recipe in RECIPES
    }
    assert record["command"] == f"python -m benchmarks.mode_coverage --quick --json {report} --figure {figure}"
    assert record["machine"]["torch"] == torch.__version__
    assert len(capsys.readouterr().out.splitlines()) == len(record["summary"]) == 8
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert not list(tmp_path.rglob("*.part"))


def test_seeds_below_one_are_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--seeds", "0"])
    assert "--seeds has to be at least 1." in capsys.readouterr().err
