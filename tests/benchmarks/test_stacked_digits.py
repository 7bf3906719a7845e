"""Stacked digits: the count of modes against hand-made ones, the stacked batches, and the benchmark in small."""

import json
import math

import numpy as np
import pytest
import torch

from benchmarks import stacked_digits
from benchmarks.stacked_digits import MODES, StackedDigits, count_modes, main, measure
from limner.features import classifier
from limner.packing import PackedDataset
from limner.settings import DatasetSettings
from limner.steps.prepare import prepare


def test_every_mode_as_often_is_all_modes_and_no_divergence():
    found = count_modes(torch.arange(MODES).repeat(26))
    assert (found["modes"], found["modes_of_5"]) == (MODES, MODES) == (100, 100)
    assert found["kl"] == pytest.approx(0.0, abs=1e-12)


def test_one_mode_alone_is_ln_100_away_from_even_shares():
    assert count_modes(torch.full((50,), 99)) == {"modes": 1, "modes_of_5": 1, "kl": pytest.approx(math.log(100))}


def test_a_mode_is_found_by_one_sample_and_found_often_by_five():
    found = count_modes(torch.tensor([0] * 5 + [42] * 4 + [99]))
    assert (found["modes"], found["modes_of_5"]) == (3, 1)
    shares = (0.5, 0.4, 0.1)
    assert found["kl"] == pytest.approx(sum(share * math.log(share * 100) for share in shares))


class Brightness:
    """Recognises digit d where a picture's grey level is 20 d; unsure of anything darker than 100."""

    name, identity, resize = "brightness", "", "none"

    def __call__(self, images):
        return images.float().mean((2, 3))

    def probabilities(self, features):
        digits = (features[:, 0] / 20).round().long()
        sure = torch.where(features[:, :1] < 100, 0.6, 0.99)
        return torch.nn.functional.one_hot(digits, 10) * sure


def test_a_mode_is_the_two_digits_and_it_is_sure_where_both_are():
    pairs = torch.tensor([[7, 8], [8, 7], [7, 2], [0, 0]])
    images = (20 * pairs)[:, :, None, None].expand(4, 2, 32, 32).to(torch.uint8)
    assert measure(images, Brightness()) == count_modes(torch.tensor([78, 87, 72, 0])) | {
        "sure_share": 0.5,
        "modes_of_the_sure": 2,
    }


def test_of_nothing_but_blots_no_mode_is_sure():
    found = measure(torch.zeros(3, 2, 32, 32, dtype=torch.uint8), Brightness())
    assert (found["modes"], found["modes_of_the_sure"], found["sure_share"]) == (1, 0, 0.0)


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    settings = DatasetSettings.model_validate(
        {"source": {"kind": "printed-digits", "count": 200}, "image": {"size": 32, "channels": 1}, "validation": 0.0}
    )
    folder = tmp_path_factory.mktemp("packed") / "digits"
    prepare(settings, name="digits", output=folder)
    return PackedDataset(folder)


def numbers(packed, layer_NHW):
    """Which pictures of the dataset these are."""
    split = packed.split("train")
    known = {pixels.tobytes(): i for i, pixels in enumerate(split.pixels(np.arange(split.count)))}
    grey = ((layer_NHW + 1) * 127.5).round().to(torch.uint8)
    return [known[image.numpy().tobytes()] for image in grey]


def test_the_layers_are_pictures_of_the_set_in_independent_orders(packed):
    """Over an epoch each layer has every picture once, and the one below says nothing about the one above."""
    batches = StackedDigits(packed, batch=50, seed=0)
    images = torch.cat([batches.at(step).images for step in range(4)])
    assert images.shape == (200, 2, 32, 32)
    lower, upper = numbers(packed, images[:, 0]), numbers(packed, images[:, 1])
    assert len(set(lower)) == len(set(upper)) == 200
    assert abs(np.corrcoef(lower, upper)[0, 1]) < 0.25
    assert sum(one == other for one, other in zip(lower, upper, strict=True)) < 10


def test_a_batch_depends_on_seed_and_step_alone_and_parts_make_it_up(packed):
    batches = StackedDigits(packed, batch=16, seed=3)
    later = batches.at(9).images
    assert torch.equal(StackedDigits(packed, batch=16, seed=3).at(9).images, later)
    assert torch.equal(torch.cat([batches.at(9, part=part, parts=2).images for part in range(2)]), later)
    assert not torch.equal(batches.at(8).images, later)
    assert not torch.equal(StackedDigits(packed, batch=16, seed=4).at(9).images, later)


def test_a_short_run_writes_its_record_and_a_sheet(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(stacked_digits, "SAMPLES", 200)
    monkeypatch.setattr(classifier, "EPOCHS", 1)
    monkeypatch.setattr(classifier, "LEAST_STEPS", 60)
    report, figure = tmp_path / "stacked.json", tmp_path / "stacked.png"
    main(["--kimg", "0.64", "--json", str(report), "--figure", str(figure)])
    record = json.loads(report.read_text())
    assert json.loads(capsys.readouterr().out) == record["found"]
    assert record["samples"] == 200
    assert record["settings"]["train"]["kimg"] == 0.64
    assert record["settings"]["method"]["conditional"] is False
    assert record["machine"]["torch"] == torch.__version__
    for judged in (record["found"], record["real"]):
        assert 1 <= judged["modes"] <= 100
        assert judged["kl"] >= 0
        assert 0 <= judged["sure_share"] <= 1
    assert record["real"]["modes"] > 70, "200 random pairs are of 87 modes on average"
    assert figure.read_bytes().startswith(b"\x89PNG")
