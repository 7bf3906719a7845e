"""The baselines compute what Limner computes, and the benchmark runs from end to end."""

import json
import time
from contextlib import ExitStack
from dataclasses import asdict, replace

import pytest
import torch

from benchmarks import training_memory
from benchmarks.gated_training import GatedTraining, assemble, measure_overhead
from benchmarks.plain_loop import PlainLoop
from benchmarks.train import QUICK, main, tables, time_rows
from benchmarks.training_memory import BareStep
from benchmarks.training_recipe import Recipe, build_method, prepare_pictures
from benchmarks.training_rows import Row, Subject, rows
from limner.averaging import Average
from limner.data import PictureBatches
from limner.game import MicroBatch, Moment

CPU = torch.device("cpu")
RECIPE = Recipe(width=16, stages=3, blocks=1, batch=6, gamma=2.0)
MOMENT = Moment(step=0, images_seen=0, total_images=1000)
FORKS = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"
)  # Python 3.12 and newer, of PyTorch's loader processes


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("pictures") / "data"


@pytest.fixture(scope="module")
def data(folder):
    return prepare_pictures(folder, QUICK, quick=True)[1]


@pytest.fixture(scope="module")
def batch(data):
    return PictureBatches(data.split("train"), batch=RECIPE.batch, seed=0, device=CPU).at(0)


def well_conditioned(optimizers):
    """Adam's first step is the sign of a gradient, also where that is next to nothing: rounding could turn it."""
    for optimizer in optimizers:
        optimizer.param_groups[0]["eps"] = 1e-3


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def limner_after_a_step(data, batch):
    method = build_method(RECIPE, data, CPU)
    well_conditioned(method.optimizers.values())
    method.step([MicroBatch(batch, seeded(7))], MOMENT)
    return method


def plain_after_a_step(data, batch, *, recipe=RECIPE, tuned=False):
    networks = build_method(recipe, data, CPU, channels_last=tuned).networks
    noise = torch.randn(recipe.batch, recipe.latent, generator=seeded(7))
    loop = PlainLoop(networks, recipe, iter([(batch.images, batch.labels)]), tuned=tuned, noise=lambda count: noise)
    well_conditioned([loop.generator_optimizer, loop.discriminator_optimizer])
    loop.step()
    return loop


def distance(optimizer, other):
    """Largest relative distance of a parameter's gradient, and of its weights after the step.

    Without momentum (beta1 = 0) Adam's first moment is the gradient itself.
    """
    pairs = list(zip(optimizer.param_groups[0]["params"], other.param_groups[0]["params"], strict=True))

    def relative(a, b):
        return float((a - b).norm() / b.norm())

    gradients = [relative(optimizer.state[p]["exp_avg"], other.state[q]["exp_avg"]) for p, q in pairs]
    return max(gradients), max(relative(p.detach(), q.detach()) for p, q in pairs)


def assert_same_step(optimizers, plain):
    for player, theirs in (("generator", plain.generator_optimizer), ("discriminator", plain.discriminator_optimizer)):
        gradients, weights = distance(optimizers[player], theirs)
        assert gradients < 1e-4, player
        assert weights < 1e-4, player


@pytest.mark.parametrize("tuned", [False, True])
def test_a_step_of_the_plain_loop_and_one_of_limner_have_the_same_gradients_and_weights(data, batch, tuned):
    limner, plain = limner_after_a_step(data, batch), plain_after_a_step(data, batch, tuned=tuned)
    assert_same_step(limner.optimizers, plain)


def test_another_penalty_would_be_seen(data, batch):
    limner = limner_after_a_step(data, batch)
    plain = plain_after_a_step(data, batch, recipe=replace(RECIPE, gamma=RECIPE.gamma * 1.01))
    assert distance(limner.optimizers["discriminator"], plain.discriminator_optimizer)[0] > 1e-4


@pytest.mark.parametrize("row", [r for r in rows(torch.float32) if r.kind == "ablation"], ids=lambda row: row.name)
def test_a_feature_less_computes_the_same(data, batch, tmp_path, row):
    subject = Subject(RECIPE, data, tmp_path, CPU, "fp32", 0)
    method = started_method(row, subject)
    well_conditioned(method.optimizers.values())
    method.step([MicroBatch(batch, seeded(7))], MOMENT)
    assert_same_step(method.optimizers, plain_after_a_step(data, batch))


def started_method(row: Row, subject):
    """The method of a row before its first step."""
    with ExitStack() as stack:
        return row.start(subject, stack).run.method


def test_the_bare_step_makes_the_same_passes(data, batch):
    limner, bare = limner_after_a_step(data, batch), build_method(RECIPE, data, CPU)
    torch.manual_seed(7)
    well_conditioned(bare.optimizers.values())
    BareStep(bare, batch, RECIPE, torch.float32)()
    for player, optimizer in bare.optimizers.items():
        assert max(distance(optimizer, limner.optimizers[player])) < 1e-6


def test_the_plain_loop_averages_as_limner_does(data, batch):
    plain = plain_after_a_step(data, batch)
    run_average = average_of_the_first_weights(data)
    run_average.update(plain.generator, batch=RECIPE.batch, images_seen=RECIPE.batch)
    for mine, theirs in zip(plain.average.parameters(), run_average.network.parameters(), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-7)


def average_of_the_first_weights(data):
    generator = build_method(RECIPE, data, CPU, channels_last=False).networks["generator"]
    return Average(
        generator, half_life_kimg=RECIPE.average_half_life_kimg, ramp=RECIPE.average_ramp, total_images=10**9
    )


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_layout_of_a_row_holds_throughout_both_networks(data, batch, channels_last):
    networks = build_method(RECIPE, data, CPU, channels_last=channels_last).networks
    seen = []
    for network in (networks["generator"], networks["discriminator"]):
        for layer in network.layers:
            layer.register_forward_hook(lambda _, inputs, output: seen.extend([*inputs, output]))
    networks["discriminator"](networks["generator"](torch.randn(6, RECIPE.latent), batch.labels), batch.labels)
    assert len(seen) > 10
    innermost = 1 if channels_last else 3  # the dimension whose values lie side by side, also in a cut-out
    assert all(tensor.stride(innermost) == 1 for tensor in seen)


def test_a_held_run_takes_the_steps_that_it_is_told_to(data, tmp_path):
    run = assemble(build_method(QUICK, data, CPU), QUICK, data, place=tmp_path, precision="fp32")
    with GatedTraining(run) as training:
        assert training.steps == 0
        assert training.advance(steps=3)[0] == 3 * QUICK.batch
        assert training.advance()[0] == QUICK.batch
        images, seconds = training.advance(seconds=0.2)
        assert images >= QUICK.batch
        assert seconds >= 0.2
    assert training.steps == 4 + images // QUICK.batch


def test_what_goes_wrong_in_a_held_run_is_raised_where_one_waits_for_it(data, tmp_path):
    method = build_method(QUICK, data, CPU)
    method.step = lambda parts, moment: 1 / 0
    with (
        GatedTraining(assemble(method, QUICK, data, place=tmp_path, precision="fp32")) as training,
        pytest.raises(ZeroDivisionError, match="division by zero"),
    ):
        training.advance()


def test_overhead_is_what_is_neither_forward_nor_backward_nor_optimiser(data, tmp_path):
    method = build_method(QUICK, data, CPU)
    run = assemble(method, QUICK, data, place=tmp_path, precision="fp32")
    run = replace(run, batches=SlowBatches(run.batches, seconds=0.05))
    with GatedTraining(run) as training:
        found = measure_overhead(training, images=1000)
    assert found["images"] == 62 * QUICK.batch
    slept = found["images"] / QUICK.batch * 0.05 / found["seconds"]
    assert slept < found["outside_step"] < 1
    assert 0 < found["inside_step"] < found["trainer"] - slept
    assert 0 < found["checkpoint_blocking_seconds"] < found["checkpoint_seconds"]


class SlowBatches:
    def __init__(self, batches, *, seconds):
        self._batches, self._seconds = batches, seconds

    def at(self, step, **options):
        time.sleep(self._seconds)
        return self._batches.at(step, **options)


def test_ratios_are_taken_within_a_round(data, tmp_path):
    subject = Subject(RECIPE, data, tmp_path, CPU, "fp32", 0)
    chosen = [
        Row("plain", "baseline", lambda *_: Scripted(1, 1, 4, 1)),
        Row("limner", "limner", lambda *_: Scripted(1, 3, 8, 2)),
    ]
    plain, limner = time_rows(chosen, subject, seconds=1, rounds=3, say=lambda _: None)
    assert limner["images_per_second"] == {"median": 3, "min": 2, "max": 8}
    assert limner["over_plain"] == {"median": 2, "min": 2, "max": 3}
    assert plain["over_limner"]["median"] == 0.5


class Scripted:
    """Makes so many images in a second of each round."""

    def __init__(self, *rates):
        self._rates = iter(rates)

    def advance(self, *, seconds=0.0, steps=1):
        return next(self._rates), 1.0


@pytest.mark.parametrize("what", ["bare", "limner", "plain", "growth"])
def test_memory_is_measured(data, folder, tmp_path, capsys, what):
    if not training_memory.STATUS.is_file():
        pytest.skip("this system does not tell a process's peak memory")
    options = {
        "data": folder,
        "scratch": tmp_path,
        "precision": "fp32",
        "threads": 1,
        "recipe": json.dumps(asdict(QUICK)),
        "steps": 10,
    }
    training_memory.main([what, *(word for name, value in options.items() for word in (f"--{name}", str(value)))])
    found = json.loads(capsys.readouterr().out)
    assert f"{what}_mib" in found


@FORKS
def test_the_command_runs_and_writes_what_it_found(tmp_path, capsys):
    files = {"json": tmp_path / "out/found.json", "figure": tmp_path / "out/found.png"}
    words = ["--quick", "--markdown", "--workers", "1", "--parts", "speed", "--json", str(files["json"])]
    result = main([*words, "--figure", str(files["figure"]), "--rows", "plain", "plain, tuned", "limner"])
    assert json.loads(files["json"].read_text()) == result
    assert files["figure"].read_bytes().startswith(b"\x89PNG")
    printed = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in printed if line.startswith("|")][2:] == [
        "plain",
        "plain, tuned",
        "limner",
    ]
    assert {len(line) for line in printed if line.startswith("|")} == {len(printed[0])}


def test_an_unknown_row_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["--rows", "planes"])
    assert "There is no row 'planes'. Rows: plain, plain, tuned, limner" in capsys.readouterr().err


def test_tables_show_what_was_measured():
    found = {"outside_step": 0.01, "inside_step": 0.02, "trainer": 0.03, "checkpoints": 0.004}
    memory = {"bare_mib": 100, "limner_mib": 105, "plain_mib": 200, "limner_over_bare": 1.05}
    memory |= {"growth_from_step": 100, "growth_to_step": 1000, "growth_mib": 0.25}
    text = tables({"speed": None, "overhead": found, "memory": memory}, markdown=False)
    for words in ("trainer, both              3.00%", "checkpoints                0.40%", "1.05x", "100 to 1000"):
        assert words in text
