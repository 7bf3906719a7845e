"""The GAN method's own promises: its penalties, its turns, its options."""

import pytest
import torch

from limner.methods import Moment
from limner.methods.gan import Method, Params
from limner.optimise import autocast
from limner.penalties import zero_centred_gradient_penalty
from limner.randomness import generator
from limner.tasks import Pictures, PictureShape

SHAPE = PictureShape(channels=1, height=16, width=16, classes=3)
BATCH = Pictures(torch.rand(4, 1, 16, 16, generator=generator(0)) * 2 - 1, torch.tensor([0, 1, 2, 0]))


def build(**params):
    torch.manual_seed(0)
    return Method(Params.model_validate({"name": "gan", **params}), SHAPE)


def moment(step=0):
    return Moment(step=step, images_seen=0, total_images=1, rng=generator(0, "step", step))


def test_penalties_are_taken_every_interval_and_at_real_and_fake_alike():
    method = build(penalties={"r1": 1.0, "r2": 1.0, "interval": 3})
    taken = [step for step in range(7) if "penalty/r1" in method.step(BATCH, moment(step))]
    assert taken == [0, 3, 6]
    assert "penalty/r2" in method.step(BATCH, moment(0))


def test_r1_is_the_penalty_at_the_real_pictures():
    method = build(penalties={"r1": 5.0})
    images = BATCH.images.clone().requires_grad_()
    expected = zero_centred_gradient_penalty(method.networks["discriminator"](images, BATCH.labels), images)
    assert method.step(BATCH, moment())["penalty/r1"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_lazy_penalty_weighs_its_interval_as_much():
    """Gradient of gamma/2 * interval * R1: doubling either doubles what the discriminator feels beyond the loss."""
    norms = {}
    for name, penalties in {
        "plain": {"r1": 0.0},
        "gamma": {"r1": 2e6, "interval": 1},
        "interval": {"r1": 1e6, "interval": 2},
    }.items():
        norms[name] = method_norm(penalties)
    assert norms["gamma"] == pytest.approx(norms["interval"], rel=1e-5)
    assert norms["gamma"] > 100 * norms["plain"]


def method_norm(penalties):
    return build(penalties=penalties).step(BATCH, moment())["gradient/discriminator"].item()


def test_real_pictures_come_back_without_a_gradient():
    batch = Pictures(BATCH.images.clone(), BATCH.labels)
    build(penalties={"r1": 1.0}).step(batch, moment())
    assert not batch.images.requires_grad


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_generator_is_judged_by_the_discriminator_that_has_just_moved(precision):
    """In bfloat16 as well, where autocast would go on with the casts of the weights that it made before the move."""
    method = build(
        penalties={}, loss="bce", discriminator_optimizer={"name": "sgd", "learning_rate": 1.0, "momentum": 0.0}
    )
    discriminator = method.networks["discriminator"]
    before = {name: value.clone() for name, value in discriminator.state_dict().items()}

    def loss_of(fake):
        return torch.nn.functional.softplus(-discriminator(fake, BATCH.labels)).mean().item()

    with autocast(precision, torch.device("cpu")):
        # Batch normalisation in training mode: the fakes of the step are the fakes that are drawn here.
        fake = method.networks["generator"](**method.product_inputs(BATCH, generator(0, "step", 0))).detach()
        reported = method.step(BATCH, moment())["loss/generator"].item()
    with autocast(precision, torch.device("cpu")):
        moved = loss_of(fake)
        discriminator.load_state_dict(before)
    with autocast(precision, torch.device("cpu")):
        unmoved = loss_of(fake)
    tolerance = 1e-5 if precision is torch.float32 else 5e-3
    assert reported == pytest.approx(moved, abs=tolerance)
    assert abs(reported - unmoved) > 5 * tolerance


@pytest.mark.parametrize("discriminator", [{"name": "dense", "widths": [32]}, {"name": "dcgan"}])
@pytest.mark.parametrize("loss", ["bce", "bce-saturating", "lsgan", "hinge", "rpgan"])
@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "rmsprop"])
def test_every_combination_of_discriminator_loss_and_optimizer_takes_a_step(discriminator, loss, optimizer):
    settings = {"name": optimizer, "learning_rate": 1e-4}
    method = build(
        discriminator=discriminator, loss=loss, generator_optimizer=settings, discriminator_optimizer=settings
    )
    losses = method.step(BATCH, moment())
    assert all(torch.isfinite(value) for value in losses.values())


def test_an_unconditional_gan_ignores_the_labels_and_its_product_does_not_ask_for_them():
    method = build(conditional=False)
    assert set(method.product_inputs(BATCH, generator(0))) == {"latent"}
    method.step(BATCH, moment())


def test_a_conditional_gan_on_unlabelled_pictures_is_unconditional():
    method = Method(Params(name="gan"), PictureShape(1, 16, 16, classes=0))
    losses = method.step(Pictures(BATCH.images), moment())
    assert all(torch.isfinite(value) for value in losses.values())


def test_probabilities_of_being_real_are_told_where_the_loss_defines_them():
    losses = build(loss="bce").step(BATCH, moment())
    assert 0 < losses["probability/real"] < 1
    assert 0 < losses["probability/fake"] < 1
    relativistic = build(loss="rpgan").step(BATCH, moment())
    assert "logit/real" in relativistic
    assert "probability/real" not in relativistic
