"""A large picture in tiles: no seams, within the memory, close to what the whole picture would have given."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from limner import spatial_statistics
from limner.errors import LimnerError
from limner.inference import KERNELS, open_translator
from limner.networks.resnet_translator import Translator
from limner.spatial_statistics import TranslatorProgram, average
from limner.tasks import PictureShape
from limner.tiling import Canvas, measure_reach, plan_tiles, sample_patches
from tests.translators import export_translator

CPU = torch.device("cpu")


def texture(height, width, seed=0):
    """A picture with detail of every size, more of it here than there."""
    rng, pixels = np.random.default_rng(seed), np.zeros((height, width, 3))
    for cells, weight in ((2, 1.0), (6, 0.8), (20, 0.6), (60, 0.4), (200, 0.3)):
        noise = rng.integers(0, 256, (2 + cells * height // 600, 2 + cells * width // 600, 3), dtype=np.uint8)
        pixels += weight * np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))
    busy = np.asarray(Image.fromarray(rng.integers(0, 256, (4, 5), dtype=np.uint8)).resize((width, height)))
    pixels += 0.4 * busy[..., None] * rng.random((height, width, 3))
    pixels -= pixels.min()
    return (pixels * 255 / pixels.max()).astype(np.uint8)


def teach(product):
    """Invert the order of the colours, more contrast. So its weights are like trained ones."""
    big = torch.from_numpy(texture(300, 300, seed=1)).permute(2, 0, 1) / 127.5 - 1
    rng, optimizer = torch.Generator().manual_seed(0), torch.optim.Adam(product.parameters(), 5e-3)
    for _ in range(60):
        places = torch.randint(0, 268, (8, 2), generator=rng).tolist()
        source = torch.stack([big[:, top : top + 32, left : left + 32] for top, left in places])
        loss = (product(source) - (source.flip(1) * 1.3).clamp(-1, 1)).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    method = {"name": "fastcut", "generator": {"name": "resnet", "width": 6, "blocks": 2}}
    return export_translator(tmp_path_factory.mktemp("translator"), method, prepare=teach)


@pytest.fixture(scope="module")
def model(exported):
    return open_translator(exported, precision="fp32", device=CPU)


def memory_for(model, pixels):
    return int(pixels * KERNELS * model.traits.bytes_per_pixel) + 1


def in_tiles(model, picture, pixels, statistics):
    """The whole result as floats, made of tiles with these statistics."""
    height, width, canvas = *picture.shape[:2], Canvas(picture, CPU)
    multiple, reach = model.traits.multiple, model.traits.reach
    result = torch.full((1, 3, height, width), torch.nan)
    for tile in plan_tiles(height, width, pixels=pixels, margin=reach, multiple=multiple):
        top, bottom, left, right = tile.kept
        done = model.program.given(canvas.source(tile.read), statistics)
        above, beside = top - tile.read[0], left - tile.read[2]
        result[..., top:bottom, left:right] = done[..., above : above + bottom - top, beside : beside + right - left]
    return result


def whole(model, picture):
    return model.program.pool(Canvas(picture, CPU).source((0, picture.shape[0], 0, picture.shape[1])))


@torch.no_grad()
def test_tiles_with_the_statistics_of_the_whole_are_the_whole_to_within_rounding(model):
    picture = texture(320, 440)
    expected, statistics = whole(model, picture)
    for share in (2, 5, 9):
        difference = in_tiles(model, picture, 320 * 440 // share, statistics) - expected
        assert difference.abs().max() < 1e-4


@torch.no_grad()
def test_a_margin_smaller_than_the_reach_would_show(model):
    picture = texture(320, 440)
    expected, statistics = whole(model, picture)
    part = model.program.given(Canvas(picture, CPU).source((0, 320, 0, 204)), statistics)
    assert (part[..., :200] - expected[..., :200]).abs().max() > 1e-3


def test_a_result_in_tiles_is_close_to_the_untiled_one(model):
    picture = texture(480, 640, seed=3)
    untiled = model.stylize(picture, memory=2**40).astype(int)
    tiled = model.stylize(picture, memory=memory_for(model, 480 * 640 // 6) + 2 * picture.nbytes)
    difference = np.abs(tiled - untiled)
    # What is left is chance: statistics of samples instead of all of the picture.
    assert difference.mean() < 3
    assert difference.max() < 48
    # Its size is all over the picture: no step from one pixel to the next is higher than untiled.
    seams = np.abs(np.diff(tiled.astype(int) - untiled, axis=1)).mean((0, 2))
    assert seams.max() < 1.5


def test_tiles_with_statistics_of_their_own_would_differ_far_more(model):
    picture = texture(480, 640, seed=3)
    untiled = model.stylize(picture, memory=2**40).astype(int)
    corner = model.stylize(picture[:160, :160], memory=2**40)
    assert np.abs(corner[:120, :120] - untiled[:120, :120]).mean() > 4


@pytest.mark.parametrize("shape", [(33, 47, 3), (5, 90, 3), (1, 1, 3), (64, 64, 3)])
def test_every_size_keeps_its_size(model, shape):
    picture = texture(128, 128)[: shape[0], : shape[1]]
    assert model.stylize(picture).shape == shape


def test_a_batch_is_its_pictures(model):
    pictures = np.stack([texture(40, 50, seed) for seed in range(5)])
    one_by_one = np.stack([model.stylize(picture) for picture in pictures])
    for memory in (2**30, memory_for(model, 2 * 40 * 60)):
        assert np.abs(model.stylize_batch(pictures, memory=memory).astype(int) - one_by_one).max() <= 1


def test_too_little_memory_is_told_with_what_is_enough(model):
    with pytest.raises(LimnerError, match=r"(?s)too little for a picture of 300x300.*Allow at least \d+ MiB"):
        model.stylize(texture(300, 300), memory=memory_for(model, 20 * 20))


def test_a_picture_of_other_channels_is_refused(model):
    with pytest.raises(LimnerError, match="uint8 pictures of 3 channels"):
        model.stylize(np.zeros((16, 16, 1), np.uint8))


@pytest.mark.parametrize(("height", "width"), [(64, 64), (400, 24), (24, 400), (332, 1204), (1000, 1000)])
@pytest.mark.parametrize("pixels", [150 * 150, 200 * 400, 10**7])
def test_tiles_cover_every_pixel_once_within_the_memory(height, width, pixels):
    tiles = plan_tiles(height, width, pixels=pixels, margin=48, multiple=4)
    covered = np.zeros((height, width), int)
    for tile in tiles:
        top, bottom, left, right = tile.kept
        covered[top:bottom, left:right] += 1
        read = tile.read
        assert (read[1] - read[0]) * (read[3] - read[2]) <= pixels
        assert all(place % 4 == 0 for place in (*tile.read, *tile.kept))
        for near, far, edge in (
            (top, read[0], 0),
            (left, read[2], 0),
            (read[1], bottom, height),
            (read[3], right, width),
        ):
            assert near - far >= 48 or edge in (near, far)
    assert (covered == 1).all()


def test_samples_lie_within_the_picture_and_the_memory():
    for number in range(8):
        patches = sample_patches(300, 412, number, 20_000, 4)
        assert len({(bottom - top, right - left) for top, bottom, left, right in patches}) == 1
        assert sum((bottom - top) * (right - left) for top, bottom, left, right in patches) <= 20_000
        assert all(0 <= top < bottom <= 300 and 0 <= left < right <= 412 for top, bottom, left, right in patches)


# -- programs ---------------------------------------------------------------------------------------------------------


def program(module):
    sides = [4 * torch.export.Dim(name, min=4, max=1000) for name in ("height", "width")]
    exported = torch.export.export(
        module.eval(),
        (),
        {"source": torch.zeros(2, 3, 32, 48)},
        dynamic_shapes={"source": {0: torch.export.Dim("batch", min=1, max=100), 2: sides[0], 3: sides[1]}},
    )
    return TranslatorProgram(exported.module())


class Convolutions(torch.nn.Module):
    """Sees 1 + 2 x 4 = 9 pixels to every side."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.Conv2d(4, 3, 5, padding=8, dilation=4)

    def forward(self, source):
        return self.second(self.first(source))


class Grouped(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.GroupNorm(2, 8), torch.nn.ReLU(), torch.nn.Conv2d(8, 3, 1)
        )
        torch.nn.init.normal_(self.layers[1].weight)
        torch.nn.init.normal_(self.layers[1].bias)

    def forward(self, source):
        return self.layers(source)


class Global(torch.nn.Module):
    def forward(self, source):
        return source - source.mean((2, 3), keepdim=True)


def test_reach_is_what_the_convolutions_see():
    found = program(Convolutions())
    assert not found.normalises_over_space
    assert measure_reach(found, channels=3, multiple=4, smallest=16) == 12  # 9 in whole multiples


def test_a_network_that_looks_at_the_whole_picture_has_no_reach(model):
    found = program(Global())
    assert measure_reach(found, channels=3, multiple=4, smallest=16) is None
    everywhere = replace(model, program=found, traits=model.traits.__class__(4, 16, None, 100.0))
    assert everywhere.stylize(texture(64, 64)).shape == (64, 64, 3)
    with pytest.raises(LimnerError, match=r"(?s)does not fit.*cannot be done in parts.*Allow 1 MiB"):
        everywhere.stylize(texture(64, 64), memory=100 * 1000)


@torch.no_grad()
@pytest.mark.parametrize("module", [Grouped(), Translator(PictureShape(3, 32, 32, 0), width=4, blocks=1)])
def test_a_picture_by_its_own_statistics_is_the_network_itself(module):
    found, picture = program(module), torch.rand(1, 3, 32, 64) * 2 - 1
    expected = module(picture)
    assert found.normalises_over_space
    pooled, statistics = found.pool(picture)
    for result in (found(picture), pooled, found.given(picture, statistics)):
        assert torch.allclose(result, expected, atol=2e-5)


@torch.no_grad()
def test_pooled_statistics_are_those_of_all_pictures_together():
    found = program(Grouped())
    pictures = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    side_by_side = F.conv2d(pictures, found.graph.layers.get_submodule("0").weight, padding=1)
    side_by_side += found.graph.layers.get_submodule("0").bias[:, None, None]
    groups = side_by_side.transpose(0, 1).reshape(2, -1)
    (statistics,) = found.pool(pictures)[1]
    assert torch.allclose(statistics[0], groups.mean(1).repeat_interleave(4), atol=1e-5)
    assert torch.allclose(statistics[1], groups.var(1, correction=0).repeat_interleave(4), atol=1e-5)


def test_the_average_of_samples_has_the_moments_of_them_all():
    samples = torch.randn(3, 100, generator=torch.Generator().manual_seed(0)) + torch.tensor([[0.0], [1.0], [5.0]])
    each = [(torch.stack([sample.mean(), sample.var(correction=0)])[:, None],) for sample in samples]
    (together,) = average(each)
    assert torch.allclose(together[:, 0], torch.stack([samples.mean(), samples.var(correction=0)]))


def test_memory_of_a_pass_is_counted():
    found = program(Convolutions())
    # At the second convolution: its input (4 channels), output (3), and a copy of its input, of 4 bytes each.
    assert found.bytes_per_pixel(torch.zeros(1, 3, 64, 64)) == pytest.approx((4 + 3 + 4) * 4)


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (3, 3, 3, 3), (0, 2, 0, 5), (4, 0, 1, 0)])
def test_reflection_out_of_pieces_is_pytorchs_own(pads):
    features = torch.rand(2, 3, 6, 7, generator=torch.Generator().manual_seed(0)).to(memory_format=torch.channels_last)
    made = spatial_statistics._reflected(features, *pads)
    assert torch.equal(made, torch.nn.functional.pad(features, pads, mode="reflect"))
    if all(pads):  # as networks pad; a piece of nothing costs the layout
        assert made.is_contiguous(memory_format=torch.channels_last)
