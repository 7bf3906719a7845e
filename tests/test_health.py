"""Signs of health against numpy, and that looking changes nothing."""

import numpy as np
import pytest
import torch
from torch import nn

from limner.guard import DIVERSITY, MEMORISED
from limner.health import PICTURES, HealthCheck, spread
from limner.methods import load_method
from limner.randomness import generator
from limner.tasks import PictureShape
from tests.packed import pack

CPU = torch.device("cpu")
CLASSES = ("a", "b", "c")


def random_pictures(count, *, seed):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 16, 16, 1), dtype=np.uint8), np.arange(count) % 3


@pytest.fixture
def packed(tmp_path):
    parts = {"train": random_pictures(48, seed=0), "validation": random_pictures(12, seed=1)}
    return pack(tmp_path / "packed", {"pictures": parts}, classes=CLASSES)


def gan(*, classes=3, judged_by="sngan"):
    loaded = load_method("gan")
    params = loaded.params.model_validate(
        {
            "name": "gan",
            "generator": {"name": "dcgan", "latent": 8, "width": 8, "max_width": 16},
            "discriminator": {"name": judged_by, "width": 8},
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return loaded.build(params, PictureShape(1, 16, 16, classes))


def check(method, packed, *, product=None):
    product = product or method.product().eval()
    return HealthCheck(method, packed, seed=0, device=CPU)(product)


# -- spread -----------------------------------------------------------------------------------------------------------


def test_spread_is_the_deviation_within_classes():
    images = torch.randn(9, 2, 4, 4, generator=generator(0))
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2])
    variances = [images[labels == label].numpy().var(axis=0, ddof=1).mean() for label in (0, 1)]  # one has no deviation
    assert spread(images, labels).item() == pytest.approx(np.sqrt(np.mean(variances)), rel=1e-5)
    whole = np.sqrt(images.numpy().var(axis=0, ddof=1).mean())
    assert spread(images, None).item() == pytest.approx(whole, rel=1e-5)


def test_spread_does_not_count_what_tells_classes_apart():
    labels = torch.arange(12) % 3
    images = labels.float()[:, None, None, None].expand(12, 1, 4, 4)
    assert spread(images, labels).item() == 0
    assert spread(images, None).item() > 0.5


def test_spread_of_one_picture_a_class_is_still_a_number():
    assert torch.isfinite(spread(torch.randn(3, 1, 4, 4), torch.arange(3)))


# -- the check --------------------------------------------------------------------------------------------------------


class Fixed(nn.Module):
    """A product that gives the same pictures for whatever it is asked."""

    def __init__(self, images):
        super().__init__()
        self.images = images

    def forward(self, latent, labels=None):
        return self.images


def test_diversity_is_nothing_for_a_constant_generator_and_one_for_the_real_pictures(packed):
    method = gan()
    constant = Fixed(torch.full((PICTURES, 1, 16, 16), 0.3))
    assert check(method, packed, product=constant)[DIVERSITY] == 0
    real = HealthCheck(method, packed, seed=0, device=CPU)._train.images
    assert check(method, packed, product=Fixed(real))[DIVERSITY] == pytest.approx(1.0)
    assert check(method, packed, product=Fixed(3 * real))[DIVERSITY] == pytest.approx(3.0)


def test_r_v_is_the_formula_of_the_paper(packed):
    """(E C(train) - E C(held out)) / (E C(train) - E C(generated)), arXiv:2006.06676."""
    method = gan()
    levels = {}

    def realness(batch, results=None):
        images = batch.images if results is None else results
        name = {PICTURES: "train", 12: "held out"}[len(images)]
        name = "generated" if torch.equal(images, fake) else name
        logits = torch.full((len(images),), {"train": 5.0, "held out": 2.0, "generated": 1.0}[name])
        levels[name] = levels.get(name, 0) + 1
        return logits + torch.linspace(-1, 1, len(images))

    fake = torch.zeros(PICTURES, 1, 16, 16)
    method.realness = realness
    signs = check(method, packed, product=Fixed(fake))
    assert signs[MEMORISED] == pytest.approx(0.75)
    assert signs["logit/held_out"] == pytest.approx(2.0)
    assert levels == {"train": 1, "held out": 1, "generated": 1}


def test_held_out_pictures_are_judged_with_their_own_labels(packed):
    method, seen = gan(), []
    method.networks["discriminator"].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1].tolist()))
    check(method, packed)
    assert seen == [[i % 3 for i in range(count)] for count in (PICTURES, 12, PICTURES)]


def test_without_held_out_pictures_there_is_no_r_v(tmp_path):
    packed = pack(tmp_path / "all", {"pictures": {"train": random_pictures(48, seed=0)}}, classes=CLASSES)
    assert check(gan(), packed).keys() == {DIVERSITY}


def test_pictures_without_labels_are_looked_at_too(tmp_path):
    parts = {"train": (random_pictures(48, seed=0)[0], None), "validation": (random_pictures(12, seed=1)[0], None)}
    signs = check(gan(classes=0), pack(tmp_path / "plain", {"pictures": parts}))
    assert signs.keys() - {MEMORISED} == {DIVERSITY, "logit/held_out"}


def test_r_v_is_left_out_where_real_and_generated_pictures_are_not_told_apart(packed):
    method = gan()
    method.realness = lambda batch, results=None: torch.linspace(-1, 1, len(batch.images))
    assert check(method, packed).keys() == {DIVERSITY, "logit/held_out"}


def test_a_figure_that_is_not_finite_is_left_out(packed):
    method = gan()
    broken = Fixed(torch.full((PICTURES, 1, 16, 16), float("nan")))
    assert check(method, packed, product=broken).keys() == {"logit/held_out"}


def translator(packed, **params):
    loaded = load_method("fastcut")
    small = {"generator": {"width": 4, "blocks": 1}, "discriminator": {"name": "dcgan", "width": 8}}
    return loaded.build(loaded.params.model_validate({"name": "fastcut"} | small | params), packed.shape())


def test_translations_are_compared_with_the_target(tmp_path):
    parts = {"train": random_pictures(48, seed=0), "validation": random_pictures(12, seed=1)}
    flat = {"train": (np.full((9, 16, 16, 1), 7, np.uint8), np.arange(9) % 3), "validation": random_pictures(3, seed=2)}
    packed = pack(tmp_path / "sides", {"source": flat, "target": parts}, classes=CLASSES)
    method, varied = translator(packed), torch.from_numpy(parts["train"][0][:9]).permute(0, 3, 1, 2) / 127.5 - 1
    method.product_inputs = lambda batch, rng: {"input": batch.source.images}
    assert check(method, packed, product=nn.Identity())[DIVERSITY] == 0, "the sources are all alike"
    method.product_inputs = lambda batch, rng: {"latent": None}
    assert check(method, packed, product=Fixed(varied))[DIVERSITY] == pytest.approx(1, abs=0.1), "the targets vary"


def test_where_training_sees_squares_the_discriminator_is_asked_about_squares(tmp_path):
    parts = {"train": random_pictures(8, seed=0), "validation": random_pictures(8, seed=1)}
    packed = pack(tmp_path / "sides", {"source": parts, "target": parts}, classes=CLASSES)
    method, seen = translator(packed), []
    method.networks["discriminator"].forward = lambda images, labels: (
        seen.append(images.shape) or images.mean((1, 2, 3))
    )
    HealthCheck(method, packed, seed=0, crop=12, device=CPU)(method.product().eval())
    assert seen == [(8, 1, 12, 12)] * 3


@pytest.mark.parametrize("judged_by", ["sngan", "dcgan"])
def test_looking_changes_nothing(packed, judged_by):
    """Neither spectral norm's vectors, nor batch statistics, nor gradients, nor anybody's mode or random state."""
    method = gan(judged_by=judged_by)
    product = gan().product().eval()  # as the average is: not one of the method's own networks
    before = {name: value.clone() for name, value in method.networks.state_dict().items()}
    random_state = torch.get_rng_state()
    check(method, packed, product=product)
    for name, value in method.networks.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(module.training for module in method.networks.modules())
    assert not product.training
    assert all(parameter.grad is None for parameter in method.networks.parameters())
    assert torch.equal(torch.get_rng_state(), random_state)


def test_spectral_norms_vectors_do_change_in_training_mode():
    """So that the test above says something."""
    discriminator = gan().networks["discriminator"]
    before = {name: buffer.clone() for name, buffer in discriminator.named_buffers()}
    discriminator(torch.randn(2, 1, 16, 16), torch.tensor([0, 1]))
    assert any(not torch.equal(buffer, before[name]) for name, buffer in discriminator.named_buffers())


def test_the_same_moment_gives_the_same_signs(packed):
    method = gan()
    assert check(method, packed) == check(method, packed)
