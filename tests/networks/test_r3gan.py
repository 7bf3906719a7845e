"""R3GAN's networks against the paper's figures and closed forms."""

import numpy as np
import pytest
import torch
from torch import nn

from limner.errors import LimnerError
from limner.game import MicroBatch, Moment
from limner.methods.gan import Method, Params
from limner.networks import r3gan
from limner.precision import autocast
from limner.randomness import generator
from limner.tasks import Pictures, PictureShape

CIFAR = PictureShape(3, 32, 32, classes=10)


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def small(shape, *, widths=(16, 16, 8), blocks=1):
    return (
        r3gan.Generator(shape, latent=8, widths=widths, blocks=blocks, embedding=4),
        r3gan.Discriminator(shape, widths=widths, blocks=blocks),
    )


def disturb(network):
    """The blocks begin as the identity: here they are not."""
    with torch.no_grad():
        for block in network.modules():
            if isinstance(block, r3gan.Block):
                nn.init.normal_(block.leave.weight, std=0.1)
    return network


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


def test_the_papers_cifar_networks_have_the_papers_number_of_parameters():
    """arXiv:2501.05441, CIFAR-10: 20.8 M for the generator, 21.3 M for the discriminator."""
    with torch.device("meta"):
        made = r3gan.Generator(CIFAR, latent=64, widths=[768] * 4, blocks=2, embedding=64)
        judge = r3gan.Discriminator(CIFAR, widths=[768] * 4, blocks=2)
    assert count(made) == pytest.approx(20.8e6, rel=0.01)
    assert count(judge) == pytest.approx(21.3e6, rel=0.01)


# -- how they begin ---------------------------------------------------------------------------------------------------


def test_a_block_begins_as_the_identity():
    block, x = r3gan.Block(16, depth=8), torch.randn(2, 16, 4, 4)
    assert torch.equal(block(x), x)
    assert not torch.equal(disturb(block)(x), x)


def test_a_blocks_first_layers_begin_as_fixup_has_it():
    """He's standard deviation for the leaky ReLU, times depth ** -1/4 for two of three layers: m = 3, -1/(2m - 2)."""
    width, depth = 256, 8
    block = r3gan.Block(width, depth=depth)
    he = (2 / (1 + 0.2**2)) ** 0.5
    for layer, fan_in in ((block.enter, width), (block.mix, 16 * 9)):
        assert layer.weight[0].numel() == fan_in
        assert layer.weight.std().item() == pytest.approx(he * fan_in**-0.5 * depth**-0.25, rel=0.02)
        assert not layer.bias.any()
    assert block.leave.bias is None


def test_depth_is_the_number_of_blocks_of_the_whole_network():
    made = r3gan.Generator(CIFAR, latent=8, widths=[128] * 4, blocks=4, embedding=4)
    judge = r3gan.Discriminator(CIFAR, widths=[128] * 4, blocks=4)
    for network in (made, judge):
        blocks = [module for module in network.modules() if isinstance(module, r3gan.Block)]
        assert len(blocks) == 16
        std = torch.cat([block.enter.weight.flatten() for block in blocks]).std().item()
        assert std == pytest.approx((2 / 1.04) ** 0.5 * 128**-0.5 / 2, rel=0.01)


def interpolation(size):
    """[2 size, size]: what doubling with the filter [1, 2, 1] / 4 does to a row, edges repeated."""
    matrix = np.zeros((2 * size, size))
    for i in range(2 * size):
        # Doubling puts pixel j at 2j and 2j + 1; a box over i and i + 1 then takes from both.
        for place in (i, min(i + 1, 2 * size - 1)):
            matrix[i, place // 2] += 0.5
    return matrix


def test_pictures_begin_with_the_variance_of_the_closed_form():
    """Blocks are the identity then: independent values of a 4x4 grid, interpolated, and mixed by the 1x1 exit.

    The grid is strength x basis: its entry maps a latent and an embedding of variance 1 to strengths of variance 1,
    the basis has variance 1, and so has the exit's mean over channels of channels' squares. Interpolation keeps
    the sum of its squared coefficients of it.
    """
    shape = PictureShape(3, 16, 16, classes=3)
    matrix = interpolation(8) @ interpolation(4)
    share = (matrix**2).sum(1)
    expected = np.outer(share, share)
    squares = torch.zeros(16, 16)
    with torch.no_grad():
        for _ in range(30):
            made = r3gan.Generator(shape, latent=32, widths=[48] * 3, blocks=1, embedding=16)
            squares += made(torch.randn(8, 32), torch.randint(3, (8,))).square().mean((0, 1)) / 30
    assert expected.mean() == pytest.approx(squares.mean().item(), rel=0.1)
    assert np.corrcoef(expected.flatten(), squares.numpy().flatten())[0, 1] > 0.9


# -- resampling -------------------------------------------------------------------------------------------------------


def test_upsampling_is_doubling_with_zeros_and_the_filter_1_2_1():
    x = torch.randn(1, 1, 6, 6, dtype=torch.float64)
    up = r3gan.Upsample(1, 1)(x)
    assert up.shape == (1, 1, 12, 12)
    spread = torch.zeros(1, 1, 12, 12, dtype=torch.float64)
    spread[..., ::2, ::2] = x
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 2  # a gain of 2 for the zeros in between
    expected = nn.functional.conv2d(spread, torch.outer(line, line)[None, None], padding=1)
    torch.testing.assert_close(up[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])


def test_downsampling_is_the_filter_1_2_1_and_every_second_pixel():
    x = torch.randn(1, 1, 12, 12, dtype=torch.float64)
    down = r3gan.Downsample(1, 1)(x)
    assert down.shape == (1, 1, 6, 6)
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4
    expected = nn.functional.conv2d(x, torch.outer(line, line)[None, None], padding=1)[..., ::2, ::2]
    torch.testing.assert_close(down[..., 1:, 1:], expected[..., 1:, 1:])


@pytest.mark.parametrize("resample", [r3gan.Upsample, r3gan.Downsample])
def test_resampling_keeps_what_is_the_same_everywhere_up_to_the_edges(resample):
    torch.testing.assert_close(resample(1, 1)(torch.full((1, 1, 8, 8), 0.7)).unique(), torch.tensor([0.7]))


def test_a_width_that_changes_is_mixed_where_it_is_cheaper():
    up, down = r3gan.Upsample(16, 8), r3gan.Downsample(8, 16)
    assert up(torch.randn(2, 16, 4, 4)).shape == (2, 8, 8, 8)
    assert down(torch.randn(2, 8, 8, 8)).shape == (2, 16, 4, 4)
    seen = []
    for layer in (up, down):
        layer.project.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[-1]))
    up(torch.randn(2, 16, 4, 4))
    down(torch.randn(2, 8, 8, 8))
    assert seen == [4, 4]


# -- whole networks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "widths"), [(16, (16, 8, 8)), (32, (16, 16, 8, 8)), (64, (16, 16, 8, 8, 8))])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sizes_and_channel_counts_go_through_both_networks(size, widths, channels):
    shape, labels = PictureShape(channels, size, size, classes=3), torch.tensor([0, 2])
    made, judge = small(shape, widths=widths)
    images = made(torch.randn(2, 8), labels)
    assert images.shape == (2, channels, size, size)
    assert images.dtype is torch.float32
    assert judge(images, labels).shape == (2,)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 32), (12, 12)])
def test_a_size_that_does_not_fit_the_widths_is_refused_with_those_that_do(height, width):
    shape = PictureShape(1, height, width, classes=0)
    for build in (
        lambda: r3gan.Generator(shape, latent=8, widths=[8] * 3, blocks=1, embedding=4),
        lambda: r3gan.Discriminator(shape, widths=[8] * 3, blocks=1),
    ):
        with pytest.raises(
            LimnerError, match=rf"(?s)3 stages make pictures of 16x16, not {width}x{height}.*4 for 32x32"
        ):
            build()


@pytest.mark.parametrize("family", [r3gan.GeneratorSettings, r3gan.DiscriminatorSettings])
def test_a_width_of_broken_groups_is_refused(family):
    with pytest.raises(ValueError, match="multiple of 8"):
        family(widths=[16, 12, 8])


def test_without_classes_labels_are_not_used():
    made, judge = (disturb(network) for network in small(PictureShape(1, 16, 16, classes=0)))
    latent, labels = torch.randn(2, 8), torch.tensor([0, 1])
    images = made(latent)
    assert torch.equal(images, made(latent, labels))
    assert torch.equal(judge(images), judge(images, labels))


def test_labels_matter_to_both_networks_where_there_are_classes():
    made, judge = small(PictureShape(1, 16, 16, classes=2))
    latent, zeros, ones = torch.randn(2, 8), torch.tensor([0, 0]), torch.tensor([1, 1])
    images = made(latent, zeros)
    assert not torch.equal(images, made(latent, ones))
    assert not torch.equal(judge(images, zeros), judge(images, ones))


def test_the_discriminator_looks_at_each_image_by_itself():
    _, judge = small(PictureShape(1, 16, 16, classes=3))
    images, labels = torch.randn(4, 1, 16, 16), torch.tensor([0, 1, 2, 0])
    disturb(judge)
    alone = torch.cat([judge(image[None], label[None]) for image, label in zip(images, labels, strict=True)])
    torch.testing.assert_close(judge(images, labels), alone)


def test_bfloat16_inside_float32_outside():
    made, judge = (disturb(network) for network in small(PictureShape(1, 16, 16, classes=3)))
    latent, labels = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    with autocast(torch.bfloat16, torch.device("cpu")):
        images = made(latent, labels)
        logits = judge(images, labels)
    assert (images.dtype, logits.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(images, made(latent, labels), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("classes", [0, 3])
def test_every_parameter_moves_in_a_real_step(classes):
    """In two steps: at the first a block's last layer is zero, and lets no gradient through to the others."""
    family = {"name": "r3gan", "widths": [16, 16, 8], "blocks": 1}
    params = Params.model_validate({"name": "gan", "generator": {**family, "latent": 8}, "discriminator": family})
    method = Method(params, PictureShape(1, 16, 16, classes))
    before = {name: p.detach().clone() for name, p in method.networks.named_parameters()}
    labels = torch.arange(6) % 3 if classes else None
    batch = Pictures(torch.rand(6, 1, 16, 16, generator=generator(0)) * 2 - 1, labels)
    for step in range(2):
        losses = method.step([MicroBatch(batch, generator(0, step))], Moment(step, 6 * step, 100))
        assert all(torch.isfinite(value) for value in losses.values())
    still = [name for name, p in method.networks.named_parameters() if torch.equal(p, before[name])]
    assert not still
