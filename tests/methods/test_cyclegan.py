"""CycleGAN: what each loss compares, what the discriminators are shown, and the way back."""

import pytest
import torch
from torch import nn

from limner.game import MicroBatch, Moment
from limner.methods.cyclegan import Method, Params
from limner.randomness import generator
from limner.tasks import Pictures, PictureShape, UnpairedPictures

SHAPE = PictureShape(1, 16, 16, classes=3, source_classes=3)


def batch(number=0):
    rng = generator(number, "batch")
    sides = [torch.rand(2, 4, 1, 16, 16, generator=rng) * 2 - 1, torch.randint(0, 3, (2, 4), generator=rng)]
    return UnpairedPictures(*(Pictures(images, labels) for images, labels in zip(*sides, strict=True)))


def build(**params):
    small = {
        "name": "cyclegan",
        "generator": {"name": "resnet", "width": 4, "blocks": 1},
        "discriminator": {"name": "patch", "width": 4, "layers": 1},
        "pool": 6,
    }
    torch.manual_seed(0)
    return Method(Params.model_validate(small | params), SHAPE)


def step(method, number=0):
    return method.step([MicroBatch(batch(number), generator(0, "step", number))], Moment(number, 4 * number, 100))


class Times(nn.Module):
    """Multiplies pictures by a number."""

    multiple = 1

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, source):
        return source * self.factor


def test_every_loss_is_its_formula():
    method = build()
    x, y = batch().source.images, batch().target.images
    there, back = method._both.there, method._both.return_
    method._both.there, method._both.return_ = Times(0.5), Times(3.0)
    told = []
    method._pull(method._begin(MicroBatch(batch(), generator(0)), Moment(0, 0, 1)), Moment(0, 0, 1), told=told)
    method._both.there, method._both.return_ = there, back
    found = {name: value.item() for name, value in told[0].items()}
    assert found["loss/cycle"] == pytest.approx((0.5 * x).abs().mean().item(), rel=1e-5), "3 / 2 - 1"
    assert found["loss/cycle_back"] == pytest.approx((0.5 * y).abs().mean().item(), rel=1e-5)
    assert found["loss/identity"] == pytest.approx((0.5 * y).abs().mean().item(), rel=1e-5), "1 - 1 / 2"
    assert found["loss/identity_back"] == pytest.approx((2 * x).abs().mean().item(), rel=1e-5), "3 - 1"


def test_the_generators_move_before_the_discriminators_and_these_see_what_was_made_before():
    method, order = build(pool=0), []
    before = method.product()(batch().source.images).detach()
    for name, optimizer in method.optimizers.items():
        optimizer.register_step_post_hook(lambda *_, player=name: order.append(player))
    seen = []
    judged = method._there._pull
    method._there._pull = lambda duel, *a, **k: seen.append(duel.fake) or judged(duel, *a, **k)
    step(method)
    assert order == ["generator", "discriminator", "discriminator_back"]
    torch.testing.assert_close(seen[0], before)


def test_the_discriminators_are_shown_earlier_results_with_the_classes_they_were_made_for():
    method, shown = build(), []
    judged = method._there._pull
    method._there._pull = lambda duel, *a, **k: shown.append((duel.fake, duel.fake_labels)) or judged(duel, *a, **k)
    made = {}
    for number in range(6):
        source = batch(number).source
        with torch.no_grad():
            for image, label in zip(method.product()(source.images), source.labels, strict=True):
                made[round(float(image.double().sum()), 3)] = (number, int(label))
        step(method, number)
    old = 0
    for number, (images, labels) in enumerate(shown):
        for image, label in zip(images, labels, strict=True):
            born, wanted = made[round(float(image.double().sum()), 3)]
            assert label == wanted
            old += born < number
    assert 3 < old < 20, "about half of those after the pool was full"


def test_the_product_knows_the_way_back():
    method = build()
    images = batch().target.images
    assert torch.equal(method.product().back(images), method._both.return_(images))
    assert not torch.equal(method.product().back(images), method.product()(images))


def test_without_a_weight_there_is_no_identity_loss():
    assert not any("identity" in name for name in step(build(identity=0.0)))


def test_dropout_of_a_generator_depends_on_the_part_and_nothing_else():
    def stepped():
        torch.manual_seed(0)
        small = {
            "name": "cyclegan",
            "generator": {"name": "unet", "width": 4, "norm": "instance"},
            "discriminator": {"name": "patch", "width": 4, "layers": 1},
        }
        method = Method(Params.model_validate(small), PictureShape(1, 64, 64, classes=0))
        assert any(isinstance(module, nn.Dropout) for module in method.product().modules())
        sides = torch.rand(2, 2, 1, 64, 64, generator=generator(0, "sides")) * 2 - 1
        torch.manual_seed(global_state)
        before = torch.get_rng_state()
        method.step([MicroBatch(UnpairedPictures(*map(Pictures, sides)), generator(0), 5)], Moment(0, 0, 1))
        assert torch.equal(torch.get_rng_state(), before)
        return method.networks.state_dict()

    global_state = 1
    one = stepped()
    global_state = 2
    for name, value in stepped().items():
        assert torch.equal(value, one[name]), name
