"""The two pipelines as wholes, and the modules that methods hold."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch.utils._python_dispatch import TorchDispatchMode

from limner.augment import (
    AdaptiveAugmentSettings,
    AugmentSettings,
    DiffAugmentSettings,
    ScheduledAugmentSettings,
    ada_augment,
    build_augmentation,
    diff_augment,
)
from limner.distort import Operations
from limner.schedules import Ramp

POLICIES = ("color", "translation", "cutout")
EVERYTHING = Operations(color=1.0)
SHAPES = [(1, 8, 8), (3, 16, 16), (4, 16, 16), (3, 8, 20), (1, 17, 9)]
PIPELINES = {
    "diffaugment": lambda images, rng: diff_augment(images, POLICIES, rng),
    "ada": lambda images, rng: ada_augment(images, 0.8, EVERYTHING, rng=rng),
}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=16, channels=3, height=16, width=16, dtype=torch.float32):
    return (torch.rand(count, channels, height, width, generator=rng(99), dtype=torch.float64) * 2 - 1).to(dtype)


def parse(raw):
    return TypeAdapter(AugmentSettings).validate_python(raw)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("strength", [0.0, torch.tensor(0.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_strength_0_is_the_identity_bit_for_bit(shape, strength, dtype):
    images = pictures(16, *shape, dtype=dtype)
    images[0] = -0.0
    result = ada_augment(images, strength, EVERYTHING, rng=rng())
    integers = torch.int32 if dtype == torch.float32 else torch.int16
    assert torch.equal(result.view(integers), images.view(integers))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("pipeline", [*PIPELINES.values(), lambda x, rng: ada_augment(x, 1.0, EVERYTHING, rng=rng)])
def test_every_picture_is_changed_and_finite(shape, pipeline):
    images = pictures(64, *shape)
    result = pipeline(images, rng())
    assert result.shape == images.shape
    assert result.isfinite().all()
    changed = (result != images).flatten(1).any(1)
    assert changed.all()


def test_an_operation_that_is_switched_off_does_nothing():
    images = pictures()
    nothing = Operations(**dict.fromkeys(Operations.model_fields, 0.0))
    assert torch.equal(ada_augment(images, 1.0, nothing, rng=rng()), images)
    cutout = nothing.model_copy(update={"cutout": 1.0})
    result = ada_augment(images, 1.0, cutout, rng=rng())
    assert torch.equal(result[result != 0], images[result != 0])


def test_a_pictures_chance_of_staying_as_it_is_follows_from_all_shares():
    images = pictures(3000, 1, 8, 8) + 3
    half = Operations(**dict.fromkeys(Operations.model_fields, 0.0)).model_copy(update={"color": 0.5, "cutout": 1.0})
    same = (ada_augment(images, 0.4, half, rng=rng()) == images).flatten(1).all(1)
    assert same.float().mean().item() == pytest.approx(0.8 * 0.8 * 0.6, abs=0.03)  # brightness, contrast, cutout


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
def test_same_rng_gives_the_same_result_and_the_next_draw_another(pipeline):
    real, fake = pictures(), pictures()
    one, other = rng(), rng()
    first, second = pipeline(real, one), pipeline(fake, one)
    assert torch.equal(first, pipeline(real, other))
    assert torch.equal(second, pipeline(fake, other))
    assert not torch.equal(first, second)


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_gradients_of_first_and_second_order_are_right(pipeline, channels):
    images = pictures(2, channels, 4, 5, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: pipeline(x, rng()), images)
    assert torch.autograd.gradgradcheck(lambda x: pipeline(x, rng()).square(), images)


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_dtype_and_memory_format_stay(pipeline, dtype, layout):
    images = pictures(4, dtype=dtype).contiguous(memory_format=layout)
    result = pipeline(images, rng())
    assert result.dtype == dtype
    assert result.is_contiguous(memory_format=layout)
    precise = pipeline(images.float(), rng())
    assert torch.equal(result, precise.to(dtype)), "half precision is for the result only"


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
def test_autocast_does_not_make_it_coarse(pipeline):
    images = pictures()
    with torch.autocast("cpu", torch.bfloat16):
        cast = pipeline(images, rng())
    assert torch.equal(cast, pipeline(images, rng()))


class NothingWaits(TorchDispatchMode):
    """Refuses what would make the host wait for a device: reading a value, copying one over, a size from the data."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name()
        waits = ("_local_scalar_dense", "nonzero", "masked_select", "lift_fresh", "unique", "is_nonzero")
        assert not any(word in name for word in waits), name
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "settings",
    [
        DiffAugmentSettings(name="diffaugment"),
        ScheduledAugmentSettings(name="scheduled"),
        AdaptiveAugmentSettings(name="adaptive"),
    ],
    ids=lambda settings: settings.name,
)
def test_nothing_waits_for_the_device(settings):
    augmentation, images, draws = build_augmentation(settings), pictures().requires_grad_(), rng()
    with NothingWaits():
        augmentation(images, draws, 0.5).sum().backward()
        augmentation.observe(torch.ones(16))
        augmentation.strength(0.5)


# -- modules ----------------------------------------------------------------------------------------------------------


def test_none_shows_images_as_they_are():
    augmentation, images = build_augmentation(None), pictures()
    assert augmentation(images, rng(), 0.5) is images
    assert augmentation.strength(0.5) == 0


def test_diffaugment_is_always_on():
    augmentation, images = build_augmentation(parse({"name": "diffaugment"})), pictures()
    assert torch.equal(augmentation(images, rng(), 0.0), diff_augment(images, POLICIES, rng()))
    assert augmentation.strength(0.0) == 1


def test_scheduled_strength_follows_progress():
    settings = parse({"name": "scheduled", "strength": {"start": 0.0, "end": 0.5, "share": 0.5, "shape": "linear"}})
    augmentation, images = build_augmentation(settings), pictures()
    assert torch.equal(augmentation(images, rng(), 0.0), images)
    assert [augmentation.strength(progress).item() for progress in (0, 0.25, 0.5, 1)] == [0, 0.25, 0.5, 0.5]
    expected = ada_augment(images, 0.25, Operations(), rng=rng())
    assert torch.equal(augmentation(images, rng(), 0.25), expected)


def test_defaults_are_the_papers():
    scheduled, adaptive = parse({"name": "scheduled"}), parse({"name": "adaptive"})
    assert scheduled.strength == Ramp(start=0.0, end=0.55)
    assert (scheduled.operations.color, scheduled.operations.cutout, scheduled.operations.xflip) == (0.5, 1, 1)
    assert (adaptive.target, adaptive.ramp_kimg, adaptive.interval) == (0.6, 500, 4)
    assert (adaptive.operations.color, adaptive.operations.cutout) == (1, 0)


def adaptive(**values):
    return build_augmentation(AdaptiveAugmentSettings(name="adaptive", **values))


def signs(mean, count=20):
    """Signs with that mean."""
    return torch.tensor([1.0] * round(count * (1 + mean) / 2) + [-1.0] * round(count * (1 - mean) / 2))


def test_controller_equals_its_closed_form():
    augmentation = adaptive(ramp_kimg=1.0)
    for batch in range(1, 41):
        augmentation.observe(signs(0.8))
        moves = batch // 4
        assert augmentation.strength(0.0).item() == pytest.approx(moves * 4 * 20 / 1000, abs=1e-6)
    for batch in range(1, 13):
        augmentation.observe(signs(0.4))
        assert augmentation.strength(0.0).item() == pytest.approx(0.8 - batch // 4 * 0.08, abs=1e-6)


def test_controller_stays_between_0_and_1():
    augmentation = adaptive(ramp_kimg=0.05, interval=1)
    augmentation.observe(signs(-1.0))
    assert augmentation.strength(0.0) == 0
    for _ in range(5):
        augmentation.observe(signs(1.0))
    assert augmentation.strength(0.0) == 1


def test_controller_looks_at_all_batches_of_its_interval():
    augmentation = adaptive(ramp_kimg=1.0, interval=2)
    augmentation.observe(signs(1.0))
    augmentation.observe(signs(-0.2))  # 0.4 in the mean
    assert augmentation.strength(0.0) == 0
    augmentation.observe(signs(0.4))
    augmentation.observe(signs(1.0))  # 0.7
    assert augmentation.strength(0.0).item() == pytest.approx(0.04)


def test_controller_is_not_poisoned_by_logits_that_are_not_finite():
    augmentation = adaptive(ramp_kimg=1.0, interval=1)
    augmentation.observe(torch.full((20,), float("nan")))
    assert augmentation.strength(0.0) == 0
    augmentation.observe(torch.cat([signs(1.0), torch.tensor([float("nan")])]))
    assert augmentation.strength(0.0).item() == pytest.approx(0.02)


def test_controller_counts_a_large_batch_in_half_precision_exactly():
    augmentation = adaptive(ramp_kimg=1000.0, interval=1, target=0.5)
    augmentation.observe(signs(2001 / 4001, 4001).bfloat16())  # 2001 in bfloat16 would be 2000, less than half
    assert augmentation.strength(0.0) > 0


def test_adaptive_augments_at_its_strength():
    augmentation, images = adaptive(ramp_kimg=1.0, interval=1), pictures()
    assert torch.equal(augmentation(images, rng(), 0.5), images)
    for _ in range(20):
        augmentation.observe(signs(1.0))
    expected = ada_augment(images, augmentation.strength(0.5), Operations(color=1.0, cutout=0.0), rng=rng())
    assert torch.equal(augmentation(images, rng(), 0.5), expected)
    assert not torch.equal(expected, images)


def test_interrupted_controller_equals_uninterrupted():
    whole, first, second = adaptive(ramp_kimg=1.0), adaptive(ramp_kimg=1.0), adaptive(ramp_kimg=1.0)
    batches = [signs(mean) for mean in (1.0, 0.8, 0.2, 0.9, 1.0, 1.0, 0.4, 1.0, 0.0, 0.1)]
    for batch in batches:
        whole.observe(batch)
    for batch in batches[:6]:
        first.observe(batch)
    second.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
    for batch in batches[6:]:
        second.observe(batch)
    assert second.state_dict().keys() == whole.state_dict().keys()
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in second.state_dict().items())
    assert whole.strength(0.0) > 0


@pytest.mark.parametrize("raw", [None, {"name": "diffaugment"}, {"name": "scheduled"}, {"name": "adaptive"}])
def test_nothing_in_it_is_trained(raw):
    augmentation = build_augmentation(raw and parse(raw))
    assert not list(augmentation.parameters())
    assert augmentation.strength(0.0).shape == ()
    assert augmentation.observe(torch.ones(4)) is None


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"name": "diffaugment", "policies": []}, "at least 1 item"),
        ({"name": "diffaugment", "policies": ["colour"]}, "'color', 'translation' or 'cutout'"),
        ({"name": "scheduled", "strength": 1.2}, "<= 1"),
        ({"name": "scheduled", "strength": {"start": 0.0, "end": 1.5}}, "its end is 1.5"),
        ({"name": "scheduled", "operations": {"flip": 1.0}}, "Did you mean 'xflip'"),
        ({"name": "adaptive", "ramp_kimg": 0}, "greater than 0"),
        ({"name": "adaptiv"}, "'diffaugment', 'scheduled', 'adaptive'"),
    ],
)
def test_wrong_settings_are_refused_in_words(raw, words):
    with pytest.raises(ValidationError, match=words):
        parse(raw)
