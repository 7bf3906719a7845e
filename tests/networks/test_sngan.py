"""The SNGAN family: sizes, the paper's numbers of parameters, spectral norms, and what training asks of a network."""

import pytest
import torch
from torch.nn.utils import parametrize

from limner.errors import LimnerError
from limner.networks import sngan
from limner.networks.conditioning import ProjectionHead
from limner.penalties import finite_difference_penalty, zero_centred_gradient_penalty
from limner.tasks import PictureShape

CIFAR = PictureShape(3, 32, 32, classes=0)
LABELLED = PictureShape(3, 32, 32, classes=10)


def shape(*, channels=3, size=16, classes=3):
    return PictureShape(channels, size, size, classes=classes)


def generator(of):
    return sngan.Generator(of, latent=8, width=8)


def count(network):
    return sum(parameter.numel() for parameter in network.parameters())


# -- shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [16, 32, 64, 128, 256])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("classes", [0, 3])
def test_every_size_and_channel_count_goes_through_both_networks(size, channels, classes):
    of = shape(channels=channels, size=size, classes=classes)
    labels = torch.tensor([0, 2]) if classes else None
    images = generator(of)(torch.randn(2, 8), labels)
    assert images.shape == (2, channels, size, size)
    assert images.dtype is torch.float32
    assert images.abs().max() <= 1
    logits = sngan.Discriminator(of, width=8)(images, labels)
    assert logits.shape == (2,)
    assert logits.dtype is torch.float32


@pytest.mark.parametrize("network", [sngan.Generator, sngan.Discriminator])
def test_a_size_that_cannot_be_built_is_refused(network):
    with pytest.raises(LimnerError, match=r"(?s)The sngan networks .*48x48.*16, 32, 64, 128 or 256"):
        network(PictureShape(1, 48, 48, classes=0))


def test_channels_halve_with_every_doubling_above_32():
    assert [sngan.channels(2**k, width=256) for k in range(2, 9)] == [256, 256, 256, 256, 128, 64, 32]
    assert sngan.channels(256, width=1) == 1


# -- the paper's CIFAR-10 networks ------------------------------------------------------------------------------------


def test_the_generator_is_the_papers():
    # 128 -> dense 4x4x256; three blocks up of 256: two 3x3, one 1x1, two normalisations; BN, ReLU, 3x3 to RGB
    dense = 128 * 4 * 4 * 256 + 4 * 4 * 256
    block = 2 * (3 * 3 * 256 * 256) + 1 * 1 * 256 * 256 + 2 * (2 * 256)
    last = 2 * 256 + 3 * 3 * 256 * 3 + 3
    assert count(sngan.Generator(CIFAR)) == dense + 3 * block + last == 4_274_435
    # With classes: each of the six normalisations in the blocks has a scale and an offset for each class.
    assert count(sngan.Generator(LABELLED)) == 4_274_435 + 6 * 2 * 256 * (10 - 1)


def test_the_discriminator_is_the_papers():
    # two blocks down (the first reads RGB) and two that stay, of 128; ReLU, global sum, dense to 1
    def convolution(size, before, after):
        return size * size * before * after + after

    first = convolution(3, 3, 128) + convolution(3, 128, 128) + convolution(1, 3, 128)
    second = 2 * convolution(3, 128, 128) + convolution(1, 128, 128)
    third = fourth = 2 * convolution(3, 128, 128)
    assert count(sngan.Discriminator(CIFAR)) == first + second + third + fourth + 128 + 1 == 1_053_825
    assert count(sngan.Discriminator(CIFAR, offset=False)) == 1_053_824
    assert count(sngan.Discriminator(LABELLED)) == 1_053_825 + 10 * 128


def test_features_are_summed_over_the_picture():
    network, seen = sngan.Discriminator(shape(size=32), width=8).eval(), {}
    network.blocks.register_forward_hook(lambda _, __, out: seen.update(features=out))
    network.head.register_forward_pre_hook(lambda _, given: seen.update(head=given[0]))
    network(torch.randn(2, 3, 32, 32), torch.tensor([0, 1]))
    assert seen["features"].shape == (2, 8, 8, 8)
    torch.testing.assert_close(seen["head"], seen["features"].clamp(min=0).flatten(2).sum(2))
    assert isinstance(network.head, ProjectionHead)


def test_a_block_up_is_what_the_paper_draws():
    torch.manual_seed(0)
    block, features = sngan.UpBlock(4, 6, classes=0).double().eval(), torch.randn(2, 4, 3, 3, dtype=torch.float64)

    def up(x):
        return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)

    inner = block.second(block.second_norm(block.first(up(block.first_norm(features, None).relu())), None).relu())
    torch.testing.assert_close(block(features, None), inner + block.shortcut(up(features)))


def test_a_block_down_is_what_the_paper_draws():
    torch.manual_seed(0)
    block, features = sngan.DownBlock(4, 6).double().eval(), torch.randn(2, 4, 8, 8, dtype=torch.float64)

    def down(x):
        return x.unflatten(3, (-1, 2)).mean(4).unflatten(2, (-1, 2)).mean(3)

    inner = down(block.second(block.first(features.relu()).relu()))
    torch.testing.assert_close(block(features), inner + down(block.shortcut(features)))


# -- classes ----------------------------------------------------------------------------------------------------------


def test_without_classes_labels_are_not_used():
    network, latent = generator(shape(classes=0)).eval(), torch.randn(2, 8)
    assert torch.equal(network(latent), network(latent, torch.tensor([0, 1])))


def test_a_labelled_normalisation_scales_and_shifts_by_label():
    norm, features = sngan.LabelledBatchNorm(4, classes=3), torch.randn(8, 4, 5, 5)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    plain = (features - features.mean((0, 2, 3), keepdim=True)) / features.std((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(norm(features, labels), plain, rtol=1e-3, atol=1e-4)
    torch.nn.init.normal_(norm.scale.weight)
    torch.nn.init.normal_(norm.offset.weight)
    scale, offset = norm.scale.weight[labels][..., None, None], norm.offset.weight[labels][..., None, None]
    torch.testing.assert_close(norm(features, labels), plain * scale + offset, rtol=1e-3, atol=1e-4)


def test_labels_matter_to_both_networks_where_there_are_classes():
    zeros, ones = torch.zeros(2, dtype=torch.int64), torch.ones(2, dtype=torch.int64)
    network, latent = generator(shape()).eval(), torch.randn(2, 8)
    assert torch.equal(network(latent, zeros), network(latent, ones)), "all classes begin alike"
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    assert not torch.equal(network(latent, zeros), network(latent, ones))
    judge, images = sngan.Discriminator(shape(), width=8).eval(), torch.randn(2, 3, 16, 16)
    assert not torch.equal(judge(images, zeros), judge(images, ones))


# -- spectral normalisation -------------------------------------------------------------------------------------------


def weighty(network):
    return {name: m for name, m in network.named_modules() if isinstance(getattr(m, "weight", None), torch.Tensor)}


def test_every_layer_of_the_discriminator_has_a_spectral_norm_of_one():
    torch.manual_seed(0)
    network = sngan.Discriminator(shape(size=32), width=16)
    layers = weighty(network)
    assert len(layers) == 3 + 3 + 2 * 2 + 2
    with torch.no_grad():
        for layer in layers.values():  # a step that made the first estimates wrong
            layer.parametrizations.weight.original.normal_()
        for _ in range(100):
            network(torch.randn(1, 3, 32, 32), torch.tensor([0]))
    network.eval()
    norms = {name: torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for name, layer in layers.items()}
    assert norms == pytest.approx(dict.fromkeys(norms, 1.0), abs=0.02)


def test_a_call_refines_the_norms_once_in_training_and_never_in_evaluation():
    network, images, labels = sngan.Discriminator(shape(), width=8), torch.randn(2, 3, 16, 16), torch.tensor([0, 1])
    with torch.no_grad():
        network.blocks[0].first.parametrizations.weight.original.normal_()
    state = network.blocks[0].first.parametrizations.weight[0]
    before, weight = state._u.clone(), network.blocks[0].first.parametrizations.weight.original.flatten(1)
    v = state._v.clone()
    network(images, labels)
    torch.testing.assert_close(state._u, torch.nn.functional.normalize(weight.detach() @ v, dim=0))
    assert not torch.equal(state._u, before)
    network.eval()
    after = state._u.clone()
    assert torch.equal(network(images, labels), network(images, labels))
    assert torch.equal(state._u, after)


# -- training ---------------------------------------------------------------------------------------------------------


def trained(classes):
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 0]) if classes else None
    judge = sngan.Discriminator(shape(classes=classes), width=8)
    return generator(shape(classes=classes)), judge, torch.randn(4, 8), torch.randn(4, 3, 16, 16), labels


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_parameter_of_both_networks_gets_a_gradient(classes, dtype):
    network, judge, latent, real, labels = trained(classes)
    with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
        fake = network(latent, labels)
        loss = torch.nn.functional.softplus(judge(fake, labels)).mean() - judge(real, labels).tanh().mean()
    assert fake.dtype is loss.dtype is torch.float32
    loss.backward()
    for name, parameter in [*network.named_parameters(), *judge.named_parameters()]:
        assert parameter.grad.isfinite().all(), name
        # What a normalisation takes away again would leave rounding here, some 1e-9.
        assert parameter.grad.abs().max() > 1e-6, name


def test_exact_r1_can_be_trained_on():
    _, judge, _, real, labels = trained(3)
    for dtype in (torch.float32, torch.bfloat16):
        images = real.clone().requires_grad_()
        with torch.autocast("cpu", dtype, enabled=dtype is not torch.float32):
            penalty = zero_centred_gradient_penalty(judge(images, labels), images)
        judge.zero_grad()
        penalty.backward()
        reached = {name for name, p in judge.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        assert {name for name, _ in judge.named_parameters() if name.endswith("weight.original")} <= reached


def test_finite_difference_penalty_sees_one_discriminator_while_it_trains():
    _, judge, _, real, labels = trained(3)

    def penalty():
        return finite_difference_penalty(lambda x: judge(x, labels), real, torch.Generator().manual_seed(0)).item()

    with torch.no_grad():
        for layer in weighty(judge).values():  # a step that made the estimates of the norms wrong
            layer.parametrizations.weight.original.normal_()
        training = penalty()
        judge.eval()  # keeps the estimates that the call in training ended with
        assert training == pytest.approx(penalty(), rel=1e-3)


def test_reduced_precision_is_close_to_full():
    network, judge, latent, real, labels = (each.eval() if hasattr(each, "eval") else each for each in trained(3))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        images, logits = network(latent, labels), judge(real, labels)
    assert images.dtype is logits.dtype is torch.float32
    torch.testing.assert_close(images, network(latent, labels), rtol=0, atol=0.05)
    torch.testing.assert_close(logits, judge(real, labels), rtol=0.05, atol=0.05)


def test_norms_are_computed_in_float32_under_autocast():
    _, judge, _, real, labels = trained(3)
    again = sngan.Discriminator(shape(), width=8)
    again.load_state_dict(judge.state_dict())
    judge(real, labels)
    with torch.autocast("cpu", torch.bfloat16):
        again(real, labels)
    for name, value in judge.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert value.dtype is torch.float32


@pytest.mark.parametrize("classes", [0, 3])
def test_saved_and_loaded_networks_are_the_same(classes):
    network, judge, latent, real, labels = trained(classes)
    judge(network(latent, labels), labels)  # moves the running means and the norms' estimates
    torch.manual_seed(1)
    for before, after, given in (
        (network, generator(shape(classes=classes)), latent),
        (judge, sngan.Discriminator(shape(classes=classes), width=8), real),
    ):
        after.load_state_dict(before.state_dict())
        assert torch.equal(after(given, labels), before(given, labels)), "in training mode"
        assert torch.equal(after.eval()(given, labels), before.eval()(given, labels))


def test_an_untrained_generator_makes_neither_flat_nor_saturated_pictures():
    torch.manual_seed(0)
    images = sngan.Generator(CIFAR, width=64)(torch.randn(64, 128))
    assert 0.05 < images.std().item() < 0.9


def test_the_generator_needs_no_parametrisation():
    assert not any(parametrize.is_parametrized(module) for module in generator(shape()).modules())
