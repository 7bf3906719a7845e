"""The GAN method's own promises: its turns, its penalties, its parts, its options."""

from functools import partial

import pytest
import torch
from pydantic import ValidationError

from limner import adversary
from limner.adversary import Duel
from limner.augment import Augmentation
from limner.game import MicroBatch, Moment
from limner.losses import ADVERSARIAL
from limner.methods.gan import Method, Params
from limner.networks import dcgan, dense, r3gan
from limner.penalties import (
    interpolated_gradient_penalty,
    squared_gradient_norm_estimates,
    zero_centred_gradient_penalty,
)
from limner.precision import autocast
from limner.randomness import generator
from limner.tasks import Pictures, PictureShape

SHAPE = PictureShape(channels=1, height=16, width=16, classes=3)
BATCH = Pictures(torch.rand(8, 1, 16, 16, generator=generator(0)) * 2 - 1, torch.arange(8) % 3)
SGD = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.0}
"""Its step is the gradient: weights after it tell all of it, and Adam's would tell signs."""
TOTAL = 1000

GENERATORS = {
    "dcgan": {"latent": 8, "width": 8, "max_width": 16},
    "sngan": {"latent": 8, "width": 8},
    "r3gan": {"latent": 8, "widths": [16, 8, 8], "blocks": 1, "embedding": 4},
}
DISCRIMINATORS = {
    "dcgan": {"width": 8, "max_width": 16},
    "dense": {"widths": [32, 16]},
    "sngan": {"width": 8},
    "r3gan": {"widths": [16, 8, 8], "blocks": 1},
    "patch": {"width": 8, "layers": 1, "norm": "none"},
    "multiscale": {"width": 8, "layers": 1, "norm": "none"},
}
PENALTIES = {
    "none": {},
    "exact": {"r1": 1.0, "r2": 0.5},
    "finite differences": {"r1": 1.0, "r2": 0.5, "form": "finite-difference"},
    "wgan-gp": {"wgan_gp": 10.0},
}


def build(*, made_by="dcgan", judged_by="dcgan", shape=SHAPE, **params):
    settings = {
        "name": "gan",
        "generator": {"name": made_by, **GENERATORS[made_by]},
        "discriminator": {"name": judged_by, **DISCRIMINATORS[judged_by]},
        "penalties": {},
        **params,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Method(Params.model_validate(settings), shape)


def randomness(number=0, part=0):
    return generator(0, "step", number, part)


def step(method, number=0, *, batch=BATCH, progress=0.0, rollbacks=0):
    return method.step(
        [MicroBatch(batch, randomness(number))], Moment(number, round(progress * TOTAL), TOTAL, rollbacks)
    )


def fakes(method, number=0):
    """The fakes of a step that is still to come, and the randomness behind them."""
    rng = randomness(number)
    with torch.no_grad():
        return method.networks["generator"](**method.product_inputs(BATCH, rng)), rng


def parameters(method, player=""):
    return {n: p.detach().clone() for n, p in method.networks.named_parameters() if n.startswith(player)}


def assert_same(one, other, *, tolerance=1e-5):
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(
            value, other[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def differ(one, other):
    return any(not torch.allclose(value, other[name], rtol=1e-3, atol=1e-6) for name, value in one.items())


@pytest.fixture(params=["piecewise linear", "double backward"])
def _both_ways(request, monkeypatch):
    """The two ways to the exact penalties; a network that cannot go the first one always goes the second."""
    if request.param == "double backward":
        for family in (dcgan, dense, r3gan):
            assert family.Discriminator.piecewise_linear
            monkeypatch.setattr(family.Discriminator, "piecewise_linear", False)


both_ways = pytest.mark.usefixtures("_both_ways")


# -- everything goes with everything ----------------------------------------------------------------------------------


def assert_a_step_moves_all(method, **keywords):
    before = parameters(method)
    losses = step(method, **keywords)
    assert all(torch.isfinite(value) for value in losses.values())
    assert {"loss/generator", "loss/discriminator", "gradient/generator", "update/discriminator"} <= losses.keys()
    after = parameters(method)
    for player in ("generator", "discriminator"):
        assert any(not torch.equal(value, before[n]) for n, value in after.items() if n.startswith(player))


@pytest.mark.parametrize("penalties", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("judged_by", DISCRIMINATORS)
@pytest.mark.parametrize("loss", ADVERSARIAL)
def test_every_loss_goes_with_every_discriminator_and_penalty(judged_by, loss, penalties):
    assert_a_step_moves_all(build(judged_by=judged_by, loss=loss, penalties=penalties))


@pytest.mark.parametrize("penalties", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("judged_by", DISCRIMINATORS)
def test_every_discriminator_and_penalty_goes_in_bfloat16(judged_by, penalties):
    with autocast(torch.bfloat16, torch.device("cpu")):
        assert_a_step_moves_all(build(judged_by=judged_by, penalties=penalties))


@pytest.mark.parametrize("made_by", GENERATORS)
@pytest.mark.parametrize("judged_by", DISCRIMINATORS)
@pytest.mark.parametrize("conditional", [True, False])
def test_every_generator_goes_with_every_discriminator(made_by, judged_by, conditional):
    assert_a_step_moves_all(build(made_by=made_by, judged_by=judged_by, conditional=conditional))


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_every_optimizer_goes(optimizer):
    settings = {"name": optimizer, "learning_rate": 1e-4}
    assert_a_step_moves_all(build(generator_optimizer=settings, discriminator_optimizer=settings))


@pytest.mark.parametrize("name", ["diffaugment", "scheduled", "adaptive"])
def test_every_augmentation_goes(name):
    assert_a_step_moves_all(build(augmentation={"name": name}), progress=0.5)


def test_the_lists_above_know_every_family():
    for lists, field in ((GENERATORS, "generator"), (DISCRIMINATORS, "discriminator")):
        schema = Params.model_json_schema()["properties"][field]
        assert schema["discriminator"]["mapping"].keys() == lists.keys()


# -- turns ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_generator_is_judged_by_the_discriminator_that_has_just_moved(precision):
    """In bfloat16 as well, where autocast would go on with the casts of the weights that it made before the move."""
    method = build(loss="bce", discriminator_optimizer=SGD | {"learning_rate": 1.0})
    discriminator = method.networks["discriminator"]
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}

    def loss_of(fake):
        with autocast(precision, torch.device("cpu")):
            return torch.nn.functional.softplus(-discriminator(fake, BATCH.labels)).mean().item()

    with autocast(precision, torch.device("cpu")):
        # Batch normalisation in training mode: the fakes of the step are the fakes that are drawn here.
        fake, _ = fakes(method)
        reported = step(method)["loss/generator"].item()
    moved = loss_of(fake)
    discriminator.load_state_dict(before)
    unmoved = loss_of(fake)
    tolerance = 1e-5 if precision is torch.float32 else 5e-3
    assert reported == pytest.approx(moved, abs=tolerance)
    assert abs(reported - unmoved) > 5 * tolerance


def test_the_generator_moves_only_at_the_last_of_the_discriminators_steps():
    method = build(discriminator_steps=3, generator_optimizer=SGD, discriminator_optimizer=SGD)
    moves = []
    for number in range(7):
        before = parameters(method)
        losses = step(method, number)
        after = parameters(method)
        moved = {n.partition(".")[0] for n, value in after.items() if not torch.equal(value, before[n])}
        assert ("loss/generator" in losses) == ("gradient/generator" in losses) == ("generator" in moved)
        assert "discriminator" in moved
        moves.append("generator" in moved)
    assert moves == [False, False, True, False, False, True, False]


def test_real_pictures_come_back_without_a_gradient():
    batch = Pictures(BATCH.images.clone(), BATCH.labels)
    step(build(penalties={"r1": 1.0}), batch=batch)
    assert not batch.images.requires_grad
    assert torch.equal(batch.images, BATCH.images)


# -- penalties --------------------------------------------------------------------------------------------------------


def test_penalties_are_taken_every_interval_and_at_real_and_fake_alike():
    method = build(penalties={"r1": 1.0, "r2": 1.0, "interval": 3})
    taken = [{"penalty/r1", "penalty/r2"} <= step(method, number).keys() for number in range(7)]
    assert taken == [True, False, False] * 2 + [True]
    method = build(penalties={"wgan_gp": 1.0, "interval": 3})
    assert ["penalty/gp" in step(method, number) for number in range(5)] == [True, False, False, True, False]


@both_ways
@pytest.mark.parametrize("judged_by", DISCRIMINATORS)
@pytest.mark.parametrize("conditional", [True, False])
def test_r1_and_r2_are_the_penalties_at_the_real_and_at_the_fake_pictures(judged_by, conditional):
    method = build(judged_by=judged_by, penalties={"r1": 5.0, "r2": 5.0}, conditional=conditional)
    method.networks["discriminator"].eval()  # spectral norm would refine its estimate between the two
    fake, _ = fakes(method)
    expected = {}
    for name, images in (("penalty/r1", BATCH.images.clone()), ("penalty/r2", fake)):
        images.requires_grad_()
        expected[name] = zero_centred_gradient_penalty(method.realness(BATCH, images), images).item()
    told = step(method)
    assert {name: told[name].item() for name in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("judged_by", ["dcgan", "dense", "r3gan"])
@pytest.mark.parametrize("loss", ["rpgan", "hinge", "bce"])
def test_both_ways_to_the_exact_penalties_give_the_same_step(monkeypatch, judged_by, loss):
    results = []
    for piecewise_linear in (True, False):
        method = build(
            judged_by=judged_by,
            loss=loss,
            penalties={"r1": 0.5, "r2": 2.0, "interval": 2, "lecam": 2.0 if loss == "bce" else 0.0},
            discriminator_optimizer=SGD,
            generator_optimizer=SGD,
        )
        assert method.networks["discriminator"].piecewise_linear
        monkeypatch.setattr(type(method.networks["discriminator"]), "piecewise_linear", piecewise_linear)
        told = [step(method, number) for number in range(3)]
        results.append((parameters(method), *told))
        monkeypatch.undo()
    for one, other in zip(*results, strict=True):
        assert_same(one, other)


def test_the_first_way_is_taken_where_the_network_allows_it(monkeypatch):
    asked = []
    monkeypatch.setattr(adversary, "squared_gradient_norms", lambda *_: asked.append(1) or torch.zeros(16))
    step(build(penalties={"r1": 1.0}))
    assert not asked
    step(build(judged_by="sngan", penalties={"r1": 1.0}))
    assert asked


def weights_after(penalties, **keywords):
    method = build(penalties=penalties, discriminator_optimizer=SGD | {"learning_rate": 1e-3}, loss="bce")
    step(method, **keywords)
    return parameters(method, "discriminator")


@both_ways
@pytest.mark.parametrize("kind", ["r1", "r2", "wgan_gp"])
@pytest.mark.parametrize("form", ["exact", "finite-difference"])
def test_a_penalty_weighs_its_gamma_its_interval_and_the_guards_caution(kind, form):
    """Gradient of gamma/2 * interval * 2 ** rollbacks * R: doubling any of them is the same."""
    plain = weights_after({kind: 8.0, "form": form})
    assert differ(plain, weights_after({}))
    double = weights_after({kind: 16.0, "form": form})
    assert differ(plain, double)
    assert_same(double, weights_after({kind: 8.0, "form": form, "interval": 2}))
    assert_same(double, weights_after({kind: 8.0, "form": form}, rollbacks=1))
    assert_same(weights_after({kind: 64.0, "form": form}), weights_after({kind: 8.0, "form": form}, rollbacks=3))


@both_ways
@pytest.mark.parametrize("kind", ["r1", "r2"])
def test_a_penalty_adds_half_gamma_times_its_gradient(kind):
    method = build(penalties={kind: 6.0}, discriminator_optimizer=SGD, loss="bce")
    judge, before = method.networks["discriminator"], parameters(method, "discriminator")
    fake, _ = fakes(method)
    real = BATCH.images.clone().requires_grad_(kind == "r1")
    fake.requires_grad_(kind == "r2")
    logits = judge(real, BATCH.labels), judge(fake, BATCH.labels)
    penalty = zero_centred_gradient_penalty(*((logits[0], real) if kind == "r1" else (logits[1], fake)))
    loss = ADVERSARIAL["bce"].discriminator(*logits) + 6.0 / 2 * penalty
    gradients = torch.autograd.grad(loss, list(judge.parameters()))
    expected = {n: v - SGD["learning_rate"] * g for (n, v), g in zip(before.items(), gradients, strict=True)}
    step(method)
    assert_same(parameters(method, "discriminator"), expected)


@both_ways
def test_gamma_follows_its_schedule():
    falling = {"start": 16.0, "end": 0.0, "shape": "linear"}
    assert_same(weights_after({"r1": falling}, progress=0.5), weights_after({"r1": 8.0}))
    assert_same(weights_after({"r1": falling}, progress=1.0), weights_after({}))
    assert "penalty/r1" not in step(build(penalties={"r1": falling}), progress=1.0)
    assert "penalty/r1" in step(build(penalties={"r1": falling, "r2": 1.0}), progress=1.0), "one of them is enough"


def test_finite_differences_are_taken_at_real_and_fake():
    method = build(penalties=PENALTIES["finite differences"])
    fake, rng = fakes(method)
    judge = partial(method.networks["discriminator"], labels=BATCH.labels.repeat(2))
    with torch.no_grad():
        norms = squared_gradient_norm_estimates(judge, torch.cat([BATCH.images, fake]), rng)
    told = step(method)
    assert told["penalty/r1"].item() == pytest.approx(norms[:8].mean().item(), rel=1e-4)
    assert told["penalty/r2"].item() == pytest.approx(norms[8:].mean().item(), rel=1e-4)


def test_wgan_gp_is_the_penalty_between_real_and_fake():
    method = build(loss="wgan", penalties={"wgan_gp": 10.0})
    fake, rng = fakes(method)
    judge = partial(method.networks["discriminator"], labels=BATCH.labels)
    expected = interpolated_gradient_penalty(judge, BATCH.images, fake, rng)
    assert step(method)["penalty/gp"].item() == pytest.approx(expected.item(), rel=1e-5)


# -- LeCam ------------------------------------------------------------------------------------------------------------


def test_lecam_holds_the_discriminator_back_by_anchors_that_are_saved():
    penalties = {"lecam": 5.0, "lecam_decay": 0.6}
    plain, held = (build(loss="bce", penalties=p, discriminator_optimizer=SGD) for p in ({}, penalties))
    told = []
    for number in range(3):
        step(plain, number)
        told.append(step(held, number))
    assert differ(parameters(plain, "discriminator"), parameters(held, "discriminator"))
    saved = held.networks.state_dict()
    share = torch.tensor([0.36, 0.6, 1.0])
    for side in ("real", "fake"):
        levels = torch.stack([each[f"logit/{side}"] for each in told])
        torch.testing.assert_close(saved[f"anchors.{side}"], (levels * share).sum() / share.sum())


def test_lecam_is_in_the_loss_that_is_told():
    method = build(loss="hinge", penalties={"lecam": 5.0})
    with torch.no_grad():
        method.networks["anchors"].real.fill_(3.0)
        method.networks["anchors"].fake.fill_(-3.0)
        fake, _ = fakes(method)
        real_logits, fake_logits = method.realness(BATCH), method.realness(BATCH, fake)
    lecam = (real_logits + 3).relu().square().mean() + (3 - fake_logits).relu().square().mean()
    expected = ADVERSARIAL["hinge"].discriminator(real_logits, fake_logits) + 5 * lecam
    assert step(method)["loss/discriminator"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_lecam_with_a_relativistic_loss_is_refused():
    with pytest.raises(
        ValidationError, match="lecam needs a loss that fixes the level of the logits, and rpgan does not"
    ):
        build(loss="rpgan", penalties={"lecam": 0.1})


# -- augmentation -----------------------------------------------------------------------------------------------------


class Halving(Augmentation):
    """Halves the contrast, which makes it easy to see what has gone through it; notes what it is asked and told."""

    def __init__(self):
        super().__init__()
        self.shown, self.observed = [], []

    def forward(self, images, rng, progress):
        assert isinstance(rng, torch.Generator)
        self.shown.append((images.detach().clone(), progress))
        return images / 2

    def observe(self, real_score_signs):
        self.observed.append(real_score_signs.clone())


def augmented(**params):
    method = build(augmentation={"name": "adaptive"}, **params)
    method._adversary._augmentation = Halving()
    seen = []
    method.networks["discriminator"].register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].detach().clone())
    )
    return method, method._adversary._augmentation, seen


@pytest.mark.parametrize("loss", ["rpgan", "bce"])
def test_the_discriminator_sees_nothing_that_is_not_augmented(loss):
    method, halving, seen = augmented(loss=loss)
    fake, _ = fakes(method)
    told = step(method, progress=0.25)
    assert [
        torch.equal(images, each) for (images, _), each in zip(halving.shown, (BATCH.images, fake, fake), strict=True)
    ]
    assert [progress for _, progress in halving.shown] == [0.25] * 3
    both = torch.cat([BATCH.images, fake]) / 2
    torch.testing.assert_close(seen[0], both, msg="the discriminator's turn")
    torch.testing.assert_close(seen[1], both[8:], msg="the generator's turn")
    assert len(seen) == (3 if loss == "rpgan" else 2)
    if loss == "rpgan":
        torch.testing.assert_close(seen[2], both[:8], msg="the same real pictures as in the turn before")
    assert "augmentation/strength" in told


def test_the_generators_gradient_goes_through_the_augmentation():
    """Half the contrast, half the slope: a discriminator that is linear in the image feels nothing else."""
    gradients = []
    for with_it in (False, True):
        method, halving, _ = augmented(loss="wgan", discriminator_optimizer=SGD | {"learning_rate": 1e-9})
        method._adversary._augmentation = halving if with_it else Augmentation()
        discriminator = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 1), torch.nn.Flatten(0))
        torch.nn.init.constant_(discriminator[1].weight, 0.1)
        method.networks["discriminator"].forward = lambda images, labels, net=discriminator: net(images)
        fake = method.networks["generator"](**method.product_inputs(BATCH, randomness()))
        loss = method._adversary.judge(fake, Duel(fake, fake, None, None, randomness()), Moment(0, 0, 1))
        (gradient,) = torch.autograd.grad(loss, fake)
        gradients.append(gradient)
    torch.testing.assert_close(gradients[1], gradients[0] / 2)


@both_ways
def test_penalties_are_taken_at_what_the_discriminator_sees():
    method, _, _ = augmented(penalties={"r1": 1.0, "r2": 1.0}, judged_by="dcgan")
    halved = (BATCH.images / 2).requires_grad_()
    expected = zero_centred_gradient_penalty(method.realness(BATCH, halved), halved).item()
    assert step(method)["penalty/r1"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("loss", ["bce", "rpgan", "wgan"])
@pytest.mark.parametrize("penalties", [{}, {"r1": 1.0}])
def test_the_controller_observes_the_signs_of_real_logits_or_of_their_lead(loss, penalties):
    method, halving, _ = augmented(loss=loss, penalties=penalties)
    with torch.no_grad():
        fake, _ = fakes(method)
        real_logits, fake_logits = (method.realness(BATCH, images / 2) for images in (BATCH.images, fake))
    expected = torch.sign(real_logits if loss == "bce" else real_logits - fake_logits)
    told = step(method)
    assert torch.equal(*halving.observed, expected)
    assert told["overfitting/r_t"].item() == pytest.approx(expected.mean().item())


def test_adaptive_augmentation_moves_and_is_saved():
    method = build(augmentation={"name": "adaptive", "target": -0.99, "ramp_kimg": 0.1, "interval": 2}, loss="bce")
    told = [step(method, number)["augmentation/strength"].item() for number in range(4)]
    assert told == pytest.approx([0, 0.16, 0.16, 0.32])
    assert method.networks.state_dict()["augmentation.probability"].item() == pytest.approx(0.32)


# -- micro-batches ----------------------------------------------------------------------------------------------------


def in_parts(method, number, *, parts):
    size = len(BATCH.images) // parts
    chunks = [Pictures(BATCH.images[i : i + size], BATCH.labels[i : i + size]) for i in range(0, 8, size)]
    micro = [MicroBatch(chunk, randomness(number, part)) for part, chunk in enumerate(chunks)]
    return method.step(micro, Moment(number, 0, TOTAL))


def with_the_noise_of_parts(method, *, parts):
    """The same method, its noise drawn as the parts of a batch would draw it."""
    size, draw = len(BATCH.images) // parts, method.product_inputs
    half = Pictures(BATCH.images[:size], BATCH.labels[:size])

    def product_inputs(batch, rng):
        number = method.number
        latent = torch.cat([draw(half, randomness(number, part))["latent"] for part in range(parts)])
        return {"latent": latent} | ({"labels": batch.labels} if "labels" in draw(batch, rng) else {})

    method.product_inputs = product_inputs
    return method


@both_ways
@pytest.mark.parametrize("judged_by", ["dcgan", "dense", "r3gan"])
@pytest.mark.parametrize(
    "params",
    [
        {"loss": "rpgan", "penalties": {"r1": 1.0, "r2": 1.0, "interval": 2}},
        {"loss": "bce", "penalties": {"lecam": 1.0}},
        {"loss": "hinge", "penalties": {"r1": 1.0}, "conditional": False},
        {"loss": "bce", "penalties": {"r1": 1.0}, "discriminator_steps": 2},
    ],
    ids=["rpgan", "lecam", "hinge", "discriminator steps"],
)
def test_a_batch_in_parts_is_the_batch(judged_by, params):
    """To rounding, weights and every term, where no layer looks at the batch as a whole."""
    build_it = partial(
        build, made_by="r3gan", judged_by=judged_by, generator_optimizer=SGD, discriminator_optimizer=SGD, **params
    )
    parted, whole = build_it(), with_the_noise_of_parts(build_it(), parts=4)
    for number in range(3):
        whole.number = number
        assert_same(in_parts(parted, number, parts=4), step(whole, number))
    assert_same(parted.networks.state_dict(), whole.networks.state_dict())


def test_each_part_has_its_own_noise():
    method = build()
    seen = []
    method.networks["generator"].register_forward_pre_hook(
        lambda _, __, inputs: seen.append(inputs["latent"].clone()), with_kwargs=True
    )
    in_parts(method, 0, parts=2)
    first_turn, second_turn = seen[:2], seen[2:]
    assert not torch.equal(*first_turn)
    assert all(torch.equal(one, other) for one, other in zip(first_turn, second_turn, strict=True))


@pytest.mark.parametrize("steps", [1, 2])
def test_batch_statistics_are_taken_in_once_a_batch_and_as_the_parts_mean(steps):
    method = build(discriminator_steps=steps)
    running = method.networks["generator"].layers[0].running_mean
    expected = []
    for part in range(2):
        alone = build()
        inputs = alone.product_inputs(
            Pictures(BATCH.images[:4], BATCH.labels[4 * part : 4 * part + 4]), randomness(0, part)
        )
        alone.networks["generator"](**inputs)
        expected.append(alone.networks["generator"].layers[0].running_mean)
    in_parts(method, 0, parts=2)
    torch.testing.assert_close(running, torch.stack(expected).mean(0))


@pytest.mark.parametrize("penalties", PENALTIES.values(), ids=PENALTIES)
@pytest.mark.parametrize("judged_by", DISCRIMINATORS)
def test_every_discriminator_and_penalty_goes_in_parts(judged_by, penalties):
    method = build(made_by="sngan", judged_by=judged_by, penalties=penalties, augmentation={"name": "diffaugment"})
    assert all(torch.isfinite(value) for number in range(2) for value in in_parts(method, number, parts=2).values())


# -- labels, and what is told -----------------------------------------------------------------------------------------


def test_an_unconditional_gan_ignores_the_labels_and_its_product_does_not_ask_for_them():
    method = build(conditional=False)
    assert set(method.product_inputs(BATCH, generator(0))) == {"latent"}
    step(method)


def test_a_conditional_gan_on_unlabelled_pictures_is_unconditional():
    method = build(shape=PictureShape(1, 16, 16, classes=0))
    losses = step(method, batch=Pictures(BATCH.images))
    assert all(torch.isfinite(value) for value in losses.values())


def test_realness_is_the_discriminators_own_logit_and_nothing_is_augmented():
    method, halving, _ = augmented()
    expected = method.networks["discriminator"](BATCH.images, BATCH.labels)
    assert torch.equal(method.realness(BATCH), expected)
    other = Pictures(BATCH.images, (BATCH.labels + 1) % 3)
    assert not torch.equal(method.realness(other), expected)
    assert not halving.shown


def test_realness_of_an_unconditional_gan_does_not_depend_on_the_labels():
    method = build(conditional=False)
    other = Pictures(BATCH.images, (BATCH.labels + 1) % 3)
    assert torch.equal(method.realness(BATCH), method.realness(other))


def test_probabilities_of_being_real_are_told_where_the_loss_defines_them():
    losses = step(build(loss="bce"))
    assert 0 < losses["probability/real"] < 1
    assert 0 < losses["probability/fake"] < 1
    relativistic = step(build(loss="rpgan"))
    assert "logit/real" in relativistic
    assert "probability/real" not in relativistic
