"""Judging pictures: what good, bad, collapsed and copied pictures score, and what the figures depend on."""

import json
import math

import numpy as np
import pytest
import torch

from limner import evaluation, reference
from limner.errors import LimnerError
from limner.evaluation import QuickJudge, evaluate_pictures, share_figures, write_metrics
from limner.features import inception_2015
from limner.features.pixels import Pixels
from limner.frechet import Moments, frechet_distance
from limner.reference import open_extractor, open_reference
from limner.settings import EvaluateSettings
from tests.packed import pack, quiet_ports

CPU = torch.device("cpu")
SHARES = ("precision", "recall", "density", "coverage")
READINGS = ("sure_share", "sure_share_real", "label_agreement", "label_agreement_real", "copy_share", "copy_share_real")
CLASSES = ("lying", "standing", "slanted")
SIZE = 16


def lines(count, *, seed):
    """Bright lines anywhere in three directions: uint8 [N, 16, 16, 1], and which direction."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 40, (count, SIZE, SIZE, 1), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        place, brightness, start = rng.integers(2, SIZE - 2), rng.integers(150, 256), rng.integers(0, 5)
        along = np.arange(start, SIZE - rng.integers(0, 5))
        across = np.full_like(along, place) if label < 2 else (along + place) % SIZE
        image[(across, along) if label != 1 else (along, across)] = brightness
    return images, labels


def nchw(images):
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)


TRAIN, HELD_OUT = lines(240, seed=0), lines(60, seed=1)


class Stand:
    """A dataset, its extractor and its reference; `judge` uses them."""

    def __init__(self, dataset, cache, **settings):
        self.settings = EvaluateSettings(**settings)
        self.extractor = open_extractor(self.settings, dataset, ports=quiet_ports(cache), device=CPU)
        self.reference = open_reference(dataset, self.extractor, cache=cache)

    def judge(self, images, labels=None):
        labels = None if labels is None else torch.from_numpy(labels)
        return evaluate_pictures(
            nchw(images), labels, reference=self.reference, extractor=self.extractor, settings=self.settings
        )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    splits = {"train": TRAIN, "validation": HELD_OUT}
    return pack(tmp_path_factory.mktemp("data") / "lines", {"pictures": splits}, classes=CLASSES)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def stand(dataset, cache):
    return Stand(dataset, cache)


@pytest.fixture(scope="module")
def good(stand):
    return stand.judge(*lines(200, seed=2))


def unlabelled(tmp_path, train, validation=None):
    splits = {"train": (train, None)} | ({} if validation is None else {"validation": (validation, None)})
    return pack(tmp_path / "dataset", {"pictures": splits})


# -- what pictures score ----------------------------------------------------------------------------------------------


def test_pictures_as_good_as_real_ones_score_like_held_out_ones(good):
    metrics = good.metrics
    assert set(metrics) == {
        *("fd_classifier", "fd_classifier_se", "fd_classifier_infinity", "kd_classifier", "kd_classifier_se"),
        *(f"{share}_classifier{ending}" for share in SHARES for ending in ("", "_se")),
        "perceptual_diversity_classifier",
        *(f"{share}{ending}" for share in READINGS for ending in ("", "_se")),
        *("sure_share_ratio", "class_entropy", "within_class_diversity", "novelty"),
    }
    assert metrics["sure_share_ratio"] == pytest.approx(1, abs=0.1)
    assert metrics["class_entropy"] > 0.99
    assert metrics["label_agreement"] > 0.9
    assert metrics["within_class_diversity"] == pytest.approx(1, abs=0.1)
    assert metrics["perceptual_diversity_classifier"] == pytest.approx(1, abs=0.1)
    assert 0 < metrics["fd_classifier_se"] < 0.1
    assert metrics["fd_classifier_infinity"] < metrics["fd_classifier"], "few pictures raise the distance"
    assert metrics["density_classifier"] == pytest.approx(1, abs=0.3)
    assert metrics["coverage_classifier"] > 0.8
    assert metrics["precision_classifier"] > 0.8
    assert metrics["recall_classifier"] > 0.8
    assert metrics["copy_share"] == metrics["copy_share_real"] == 0
    assert metrics["novelty"] == pytest.approx(1, abs=0.1)
    assert abs(metrics["kd_classifier"]) < 0.5


def test_the_error_of_a_share_is_binomial():
    """Of 100 with p = 0.2 the standard error is sqrt(0.2 * 0.8 / 100) = 0.04; it is that of the draws' spread."""
    rng = torch.Generator().manual_seed(0)
    found = share_figures("copies", torch.arange(100) < 20)
    assert found == pytest.approx({"copies": 0.2, "copies_se": 0.04})
    shares = (torch.rand(4000, 100, generator=rng) < 0.2).double().mean(1)
    assert float(shares.std()) == pytest.approx(found["copies_se"], rel=0.05)


def test_a_generator_that_knows_one_picture_a_class_is_found_out(stand, good):
    images, labels = lines(3, seed=2)
    collapsed = stand.judge(np.tile(images, (66, 1, 1, 1)), np.tile(labels, 66)).metrics
    assert collapsed["class_entropy"] > 0.99
    assert collapsed["label_agreement"] == 1
    assert collapsed["within_class_diversity"] < 1e-4
    assert collapsed["recall_classifier"] < 0.1
    assert collapsed["fd_classifier"] > 5 * good.metrics["fd_classifier"]


def test_noise_is_neither_precise_nor_close(stand, good):
    noise = np.random.default_rng(0).integers(0, 256, (200, SIZE, SIZE, 1), dtype=np.uint8)
    metrics = stand.judge(noise).metrics
    assert metrics["fd_classifier"] > 10 * good.metrics["fd_classifier"]
    assert metrics["kd_classifier"] > 10 * abs(good.metrics["kd_classifier"])
    assert metrics["precision_classifier"] < 0.1


def test_a_missing_class_shows_in_the_entropy(stand):
    images, labels = lines(300, seed=2)
    metrics = stand.judge(images[labels != 2], labels[labels != 2]).metrics
    assert metrics["class_entropy"] == pytest.approx(math.log(2) / math.log(3), abs=0.05)


def test_pictures_of_the_wrong_class_do_not_agree_with_their_labels(stand):
    images, labels = lines(90, seed=2)
    assert stand.judge(images, (labels + 1) % 3).metrics["label_agreement"] < 0.1


def test_diversity_is_measured_within_classes_and_by_that_of_real_pictures(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2

    def two_levels(spread):  # far apart from class to class, `spread` from picture to picture
        return (100 + 100 * labels + rng.uniform(-spread, spread, 80)).astype(np.uint8)[:, None, None, None] * np.ones(
            (80, 8, 8, 1), np.uint8
        )

    splits = {"train": (two_levels(5), labels)}
    dataset = pack(tmp_path / "levels", {"pictures": splits}, classes=("dark", "light"))
    stand = Stand(dataset, tmp_path, features="pixels")
    assert stand.judge(two_levels(20), labels).metrics["within_class_diversity"] == pytest.approx(4, rel=0.2)


def test_pictures_learnt_by_heart_are_counted(stand):
    images, labels = lines(40, seed=2)
    noisy = (TRAIN[0][:60] * 0.97 + np.random.default_rng(0).normal(3, 3, (60, SIZE, SIZE, 1))).clip(0, 255)
    found = stand.judge(np.concatenate([images, noisy.astype(np.uint8)]), np.concatenate([labels, TRAIN[1][:60]]))
    assert found.metrics["copy_share"] == pytest.approx(0.6)
    assert found.metrics["novelty"] < 0.5
    assert found.nearest[40:].tolist() == list(range(60))
    assert found.nearest_distances[40:].max() < found.nearest_distances[:40].min()
    assert len(found.validation_distances) == 60


def test_a_copy_of_a_picture_that_was_there_twice_is_a_copy(tmp_path):
    twice = np.repeat(TRAIN[0][:30], 2, axis=0)
    stand = Stand(unlabelled(tmp_path, twice), tmp_path / "cache")
    assert stand.judge(twice[::2]).metrics["copy_share"] == 1


# -- what figures depend on -------------------------------------------------------------------------------------------


def test_the_same_pictures_get_the_same_figures_with_and_without_a_cache(stand, good, dataset, tmp_path):
    again = stand.judge(*lines(200, seed=2))
    anew = Stand(dataset, tmp_path / "empty").judge(*lines(200, seed=2))
    assert dict(again.metrics) == dict(good.metrics) == dict(anew.metrics)
    assert again.protocol == good.protocol == anew.protocol


def test_what_is_in_the_cache_is_not_computed_again(stand, dataset, cache, monkeypatch):
    def refuse(*_args, **_settings):
        raise AssertionError("computed again")

    monkeypatch.setattr(reference, "train_classifier", refuse)
    monkeypatch.setattr(reference, "extract", refuse)
    assert torch.equal(Stand(dataset, cache).reference.train.features, stand.reference.train.features)


def test_the_protocol_says_what_a_figure_depends_on(stand, good, dataset):
    assert good.protocol == {
        "features": "classifier",
        "weights": stand.extractor.identity,
        "resize": "none",
        "reading": "as packed; transparency over black",
        "reference": dataset.digest,
        "reference_domain": "pictures",
        "reference_split": "train",
        "reference_pictures": "240",
        "held_out_pictures": "60",
        "covariance": "unbiased",
        "samples": "200",
        "standard_errors": evaluation.STANDARD_ERRORS,
        "neighbours": "3",
        "sure": "0.9",
        "copy": evaluation.COPY_RULE,
    }


def test_of_a_large_split_a_selection_is_looked_at(dataset, tmp_path, monkeypatch):
    assert len(Stand(dataset, tmp_path, features="pixels").reference.train.features) == 240
    monkeypatch.setattr(reference, "MOST_REAL", 50)
    stand = Stand(dataset, tmp_path, features="pixels")
    train = stand.reference.train
    assert len(set(train.indices)) == len(train.features) == 50
    assert stand.judge(*lines(30, seed=2)).protocol["reference_pictures"] == "50"
    assert np.array_equal(train.labels.numpy(), TRAIN[1][train.indices])
    copies = stand.judge(TRAIN[0][train.indices])
    assert np.array_equal(copies.nearest, train.indices)


def test_the_domain_that_is_asked_for_is_the_reference(tmp_path):
    dark, light = np.zeros((9, 8, 8, 1), np.uint8), np.full((9, 8, 8, 1), 200, np.uint8)
    dataset = pack(tmp_path / "two", {"source": {"train": (dark, None)}, "target": {"train": (light, None)}})
    for domain, expected in (("source", 0), ("target", 200)):
        extractor = open_extractor(EvaluateSettings(), dataset, domain=domain, ports=quiet_ports(tmp_path), device=CPU)
        found = open_reference(dataset, extractor, domain=domain, cache=tmp_path)
        assert found.train.features.unique().mul(255).round().tolist() == [expected]
        assert found.domain == domain


# -- little data ------------------------------------------------------------------------------------------------------


def test_pictures_without_labels_are_judged_by_pixels_and_it_is_said_what_that_means(tmp_path):
    stand = Stand(unlabelled(tmp_path, TRAIN[0], HELD_OUT[0]), tmp_path / "cache")
    found = stand.judge(lines(100, seed=2)[0])
    assert found.protocol["features"] == "pixels"
    assert {"fd_pixels", "kd_pixels", "diversity", "copy_share"} <= set(found.metrics)
    assert not {"sure_share", "class_entropy", "within_class_diversity"} & set(found.metrics)
    assert any("pixels" in note for note in found.notes)


def test_without_a_validation_split_nothing_is_compared_with_held_out_pictures(tmp_path):
    stand = Stand(unlabelled(tmp_path, TRAIN[0]), tmp_path / "cache")
    found = stand.judge(lines(100, seed=2)[0])
    assert not {"copy_share_real", "novelty"} & set(found.metrics)
    assert found.validation_distances is None
    assert any("no validation split" in note for note in found.notes)


@pytest.mark.parametrize("features", ["auto", "classifier", "pixels"])
def test_forty_pictures_are_enough(tmp_path, features, monkeypatch):
    monkeypatch.setattr("limner.features.classifier.LEAST_STEPS", 5)
    splits = {"train": lines(36, seed=0), "validation": lines(4, seed=1)}
    dataset = pack(tmp_path / "few", {"pictures": splits}, classes=CLASSES)
    found = Stand(dataset, tmp_path / "cache", features=features).judge(*lines(10, seed=2))
    assert all(math.isfinite(value) for value in found.metrics.values())
    assert any("are few for" in note for note in found.notes)


def test_one_class_is_judged_by_pixels(tmp_path):
    splits = {"train": (TRAIN[0][:30], np.zeros(30, int))}
    dataset = pack(tmp_path / "one", {"pictures": splits}, classes=("only",))
    assert "fd_pixels" in Stand(dataset, tmp_path / "cache").judge(*lines(20, seed=2)).metrics
    with pytest.raises(LimnerError, match="no two classes"):
        Stand(dataset, tmp_path / "cache", features="classifier")


def test_too_few_pictures_are_refused_in_words(tmp_path):
    stand = Stand(unlabelled(tmp_path, TRAIN[0][:3]), tmp_path / "cache")
    with pytest.raises(LimnerError, match="at least 4 pictures on each side, not 3 and 20"):
        stand.judge(lines(20, seed=2)[0])
    with pytest.raises(LimnerError, match="no picture to compare with"):
        Stand(unlabelled(tmp_path / "none", TRAIN[0][:0]), tmp_path / "cache")


def test_pictures_that_are_all_the_same_break_nothing(tmp_path):
    same = np.full((20, 8, 8, 3), 7, np.uint8)
    found = Stand(unlabelled(tmp_path, same, same), tmp_path / "cache").judge(same)
    assert found.metrics["fd_pixels"] == pytest.approx(0, abs=1e-9)
    assert not {"novelty", "diversity"} & set(found.metrics), "a distance of nothing is no unit to measure in"


# -- extractors -------------------------------------------------------------------------------------------------------


class Broken(Pixels):
    def __call__(self, images):
        return super().__call__(images) * torch.nan


def test_features_that_are_not_finite_are_an_error_and_no_figure(stand):
    with pytest.raises(LimnerError, match="features of the extractor 'pixels' are not finite"):
        QuickJudge(stand.reference, Broken(), sure=0.9)(nchw(TRAIN[0][:10]))


def test_inception_without_weights_says_where_they_may_be(dataset, cache, tmp_path):
    settings = EvaluateSettings(features="inception-v3-2015")
    with pytest.raises(LimnerError, match=r"searched .*there\.pth"):
        open_extractor(settings, dataset, ports=quiet_ports(cache, [tmp_path / "there.pth"]), device=CPU)
    with pytest.raises(LimnerError, match=r"no Inception weights at .*here\.pth"):
        open_extractor(
            settings.model_copy(update={"weights": str(tmp_path / "here.pth")}),
            dataset,
            ports=quiet_ports(cache),
            device=CPU,
        )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (inception_2015.NAME, {"fid", "kid", "kid_se"}),
        ("inception-v3-0a0b0c0d", {"fd_inception-v3-0a0b0c0d", "kd_inception-v3-0a0b0c0d"}),
    ],
)
def test_only_the_published_inception_gives_a_fid(dataset, cache, name, expected):
    extractor = Pixels(name=name)
    found = evaluate_pictures(
        nchw(lines(20, seed=2)[0]),
        None,
        reference=open_reference(dataset, extractor, cache=cache),
        extractor=extractor,
        settings=EvaluateSettings(),
    ).metrics
    assert expected <= set(found)
    assert ("fid" in found) == ("fid" in expected)


def test_the_quick_judge_gives_the_frechet_distance_first(stand):
    images, _ = lines(50, seed=3)
    judge = QuickJudge(stand.reference, stand.extractor, sure=0.9)
    found = judge(nchw(images))
    assert list(found) == ["fd_classifier", "sure_share"]
    seen = Moments.of(stand.extractor(nchw(images))).gaussian()
    assert found["fd_classifier"] == pytest.approx(frechet_distance(stand.reference.gaussian, seen))
    assert judge(nchw(images)) == found


# -- metrics.json -----------------------------------------------------------------------------------------------------


def test_metrics_json_has_protocol_choice_and_both_moments(good, tmp_path):
    path = tmp_path / "metrics.json"
    write_metrics(path, chosen="best", best=good, last=good)
    document = json.loads(path.read_text())
    assert list(document) == ["best", "chosen", "last", "protocol"]
    assert document["chosen"] == "best"
    assert document["best"] == document["last"] == dict(good.metrics)
    assert list(document["best"]) == sorted(document["best"])
    assert all(isinstance(value, str) for value in document["protocol"].values())
    first = path.read_bytes()
    write_metrics(path, chosen="best", best=good, last=good)
    assert path.read_bytes() == first
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.json"]


def test_a_figure_that_is_not_finite_is_an_error(stand, monkeypatch):
    monkeypatch.setattr(evaluation, "frechet_distance", lambda *_: math.nan)
    judge = QuickJudge(stand.reference, stand.extractor, sure=0.9)
    with pytest.raises(LimnerError, match="metric fd_classifier came out as nan"):
        judge(nchw(TRAIN[0][:10]))
