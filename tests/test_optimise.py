"""One move of one player."""

import copy
import io
import weakref

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from limner.optimise import OptimizerSettings, build_optimizer, compile_network, set_rates
from limner.optimise import descend as move
from limner.precision import choose_precision

ALL = [
    {"name": "adam", "learning_rate": 0.1},
    {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.01},
    {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    {"name": "rmsprop", "learning_rate": 0.1},
]


def descend(loss, optimizer):
    """A move down one loss; the norm of its gradient."""
    return move([loss], optimizer, player="me")["gradient/me"]


def optimizer_for(parameters, raw):
    return build_optimizer(TypeAdapter(OptimizerSettings).validate_python(raw), parameters)


@pytest.mark.parametrize("raw", ALL, ids=lambda raw: raw["name"])
def test_a_move_lowers_the_loss(raw):
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = optimizer_for([weight], raw)
    for _ in range(5):
        descend(weight.square().sum(), optimizer)
    assert weight.item() < 3.0


@pytest.mark.parametrize("raw", ALL, ids=lambda raw: raw["name"])
@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_and_told(raw, poison):
    weight = nn.Parameter(torch.tensor([3.0, 1.0]))
    optimizer = optimizer_for([weight], raw)
    descend(weight.square().sum(), optimizer)
    before = weight.detach().clone()
    norm = descend((weight * torch.tensor([1.0, poison])).sum(), optimizer)
    assert not torch.isfinite(norm)
    assert torch.equal(weight, before)
    assert torch.isfinite(descend(weight.square().sum(), optimizer))
    assert torch.isfinite(weight).all()
    assert not torch.equal(weight, before), "the next good step moves again"


@pytest.mark.parametrize("raw", ALL, ids=lambda raw: raw["name"])
def test_a_move_equals_pytorchs_own(raw):
    """Fused and unfused forms agree to rounding."""
    mine, theirs = (nn.Parameter(torch.linspace(-1, 1, 7)) for _ in range(2))
    classes = {
        "adam": torch.optim.Adam,
        "adamw": torch.optim.AdamW,
        "sgd": torch.optim.SGD,
        "rmsprop": torch.optim.RMSprop,
    }
    extra = {"betas": (0.5, 0.999)} if raw["name"].startswith("adam") else {}
    keywords = {k: v for k, v in raw.items() if k not in ("name", "learning_rate")}
    if raw["name"] == "adamw":
        keywords["weight_decay"] = 0.01
    reference = classes[raw["name"]]([theirs], lr=raw["learning_rate"], **keywords, **extra)
    optimizer = optimizer_for([mine], raw)
    for _ in range(10):
        descend((mine**4).sum() + mine.sum(), optimizer)
        reference.zero_grad()
        ((theirs**4).sum() + theirs.sum()).backward()
        reference.step()
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_a_move_returns_the_norm_of_the_whole_gradient():
    one, other = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([1.0]))
    norm = descend((3 * one + 4 * other).sum(), optimizer_for([one, other], ALL[0]))
    assert norm.item() == pytest.approx(5.0)


def test_a_move_leaves_the_other_player_alone():
    mine, theirs = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    descend((mine * theirs).sum(), optimizer_for([mine], ALL[0]))
    assert theirs.item() == 1.0
    assert theirs.grad is None


def test_a_parameter_that_the_loss_does_not_reach_is_a_bug():
    used, unused = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    with pytest.raises(RuntimeError, match="not have been used in the graph"):
        descend(used.sum(), optimizer_for([used, unused], ALL[0]))


def test_precision_is_what_was_asked_for():
    cpu = torch.device("cpu")
    assert choose_precision("fp32", cpu) is torch.float32
    assert choose_precision("bf16", cpu) is torch.bfloat16
    assert choose_precision("auto", cpu) in (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("raw", ALL, ids=lambda raw: raw["name"])
def test_a_first_step_that_is_skipped_leaves_no_trace(raw):
    """Not in the optimiser's own state either: the steps that follow equal those of a fresh one."""
    skipped, fresh = (nn.Parameter(torch.linspace(-1, 1, 1000)) for _ in range(2))
    first, second = optimizer_for([skipped], raw), optimizer_for([fresh], raw)
    descend((skipped * float("nan")).sum(), first)
    for _ in range(3):
        descend(skipped.square().sum(), first)
        descend(fresh.square().sum(), second)
    assert torch.equal(skipped, fresh)


# -- micro-batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_gradients", [False, True])
def test_several_micro_batches_move_as_their_mean_does(as_gradients):
    factors = [1.0, 2.0, 6.0]
    whole, parted = (nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2))
    first, second = optimizer_for([whole], ALL[2]), optimizer_for([parted], ALL[2])
    for _ in range(3):
        one = move([3.0 * whole.square().sum()], first, player="me")
        losses = (factor * parted.square().sum() for factor in factors)
        parts = (torch.autograd.grad(loss, [parted]) for loss in losses) if as_gradients else losses
        many = move(parts, second, player="me")
        torch.testing.assert_close(many, one)
    torch.testing.assert_close(parted, whole)


def test_gradients_that_a_method_keeps_are_not_written_into_where_there_is_but_one_part():
    weight = nn.Parameter(torch.ones(3))
    gradients = [torch.ones(3)]
    move([gradients], optimizer_for([weight], ALL[2]), player="me")
    assert torch.equal(gradients[0], torch.ones(3))


def test_one_micro_batch_is_used_up_before_the_next_is_asked_for():
    """Only one graph lives at a time: that is what micro-batches are for."""
    weight = nn.Parameter(torch.ones(3))
    kept = []

    def parts():
        for _ in range(3):
            assert not [node for node in kept if node() is not None], "the graph before is gone"
            squared = weight.square()
            kept.append(weakref.ref(squared))
            loss = squared.exp().sum()  # exp holds its own result, sum nothing
            del squared
            yield loss

    move(parts(), optimizer_for([weight], ALL[2]), player="me")
    assert len(kept) == 3


def test_a_parameter_is_left_without_a_gradient():
    weight = nn.Parameter(torch.ones(3))
    descend(weight.sum(), optimizer_for([weight], ALL[0]))
    assert weight.grad is None


# -- what is told -----------------------------------------------------------------------------------------------------


def test_a_move_tells_how_far_the_weights_went_relative_to_their_size():
    weight, other = nn.Parameter(torch.tensor([3.0])), nn.Parameter(torch.tensor([4.0]))
    told = move([weight + other], optimizer_for([weight, other], ALL[2]), player="player")
    assert told.keys() == {"gradient/player", "update/player"}
    assert told["update/player"].item() == pytest.approx(0.1 * 2**0.5 / 5)


def test_a_skipped_step_tells_that_the_weights_did_not_move():
    weight = nn.Parameter(torch.tensor([3.0]))
    told = move([weight.sum() * float("nan")], optimizer_for([weight], ALL[0]), player="me")
    assert told["update/me"].item() == 0


# -- rates ------------------------------------------------------------------------------------------------------------

RAMP = {"start": 1e-2, "end": 1e-3, "share": 0.5, "shape": "linear"}
BETA = {"start": 0.9, "end": 0.99, "shape": "linear"}


def rates(optimizer, progress, **keywords):
    set_rates({"it": optimizer}, progress, **keywords)
    (group,) = optimizer.param_groups
    return group["lr"], group.get("betas", (None, None))[1]


def test_rates_follow_their_schedules():
    optimizer = optimizer_for([nn.Parameter(torch.ones(1))], {"name": "adam", "learning_rate": RAMP, "beta2": BETA})
    assert optimizer.param_groups[0]["lr"] == 1e-2
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    assert rates(optimizer, 0.0) == (1e-2, 0.9)
    assert rates(optimizer, 0.25) == pytest.approx((5.5e-3, 0.9225))
    assert rates(optimizer, 1.0) == pytest.approx((1e-3, 0.99))
    assert rates(optimizer, 0.25) == pytest.approx((5.5e-3, 0.9225)), "there is no way back but the progress"


@pytest.mark.parametrize("raw", ALL, ids=lambda raw: raw["name"])
def test_a_factor_scales_the_learning_rate_once_however_often_it_is_asked(raw):
    optimizer = optimizer_for([nn.Parameter(torch.ones(1))], raw)
    for _ in range(3):
        assert rates(optimizer, 0.5, factor=0.25)[0] == pytest.approx(0.025)
    assert rates(optimizer, 0.5)[0] == pytest.approx(0.1)


def test_schedules_survive_a_checkpoint_of_plain_values():
    """Nothing in the optimiser's state but what `weights_only` reads."""
    raw = {"name": "adam", "learning_rate": RAMP, "beta2": BETA}
    optimizer, again = (optimizer_for([nn.Parameter(torch.ones(1))], raw) for _ in range(2))
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert rates(again, 0.25) == rates(optimizer, 0.25)


def test_a_step_uses_the_rate_that_was_set():
    weight = nn.Parameter(torch.zeros(1))
    optimizer = optimizer_for([weight], {"name": "sgd", "learning_rate": RAMP, "momentum": 0.0})
    set_rates({"it": optimizer}, 1.0, factor=0.5)
    descend(weight.sum(), optimizer)
    assert weight.item() == pytest.approx(-5e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_gradient_in_another_memory_layout_moves_the_weights_alike(layout):
    """PyTorch's fused Adam on the CPU does not look at strides, and double backward gives gradients in any of them."""
    start, gradient = torch.randn(4, 3, 3, 3), torch.randn(4, 3, 3, 3)
    fused = nn.Parameter(start.clone().to(memory_format=layout))
    plain = nn.Parameter(start.clone())
    optimizer = optimizer_for([fused], {"name": "adam", "learning_rate": 0.1})
    reference = torch.optim.Adam([plain], lr=0.1, betas=(0.5, 0.999))
    for other in (torch.contiguous_format, torch.channels_last):
        move([[gradient.clone().to(memory_format=other)]], optimizer, player="player")
        plain.grad = gradient
        reference.step()
    torch.testing.assert_close(fused, plain)


def small_generator():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


class Named(nn.Module):
    """Takes its input by name, as products do."""

    def __init__(self):
        super().__init__()
        self.layers = small_generator()

    def forward(self, latent):
        return self.layers(latent)


def test_without_a_compiler_a_network_stays_as_it_was_and_says_why(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no compiler here\nand a long trace")

    network = Named()
    monkeypatch.setattr(torch, "compile", broken)  # nn.Module.compile calls it
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert compile_network(network, {"latent": torch.randn(6, 4)}) == "no compiler here"
    assert torch.isfinite(network(latent=torch.randn(6, 4))).all()
    assert set(network.state_dict()) == set(before)


@pytest.mark.slow
def test_a_compiled_network_computes_the_same_and_keeps_its_names_and_statistics():
    network, inputs = Named(), {"latent": torch.randn(6, 4)}
    expected = copy.deepcopy(network)
    assert compile_network(network, inputs) == ""
    assert network._compiled_call_impl is not None
    for name, value in network.state_dict().items():
        assert torch.equal(value, expected.state_dict()[name]), name
    torch.testing.assert_close(network(**inputs), expected(**inputs))


def test_weights_that_begin_tiny_may_change_by_their_size():
    """CUT's authors begin with weights of a thousandth: a share of these would look like ruin."""
    weights = torch.nn.Parameter(torch.full((100,), 1e-4))
    optimizer = torch.optim.SGD([weights], lr=1e-3)
    told = move([weights.sum()], optimizer, player="me")
    assert told["update/me"].item() == pytest.approx(1e-3 / 0.01, rel=1e-4)
