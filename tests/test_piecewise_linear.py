"""One backward pass instead of two: the same gradients as autograd's double backward, for every network that may."""

import copy
import importlib
import pkgutil
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm

import limner.networks
from limner.losses import ADVERSARIAL
from limner.networks import build_discriminator
from limner.penalties import squared_gradient_norms
from limner.piecewise_linear import penalised_gradients
from limner.precision import autocast
from limner.randomness import generator
from limner.tasks import PictureShape

CPU = torch.device("cpu")
LOSSES = ["hinge", "bce", "rpgan"]
SMALL = {
    "dcgan": {"width": 4, "max_width": 8},
    "dense": {"widths": [12, 8]},
    "r3gan": {"widths": [16, 16, 8, 8], "blocks": 1},
}
"""Quick settings. A family that is not named here is built as it is by default."""


def families_that_claim_it():
    modules = (
        importlib.import_module(f"limner.networks.{m.name}") for m in pkgutil.iter_modules(limner.networks.__path__)
    )
    return [
        module
        for module in modules
        for thing in vars(module).values()
        if isinstance(thing, type) and thing.__module__ == module.__name__ and getattr(thing, "piecewise_linear", False)
    ]


def build(family, *, classes):
    name = family.__name__.rpartition(".")[2]
    settings = family.DiscriminatorSettings.model_validate(SMALL.get(name, {}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_discriminator(settings, PictureShape(3, 32, 32, classes), offset=True).double()
        disturb(network)
    return network


@torch.no_grad()
def disturb(network):
    """Nothing is zero or one by chance of how it begins: layers that start at zero would hide the others."""
    for parameter in network.parameters():
        parameter.add_(0.3 * parameter.std(correction=0) * torch.randn_like(parameter) + 0.02)


def batch(*, channels=3, size=32, count=6, seed=0):
    """Real and fake images, joined, and the weight of each."""
    rng = generator(seed, "batch")
    images = torch.randn(count, channels, size, size, generator=rng, dtype=torch.float64)
    return images, torch.rand(count, generator=rng, dtype=torch.float64) * 3


def adversarial(name):
    def loss(logits):
        real, fake = logits.chunk(2)
        return ADVERSARIAL[name].discriminator(real, fake)

    return loss


def by_autograd(discriminator, images, *, loss, weights, parameters):
    images = images.clone().requires_grad_()
    logits = discriminator(images)
    norms = squared_gradient_norms(logits, images)
    value = loss(logits)
    gradients = torch.autograd.grad(value + 0.5 * (weights * norms).sum(), parameters)
    return gradients, logits.detach(), value.detach(), norms.detach()


def assert_equal_to_autograd(network, *, images, weights, loss="rpgan", labels=None, parameters=None):
    """All that `penalised_gradients` returns, to 1e-9 of it."""
    parameters = list(network.parameters()) if parameters is None else parameters

    def judge(pictures):
        return network(pictures) if labels is None else network(pictures, labels)

    buffers = copy.deepcopy(dict(network.named_buffers()))
    expected, logits, value, norms = by_autograd(
        judge, images, loss=adversarial(loss), weights=weights, parameters=parameters
    )
    for name, buffer in network.named_buffers():
        buffer.copy_(buffers[name])
    found = penalised_gradients(judge, images, loss=adversarial(loss), weights=weights, parameters=parameters)
    assert len(found.gradients) == len(parameters)
    # An offset of all logits may have none: rpgan never has, hinge while no logit is beyond its margin.
    assert all(g.abs().max() > 0 for g in expected if g.numel() > 1), "nothing is tested by a gradient of zero"
    size = torch.nn.utils.get_total_norm(expected).item()
    for gradient, other in zip(found.gradients, expected, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-9, atol=1e-10 * size)
    torch.testing.assert_close(found.logits, logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.loss, value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.squared_norms, norms, rtol=1e-9, atol=1e-9)


@pytest.fixture
def in_double(monkeypatch):
    """Networks and penalties go on in float32 at their end, which would hide an error of 1e-7."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


# -- Limner's own networks --------------------------------------------------------------------------------------------


def test_some_network_claims_to_be_piecewise_linear():
    assert {family.__name__.rpartition(".")[2] for family in families_that_claim_it()} >= {"dcgan", "dense", "r3gan"}


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("family", families_that_claim_it(), ids=lambda family: family.__name__.rpartition(".")[2])
@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_network_that_claims_to_be_piecewise_linear_is(family, classes, loss):
    images, weights = batch()
    network = build(family, classes=classes)
    labels = torch.tensor([0, 1, 2]).repeat(2) if classes else None
    assert_equal_to_autograd(network, images=images, weights=weights, loss=loss, labels=labels)


@pytest.mark.parametrize("family", families_that_claim_it(), ids=lambda family: family.__name__.rpartition(".")[2])
def test_in_bfloat16_it_points_the_same_way_as_in_float32(family):
    images, weights = (each.float() for each in batch())
    network, labels = build(family, classes=3).float(), torch.tensor([0, 1, 2]).repeat(2)

    def judge(pictures):
        return network(pictures, labels)

    loss, parameters = adversarial("bce"), list(network.parameters())
    expected, _, _, norms = by_autograd(judge, images, loss=loss, weights=weights, parameters=parameters)
    with autocast(torch.bfloat16, CPU):
        found = penalised_gradients(judge, images, loss=loss, weights=weights, parameters=parameters)
    assert all(gradient.dtype is torch.float32 for gradient in found.gradients)
    cosine = F.cosine_similarity(
        *(torch.cat([g.flatten() for g in each]) for each in (found.gradients, expected)), dim=0
    )
    assert cosine > 0.995
    torch.testing.assert_close(found.squared_norms, norms, rtol=0.1, atol=0)


# -- layers, one by one -----------------------------------------------------------------------------------------------


class InTurn(nn.Module):
    """Layers in a row, and a logit an image."""

    def __init__(self, *layers, size=8):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.score = nn.Linear(self.layers(torch.zeros(1, 1, size, size)).numel(), 1)
        self.double()

    def forward(self, images):
        return self.score(self.layers(images).flatten(1)).squeeze(1)


class Function(nn.Module):
    """An activation that is a function."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


ACTIVATIONS = {
    "nn.ReLU": nn.ReLU,
    "nn.ReLU in place": lambda: nn.ReLU(inplace=True),
    "nn.LeakyReLU": lambda: nn.LeakyReLU(0.2),
    "nn.LeakyReLU in place": lambda: nn.LeakyReLU(0.2, inplace=True),
    "nn.LeakyReLU with its own slope": nn.LeakyReLU,
    "F.relu": lambda: Function(F.relu),
    "F.relu in place": lambda: Function(lambda x: F.relu(x, inplace=True)),
    "F.relu_": lambda: Function(F.relu_),
    "torch.relu": lambda: Function(torch.relu),
    "torch.relu_": lambda: Function(torch.relu_),
    "Tensor.relu": lambda: Function(lambda x: x.relu()),
    "Tensor.relu_": lambda: Function(lambda x: x.relu_()),
    "F.leaky_relu": lambda: Function(lambda x: F.leaky_relu(x, 0.1)),
    "F.leaky_relu by name": lambda: Function(lambda x: F.leaky_relu(x, negative_slope=0.1, inplace=True)),
    "F.leaky_relu with its own slope": lambda: Function(F.leaky_relu),
    "F.leaky_relu_": lambda: Function(lambda x: F.leaky_relu_(x, 0.3)),
}


def check(network, *, loss="bce", seed=0):
    images, weights = batch(channels=1, size=8, seed=seed)
    assert_equal_to_autograd(network, images=images, weights=weights, loss=loss)


@pytest.fixture(autouse=True)
def _same_weights():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("activation", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_every_way_to_write_a_rectifier_is_known(activation):
    check(InTurn(nn.Conv2d(1, 4, 3), activation(), nn.Conv2d(4, 4, 3), activation(), nn.Flatten(), nn.Linear(64, 5)))


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, dilation=2, padding=2, groups=2)],
        [nn.Conv2d(1, 4, 4, stride=2, padding=1, bias=False), nn.ReLU(), nn.AvgPool2d(2)],
        [nn.Flatten(), nn.Linear(64, 9), nn.LeakyReLU(0.2), nn.Linear(9, 7, bias=False), nn.LeakyReLU(0.2)],
        [nn.ReplicationPad2d(1), nn.Conv2d(1, 4, 3), nn.ReLU(), nn.UpsamplingNearest2d(scale_factor=2), nn.ReLU()],
        [nn.Flatten(), nn.Linear(64, 9)],
        [nn.Identity()],
    ],
    ids=["strides, dilation and groups", "no offsets", "linear layers", "other linear maps", "no kink", "one layer"],
)
def test_every_kind_of_layer_is_exact(layers):
    check(InTurn(*copy.deepcopy(layers)))


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("training", [True, False])
def test_spectral_normalisation_is_exact_and_refines_its_estimate_once(training):
    network = InTurn(spectral_norm(nn.Conv2d(1, 4, 3)), nn.ReLU(), spectral_norm(nn.Conv2d(4, 4, 3)), nn.ReLU())
    check(network.train(training))
    once = copy.deepcopy(network)
    images, weights = batch(channels=1, size=8)
    once(images)
    penalised_gradients(network, images, loss=adversarial("bce"), weights=weights, parameters=network.parameters())
    for name, buffer in once.named_buffers():
        assert torch.equal(buffer, network.get_buffer(name)), name


@pytest.mark.usefixtures("in_double")
def test_a_layer_that_is_used_twice_gets_the_sum():
    layer = nn.Conv2d(1, 1, 3, padding=1)
    check(InTurn(layer, nn.LeakyReLU(0.2), layer, nn.LeakyReLU(0.2)))


@pytest.mark.usefixtures("in_double")
def test_branches_and_sums_are_exact():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 1, 1)

        def forward(self, x):
            return (x + self.other(F.relu(self.one(x)))) * 0.5

    check(InTurn(Residual(), nn.LeakyReLU(0.2), Residual()))


# -- what it is told and what it gives back ---------------------------------------------------------------------------


@pytest.mark.usefixtures("in_double")
def test_gradients_come_in_the_order_of_the_parameters_that_were_asked_for():
    network = InTurn(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    images, weights = batch(channels=1, size=8)
    some = list(network.parameters())[::-2]
    assert_equal_to_autograd(network, images=images, weights=weights, parameters=some)


@pytest.mark.usefixtures("in_double")
def test_without_weights_it_is_the_gradient_of_the_loss_alone():
    network = InTurn(nn.Conv2d(1, 4, 3), nn.ReLU())
    images, weights = batch(channels=1, size=8)
    assert_equal_to_autograd(network, images=images, weights=weights * 0, loss="hinge")


def test_nothing_of_the_graph_stays_and_nobodys_gradient_is_touched():
    network = InTurn(nn.Conv2d(1, 4, 3), nn.ReLU(), spectral_norm(nn.Conv2d(4, 4, 3)), nn.ReLU())
    images, weights = batch(channels=1, size=8)

    class Kept:
        def __init__(self, tensor):
            self.tensor = tensor

    kept = []

    def pack(tensor):
        held = Kept(tensor)
        kept.append(weakref.ref(held))
        return held

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda held: held.tensor):
        found = penalised_gradients(
            network, images, loss=adversarial("bce"), weights=weights, parameters=network.parameters()
        )
    assert kept
    assert not [held for held in kept if held() is not None]
    assert not any(tensor.requires_grad for tensor in (*found.gradients, found.logits, found.loss, found.squared_norms))
    assert not images.requires_grad
    assert all(parameter.grad is None for parameter in network.parameters())


# -- and a network that only says so ----------------------------------------------------------------------------------


@pytest.mark.usefixtures("in_double")
@pytest.mark.parametrize("lie", [nn.Tanh(), nn.SiLU(), nn.MaxPool2d(2), nn.InstanceNorm2d(4), nn.PReLU()], ids=repr)
def test_a_claim_that_is_not_true_is_caught(lie):
    class Liar(InTurn):
        piecewise_linear = True

    with pytest.raises((AssertionError, RuntimeError), match=r"not close|not have been used in the graph"):
        check(Liar(nn.Conv2d(1, 4, 3), lie, nn.Conv2d(4, 4, 1), nn.ReLU()))
