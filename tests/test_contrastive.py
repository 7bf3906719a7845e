"""What CUT, FastCUT and SinCUT have in common: which pictures go where, and what is compared with what."""

import pytest
import torch

from limner.errors import LimnerError
from limner.game import MicroBatch, Moment
from limner.losses import patch_nce_loss
from limner.methods import load_method
from limner.randomness import generator
from limner.tasks import Pictures, PictureShape, UnpairedPictures

SHAPE = PictureShape(1, 16, 16, classes=3, source_classes=3)


def pictures(seed, labels=True):
    rng = generator(seed, "pictures")
    images = torch.rand(4, 1, 16, 16, generator=rng) * 2 - 1
    return Pictures(images, torch.randint(0, 3, (4,), generator=rng) if labels else None)


BATCH = UnpairedPictures(pictures(1), pictures(2))


def build(*, shape=SHAPE, nce=None, method="cut", **params):
    loaded = load_method(method)
    small = {
        "name": method,
        "generator": {"name": "resnet", "width": 4, "blocks": 2},
        "discriminator": {"name": "patch", "width": 4, "layers": 1},
        "nce": {"patches": 16, "width": 8} | (nce or {}),
    }
    torch.manual_seed(0)
    return loaded.build(loaded.params.model_validate(small | params), shape)


def step(method, batch=BATCH, number=0):
    return method.step([MicroBatch(batch, generator(0, "step", number))], Moment(number, 4 * number, 100))


def test_patch_nce_compares_results_with_their_sources_in_every_layer():
    """Worked out again from the networks' parts; the discriminator's turn does not touch the generator."""
    method = build()
    networks = method.networks
    layers = networks["generator"].default_layers
    before = networks["generator"]
    both = torch.cat([BATCH.source.images, BATCH.target.images])
    rng = generator(0, "step", 0)
    keys = before.features(both, layers)
    queries = before.features(before(both), layers)
    theirs, places = networks["projection"].sample(keys, 16, rng)
    ours, _ = networks["projection"].sample(queries, 16, rng, places=places)
    expected = [
        torch.stack([patch_nce_loss(q[part], k[part]) for q, k in zip(ours, theirs, strict=True)]).mean().item()
        for part in (slice(0, 4), slice(4, 8))
    ]
    told = step(method)
    assert [told["loss/nce"].item(), told["loss/nce_identity"].item()] == pytest.approx(expected, rel=1e-5)


def test_without_identity_only_sources_are_translated():
    def encoded(method):
        network, seen = method.networks["generator"], []
        encode = network._encode
        network._encode = lambda images, *a, **k: seen.append(len(images)) or encode(images, *a, **k)
        return step(method), seen

    told, seen = encoded(build(method="fastcut"))
    assert set(seen) == {4}
    assert "loss/nce_identity" not in told
    told, seen = encoded(build())
    assert "loss/nce_identity" in told
    assert seen == [8, 8], "one pass translates and gives the keys, another one gives the queries"


def test_what_was_mirrored_is_mirrored_back_before_it_is_compared():
    """A generator that leaves pictures as they are: then mirroring cannot be noticed."""
    told = []
    for mirror in (False, True):
        method = build(nce={"identity": False, "flip_equivariance": mirror, "layers": [0]})
        network = method.networks["generator"]
        scale = next(network.parameters())
        network.features = lambda images, layers: [images]
        network.forward_with_features = lambda images, layers, s=scale: (images + 0 * s.sum(), [images])
        steps = [method._begin(MicroBatch(BATCH, generator(0, "step", 0)), Moment(i, 0, 100)) for i in range(8)]
        assert any(part.mirrored for part in steps) == mirror
        assert not all(part.mirrored for part in steps), "half of the steps"
        part = next((part for part in steps if part.mirrored), steps[0])
        assert torch.equal(part.results, BATCH.source.images.flip(3) if mirror else BATCH.source.images)
        assert torch.equal(part.keys[0], BATCH.source.images)
        # The same places for both, though one has drawn the mirrors before.
        part.duel.rng = generator(0, "places")
        told.append(method._patch_nce(part.results, part).item())
    assert told[0] == pytest.approx(told[1], rel=1e-6)


@pytest.mark.parametrize(
    ("shape", "conditional", "knows"),
    [
        (SHAPE, True, True),
        (SHAPE, False, False),
        (PictureShape(1, 16, 16, classes=3), True, False),
        (PictureShape(1, 16, 16, classes=0, source_classes=3), True, False),
    ],
)
def test_the_discriminator_knows_classes_where_both_sides_have_them(shape, conditional, knows):
    method = build(shape=shape, conditional=conditional)
    assert (method.networks["discriminator"].embedding is not None) == knows
    labelled = UnpairedPictures(pictures(1, labels=bool(shape.source_classes)), pictures(2, labels=bool(shape.classes)))
    assert all(torch.isfinite(value) for value in step(method, labelled).values())


def test_a_result_is_judged_as_of_its_sources_class_and_a_target_as_of_its_own():
    method, seen = build(), []
    method.networks["discriminator"].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs.get("labels", args[1] if len(args) > 1 else None)), with_kwargs=True
    )
    step(method)
    assert torch.equal(seen[0], torch.cat([BATCH.target.labels, BATCH.source.labels])), "the discriminator's turn"
    assert torch.equal(seen[1], BATCH.source.labels), "the generator's"


def test_the_recogniser_is_one_of_the_players_where_classes_are_asked_to_be_kept():
    method = build(content={"weight": 1.0, "width": 8})
    told = step(method)
    assert {"loss/content", "loss/recogniser"} <= told.keys()
    assert "recogniser" in method.optimizers


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(LimnerError, match=r"layer 9 of a generator that has 0 to 5"):
        build(nce={"layers": [0, 9]})


def test_the_three_methods_differ_in_their_settings_alone():
    settings = {
        name: load_method(name).params(name=name).model_dump(include={"nce", "loss", "adversarial", "penalties"})
        for name in ("cut", "fastcut", "sincut")
    }
    assert [settings[name]["nce"]["weight"] for name in settings] == [1.0, 10.0, 4.0]
    assert [settings[name]["nce"]["identity"] for name in settings] == [True, False, True]
    assert [settings[name]["nce"]["flip_equivariance"] for name in settings] == [False, True, False]
    assert [settings[name]["loss"] for name in settings] == ["lsgan", "lsgan", "bce"]
    assert settings["sincut"]["penalties"]["r1"] == 2.0


def test_a_setting_of_patch_nce_leaves_the_others_as_the_method_has_them():
    params = load_method("fastcut").params.model_validate({"name": "fastcut", "nce": {"patches": 8}})
    assert (params.nce.weight, params.nce.identity, params.nce.patches) == (10.0, False, 8)


def test_what_a_block_does_not_say_is_as_the_method_has_it():
    read = load_method("cut").params.model_validate
    small = read({"name": "cut", "discriminator": {"name": "patch", "width": 32}, "generator": {"width": 16}})
    assert (small.discriminator.width, small.discriminator.resampling, small.discriminator.init) == (
        32,
        "blur",
        "xavier",
    )
    assert (small.generator.width, small.generator.init) == (16, "xavier")
    quick = read({"name": "cut", "generator_optimizer": {"name": "adam", "beta1": 0.0}})
    assert quick.generator_optimizer.beta1 == 0.0
    assert quick.generator_optimizer.learning_rate == read({"name": "cut"}).generator_optimizer.learning_rate
    other = read({"name": "cut", "discriminator": {"name": "dcgan", "width": 8}})
    assert (other.discriminator.name, other.discriminator.max_width) == ("dcgan", 128), "another network has its own"
