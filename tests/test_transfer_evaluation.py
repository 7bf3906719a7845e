"""Judging translations: what doing nothing, doing it perfectly, and the known ways of doing it badly score."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from limner.errors import LimnerError
from limner.evaluation import evaluate_pictures
from limner.reference import open_extractor, open_reference
from limner.settings import EvaluateSettings
from limner.tasks import Pairs, UnpairedPictures
from limner.transfer_evaluation import (
    TransferJudge,
    evaluate_transfer,
    first_metric,
    fitting_extractor,
    open_held_out,
)
from limner.transfer_report import STRONGEST_PATTERN, safeguards
from tests.packed import pack, quiet_ports
from tests.two_domains import CLASSES, handwritten, nchw, printed

CPU = torch.device("cpu")
SHARES = ("precision", "recall", "density", "coverage")
COUNTED = (
    *("label_agreement", "label_agreement_source", "label_agreement_real"),
    *("identity_share", "inverted_share", "copy_share", "copy_share_real"),
)
SOURCES, TARGETS, HELD_OUT = 300, 1000, 100


def stand(packed, cache, *, split="validation", **settings):
    """All that a translation of the dataset is judged with; `judge` does it."""
    settings = EvaluateSettings(**settings)
    held_out = open_held_out(packed, count=settings.samples, split=split)
    extractor = open_extractor(settings, packed, domain="target", ports=quiet_ports(cache), device=CPU)
    extractor = fitting_extractor(extractor, held_out)
    reference = open_reference(packed, extractor, domain="target", cache=cache)

    def judge(results, **more):
        return evaluate_transfer(results, held_out, reference=reference, extractor=extractor, settings=settings, **more)

    return SimpleNamespace(
        settings=settings, held_out=held_out, extractor=extractor, reference=reference, judge=judge,
        metrics=lambda results, **more: judge(results, **more).metrics,
    )  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def print_to_hand(tmp_path_factory):
    prints, (hands, classes) = printed(SOURCES + HELD_OUT), handwritten()
    domains = {
        "source": {
            "train": tuple(part[:SOURCES] for part in prints),
            "validation": tuple(part[SOURCES:] for part in prints),
        },
        "target": {
            "train": (hands[:TARGETS], classes[:TARGETS]),
            "validation": (hands[TARGETS : TARGETS + HELD_OUT], classes[TARGETS : TARGETS + HELD_OUT]),
        },
    }
    return pack(tmp_path_factory.mktemp("data") / "unpaired", domains, classes=CLASSES)


@pytest.fixture(scope="module")
def unpaired(print_to_hand, cache):
    return stand(print_to_hand, cache)


@pytest.fixture(scope="module")
def paired(tmp_path_factory, cache):
    """From one font to another; without classes."""
    domains = {}
    for domain, font in (("source", "DejaVuSans"), ("target", "STIXGeneralBol")):
        pixels, _ = printed(160, font=font)
        domains[domain] = {"train": (pixels[:120], None), "validation": (pixels[120:], None)}
    return stand(pack(tmp_path_factory.mktemp("data") / "paired", domains, task="paired"), cache)


def handwriting_like(labels):
    """As good as it gets: real handwriting of the intended digits, which the dataset does not have."""
    pixels, classes = handwritten()
    unused = {label: iter(np.flatnonzero(classes == label)[-60:]) for label in range(10)}
    return nchw(pixels[[next(unused[int(label)]) for label in labels]])


def warned(metrics):
    return [check.sentence for check in safeguards(metrics) if not check.fine]


# -- what results score -----------------------------------------------------------------------------------------------


def test_untouched_sources_are_their_own_yardstick_and_are_found_out(unpaired):
    metrics = unpaired.metrics(unpaired.held_out.sources)
    assert metrics["fd_classifier"] == metrics["fd_classifier_source"]
    assert metrics["fd_classifier_ratio"] == 1
    assert metrics["label_agreement"] == metrics["label_agreement_source"]
    assert metrics["identity_share"] == metrics["ssim_source"] == 1
    assert metrics["colour_correlation"] == pytest.approx(1)
    assert (
        metrics["change"]
        == metrics["feature_distance_classifier"]
        == metrics["perceptual_distance_classifier"]
        == 0
        < 0.1
        < metrics["feature_distance_classifier_unrelated"]
    )
    assert any("hardly differ" in sentence for sentence in warned(metrics))


def test_real_handwriting_of_the_intended_digits_scores_best(unpaired):
    metrics = unpaired.metrics(handwriting_like(unpaired.held_out.labels))
    assert set(metrics) == {
        *("fd_classifier", "fd_classifier_source", "fd_classifier_ratio", "fd_classifier_real"),
        *("fd_classifier_se", "fd_classifier_infinity", "kd_classifier", "kd_classifier_se"),
        *(f"{share}_classifier{ending}" for share in SHARES for ending in ("", "_se")),
        "perceptual_distance_classifier",
        *(f"{share}{ending}" for share in COUNTED for ending in ("", "_se")),
        *("feature_distance_classifier", "feature_distance_classifier_unrelated", "ssim_source"),
        *("change", "colour_correlation", "checkerboard", "within_class_diversity", "novelty"),
    }
    assert metrics["fd_classifier_ratio"] < 0.2
    assert metrics["fd_classifier_real"] < 0.5 * metrics["fd_classifier_source"]
    assert metrics["label_agreement"] > 0.9 > metrics["label_agreement_source"] > 0.5
    assert metrics["feature_distance_classifier"] < 0.7 * metrics["feature_distance_classifier_unrelated"]
    assert metrics["identity_share"] == metrics["inverted_share"] == metrics["copy_share"] == 0
    assert metrics["checkerboard"] < 2
    assert metrics["within_class_diversity"] == pytest.approx(1, abs=0.15)
    assert warned(metrics) == []


def test_the_wrong_digits_in_handwriting_have_the_style_and_have_lost_the_content(unpaired):
    metrics = unpaired.metrics(handwriting_like((unpaired.held_out.labels + 1) % 10))
    assert metrics["fd_classifier_ratio"] < 0.2
    assert metrics["label_agreement"] < 0.1
    assert any("content is lost" in sentence for sentence in warned(metrics))


def test_always_the_same_picture_is_not_varied(unpaired):
    one = handwriting_like([3])
    metrics = unpaired.metrics(one.expand(HELD_OUT, -1, -1, -1).contiguous())
    assert metrics["within_class_diversity"] == pytest.approx(0, abs=1e-6)
    assert metrics["label_agreement"] == pytest.approx(0.1, abs=0.02)
    assert any("become the same picture" in sentence for sentence in warned(metrics))


def test_negatives_are_found(unpaired):
    metrics = unpaired.metrics(255 - unpaired.held_out.sources)
    assert metrics["colour_correlation"] == pytest.approx(-1)
    assert metrics["inverted_share"] == 1
    assert metrics["fd_classifier_ratio"] > 1
    assert any("negatives" in sentence for sentence in warned(metrics))


def test_a_checkerboard_stands_out_and_blur_and_noise_do_not(unpaired):
    good = handwriting_like(unpaired.held_out.labels)
    board = (torch.arange(32)[:, None] + torch.arange(32)) % 2 * 10  # ten grey levels
    noise = torch.randint(0, 20, good.shape, generator=torch.Generator().manual_seed(0))
    every_fourth = (torch.arange(32)[:, None] % 4 == 0) * torch.full((32,), 20)
    strength = {
        "board": unpaired.metrics((good + board).clamp(max=255).byte())["checkerboard"],
        "lines": unpaired.metrics((good + every_fourth).clamp(max=255).byte())["checkerboard"],
        "noise": unpaired.metrics((good + noise).clamp(max=255).byte())["checkerboard"],
        "blur": unpaired.metrics(F.avg_pool2d(good.float(), 3, 1, 1).byte())["checkerboard"],
    }
    assert strength["board"] > 5
    assert strength["lines"] > STRONGEST_PATTERN
    assert max(strength["noise"], strength["blur"]) < 2.5
    assert any("checkerboard" in s for s in warned(unpaired.metrics((good + board).clamp(max=255).byte())))


def test_training_targets_that_come_out_are_copies(unpaired):
    pixels, _ = handwritten()
    metrics = unpaired.metrics(nchw(pixels[:HELD_OUT]))
    assert metrics["copy_share"] == 1
    assert any("learnt by heart" in sentence for sentence in warned(metrics))


def test_the_truth_has_no_error_and_doing_nothing_has_all_of_it(paired):
    truth, sources = paired.held_out.truth, paired.held_out.sources
    perfect, nothing = paired.metrics(truth), paired.metrics(sources)
    assert (perfect["l1"], perfect["l1_ratio"], perfect["psnr"], perfect["ssim"]) == (0, 0, 100, 1)
    for name in ("l1", "psnr", "ssim"):
        assert nothing[name] == nothing[f"{name}_identity"] == perfect[f"{name}_identity"]
    assert nothing["l1_ratio"] == 1
    assert nothing["l1"] == pytest.approx(float((sources.double() - truth.double()).abs().mean()) / 255)
    assert perfect["fd_pixels_ratio"] < 0.5 < nothing["fd_pixels_ratio"] == 1
    halfway = ((sources.int() + truth.int()) // 2).byte()
    assert paired.metrics(halfway)["l1_ratio"] == pytest.approx(0.5, abs=0.02)


def test_where_the_truth_is_a_negative_negatives_are_no_failure(tmp_path):
    pixels, _ = printed(40, font="DejaVuSans")
    domains = {
        "source": {"train": (pixels[:20], None), "validation": (pixels[20:], None)},
        "target": {"train": (255 - pixels[:20], None), "validation": (255 - pixels[20:], None)},
    }
    judged = stand(pack(tmp_path / "negatives", domains, task="paired"), tmp_path / "cache")
    metrics = judged.metrics(judged.held_out.truth)
    assert metrics["inverted_share"] == metrics["inverted_share_truth"] == 1
    assert not any("negatives" in sentence for sentence in warned(metrics))


def test_pictures_that_come_back_as_they_were_close_the_cycle(unpaired):
    sources = unpaired.held_out.sources
    results = handwriting_like(unpaired.held_out.labels)
    assert unpaired.metrics(results, cycled=sources)["cycle_l1"] == 0
    assert unpaired.metrics(results, cycled=255 - sources)["cycle_l1"] > 0.5
    assert "cycle_l1" not in unpaired.metrics(results)


# -- what is judged, and what figures depend on -----------------------------------------------------------------------


def test_the_sources_are_all_of_the_validation_split_once(unpaired, print_to_hand):
    held_out = unpaired.held_out
    pixels, labels = printed(SOURCES + HELD_OUT)
    assert held_out.split == "validation"
    assert torch.equal(held_out.sources, nchw(pixels[SOURCES:]))
    assert held_out.labels.tolist() == labels[SOURCES:].tolist()
    assert held_out.truth is None
    fewer = open_held_out(print_to_hand, count=30)
    places = [int((held_out.sources == one).flatten(1).all(1).nonzero()[0]) for one in fewer.sources]
    assert len(set(places)) == 30
    assert fewer.labels.tolist() == held_out.labels[places].tolist()


def test_a_product_gets_the_sources_in_order_and_pairs_where_they_are(unpaired, paired):
    for judged, kind in ((unpaired, UnpairedPictures), (paired, Pairs)):
        batches = list(judged.held_out.batches(CPU))
        assert {type(batch) for batch in batches} == {kind}
        assert all(len(batch.source.images) == len(batch.target.images) for batch in batches)
        images = torch.cat([batch.source.images for batch in batches])
        assert torch.equal(((images + 1) * 127.5).round().byte(), judged.held_out.sources)
    truth = torch.cat([batch.target.images for batch in batches])
    assert torch.equal(((truth + 1) * 127.5).round().byte(), paired.held_out.truth)


def test_the_protocol_has_the_keys_of_pictures_and_what_else_matters(unpaired):
    results = unpaired.held_out.sources
    found = unpaired.judge(results).protocol
    usual = evaluate_pictures(
        results, None, reference=unpaired.reference, extractor=unpaired.extractor, settings=unpaired.settings
    ).protocol
    assert {key: found[key] for key in usual} == usual
    assert found["reference_domain"] == "target"
    assert {key: value for key, value in found.items() if key not in usual} == {
        "task": "unpaired",
        "sources": "100",
        "source_domain": "source",
        "source_split": "validation",
        "truth": "none",
        "ssim": "gaussian window of 11 px, sigma 1.5",
        "unchanged": "mean difference to the source under 0.02 of the scale",
        "inverted": "correlation with the source under -0.3",
        "checkerboard": "largest of 15 peaks over those of 500 training targets",
    }


def test_the_same_results_get_the_same_figures(unpaired):
    results = handwriting_like(unpaired.held_out.labels)
    assert unpaired.metrics(results) == unpaired.metrics(results)


# -- little data ------------------------------------------------------------------------------------------------------


def test_without_held_out_sources_the_training_ones_are_judged_and_it_is_said(tmp_path):
    pixels, _ = printed(40)
    domains = {"source": {"train": (pixels, None)}, "target": {"train": (255 - pixels, None)}}
    judged = stand(pack(tmp_path / "few", domains), tmp_path / "cache")
    found = judged.judge(judged.held_out.sources)
    assert found.protocol["source_split"] == "train"
    assert any("no held-out sources" in note for note in found.notes)
    assert any("no classes" in note for note in found.notes)
    assert not {"label_agreement", "fd_pixels_real", "l1"} & set(found.metrics)


def test_one_picture_a_side_is_judged_by_its_parts(tmp_path):
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:96, :128]
    coarse, fine = (
        (127 + 100 * np.sin(rows / period + columns / period)[..., None] + rng.normal(0, 5, (96, 128, 3)))
        .clip(0, 255).astype(np.uint8)[None]
        for period in (9.0, 2.0)
    )  # fmt: skip
    domains = {"source": {"train": (coarse, None)}, "target": {"train": (fine, None)}}
    judged = stand(pack(tmp_path / "one", domains), tmp_path / "cache")
    nothing, perfect = judged.judge(nchw(coarse)), judged.judge(nchw(fine.copy()))
    assert nothing.metrics["fd_pixels-tiles_ratio"] == 1
    assert perfect.metrics["fd_pixels-tiles_ratio"] < 0.01
    assert any("too few pictures" in note for note in nothing.notes)
    assert perfect.metrics["copy_share"] == 1
    assert len(nothing.nearest) == 1


def test_flat_pictures_break_nothing(tmp_path):
    flat = np.full((20, 16, 16, 3), 90, np.uint8)
    domains = {name: {"train": (flat, None), "validation": (flat[:6], None)} for name in ("source", "target")}
    judged = stand(pack(tmp_path / "flat", domains, task="paired"), tmp_path / "cache")
    metrics = judged.metrics(judged.held_out.sources)
    assert not {"colour_correlation", "inverted_share", "checkerboard", "l1_ratio"} & set(metrics)
    assert all(math.isfinite(value) for value in metrics.values())
    list(safeguards(metrics))


def test_an_empty_side_is_refused_in_words(tmp_path):
    pixels, _ = printed(40)
    domains = {"source": {"train": (pixels, None)}, "target": {"train": (pixels[:0], None)}}
    with pytest.raises(LimnerError, match="no picture to judge by"):
        open_held_out(pack(tmp_path / "empty", domains), count=10)


# -- during training --------------------------------------------------------------------------------------------------


def test_the_quick_judge_gives_the_distance_first_and_for_learnt_pairs_the_error(unpaired, paired):
    judge = TransferJudge(unpaired.held_out, unpaired.reference, unpaired.extractor, task="unpaired")
    results = handwriting_like(unpaired.held_out.labels)
    found = judge(results)
    assert list(found) == ["fd_classifier", "label_agreement", "change"]
    assert found == {name: unpaired.metrics(results)[name] for name in found}
    for task, first in (("paired", "l1"), ("unpaired", "fd_pixels")):
        judge = TransferJudge(paired.held_out, paired.reference, paired.extractor, task=task)
        found = judge(paired.held_out.sources)
        assert next(iter(found)) == first == first_metric(task, paired.extractor)
        assert found["l1"] == paired.metrics(paired.held_out.sources)["l1_identity"]
