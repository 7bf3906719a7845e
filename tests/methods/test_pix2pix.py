"""pix2pix: the discriminator sees pairs, and the error is held against the truth."""

import pytest
import torch

from limner.game import MicroBatch, Moment
from limner.methods.pix2pix import Method, Params
from limner.randomness import generator
from limner.tasks import Pairs, Pictures, PictureShape

SHAPE = PictureShape(1, 32, 32, classes=0)


def pairs():
    images = torch.rand(2, 4, 1, 32, 32, generator=generator(0, "pairs")) * 2 - 1
    return Pairs(*(Pictures(side) for side in images))


def build(**params):
    small = {
        "name": "pix2pix",
        "generator": {"name": "unet", "width": 4, "norm": "instance"},
        "discriminator": {"name": "patch", "width": 4, "layers": 1},
    }
    torch.manual_seed(0)
    return Method(Params.model_validate(small | params), SHAPE)


def step(method):
    return method.step([MicroBatch(pairs(), generator(0))], Moment(0, 0, 1))


def test_the_discriminator_sees_the_source_beside_the_truth_or_the_result():
    method, seen = build(), []
    results = method.product()(pairs().source.images).detach()
    method.networks["discriminator"].register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    step(method)
    source, truth = pairs().source.images, pairs().target.images
    torch.testing.assert_close(seen[0], torch.cat([torch.cat([source, truth], 1), torch.cat([source, results], 1)]))
    torch.testing.assert_close(seen[1], torch.cat([source, results], 1), msg="the generator's turn")


def test_the_error_is_the_mean_absolute_difference_to_the_truth():
    method = build()
    expected = (method.product()(pairs().source.images) - pairs().target.images).abs().mean().item()
    assert step(method)["loss/reconstruction"].item() == pytest.approx(expected, rel=1e-5)


def test_realness_is_of_pairs():
    method = build()
    source, truth = pairs().source.images, pairs().target.images
    expected = method.networks["discriminator"](torch.cat([source, truth], 1)).mean(1)
    torch.testing.assert_close(method.realness(pairs()), expected)
    other = method.networks["discriminator"](torch.cat([source, -truth], 1)).mean(1)
    torch.testing.assert_close(method.realness(pairs(), -truth), other)


def test_the_product_has_no_dropout_when_it_is_judged():
    method = build(generator={"name": "unet", "width": 4, "depth": 5, "dropout": 0.5, "norm": "instance"})
    product, images = method.product(), pairs().source.images
    assert torch.equal(product.eval()(images), product(images))
