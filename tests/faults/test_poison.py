"""Figures that are not finite and rates that are absurd, in real runs: mended or refused, and always told."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

import limner.optimise
import limner.steps.train as module
from limner.adapters import connect
from limner.errors import LimnerError
from limner.journal import read_journal
from limner.steps.train import train
from limner.tasks import Pictures
from tests.faults.conftest import TRANSLATIONS
from tests.mlflow_stand import database, third_party_warnings

pytestmark = third_party_warnings

TRAIN = {"kimg": 0.96, "log_kimg": 0.064, "checkpoint_kimg": 0.128, "judge_kimg": 0.16, "sample_kimg": 0.96}
AT = 21
"""The step at which something happens; the run has 60."""
HALF = TRAIN | {"kimg": 0.48, "sample_kimg": 0.48}
"""30 steps: a translation's cost more."""
NAN = float("nan")


@dataclasses.dataclass
class Outcome:
    """What a run left behind."""

    error: LimnerError | None
    weights: dict
    events: list
    tags: dict
    status: str
    screen: list
    lines: list


@pytest.fixture
def run(toys, tmp_path, tmp_path_factory):
    """Train to the end, or to the error, and look at everything it left."""
    uri = database(tmp_path, tmp_path_factory)

    def go(settings):
        screen = []
        ports = connect(tracking_uri=uri, notice=screen.append)
        places = {"output": tmp_path / "model", "scratch": tmp_path / "runs"}
        error, weights = None, {}
        try:
            train(settings, name="toy", dataset=toys.dataset_of(settings), ports=ports, **places)
            weights = load_file(tmp_path / "model" / "last" / "model.safetensors")
            weights |= {f"best {k}": v for k, v in load_file(tmp_path / "model" / "best" / "model.safetensors").items()}
        except LimnerError as caught:
            error = caught
        (journal,) = tmp_path.glob("runs/*/journal.jsonl" if error else "model/journal.jsonl")
        lines = read_journal(journal)
        client = ports.tracker.server.client
        (stored,) = client.search_runs([client.get_experiment_by_name("limner").experiment_id])
        tags = {k: v for k, v in stored.data.tags.items() if k.startswith("limner.event.")}
        events = [line["event"] for line in lines if "event" in line]
        metrics = [line for line in lines if "metrics" in line]
        return Outcome(error, weights, events, tags, stored.info.status, screen, metrics)

    return go


@pytest.fixture
def poison(monkeypatch):
    """Have `deed(method, parts)` done before a step: once, or whenever `when` says so of the step's number."""

    def inject(deed, *, when=None):
        build, done = module.build, []

        def build_poisoned(*words):
            method = build(*words)
            step = method.step

            def poisoned(parts, moment):
                if when(moment.step) if when else (moment.step == AT and not done):
                    done.append(moment.step)
                    parts = deed(method, parts) or parts
                return step(parts, moment)

            method.step = poisoned
            return method

        monkeypatch.setattr(module, "build", build_poisoned)
        return done

    return inject


def bad_batch(method, parts):
    return [dataclasses.replace(part, batch=not_finite(part.batch)) for part in parts]


def not_finite(batch):
    if isinstance(batch, Pictures):
        return dataclasses.replace(batch, images=batch.images * NAN)
    return dataclasses.replace(batch, source=not_finite(batch.source), target=not_finite(batch.target))


def bad_weight(player):
    def deed(method, parts):
        with torch.no_grad():
            next(method.networks[player].parameters())[0] = NAN

    return deed


def bad_statistic(method, parts):
    layer = next(layer for layer in method.networks["generator"].modules() if hasattr(layer, "running_var"))
    layer.running_var[0] = NAN


def refuse_silence(outcome, event):
    """It is in the journal, in MLflow and on the screen."""
    assert event in outcome.events
    assert any(event in sentence for sentence in outcome.tags.values()), outcome.tags
    assert any(event in sentence for sentence in outcome.screen), outcome.screen


def refuse_damage(outcome, *, images=960):
    assert outcome.error is None
    assert outcome.status == "FINISHED"
    assert all(torch.isfinite(value).all() for value in outcome.weights.values())
    assert [line["images"] for line in outcome.lines] == sorted(line["images"] for line in outcome.lines)
    assert outcome.lines[-1]["images"] == images
    assert all(line["metrics"].get("images_per_second", 1) > 0 for line in outcome.lines)


SKIPPED, BACK = "skipped non-finite steps", "went back"


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_loss_that_is_not_finite_costs_one_step(toys, run, poison, player):
    def deed(method, parts):
        adversary = method._adversary
        sane = adversary._loss

        def once(real, fake):
            adversary._loss = sane
            return getattr(sane, player)(real, fake) * NAN

        adversary._loss = dataclasses.replace(sane, **{player: once})

    poison(deed)
    outcome = run(toys.settings("small", train=TRAIN))
    refuse_damage(outcome)
    refuse_silence(outcome, SKIPPED)
    assert outcome.events == [SKIPPED]


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_gradient_that_is_not_finite_costs_one_step(toys, run, poison, monkeypatch, player):
    sane = limner.optimise._mean_gradients

    def deed(method, parts):
        def once(losses, parameters):
            gradients = sane(losses, parameters)
            if parameters[0] is next(method.networks[player].parameters()):
                monkeypatch.setattr(limner.optimise, "_mean_gradients", sane)
                gradients[-1].view(-1)[0] = NAN
            return gradients

        monkeypatch.setattr(limner.optimise, "_mean_gradients", once)

    poison(deed)
    outcome = run(toys.settings("small", train=TRAIN))
    refuse_damage(outcome)
    refuse_silence(outcome, SKIPPED)
    assert outcome.events == [SKIPPED]


@pytest.mark.parametrize("player", ["generator", "discriminator"])
def test_a_weight_that_is_not_finite_sends_the_run_back(toys, run, poison, player):
    poison(bad_weight(player))
    outcome = run(toys.settings("small", train=TRAIN))
    refuse_damage(outcome)
    refuse_silence(outcome, BACK)
    assert outcome.events.count(BACK) == 1


def test_a_weight_that_is_not_finite_sends_the_run_back_without_waiting_for_a_checkpoint(toys, run, poison):
    poison(bad_weight("discriminator"))
    outcome = run(toys.settings("small", train=TRAIN | {"checkpoint_kimg": 0.96}))
    refuse_damage(outcome)
    assert any("steps were not, and were skipped" in sentence for sentence in outcome.screen)


@pytest.mark.parametrize("model", ["small", "sngan"])
def test_a_statistic_that_is_not_finite_sends_the_run_back(toys, run, poison, model):
    poison(bad_statistic)
    outcome = run(toys.settings(model, train=TRAIN))
    refuse_damage(outcome)
    refuse_silence(outcome, BACK)


def test_a_poisoned_last_step_is_not_what_is_shipped(toys, run, poison):
    """Nothing comes after it that could notice."""
    done = []
    poison(lambda method, parts: done.append(1) or bad_statistic(method, parts), when=lambda n: n == 59 and not done)
    outcome = run(toys.settings("small", train=TRAIN))
    refuse_damage(outcome)
    refuse_silence(outcome, BACK)


@pytest.mark.parametrize("model", ["small", "r3gan", "textbook"])
def test_a_batch_that_is_not_finite_costs_its_step_each_time_it_comes(toys, run, poison, model):
    done = poison(bad_batch, when=lambda number: number == AT)
    outcome = run(toys.settings(model, train=TRAIN))
    assert done
    refuse_damage(outcome)
    refuse_silence(outcome, SKIPPED)
    assert outcome.events == [SKIPPED]


@pytest.mark.parametrize("model", TRANSLATIONS)
def test_a_translation_is_not_harmed_by_a_batch_that_is_not_finite(toys, run, poison, model):
    """Nor by its sources, which go through the generator and all that its layers remember of batches."""
    done = poison(bad_batch, when=lambda number: number == AT)
    outcome = run(toys.settings(model, train=HALF))
    assert done
    refuse_damage(outcome, images=480)
    refuse_silence(outcome, SKIPPED)
    assert outcome.events == [SKIPPED]


PLAYERS = [
    ("cut", "projection"),
    ("fastcut", "generator"),
    ("sincut", "discriminator"),
    ("cyclegan", "generator"),
    ("cyclegan", "discriminator_back"),
    ("pix2pix", "generator"),
    ("pix2pix", "discriminator"),
]


@pytest.mark.parametrize(("model", "player"), PLAYERS)
def test_a_weight_of_a_translation_that_is_not_finite_sends_the_run_back(toys, run, poison, model, player):
    poison(bad_weight(player))
    outcome = run(toys.settings(model, train=HALF))
    refuse_damage(outcome, images=480)
    refuse_silence(outcome, BACK)
    assert outcome.events.count(BACK) == 1


@pytest.mark.parametrize("deed", [bad_batch, bad_weight("generator")], ids=["batch", "weight"])
def test_what_is_not_finite_is_not_kept_in_the_image_pool(toys, run, poison, deed):
    """Neither while it fills up nor afterwards: it would come back for ever."""
    seen = []

    def look(method, parts):
        pools = [method.networks[name] for name in ("pool", "pool_back")]
        assert all(torch.isfinite(pool.images).all() for pool in pools), f"before step {len(seen)}"
        assert all(pool.images.flatten(1)[: pool.filled].any(1).all() for pool in pools), "a place of nothing"
        seen.append([int(pool.filled) for pool in pools])
        return deed(method, parts) if len(seen) in (1, 12) else None

    poison(look, when=lambda number: True)
    outcome = run(toys.settings("cyclegan", train=HALF))
    refuse_damage(outcome, images=480)
    assert [24, 24] in seen, "it was full"


def test_data_that_stay_bad_for_good_end_in_a_diagnosis(toys, run, poison, tmp_path):
    poison(bad_batch, when=lambda number: number >= AT)
    outcome = run(toys.settings("small", train=TRAIN | {"kimg": 3.2}))
    assert "figures are not finite" in str(outcome.error)
    assert "went back 3 times" in str(outcome.error)
    assert outcome.status == "FAILED"
    assert not (tmp_path / "model").exists()
    for event in (SKIPPED, BACK, "gave up"):
        refuse_silence(outcome, event)


def test_a_run_that_gave_up_gives_up_again_and_does_not_begin_anew(toys, run, poison, tmp_path):
    poison(bad_batch, when=lambda number: number >= AT)
    settings = toys.settings("small", train=TRAIN | {"kimg": 3.2})
    first, second = run(settings), run(settings)
    assert str(first.error).splitlines()[0] == str(second.error).splitlines()[0]
    assert second.events.count(BACK) <= first.events.count(BACK)


# -- learning rates ---------------------------------------------------------------------------------------------------

SIXTY_LINES = {"kimg": 1.92, "log_kimg": 0.032, "checkpoint_kimg": 0.32, "sample_kimg": 1.92}
MODELS = ["default", "r3gan", "sngan", "textbook"]
SLOW_TRANSLATIONS = [pytest.param(model, marks=pytest.mark.slow) for model in TRANSLATIONS]
EVERY_LINE, SELDOM = 0.032, 0.48
RATES = [(model, log_kimg) for model in MODELS for log_kimg in (EVERY_LINE, SELDOM)]
RATES += [(model, EVERY_LINE) for model in TRANSLATIONS]
RATES += [pytest.param(model, SELDOM, marks=pytest.mark.slow) for model in TRANSLATIONS]


@pytest.mark.parametrize(("model", "log_kimg"), RATES)
def test_a_learning_rate_a_thousand_times_too_high_ends_in_a_diagnosis(toys, run, model, log_kimg, tmp_path):
    """However seldom one looks."""
    absurd = {"name": "adam", "learning_rate": 0.2}
    settings = toys.settings(
        model, train=SIXTY_LINES | {"log_kimg": log_kimg}, generator_optimizer=absurd, discriminator_optimizer=absurd
    )
    outcome = run(settings)
    assert "Training fails" in str(outcome.error)
    assert "ower the learning rate" in str(outcome.error)
    refuse_silence(outcome, "gave up")
    assert not (tmp_path / "model").exists()


@pytest.mark.slow
def test_a_generator_that_is_slow_to_begin_is_left_alone(toys, run):
    """A U-Net's first pictures are all alike: with the paper's rate they differ after a quarter of this run."""
    outcome = run(toys.settings("pix2pix-slow", train=SIXTY_LINES | {"log_kimg": 0.064}))
    diversity = [line["metrics"]["signal/diversity"] for line in outcome.lines]
    assert diversity[3] < 0.02, "three lines of it are enough to send a run back"
    assert diversity[-1] > 0.2
    assert outcome.error is None
    assert outcome.events == [] == outcome.screen


@pytest.mark.parametrize("model", MODELS + SLOW_TRANSLATIONS)
def test_a_sane_run_is_left_alone(toys, run, model):
    outcome = run(toys.settings(model, train=SIXTY_LINES))
    assert len(outcome.lines) == 60
    assert outcome.error is None
    assert outcome.events == [] == outcome.screen
