"""The U-Net against pix2pix's, in any size, and its two modes."""

from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from limner.errors import LimnerError
from limner.networks import build_translator
from limner.networks.unet import Innermost, Translator, TranslatorSettings
from limner.tasks import PictureShape


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small(*, size=32, channels=3, **options):
    return Translator(PictureShape(channels, size, size, classes=0), **{"width": 8, **options})


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("channels", [1, 4])
def test_any_size_comes_out_as_it_went_in(norm, channels):
    made = small(norm=norm, channels=channels).eval()
    for size in [(16, 16), (32, 32), (17, 16), (33, 50), (64, 18)]:
        images = torch.rand(2, channels, *size) * 2 - 1
        out = made(images)
        assert out.shape == images.shape
        assert out.dtype is torch.float32
        assert out.abs().max() < 1


def test_the_network_for_256_is_pix2pixs():
    """54.414 M parameters in its authors' code; ours has offsets in the two levels that no normalisation follows."""
    with torch.device("meta"):
        made = build_translator(TranslatorSettings(), PictureShape(3, 256, 256, classes=0))
    down, up = [3, 64, 128, 256, 512, 512, 512, 512, 512], [512, 512, 512, 512, 256, 128, 64]
    weights = sum(16 * before * after for before, after in pairwise(down))
    inputs = [512, *(2 * after for after in up)]
    weights += sum(16 * before * after for before, after in zip(inputs, [*up, 3], strict=True))
    norms = 2 * (sum(down[2:8]) + sum(up))
    assert weights + norms + 3 == 54_413_955
    assert sum(each.numel() for each in made.parameters()) == 54_413_955 + 64 + 512
    assert made.multiple == 256
    assert [isinstance(layer[-1], nn.Dropout) for layer in made.up] == [True] * 3 + [False] * 4


@pytest.mark.parametrize(("size", "multiple"), [(16, 16), (20, 16), (64, 64), (100, 64), (256, 256), (600, 256)])
def test_the_depth_goes_down_to_a_pixel_of_the_datasets_size(size, multiple):
    with torch.device("meta"):
        assert small(size=size).multiple == multiple


@pytest.mark.parametrize("size", [(8, 8), (2, 4), (6, 2)])
def test_the_innermost_level_is_two_plain_layers(size):
    level, x = Innermost(3, 5), torch.randn(2, 3, *size)
    with torch.no_grad():
        nn.init.normal_(level.down.bias)
    inner = level.down(nn.functional.leaky_relu(x, 0.2))
    assert inner.shape[2:] == (size[0] // 2, size[1] // 2)
    torch.testing.assert_close(level(x), level.up(inner.relu()))


def test_a_level_reads_its_mirror_image_beside_what_comes_from_below():
    made, seen = small(depth=3, norm="instance", dropout=0.0), {}
    for name, layer in made.named_modules():
        layer.register_forward_hook(lambda _, given, out, name=name: seen.update({name: (given[0], out)}))
    made(torch.rand(1, 3, 16, 16))
    for number, mirror in ((0, "down.1"), (1, "down.0")):
        read = seen["up.1" if number == 0 else "exit"][0]
        joined = torch.cat([seen[f"up.{number}"][1], seen[mirror][1]], dim=1)
        assert torch.equal(read, joined if number == 0 else joined.relu())


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_one_picture_can_be_trained_on(norm):
    """A batch of one has a single value for each channel of the innermost level."""
    out = small(norm=norm).train()(torch.rand(1, 3, 32, 32))
    assert out.isfinite().all()


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_in_evaluation_a_pictures_result_is_its_own(norm):
    made, images = small(size=64, norm=norm), torch.rand(4, 3, 64, 64)
    with torch.no_grad():
        assert not torch.equal(made(images), made(images)), "dropout, in training mode"
        for _ in range(3):
            made(images)
        made.eval()
        assert torch.equal(made(images), made(images))
        torch.testing.assert_close(made(images)[2:3], made(images[2:3]))


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_an_export_of_any_batch_height_and_width_is_the_network(norm):
    """Down to the size at which the innermost level is a single pixel."""
    made = small(size=16, norm=norm).eval()
    batch, height, width = (torch.export.Dim(name, min=1, max=4096) for name in ("batch", "height", "width"))
    sizes = {0: batch, 2: made.multiple * height, 3: made.multiple * width}
    example = torch.rand(2, 3, 32, 32)
    program = torch.export.export(made, (), {"source": example}, dynamic_shapes={"source": sizes}).module()
    for size in [(1, 3, 16, 16), (3, 3, 16, 48), (2, 3, 64, 16), (2, 3, 32, 48)]:
        images = torch.rand(*size) * 2 - 1
        torch.testing.assert_close(program(source=images), made(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_gradient(norm, dtype):
    made, images = small(norm=norm), torch.rand(4, 3, 32, 32) * 2 - 1
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        out = made(images)
    assert out.dtype is torch.float32
    (out - images.flip(3)).abs().mean().backward()
    for name, parameter in made.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-7, name


def test_reduced_precision_is_close_to_full():
    made, images = small().eval(), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        reduced = made(images)
    torch.testing.assert_close(reduced, made(images), rtol=0, atol=0.06)


def test_a_depth_that_the_dataset_is_too_small_for_is_refused():
    with pytest.raises(LimnerError, match=r"(?s)depth 8 .*64x64.*to 6 at most"):
        small(size=64, depth=8)
    assert small(size=100, depth=7).multiple == 128


@pytest.mark.parametrize("wrong", [{"depth": 1}, {"depth": 9}, {"width": 0}, {"dropout": 1.0}, {"norm": "none"}])
def test_settings_refuse_nonsense(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        TranslatorSettings(**wrong)
