"""The convolutional family: sizes, channels, and what an output looks like before training."""

import pytest
import torch

from limner.errors import LimnerError
from limner.networks import dcgan
from limner.tasks import PictureShape


def generator(shape, *, upsampling="nearest"):
    return dcgan.Generator(shape, latent=8, width=8, max_width=32, upsampling=upsampling)


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("upsampling", ["nearest", "transposed"])
def test_every_size_and_channel_count_goes_through_both_networks(size, channels, upsampling):
    shape = PictureShape(channels, size, size, classes=3)
    labels = torch.tensor([0, 2])
    images = generator(shape, upsampling=upsampling)(torch.randn(2, 8), labels)
    assert images.shape == (2, channels, size, size)
    assert images.abs().max() <= 1
    logits = dcgan.Discriminator(shape, width=8, max_width=32)(images, labels)
    assert logits.shape == (2,)
    assert logits.dtype is torch.float32


@pytest.mark.parametrize(("height", "width"), [(32, 64), (48, 48), (8, 8), (512, 512)])
def test_a_size_that_cannot_be_built_is_refused_with_those_that_can(height, width):
    with pytest.raises(LimnerError, match=rf"(?s){width}x{height}.*16, 32, 64, 128 or 256"):
        generator(PictureShape(1, height, width, classes=0))


def test_without_classes_labels_are_not_used():
    shape = PictureShape(1, 16, 16, classes=0)
    network, latent = generator(shape).eval(), torch.randn(2, 8)
    assert torch.equal(network(latent), network(latent, torch.tensor([0, 1])))


def test_labels_matter_to_both_networks_where_there_are_classes():
    shape = PictureShape(1, 16, 16, classes=2)
    network, latent = generator(shape).eval(), torch.randn(2, 8)
    zeros, ones = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    images = network(latent, zeros)
    assert not torch.equal(images, network(latent, ones))
    judge = dcgan.Discriminator(shape, width=8, max_width=32)
    assert not torch.equal(judge(images, zeros), judge(images, ones))


def test_channels_double_towards_the_middle_up_to_the_limit():
    counts = [dcgan.channels(r, size=32, width=32, max_width=128) for r in (4, 8, 16, 32)]
    assert counts == [128, 128, 64, 32]


def test_an_untrained_generator_makes_neither_flat_nor_saturated_pictures():
    torch.manual_seed(0)
    shape = PictureShape(1, 32, 32, classes=0)
    images = dcgan.Generator(shape, latent=64, width=32, max_width=128, upsampling="nearest")(torch.randn(64, 64))
    assert 0.05 < images.std().item() < 0.9
