"""Patch discriminators: how far a patch reaches, the papers' sizes, classes, and what training asks of a network."""

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn.utils import parametrize

from limner.errors import LimnerError
from limner.networks import build_discriminator
from limner.networks.patch_discriminator import (
    Discriminator,
    DiscriminatorSettings,
    MultiscaleDiscriminator,
    MultiscaleSettings,
)
from limner.penalties import zero_centred_gradient_penalty
from limner.tasks import PictureShape

NORMS = ["instance", "none", "spectral"]


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def shape(size=32, *, width=None, channels=3, classes=0):
    return PictureShape(channels, size, width or size, classes=classes)


def small(of, **options):
    return Discriminator(of, **{"width": 8, "layers": 2, **options})


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


# -- patches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "reach"), [(0, 1), (1, 16), (2, 34), (3, 70)])
def test_a_patch_is_as_large_as_the_paper_says(layers, reach):
    """The pixels that one logit's gradient reaches; without instance normalisation, which looks at all of them."""
    images = torch.randn(1, 3, 160, 160, requires_grad=True)
    logits = small(shape(160), layers=layers, norm="none")(images)
    side = int(logits.shape[1] ** 0.5)
    middle = (side // 2) * side + side // 2
    (gradient,) = torch.autograd.grad(logits[0, middle], images)
    reached = gradient[0].abs().sum(0) > 0
    assert reached.any(0).sum() == reached.any(1).sum() == reach
    assert reached.sum() == reach**2


@pytest.mark.parametrize("resampling", ["strided", "blur"])
@pytest.mark.parametrize("norm", NORMS)
def test_a_picture_of_256_has_30_by_30_patches(resampling, norm):
    logits = small(shape(256), width=2, layers=3, norm=norm, resampling=resampling)(torch.randn(1, 3, 256, 256))
    assert logits.shape == (1, 900)
    assert logits.dtype is torch.float32


@pytest.mark.parametrize("resampling", ["strided", "blur"])
@pytest.mark.parametrize(("layers", "smallest"), [(0, 1), (1, 6), (2, 12), (3, 24), (4, 48)])
def test_the_smallest_picture_has_a_patch_and_a_smaller_one_is_refused(resampling, layers, smallest):
    judge = small(shape(smallest, width=smallest + 3), layers=layers, resampling=resampling)
    logits = judge(torch.randn(2, 3, smallest, smallest + 3))
    assert logits.shape[1] >= 1
    assert logits.isfinite().all()
    if layers:
        with pytest.raises(
            LimnerError, match=rf"(?s)`layers` of {layers} .*takes {smallest} pixels.*to {layers - 1} at"
        ):
            small(shape(smallest - 1, width=200), layers=layers)


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_pictures_of_16_pixels_can_be_judged(layers):
    assert small(shape(16), layers=layers)(torch.randn(1, 3, 16, 16)).shape == (1, {0: 256, 1: 36, 2: 4}[layers])


def test_the_discriminator_of_70_pixels_is_the_papers():
    """2.765 M parameters in CycleGAN's code, 896 of them offsets that a normalisation takes away again.

    pix2pix's with 6 channels: 2.769 M, 1,792 of them the scales and offsets of its batch normalisation.
    """
    with torch.device("meta"):
        three, six = (
            build_discriminator(DiscriminatorSettings(), shape(256, channels=channels), offset=True)
            for channels in (3, 6)
        )
        free = build_discriminator(DiscriminatorSettings(), shape(256), offset=False)
    offsets = 128 + 256 + 512
    assert count(three) + offsets == 2_764_737
    assert count(six) + 2 * offsets == 2_768_705
    assert count(three) - count(free) == 1


def test_logits_are_ordered_row_by_row():
    judge = small(shape(32), layers=0, norm="none")
    images = torch.randn(1, 3, 32, 32)
    alone = judge(images[:, :, 3:4, 5:6].expand(1, 3, 32, 32))[0, 0]
    torch.testing.assert_close(judge(images)[0, 3 * 32 + 5], alone)


# -- scales -----------------------------------------------------------------------------------------------------------


def test_scales_judge_the_picture_and_its_halves():
    judge, images = MultiscaleDiscriminator(shape(64), scales=3, layers=2, width=8), torch.randn(2, 3, 64, 64)
    logits = judge(images)
    half = nn.functional.avg_pool2d(images, 3, stride=2, padding=1, count_include_pad=False)
    quarter = nn.functional.avg_pool2d(half, 3, stride=2, padding=1, count_include_pad=False)
    expected = [each(given) for each, given in zip(judge.scales, (images, half, quarter), strict=True)]
    assert [each.shape[1] for each in expected] == [14**2, 6**2, 2**2]
    torch.testing.assert_close(logits, torch.cat(expected, dim=1))
    assert not torch.equal(judge.scales[0].score.weight, judge.scales[1].score.weight), "each has its own weights"


def test_a_scale_without_a_patch_is_refused():
    with pytest.raises(
        LimnerError, match=r"(?s)halved to 16 pixels.*takes 24 pixels.*to 2 at most or use fewer scales"
    ):
        build_discriminator(MultiscaleSettings(), shape(32), offset=True)
    logits = build_discriminator(MultiscaleSettings(layers=2, width=8), shape(32), offset=True)(
        torch.randn(1, 3, 32, 32)
    )
    assert logits.shape == (1, 36 + 4)


# -- classes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layers", [0, 2])
def test_labels_matter_at_every_patch_where_there_are_classes(norm, layers):
    judge, images = small(shape(classes=3), norm=norm, layers=layers).eval(), torch.randn(2, 3, 32, 32)
    zeros, ones = judge(images, torch.tensor([0, 0])), judge(images, torch.tensor([1, 1]))
    assert (zeros != ones).all()
    assert torch.equal(judge(images, torch.tensor([0, 1])), torch.stack([zeros[0], ones[1]]))


def test_the_projection_is_the_embeddings_product_with_a_patchs_mean_features():
    judge, seen = small(shape(classes=3)), {}
    judge.layers.register_forward_hook(lambda _, __, out: seen.update(features=out))
    images, labels = torch.randn(2, 3, 32, 32), torch.tensor([2, 0])
    logits = judge(images, labels)
    features = seen["features"]
    plain = judge.score(features)
    means = nn.functional.pad(features, [1] * 4).unfold(2, 4, 1).unfold(3, 4, 1).mean((4, 5))
    for n, label in enumerate(labels):
        expected = plain[n, 0] + torch.einsum("chw,c->hw", means[n], judge.embedding.weight[label])
        torch.testing.assert_close(logits[n], expected.flatten())


def test_without_classes_labels_are_not_used():
    judge, images = small(shape()), torch.randn(2, 3, 32, 32)
    assert torch.equal(judge(images), judge(images, torch.tensor([0, 1])))


# -- training ---------------------------------------------------------------------------------------------------------


EVERY = [
    pytest.param(Discriminator, {"norm": norm, "resampling": resampling}, id=f"{norm}-{resampling}")
    for norm in NORMS
    for resampling in ("strided", "blur")
]
EVERY.append(pytest.param(MultiscaleDiscriminator, {"norm": "spectral"}, id="multiscale"))


@pytest.mark.parametrize(("family", "options"), EVERY)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_gradient(family, options, dtype):
    judge = family(shape(classes=3), width=8, layers=2, **options)
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 0])
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        logits = judge(images, labels)
    assert logits.dtype is torch.float32
    (logits - 1).square().mean().backward()
    for name, parameter in judge.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 1e-7, name


@pytest.mark.parametrize(("family", "options"), EVERY)
def test_a_gradient_penalty_can_be_trained_on(family, options):
    judge = family(shape(classes=3), width=8, layers=2, **options)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    penalty = zero_centred_gradient_penalty(judge(images, torch.tensor([0, 1])), images)
    penalty.backward()
    assert penalty > 0
    assert judge.state_dict().keys()
    assert all(each.grad is None or each.grad.isfinite().all() for each in judge.parameters())


@pytest.mark.parametrize(("family", "options"), EVERY)
def test_reduced_precision_is_close_to_full(family, options):
    judge, images = family(shape(), width=8, layers=2, **options).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        reduced = judge(images)
    full = judge(images)
    assert (reduced - full).abs().max() < 0.1 * full.std()


def test_spectral_norms_are_one():
    judge, images = small(shape(classes=3), norm="spectral"), torch.randn(1, 3, 32, 32)
    layers = [each for each in judge.modules() if parametrize.is_parametrized(each)]
    assert len(layers) == 3 + 1 + 1
    with torch.no_grad():
        for _ in range(60):
            judge(images, torch.tensor([0]))
    judge.eval()
    norms = [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in layers]
    assert norms == pytest.approx([1.0] * 5, abs=0.02)


def test_weights_begin_as_the_papers_have_them():
    for layer in small(shape(), width=32).modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.weight.std().item() == pytest.approx(0.02, rel=0.1)
            assert layer.bias is None or not layer.bias.any()
    unnormalised = small(shape(), width=32, norm="none")(torch.randn(4, 3, 32, 32))
    assert unnormalised.std() > 0.1, "the signal lives without normalisation"


def test_no_patch_discriminator_claims_what_the_fast_penalty_needs():
    assert not getattr(small(shape()), "piecewise_linear", False)


@pytest.mark.parametrize("wrong", [{"layers": -1}, {"layers": 7}, {"width": 0}, {"norm": "batch"}, {"scales": 2}])
def test_settings_refuse_nonsense(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        DiscriminatorSettings(**wrong)


@pytest.mark.parametrize("scales", [1, 4])
def test_scales_are_two_or_three(scales):
    with pytest.raises(ValidationError, match="scales"):
        MultiscaleSettings(scales=scales)
