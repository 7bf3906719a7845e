"""What every training method has to keep to. A new file in limner/methods is tested here the moment it appears."""

import warnings

import numpy as np
import pytest
import torch

from limner.averaging import Average
from limner.checkpoint import Checkpoints
from limner.errors import LimnerError
from limner.exported import load_vetted
from limner.game import MicroBatch, Moment
from limner.journal import Journal, read_journal
from limner.methods import load_method
from limner.precision import autocast
from limner.randomness import generator
from limner.settings import TrainSettings
from limner.tasks import Pictures
from limner.training_loop import Best, TrainingRun, train


def moment(step):
    return Moment(step=step, images_seen=step * 4, total_images=1000)


def step_of(method, batches, step, *, parts=1):
    micro = [
        MicroBatch(batches.at(step, part=part, parts=parts), generator(0, "step", step, part)) for part in range(parts)
    ]
    return method.step(micro, moment(step))


def steps(method, batches, *, count, start=0):
    return [step_of(method, batches, step) for step in range(start, start + count)]


def weights(method):
    return {name: value.clone() for name, value in method.networks.state_dict().items()}


def test_the_product_makes_as_many_finite_pictures_as_the_batch_has(case):
    method, batch = case.build(), case.batches().at(0)
    images = method.product().eval()(**method.product_inputs(batch, generator(0)))
    assert images.shape == (4, 1, 16, 16)
    assert images.dtype is torch.float32
    assert torch.isfinite(images).all()
    assert images.abs().max() <= 1


def test_the_product_is_one_of_the_networks(case):
    method = case.build()
    assert any(method.product() is network for network in method.networks.values())


def test_every_parameter_is_trained(case):
    method = case.build()
    before = {name: p.detach().clone() for name, p in method.networks.named_parameters()}
    steps(method, case.batches(), count=4)
    still = [name for name, p in method.networks.named_parameters() if torch.equal(p, before[name])]
    assert not still


def test_every_parameter_belongs_to_exactly_one_optimizer(case):
    method = case.build()
    owned = [id(p) for o in method.optimizers.values() for group in o.param_groups for p in group["params"]]
    assert sorted(owned) == sorted(id(p) for p in method.networks.parameters())


def test_each_move_touches_only_its_own_player(case):
    method, moves = case.build(), []
    now = {name: p.detach().clone() for name, p in method.networks.named_parameters()}

    def moved(optimizer, *_):
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        for name, p in method.networks.named_parameters():
            assert id(p) in own or torch.equal(p, now[name]), name
            now[name] = p.detach().clone()
        moves.append(optimizer)

    for optimizer in method.optimizers.values():
        optimizer.register_step_post_hook(moved)
    steps(method, case.batches(), count=2)
    assert len(moves) == 2 * len(method.optimizers)


def test_a_method_says_truly_whether_a_step_calls_its_product(case):
    """If not, to compile that call would cost its minute and gain nothing."""
    method, calls = case.build(), []
    method.product().register_forward_pre_hook(lambda *_: calls.append(1))
    steps(method, case.batches(), count=1)
    assert bool(calls) == getattr(method, "calls_product", True)


def test_every_term_is_a_finite_detached_scalar(case):
    for losses in steps(case.build(), case.batches(), count=2):
        for name, value in losses.items():
            assert value.shape == (), name
            assert not value.requires_grad, name
            assert torch.isfinite(value), name


def test_the_same_steps_give_the_same_weights(case):
    one, other = case.build(), case.build()
    for method in (one, other):
        steps(method, case.batches(), count=3)
    for name, value in weights(one).items():
        assert torch.equal(value, weights(other)[name]), name


def test_a_step_leaves_the_global_random_state_alone(case):
    method, before = case.build(), torch.get_rng_state()
    steps(method, case.batches(), count=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_works_in_bfloat16_and_keeps_the_weights_in_float32(case):
    method = case.build()
    with autocast(torch.bfloat16, torch.device("cpu")):
        losses = steps(method, case.batches(), count=2)[-1]
    assert all(torch.isfinite(value) for value in losses.values())
    assert all(p.dtype is torch.float32 for p in method.networks.parameters())


def test_a_batch_that_is_not_finite_leaves_every_parameter_as_it_was(case):
    method, batch = case.build(), case.batches().at(0)
    steps(method, case.batches(), count=1)
    before = {name: p.detach().clone() for name, p in method.networks.named_parameters()}
    nothing = Pictures(batch.real.images * float("nan"), batch.real.labels)
    poisoned = nothing if isinstance(batch, Pictures) else type(batch)(nothing, nothing)
    losses = method.step([MicroBatch(poisoned, generator(0))], moment(1))
    assert any(not torch.isfinite(value) for value in losses.values()), "and it tells"
    discriminator = [n for n in before if n.startswith("discriminator")]
    assert discriminator
    for name in discriminator:
        assert torch.equal(method.networks.get_parameter(name), before[name]), name


def run_of(case, folder, *, kimg, batches=None, checkpoint_kimg=0.02):
    method = case.build()
    settings = TrainSettings(
        kimg=kimg,
        batch=4,
        log_kimg=0.02,
        sample_kimg=1.0,
        checkpoint_kimg=checkpoint_kimg,
        ema_half_life_kimg=0.05,
        precision="fp32",
    )
    return TrainingRun(
        method=method,
        batches=batches or case.batches(),
        settings=settings,
        device=torch.device("cpu"),
        average=Average(method.product(), half_life_kimg=0.05, ramp=0.05, total_images=round(kimg * 1000)),
        best=Best(),
        checkpoints=Checkpoints(folder / "checkpoints", identity={"case": case.name}, keep=2),
        journal=Journal(folder / "journal.jsonl"),
        progress=lambda *_: None,
        draw_samples=lambda *_: None,
        watch=lambda product: {},
        judge=lambda product: {"fd": float(next(product.parameters()).sum())},
    )


class PowerCut(Exception):
    """Ends a run without warning."""


class UntilPowerCut:
    def __init__(self, batches, *, last):
        self._batches, self._last = batches, last

    def at(self, step, *, part=0, parts=1):
        if step > self._last:
            raise PowerCut
        return self._batches.at(step, part=part, parts=parts)


@pytest.mark.parametrize("last_step", [7, 12, 20])
def test_interrupted_equals_uninterrupted(case, tmp_path, last_step):
    whole = run_of(case, tmp_path / "whole", kimg=0.1)
    with whole.journal, whole.checkpoints:
        train(whole)

    cut = run_of(case, tmp_path / "cut", kimg=0.1, batches=UntilPowerCut(case.batches(), last=last_step))
    with cut.journal, cut.checkpoints, pytest.raises(PowerCut):
        train(cut)
    resumed = run_of(case, tmp_path / "cut", kimg=0.1)
    with resumed.journal, resumed.checkpoints:
        state = train(resumed)

    assert (state.step, state.images) == (25, 100)
    for name, value in weights(whole.method).items():
        assert torch.equal(value, weights(resumed.method)[name]), name
    for name, value in whole.average.network.state_dict().items():
        assert torch.equal(value, resumed.average.network.state_dict()[name]), name
    figures = [
        [
            (line["images"], {k: v for k, v in line["metrics"].items() if "/" in k})
            for line in read_journal(path / "journal.jsonl")
            if "metrics" in line
        ]
        for path in (tmp_path / "whole", tmp_path / "cut")
    ]
    assert figures[0] == figures[1], "no figure is missing, doubled or different"


def test_a_checkpoint_of_other_settings_is_refused_with_the_difference(case, tmp_path):
    run = run_of(case, tmp_path, kimg=0.02)
    with run.journal, run.checkpoints:
        train(run)
    changed = Checkpoints(tmp_path / "checkpoints", identity={"case": "another", "new": 1}, keep=2)
    with pytest.raises(
        LimnerError, match=rf"(?s)other settings.*case: '{case.name}' then, 'another' now; new: None then, 1 now"
    ):
        changed.restore({"networks": run.method.networks})


def test_the_product_survives_export(case, tmp_path):
    method, batches = case.build(), case.batches()
    steps(method, batches, count=1)
    product = method.product().eval().requires_grad_(False)
    two = method.product_inputs(batches.at(0), generator(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of PyTorch's tracing of reflection padding
        program = torch.export.export(
            product, (), two, dynamic_shapes={name: {0: torch.export.Dim("batch")} for name in two}
        )
    torch.export.save(program, tmp_path / "model.pt2")
    opened = load_vetted(tmp_path / "model.pt2").module()
    np.testing.assert_array_equal(opened(**two).numpy(), product(**two).numpy())


def test_an_unknown_method_is_refused_with_the_known_ones():
    with pytest.raises(LimnerError, match=r"(?s)no training method 'gam'.*Did you mean 'gan'\?"):
        load_method("gam")
