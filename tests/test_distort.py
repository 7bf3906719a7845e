"""Every operation alone against an independent computation: slices, torch.flip, scipy, matrices written out."""

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from limner.distort import (
    Operations,
    cut_out,
    jitter,
    recolour,
    sample_colour,
    sample_geometry,
    translate,
    warp,
)

NOTHING = dict.fromkeys(Operations.model_fields, 0.0)


def only(*names):
    return Operations(**{**NOTHING, **dict.fromkeys(names, 1.0)})


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def pictures(count=64, channels=3, height=16, width=16, dtype=torch.float32):
    return torch.rand(count, channels, height, width, generator=rng(99), dtype=dtype) * 2 - 1


def moved_by(images, operations, strength=1.0):
    linear, offset = sample_geometry(images, strength, operations, rng=rng())
    return warp(images, linear, offset, mode="bilinear", padding="reflection")


def which(result, candidates):
    """Index of the candidate that each picture equals; fails where it equals none."""
    found = []
    for i, picture in enumerate(result):
        equal = [k for k, other in enumerate(candidates) if torch.allclose(picture, other[i], atol=2e-5)]
        assert equal, f"picture {i} is none of the candidates"
        found.append(equal[0])
    return np.array(found)


def test_flip_equals_torch_flip_for_half_of_the_pictures():
    for images in (pictures(400), pictures(400, 1, 8, 12)):
        flipped = which(moved_by(images, only("xflip")), [images, images.flip(3)])
        assert abs(flipped.mean() - 0.5) < 0.1


def test_quarter_turns_equal_torch_rot90_each_for_a_quarter_of_the_pictures():
    images = pictures(800, 1, 9, 9)
    turns = which(moved_by(images, only("rot90")), [images.rot90(k, (2, 3)) for k in range(4)])
    assert np.abs(np.bincount(turns, minlength=4) / 800 - 0.25).max() < 0.07


def test_a_picture_that_is_not_square_is_not_turned_by_quarters():
    images = pictures(20, 1, 8, 12)
    linear, offset = sample_geometry(images, 1.0, only("rot90"), rng=rng())
    assert torch.equal(linear, torch.eye(2).expand(20, 2, 2))
    assert not offset.any()


def slices(images, reach_x, reach_y, *, mode):
    """Every shift by whole pixels, by slicing the padded pictures."""
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (reach_y, reach_y), (reach_x, reach_x)), mode=mode)
    height, width = images.shape[2:]
    return [
        torch.from_numpy(padded[:, :, y : y + height, x : x + width])
        for y in range(2 * reach_y + 1)
        for x in range(2 * reach_x + 1)
    ]


def test_integer_translation_equals_slicing_the_mirrored_picture():
    images = pictures(300, 2, 8, 24)  # up to 1 pixel down or up, 3 across
    shifts = which(moved_by(images, only("integer_translation")), slices(images, 3, 1, mode="symmetric"))
    assert len(set(shifts)) == 21, "every shift occurs"


def test_translation_of_diffaugment_equals_slicing_the_zero_padded_picture():
    images = pictures(600, 3, 8, 24)
    result = translate(images, rng=rng())
    candidates = slices(images, 3, 1, mode="constant")
    shifts = which(result, candidates)
    assert len(set(shifts)) == 21
    assert all(torch.equal(result[i], candidates[k][i]) for i, k in enumerate(shifts)), "bit for bit"


def test_translation_may_be_as_long_as_an_eighth_of_the_side_on_a_large_picture():
    images = pictures(20, 1, 4, 1001)
    which(translate(images, rng=rng()), slices(images, 125, 0, mode="constant"))


def test_geometry_composes_the_papers_matrices():
    """Forward 3x3 matrices, one after the other as in the paper's appendix B, inverted at the end."""
    images, draws = pictures(50, 1, 16, 16), rng()
    linear, offset = sample_geometry(images, 1.0, Operations(), rng=rng())

    def after_its_chance(values):
        torch.rand(50, 1, generator=draws)
        return values.double().numpy()

    def uniform(size=1):
        return after_its_chance(torch.rand(50, size, generator=draws) * 2 - 1)

    def normal(size=1):
        return after_its_chance(torch.randn(50, size, generator=draws))

    def below(end):
        return after_its_chance(torch.randint(end, (50, 1), generator=draws))

    flip, quarters, whole, zoom = below(2), below(4), np.round(uniform(2) * 2), 2 ** (0.2 * normal())
    before, stretch, after, slide = uniform() * math.pi, 2 ** (0.2 * normal()), uniform() * math.pi, normal(2) * 2

    def scaling(x, y):
        return np.diag([x, y, 1.0])

    def turning(angle):  # counter-clockwise as seen, where y points down
        cos, sin = math.cos(angle), math.sin(angle)
        return np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])

    def moving(vector):
        return np.array([[1, 0, vector[0]], [0, 1, vector[1]], [0, 0, 1]])

    for i in range(50):
        forward = scaling(1 - 2 * flip[i, 0], 1)
        for step in (
            turning(math.pi / 2 * quarters[i, 0]),
            moving(whole[i]),
            scaling(zoom[i, 0], zoom[i, 0]),
            turning(before[i, 0]),
            scaling(stretch[i, 0], 1 / stretch[i, 0]),
            turning(after[i, 0]),
            moving(slide[i]),
        ):
            forward = step @ forward
        back = np.linalg.inv(forward)
        assert linear[i].numpy() == pytest.approx(back[:2, :2], abs=1e-5)
        assert offset[i].numpy() == pytest.approx(back[:2, 2], abs=1e-4)


@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 20)])
def test_warp_equals_scipys_interpolation(height, width):
    images = pictures(20, 2, height, width, torch.float64)
    linear, offset = sample_geometry(images, 1.0, Operations(), rng=rng())
    result = warp(images, linear, offset, mode="bilinear", padding="reflection")
    centre = np.array([height - 1, width - 1]) / 2
    for i in range(20):
        matrix, shift = linear[i].double().numpy()[::-1, ::-1], offset[i].double().numpy()[::-1]  # (y, x)
        for channel in range(2):
            expected = ndimage.affine_transform(
                images[i, channel].numpy(), matrix, shift + centre - matrix @ centre, order=1, mode="reflect"
            )
            assert result[i, channel].numpy() == pytest.approx(expected, abs=2e-5)


def test_geometry_has_the_papers_distributions():
    images = pictures(4000, 1, 8, 16)

    def sample(*names):
        return sample_geometry(images, 1.0, only(*names), rng=rng())

    zoom = sample("scale")[0]
    assert torch.equal(zoom[:, 0, 0], zoom[:, 1, 1])
    assert zoom[:, 0, 0].log2().std().item() == pytest.approx(0.2, rel=0.05)
    assert not zoom[:, 0, 1].any()

    stretch = sample("anisotropic")[0]
    assert torch.linalg.det(stretch) == pytest.approx(1.0)
    assert stretch[:, 0, 0].log2().std().item() == pytest.approx(0.2, rel=0.05)

    turn = sample("rotate")[0]
    assert turn @ turn.mT == pytest.approx(torch.eye(2).expand(4000, 2, 2), abs=1e-6)
    assert torch.linalg.det(turn) == pytest.approx(1.0)
    angles = torch.atan2(turn[:, 1, 0], turn[:, 0, 0])
    assert torch.histc(angles, 8, -math.pi, math.pi) / 4000 == pytest.approx(torch.full((8,), 1 / 8), abs=0.02)

    linear, offset = sample("fractional_translation")
    assert torch.equal(linear, torch.eye(2).expand(4000, 2, 2))
    assert offset.std(0) == pytest.approx(torch.tensor([2.0, 1.0]), rel=0.05)  # an eighth of 16 and of 8


@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("xflip", 1 / 2),  # the other half is "flipped" by nothing
        ("rot90", 3 / 4),
        ("integer_translation", 15 / 16),  # 16 pixels: U(-2, 2) rounds to 0 at a quarter, both ways at a sixteenth
        ("scale", 1),
        ("rotate", 1),
        ("anisotropic", 1),
        ("fractional_translation", 1),
    ],
)
@pytest.mark.parametrize("strength", [0.3, torch.tensor(0.3)])
def test_an_operation_is_done_as_often_as_its_strength_says(name, share, strength):
    images = pictures(4000, 1)
    linear, offset = sample_geometry(images, strength, only(name), rng=rng())
    changed = (linear != torch.eye(2)).flatten(1).any(1) | offset.any(1)
    assert changed.float().mean().item() == pytest.approx(0.3 * share, abs=0.03)


# -- colour -----------------------------------------------------------------------------------------------------------


def test_colours_compose_the_papers_matrices():
    """4x4 matrices, one after the other as in the paper: Householder's for the luma flip, Rodrigues' for the hue."""
    images, draws = pictures(50), rng()
    linear, offset = sample_colour(images, 1.0, rng=rng())

    def after_its_chance(values):
        torch.rand(50, 1, generator=draws)
        return values.double().numpy()[:, 0]

    brightness = 0.2 * after_its_chance(torch.randn(50, 1, generator=draws))
    contrast = 2 ** (0.5 * after_its_chance(torch.randn(50, 1, generator=draws)))
    flip = after_its_chance(torch.randint(2, (50, 1), generator=draws))
    hue = math.pi * after_its_chance(torch.rand(50, 1, generator=draws) * 2 - 1)
    saturation = 2 ** after_its_chance(torch.randn(50, 1, generator=draws))
    axis = np.ones(3) / math.sqrt(3)
    luma = np.outer(axis, axis)

    def homogeneous(matrix, shift=0.0):
        result = np.eye(4)
        result[:3, :3], result[:3, 3] = matrix, shift
        return result

    for i in range(50):
        colours = homogeneous(np.eye(3), brightness[i])
        for matrix in (
            np.eye(3) * contrast[i],
            np.eye(3) - 2 * luma * flip[i],
            Rotation.from_rotvec(hue[i] * axis).as_matrix(),
            luma + (np.eye(3) - luma) * saturation[i],
        ):
            colours = homogeneous(matrix) @ colours
        assert linear[i].numpy() == pytest.approx(colours[:3, :3], abs=1e-5)
        assert np.full(3, offset[i].item()) == pytest.approx(colours[:3, 3], abs=1e-5)
        expected = np.einsum("ij,jhw->ihw", colours[:3, :3], images[i].numpy()) + colours[:3, 3, None, None]
        assert recolour(images, linear, offset)[i].numpy() == pytest.approx(expected, abs=1e-4)


def test_hue_and_saturation_keep_luma():
    images = pictures(200)
    linear, offset = sample_colour(images, 1.0, rng=rng())
    signed_contrast = linear.sum((1, 2)) / 3
    before, after = images.mean(1), recolour(images, linear, offset).mean(1)
    assert after == pytest.approx(signed_contrast[:, None, None] * before + offset[:, :, None], abs=1e-5)
    assert signed_contrast.abs().log2().std().item() == pytest.approx(0.5, rel=0.15)
    assert 0.35 < (signed_contrast < 0).float().mean() < 0.65, "and luma is flipped for half of the pictures"


def test_grey_gets_brightness_and_contrast_only():
    images = pictures(200, 1)
    linear, offset = sample_colour(images, 1.0, rng=rng())
    assert (linear > 0).all(), "no luma flip"
    assert recolour(images, linear, offset) == pytest.approx(linear[..., None] * images + offset[..., None, None])


@pytest.mark.parametrize(
    "change", [lambda x: recolour(x, *sample_colour(x, 1.0, rng=rng())), lambda x: jitter(x, rng=rng())]
)
def test_alpha_keeps_its_values_and_rgb_is_what_it_would_be_without(change):
    images = pictures(8, 4)
    result = change(images)
    assert torch.equal(result[:, 3], images[:, 3])
    assert result[:, :3] == pytest.approx(change(images[:, :3]), abs=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_jitter_equals_the_formulas_of_diffaugment(channels):
    images = pictures(40, channels, 6, 9, torch.float64)
    brightness, saturation, contrast = torch.rand(3, 40, generator=rng()).double().numpy()
    result = jitter(images, rng=rng()).numpy()
    for i, picture in enumerate(images.numpy()):
        colours = picture[:3] + (brightness[i] - 0.5)
        if channels > 1:
            grey = colours.sum(0) / 3
            colours = (1 - 2 * saturation[i]) * grey + 2 * saturation[i] * colours
        weight = 0.5 + contrast[i]
        colours = (1 - weight) * np.average(colours) + weight * colours
        assert result[i, :3] == pytest.approx(colours, abs=1e-6)


# -- cutout -----------------------------------------------------------------------------------------------------------


def test_cutout_blanks_a_window_of_half_of_each_side():
    images = torch.ones(3000, 2, 16, 24)
    hidden = cut_out(images, 1.0, rng=rng()) == 0
    assert torch.equal(hidden[:, 0], hidden[:, 1]), "all channels"
    rows, columns = hidden[:, 0].any(2), hidden[:, 0].any(1)
    assert torch.equal(hidden[:, 0], rows[:, :, None] & columns[:, None, :]), "a window"
    for line, side in ((rows, 16), (columns, 24)):
        assert ((line.diff(dim=1) != 0).sum(1) <= 2).all(), "in one piece"
        assert line.sum(1).max() == side // 2
        assert line.sum(1).min() >= side // 4, "at a corner, half of it is outside"
        inside = ~line[:, 0] & ~line[:, -1]
        assert (line[inside].sum(1) == side // 2).all()
    assert hidden.float().mean().item() == pytest.approx((7 / 16) ** 2, abs=0.01)  # 1/2 less 1/32 at either edge


def test_cutout_leaves_the_rest_and_the_pictures_that_are_not_chosen():
    images = pictures(2000) + 3
    result = cut_out(images, torch.tensor(0.4), rng=rng())
    assert torch.equal(result[result != 0], images[result != 0])
    assert (result == 0).flatten(1).any(1).float().mean().item() == pytest.approx(0.4, abs=0.04)
