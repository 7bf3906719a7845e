"""The recogniser: sizes, that it learns, and that a picture is read alike in any batch."""

import pytest
import torch

from limner.networks.recogniser import Recogniser


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.parametrize("size", [(16, 16), (28, 33), (64, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_any_size_is_read(size, channels):
    logits = Recogniser(channels, 7, width=8)(torch.randn(2, channels, *size))
    assert logits.shape == (2, 7)


def test_a_picture_is_read_alike_in_any_batch_and_mode():
    network, images = Recogniser(1, 3, width=8), torch.randn(5, 1, 16, 16)
    torch.testing.assert_close(network(images)[2:3], network.eval()(images[2:3]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_gets_a_gradient(dtype):
    network = Recogniser(3, 4, width=8)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        logits = network(torch.randn(8, 3, 16, 16))
    assert logits.dtype is torch.float32
    torch.nn.functional.cross_entropy(logits, torch.arange(8) % 4).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad.abs().max() > 1e-6, name


def test_it_learns_to_tell_two_shapes_apart():
    network = Recogniser(1, 2, width=8)
    images, labels = -torch.ones(32, 1, 16, 16), torch.arange(32) % 2
    for image, label, place in zip(images, labels, torch.randint(2, 13, (32,)), strict=True):
        if label:
            image[0, place, 2:14] = 1
        else:
            image[0, 2:14, place] = 1
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
    assert (network(images).argmax(1) == labels).float().mean() > 0.95
