"""One move of one player."""

import pytest
import torch
from pydantic import TypeAdapter
from torch import nn

from limner.optimise import OptimizerSettings, build_optimizer, choose_precision, descend

ALL = [
    {"name": "adam", "learning_rate": 0.1},
    {"name": "adamw", "learning_rate": 0.1, "weight_decay": 0.01},
    {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9},
    {"name": "rmsprop", "learning_rate": 0.1},
]


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
