"""An exported model used: wishes in any mix, truncation, strength."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from limner.errors import LimnerError
from limner.inference import Wish, mix, open_generator, open_model, open_translator, truncate
from limner.lineage import file_sha256
from tests.exports import CLASSES, export_generator
from tests.translators import export_translator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def generator_folder(tmp_path_factory):
    return export_generator(tmp_path_factory.mktemp("generator"))


@pytest.fixture(scope="module")
def painter(generator_folder):
    return open_generator(generator_folder)


@pytest.fixture(scope="module")
def translator_folder(tmp_path_factory):
    return export_translator(tmp_path_factory.mktemp("translator"))


@pytest.fixture(scope="module")
def stylist(translator_folder):
    return open_translator(translator_folder, precision="fp32", device=CPU)


@pytest.fixture(scope="module")
def photo():
    return np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def test_an_opened_model_says_what_it_is(generator_folder, painter, translator_folder, stylist):
    assert (painter.name, painter.task, painter.classes) == ("toy", "pictures", CLASSES)
    assert (painter.channels, painter.height, painter.width) == (1, 16, 16)
    assert painter.digest == file_sha256(generator_folder / "model.safetensors")
    assert (stylist.name, stylist.task, stylist.channels) == ("toy", "unpaired", 3)
    assert stylist.digest == file_sha256(translator_folder / "model.safetensors")


def test_wishes_in_any_mix_are_what_each_is_alone(painter):
    wishes = [Wish(5, 2), Wish(9, 0, label=1), Wish(5, 2, truncation=0.5), Wish(0, 70, label=2, truncation=2.0)]
    together = painter.paint(wishes)
    assert together.dtype == np.uint8
    # Another batch size may take another route through the kernels: equal to within a rounding of the last bit.
    alone = np.concatenate([painter.paint([wish]) for wish in wishes])
    assert np.abs(together.astype(int) - alone).max() <= 1
    assert len({picture.tobytes() for picture in together}) == len(wishes)


def test_generate_paints_the_pictures_of_a_seed_in_turn(painter):
    expected = painter.paint([Wish(3, number, label=number % 3, truncation=1.0) for number in range(7)])
    assert np.array_equal(painter.generate(7, seed=3, truncation=1.0), expected)
    first_class = painter.paint([Wish(3, number, label=0) for number in range(2)])
    assert np.array_equal(painter.generate(2, seed=3, label=0), first_class)


def test_no_wishes_are_no_pictures(painter):
    assert painter.paint([]).shape == (0, 16, 16, 1)


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish(0, label=3), "has no class 3"),
        (Wish(0, label=-1), "Its classes: 0 to 2"),
        (Wish(0, truncation=0.0), "Take more than 0"),
        (Wish(0, truncation=-1.0), "Take more than 0"),
        (Wish(0, truncation=math.nan), "truncation of nan"),
        (Wish(0, truncation=math.inf), "without a truncation nothing is cut off"),
    ],
)
def test_a_wish_that_cannot_be_fulfilled_is_refused_before_any_is(painter, wish, message):
    with pytest.raises(LimnerError, match=message):
        painter.paint([Wish(0), wish])


# -- truncation -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bound", [0.1, 0.5, 1.0, 2.0])
def test_truncated_values_are_distributed_as_the_truncated_normal(bound):
    drawn = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    cut = truncate(drawn, bound)
    assert cut.abs().max() <= bound
    assert stats.kstest(cut.double().numpy(), stats.truncnorm(-bound, bound).cdf).pvalue > 0.01
    assert (truncate(drawn.sort().values, bound).diff() >= 0).all()
    assert torch.equal(truncate(-drawn, bound), -cut)


def test_truncation_is_the_formula_of_the_docstring():
    z, t = torch.tensor([-3.0, -1.0, -0.2, 0.0, 0.7, 2.5]), 0.8
    low, high = stats.norm.cdf(-t), stats.norm.cdf(t)
    expected = stats.norm.ppf(low + stats.norm.cdf(z.double().numpy()) * (high - low))
    np.testing.assert_allclose(truncate(z, t).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("bound", [8.0, 20.0, 1e9])
def test_a_bound_far_out_changes_nothing(bound):
    values = torch.cat([torch.randn(10_000, generator=torch.Generator().manual_seed(1)), torch.tensor([-6.5, 6.5])])
    np.testing.assert_allclose(truncate(values, bound).numpy(), values.numpy(), rtol=1e-5, atol=1e-6)


def test_a_value_beyond_all_precision_stays_finite():
    assert truncate(torch.tensor([-40.0, 40.0]), 3.0).tolist() == [-3.0, 3.0]
    assert truncate(torch.tensor([40.0]), 20.0).item() == 20.0


def test_a_lower_truncation_gives_pictures_that_are_more_alike(painter):
    def spread(truncation):
        return painter.generate(60, label=0, truncation=truncation).astype(float).std(axis=0).mean()

    assert spread(0.05) < 0.2 * spread(0.5) < spread(None)
    near = painter.generate(4, seed=1, truncation=8.0).astype(int) - painter.generate(4, seed=1)
    assert np.abs(near).max() <= 1


# -- strength ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_strength_mixes_the_result_with_the_source(stylist, photo, strength):
    full = stylist.stylize(photo)
    expected = np.rint(photo + strength * (full.astype(np.float64) - photo))
    assert np.abs(stylist.stylize(photo, strength=strength) - expected).max() <= (0 if strength in (0, 1) else 1)
    batch = stylist.stylize_batch(np.stack([photo, photo[::-1]]), strength=strength)
    assert np.abs(batch[0].astype(int) - stylist.stylize(photo, strength=strength)).max() <= 1
    assert batch.dtype == np.uint8


def test_mixing_treats_alpha_as_a_colour():
    source, result = np.full((1, 2, 4), 10, np.uint8), np.full((1, 2, 4), 21, np.uint8)
    result[..., 3] = 210
    assert mix(source, result, 0.5)[0, 0].tolist() == [16, 16, 16, 110]  # 15.5 is rounded to the even 16


def test_a_batch_whose_pictures_need_tiles_is_mixed_as_well(stylist, photo):
    large = np.tile(photo, (4, 4, 1))
    memory = int(stylist.traits.bytes_per_pixel * large.shape[0] * large.shape[1]) + 2 * large.nbytes
    assert stylist.pixels_at_once(memory) < large.shape[0] * large.shape[1]
    full = stylist.stylize_batch(large[None], memory=memory).astype(float)
    half = stylist.stylize_batch(large[None], memory=memory, strength=0.5)
    assert np.abs(half - (large + full) / 2).max() <= 1


@pytest.mark.parametrize("strength", [-0.1, 1.1, math.nan])
def test_a_strength_out_of_range_is_refused(stylist, photo, strength):
    for stylize in (
        lambda: stylist.stylize(photo, strength=strength),
        lambda: stylist.stylize_batch(photo[None], strength=strength),
    ):
        with pytest.raises(LimnerError, match="0, the source, to 1"):
            stylize()


def test_open_model_opens_both_kinds(generator_folder, translator_folder, painter, stylist):
    assert type(open_model(generator_folder)) is type(painter)
    assert type(open_model(translator_folder)) is type(stylist)
