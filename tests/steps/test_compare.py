"""Two sets compared: known answers, both sides' errors, records that must agree, and every mistake told."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from limner import set_features
from limner.adapters import connect
from limner.errors import LimnerError
from limner.features import extract
from limner.features.pixels import Pixels
from limner.frechet import Moments, frechet_distance
from limner.metrics import kernel_distance
from limner.picture_sets import Reader, ReadOptions, open_pictures
from limner.steps.compare import UNSTATED, compare
from limner.steps.compare_sides import CompareOptions
from tests.packed import pack
from tests.picture_folders import fill, spoil

PIXELS = CompareOptions(features="pixels", cache=False)
ALL = replace(PIXELS, metrics=("fid", "kid", "prdc"))


def of(a, b=None, options=PIXELS, told=None, **changes):
    def progress(*counts):
        (told if told is not None else []).append(counts)

    return compare(a, b, options=replace(options, **changes), ports=connect(track=False), progress=progress)


def reading(**changes):
    return ReadOptions(threads=1, **changes)


@pytest.fixture(autouse=True)
def small_pixels(monkeypatch):
    """12 features, so that 30 pictures are many."""
    monkeypatch.setattr("limner.steps.compare.open_pretrained", lambda name, **_: Pixels(side=2))


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    root = tmp_path_factory.mktemp("sets")
    fill(root / "a", 60)
    fill(root / "b", 80, seed=1, shift=20)
    fill(root / "few", 9, seed=2)
    fill(root / "large", 30, seed=3, size=(24, 18))
    return root


def features_of(folder):
    options = ReadOptions()
    return extract(
        Pixels(side=2),
        [torch.from_numpy(b.pixels).permute(0, 3, 1, 2) for b in Reader(open_pictures(folder, options), options)],
    )


def gaussian(folder, correction=1):
    return Moments.of(features_of(folder)).gaussian(correction=correction)


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("biased", [False, True])
def test_the_value_is_the_distance_of_the_two_gaussians(sets, biased):
    found = of(sets / "a", sets / "b", biased=biased)
    expected = frechet_distance(gaussian(sets / "a", 1 - biased), gaussian(sets / "b", 1 - biased))
    assert found.metrics["fd_pixels"] == pytest.approx(expected, rel=1e-9)
    assert found.protocol["covariance"].startswith("biased" if biased else "unbiased")


def test_a_set_is_no_distance_from_itself(sets):
    found = of(sets / "a", sets / "a")
    assert found.metrics["fd_pixels"] == pytest.approx(0, abs=1e-9)
    assert "Both sides are the same pictures." in found.notes


def test_order_of_the_sides_does_not_matter(sets):
    one, other = of(sets / "a", sets / "b").metrics, of(sets / "b", sets / "a").metrics
    assert one == pytest.approx(other, rel=1e-9)


def test_the_error_is_that_of_both_sides(sets, tmp_path):
    for name in "ab":
        of(sets / name, save=tmp_path / f"{name}.npz")
    both = of(sets / "a", sets / "b").metrics
    alone = [of(sets / one, tmp_path / f"{other}.npz").metrics for one, other in ("ab", "ba")]
    assert all(one["fd_pixels"] == pytest.approx(both["fd_pixels"], rel=1e-9) for one in alone)
    assert both["fd_pixels_se"] == pytest.approx(math.hypot(*(one["fd_pixels_se"] for one in alone)))
    corrections = [one["fd_pixels_infinity"] - one["fd_pixels"] for one in alone]
    assert both["fd_pixels_infinity"] == pytest.approx(both["fd_pixels"] + sum(corrections))
    assert min(one["fd_pixels_se"] for one in alone) > 0


def test_the_error_is_about_what_other_pictures_change(tmp_path):
    reference = fill(tmp_path / "reference", 200, seed=7, shift=30, size=(4, 4))
    found = [of(fill(tmp_path / str(n), 60, seed=n, size=(4, 4)), reference).metrics for n in range(20, 32)]
    spread = np.std([one["fd_pixels"] for one in found], ddof=1)
    stated = np.median([one["fd_pixels_se"] for one in found])
    assert 0.4 < stated / spread < 2.5


def test_few_pictures_have_a_value_and_no_error(sets):
    found = of(sets / "few", sets / "b")
    expected = frechet_distance(gaussian(sets / "b"), gaussian(sets / "few"))
    assert found.metrics == {"fd_pixels": pytest.approx(expected, rel=1e-7)}
    assert any("fewer than 20 pictures, so there is no standard error" in note for note in found.notes)
    assert any("9 pictures are few for 12 features" in note for note in found.notes)


def test_the_error_can_be_left_out(sets):
    whole, bare = of(sets / "a", sets / "b"), of(sets / "a", sets / "b", errors=False)
    assert bare.metrics == {"fd_pixels": pytest.approx(whole.metrics["fd_pixels"], rel=1e-9)}
    assert set(of(sets / "few", sets / "b", errors=False).metrics) == {"fd_pixels"}


def test_an_extrapolation_from_too_few_is_noted(sets, tmp_path):
    of(sets / "b", save=tmp_path / "b.npz")
    few = of(fill(tmp_path / "some", 23), tmp_path / "b.npz")
    assert any("half of its 23 pictures are few for 12 features" in note for note in few.notes)
    assert not any("half of its" in note for note in of(sets / "a", tmp_path / "b.npz").notes)


def test_all_metrics_come_with_their_names(sets):
    found = of(sets / "a", sets / "b", ALL)
    names = ("precision", "recall", "density", "coverage")
    assert set(found.metrics) == {
        *("fd_pixels", "fd_pixels_se", "fd_pixels_infinity", "kd_pixels", "kd_pixels_se"),
        *(f"{name}_pixels{end}" for name in names for end in ("", "_se")),
    }
    from limner.randomness import generator

    rng = generator(0, "kernel-distance")
    kernel = kernel_distance(features_of(sets / "b"), features_of(sets / "a"), rng=rng)
    assert found.metrics["kd_pixels"] == pytest.approx(kernel.value)


def test_precision_is_of_the_judged_and_recall_of_the_reference(tmp_path):
    real = fill(tmp_path / "real", 40, size=(4, 4))
    narrow = fill(tmp_path / "narrow", 40, size=(4, 4))
    for path in sorted(narrow.iterdir())[1:]:  # one picture again and again: all real, hardly varied
        path.write_bytes((narrow / "0000.png").read_bytes())
    found = of(narrow, real, ALL).metrics
    assert found["precision_pixels"] == 1
    assert found["recall_pixels"] < 0.2


class WithClasses:
    """Pixels that know classes."""

    name, identity, resize = "classes", "2", "area"

    def __call__(self, images):
        return Pixels(side=2)(images)

    def class_probabilities(self, features):
        return torch.softmax(20 * features, 1)


def test_the_inception_score_needs_one_set_that_knows_classes(sets, monkeypatch):
    with pytest.raises(LimnerError, match=r"'pixels' know no classes.*\n.*inception-v3-2015"):
        of(sets / "a", metrics=("is",))
    monkeypatch.setattr("limner.steps.compare.open_pretrained", lambda name, **_: WithClasses())
    found = of(sets / "a", metrics=("is",))
    assert set(found.metrics) == {"inception_score_classes", "inception_score_classes_sd"}
    assert found.metrics["inception_score_classes"] > 1


# -- kinds of sets ----------------------------------------------------------------------------------------------------


def test_a_packed_dataset_is_a_side(sets, tmp_path):
    options = ReadOptions()
    pixels = np.concatenate([batch.pixels for batch in Reader(open_pictures(sets / "a", options), options)])
    pack(tmp_path / "packed", {"pictures": {"train": (pixels, None)}})
    found = of(tmp_path / "packed", sets / "b")
    assert found.metrics == pytest.approx(of(sets / "a", sets / "b").metrics)
    assert (found.sides[0].kind, found.sides[0].sizes) == ("packed dataset, pictures, train", {"16x12": 60})


def test_two_statistics_files_need_no_extractor(sets, tmp_path, monkeypatch):
    expected = of(sets / "a", sets / "b").metrics["fd_pixels"]
    for name in "ab":
        of(sets / name, save=tmp_path / f"{name}.npz")
    monkeypatch.setattr("limner.steps.compare.open_pretrained", None)
    found = of(tmp_path / "a.npz", tmp_path / "b.npz")
    assert found.metrics == {"fd_pixels": pytest.approx(expected)}
    assert [side.pictures for side in found.sides] == [60, 80]
    assert any("adds nothing to the standard error" in note for note in found.notes)


def foreign(path, dimensions=12):
    np.savez(path, mu=np.zeros(dimensions), sigma=np.eye(dimensions))
    return path


def test_statistics_that_say_nothing_are_taken_with_a_note(sets, tmp_path):
    found = of(sets / "a", foreign(tmp_path / "theirs.npz"))
    assert any(note.startswith("Nothing in") for note in found.notes)
    assert found.sides[1].pictures is None
    of(sets / "a", save=tmp_path / "a.npz")
    assert set(of(tmp_path / "theirs.npz", tmp_path / "a.npz").metrics) == {"fd_pixels"}
    assert set(of(tmp_path / "theirs.npz", tmp_path / "theirs.npz").metrics) == {UNSTATED}


def test_statistics_of_another_dimension_are_refused(sets, tmp_path):
    with pytest.raises(LimnerError, match=r"a has 12 features, .*theirs.npz has 5"):
        of(sets / "a", foreign(tmp_path / "theirs.npz", 5))


def test_statistics_of_another_protocol_are_refused(sets, tmp_path):
    of(sets / "b", save=tmp_path / "b.npz", biased=True)
    with pytest.raises(LimnerError, match=r"another protocol .*\ncovariance: biased, 1 / N there, unbiased.*\n.*again"):
        of(sets / "a", tmp_path / "b.npz")
    of(sets / "a", save=tmp_path / "a.npz")
    with pytest.raises(LimnerError, match=r"b.npz was made under another protocol than .*a.npz"):
        of(tmp_path / "a.npz", tmp_path / "b.npz")


# -- notes and mistakes -----------------------------------------------------------------------------------------------


def test_different_sizes_of_the_sides_are_noted(sets):
    assert any("16x12 on one side and 24x18 on the other" in note for note in of(sets / "a", sets / "large").notes)


def test_mixed_sizes_are_resized_one_by_one(sets, tmp_path):
    folder = fill(fill(tmp_path / "mixed", 30), 0)
    fill(folder / "large", 5, size=(24, 18))
    found = of(folder, sets / "b", read=reading(mixed_sizes=True))
    assert found.sides[0].sizes == {"16x12": 30, "24x18": 5}
    assert any("pictures of 2 sizes, each resized by itself: 16x12 (30), 24x18 (5)" in note for note in found.notes)


def test_damaged_pictures_are_told_in_the_result(sets, tmp_path):
    folder = fill(tmp_path / "set", 30)
    spoil(folder / "0003.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    with pytest.raises(LimnerError, match="2 of 31 pictures"):
        of(folder, sets / "b")
    found = of(folder, sets / "b", read=reading(skip_damaged=True))
    assert found.sides[0].pictures == 29
    assert [entry["name"][:8] for entry in found.sides[0].damaged] == ["0003.png", "1 x gone"]
    assert any("2 damaged pictures are left out" in note for note in found.notes)


def test_one_picture_is_no_set(sets, tmp_path):
    with pytest.raises(LimnerError, match="There is only one picture in"):
        of(fill(tmp_path / "one", 1), sets / "b")
    folder = fill(tmp_path / "two", 2)
    spoil(folder / "0000.png")
    with pytest.raises(LimnerError, match=r"Only 1 picture in .* can be read"):
        of(folder, sets / "b", read=reading(skip_damaged=True))


def test_contradictions_are_refused(sets, tmp_path):
    a, b, file = sets / "a", sets / "b", foreign(tmp_path / "f.npz")
    for words, message in (
        ((a, None, PIXELS), r"What is .*a to be compared with\?\n.*--save FILE.npz"),
        ((a, None, replace(ALL, save=tmp_path / "a.npz")), "to be compared with"),
        ((a, b, replace(PIXELS, save=tmp_path / "a.npz")), "two are given"),
        ((file, None, replace(PIXELS, save=tmp_path / "a.npz")), "is a statistics file already"),
        ((a, file, ALL), r"kid and prdc cannot be had of .*f.npz"),
        ((a, b, replace(PIXELS, metrics=())), "No metric is asked for"),
        ((a, b, replace(ALL, neighbours=0)), "--neighbours 0"),
        ((a, b, replace(PIXELS, device="quantum")), "device 'quantum' cannot be used"),
    ):
        with pytest.raises(LimnerError, match=message):
            of(*words)
    assert not (tmp_path / "a.npz").exists()


# -- doing it once ----------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_computed_again(sets, tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    first, told = of(sets / "a", sets / "b", ALL, cache=True), []

    def never(*_, **__):
        raise AssertionError("it was computed again")

    monkeypatch.setattr(Pixels, "__call__", never)
    monkeypatch.setattr(torch.linalg, "eigh", never)
    assert of(sets / "a", sets / "b", ALL, cache=True, told=told) == first
    assert told == []
    with pytest.raises(AssertionError, match="computed again"):
        of(sets / "a", sets / "b", ALL, cache=False)


def test_progress_is_of_both_sides(sets):
    told = []
    of(sets / "a", sets / "b", told=told)
    assert told[-1] == (140, 140)
    assert told == sorted(told)


def test_a_selection_of_features_is_noted(sets, monkeypatch):
    monkeypatch.setattr(set_features, "MOST_KEPT", 50)
    found = of(sets / "a", sets / "b", ALL)
    assert sum("drawn at random" in note for note in found.notes) == 2
