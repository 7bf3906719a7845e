"""Two sets compared: known answers, both sides' errors, records that must agree, and every mistake told."""

import math
from dataclasses import replace
from inspect import signature

import numpy as np
import pytest
import torch

from limner import set_features
from limner.adapters import connect
from limner.errors import LimnerError
from limner.features import extract
from limner.features.pixels import Pixels
from limner.frechet import Moments, frechet_distance
from limner.metrics import inception_score, kernel_distance
from limner.picture_sets import Reader, ReadOptions, open_pictures
from limner.statistics_files import read_statistics
from limner.steps import compare as compare_step
from limner.steps import compare_sides
from limner.steps.compare import READING, SPLITS, SUBSET_SIZE, SUBSETS, UNSTATED, compare
from limner.steps.compare_sides import FEATURES, CompareOptions
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
    assert any(note == f"Fewer than 20 pictures in {sets / 'few'}: there is no standard error." for note in found.notes)
    assert any("9 pictures are few for 12 features" in note for note in found.notes)


def test_the_error_can_be_left_out(sets):
    whole, bare = of(sets / "a", sets / "b"), of(sets / "a", sets / "b", errors=False)
    assert bare.metrics == {"fd_pixels": pytest.approx(whole.metrics["fd_pixels"], rel=1e-9)}
    assert set(of(sets / "few", sets / "b", errors=False).metrics) == {"fd_pixels"}


def test_an_extrapolation_from_too_few_is_noted(sets, tmp_path):
    of(sets / "b", save=tmp_path / "b.npz")
    few = of(fill(tmp_path / "some", 23), tmp_path / "b.npz")
    assert any("Half of 23 pictures are few for 12 features" in note for note in few.notes)
    assert not any("Half of" in note for note in of(sets / "a", tmp_path / "b.npz").notes)


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


def test_the_record_has_what_each_metric_depends_on(sets, tmp_path, monkeypatch):
    bare = of(sets / "a", sets / "b", errors=False).protocol
    assert bare["reading"] == READING == "RGB; transparency dropped, orientation not applied"
    found = of(sets / "a", sets / "b", ALL, neighbours=3).protocol
    assert {key: found[key] for key in set(found) - set(bare)} == {
        "fid_error": "first-order jackknife over 10 groups of each set of pictures",
        "kid_subsets": "100 of 30 pictures",
        "kid_error": "jackknife over groups of both sides, and between the subsets",
        "prdc_neighbours": "3",
        "prdc_pictures": "60 of each side",
        "prdc_error": "of the judged pictures' shares, the balls taken as given",
    }
    monkeypatch.setattr("limner.steps.compare.open_pretrained", lambda name, **_: WithClasses())
    assert of(sets / "a", metrics=("is",)).protocol["is_error"] == "deviation between 10 parts"
    assert of(sets / "a", metrics=("is",), save=tmp_path / "a.npz").metrics
    saved = read_statistics(tmp_path / "a.npz").protocol
    assert set(saved) == {"metric", "features", "weights", "resize", "covariance"}, "what moments do not depend on"
    assert "reading" not in of(tmp_path / "a.npz", tmp_path / "a.npz").protocol


def test_what_the_record_says_is_what_the_metrics_take(sets):
    kernel = signature(kernel_distance).parameters
    assert (kernel["subsets"].default, kernel["subset_size"].default) == (SUBSETS, SUBSET_SIZE)
    assert signature(inception_score).parameters["splits"].default == SPLITS


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
        ((a, b, replace(ALL, neighbours=60)), "60 pictures on a side are too few for --neighbours 60"),
        ((a, b, replace(PIXELS, metrics=("is",))), r"looks at .*a alone, and .*b is given.*\n.*--metrics fid,is"),
        ((a, b, replace(PIXELS, weights="w.pth")), r"'pixels' have no weights"),
        ((a, b, replace(PIXELS, weights_sha256="6726825d")), r"'pixels' have no weights"),
        ((a, b, replace(PIXELS, protocol="clean")), r"'pixels' do not know the protocol 'clean'"),
        ((a, None, replace(PIXELS, save=tmp_path / "a.txt")), r"a.txt is no name for a statistics file"),
        ((a, None, replace(PIXELS, save=file / "a.npz")), r"a.npz cannot be written"),
        ((a, b, replace(PIXELS, device="quantum")), "device 'quantum' cannot be used"),
    ):
        told = []
        with pytest.raises(LimnerError, match=message):
            of(*words, told=told)
        assert not [work for work, _, _ in told if work == FEATURES], "it is known before the work"
    assert not (tmp_path / "a.npz").exists()


def test_so_few_that_are_left_have_no_neighbours(sets, tmp_path):
    folder = fill(tmp_path / "set", 7)
    spoil(folder / "0000.png")
    with pytest.raises(LimnerError, match="6 pictures on a side are too few for --neighbours 6"):
        of(folder, sets / "b", ALL, neighbours=6, read=reading(skip_damaged=True))


def test_few_pictures_are_told_once_for_both_sides(sets, tmp_path):
    found = of(fill(tmp_path / "ten", 10), sets / "few")
    assert sum("pictures are few for 12 features" in note for note in found.notes) == 1
    assert any(note.startswith("10 and 9 pictures are few") for note in found.notes)
    assert sum("there is no standard error" in note for note in found.notes) == 1


def test_an_extrapolation_that_says_nothing_is_marked(sets, tmp_path, monkeypatch):
    assert of(sets / "a", sets / "b").doubtful == ()
    assert of(sets / "a", sets / "a").doubtful == ("fd_pixels_infinity",)
    monkeypatch.setattr("limner.steps.compare.open_pretrained", lambda name, **_: Pixels())
    assert of(sets / "a", sets / "b").doubtful == ("fd_pixels_infinity",)


@pytest.mark.parametrize("size", [1e200, 1e300])
def test_statistics_that_are_too_large_to_compute_with_are_told_in_words(tmp_path, size):
    for name in "ab":
        np.savez(tmp_path / f"{name}.npz", mu=np.zeros(3), sigma=size * np.eye(3))
    with pytest.raises(LimnerError, match="too large") as raised:
        of(tmp_path / "a.npz", tmp_path / "b.npz", cache=True)
    assert "rain it again" not in str(raised.value)


# -- doing it once ----------------------------------------------------------------------------------------------------


def test_the_second_time_nothing_is_computed_again(sets, tmp_path, monkeypatch):
    monkeypatch.setenv("LIMNER_CACHE", str(tmp_path / "cache"))
    first, told = of(sets / "a", sets / "b", ALL, cache=True), []

    def never(*_, **__):
        raise AssertionError("it was computed again")

    decompositions, eigh = [], torch.linalg.eigh

    def counted(matrix):
        decompositions.append(matrix)
        return eigh(matrix)

    monkeypatch.setattr(Pixels, "__call__", never)
    monkeypatch.setattr(torch.linalg, "eigh", counted)
    assert of(sets / "a", sets / "b", ALL, cache=True, told=told) == first
    assert {work for work, _, _ in told} == {f"looking over {sets / name}" for name in "ab"}
    assert len(decompositions) == 2, "those of the standard errors; the roots are kept"
    with pytest.raises(AssertionError, match="computed again"):
        of(sets / "a", sets / "b", ALL, cache=False)


def test_progress_is_of_both_sides(sets):
    told = []
    of(sets / "a", sets / "b", told=told)
    assert told[-1] == ("features", 140, 140)
    of_each = {work: [rest for name, *rest in told if name == work] for work, _, _ in told}
    assert of_each[f"looking over {sets / 'a'}"][-1] == [60, 60]
    assert len(of_each) == 3
    assert all(counts == sorted(counts) for counts in of_each.values())


def test_a_selection_of_features_is_noted(sets, monkeypatch):
    for module in (set_features, compare_step, compare_sides):
        monkeypatch.setattr(module, "MOST_KEPT", 50)
    found = of(sets / "a", sets / "b", ALL)
    assert sum("drawn at random" in note for note in found.notes) == 2
    assert found.protocol["features_of"] == "50 pictures of a side at most"
    assert found.protocol["prdc_pictures"] == "50 of each side"
