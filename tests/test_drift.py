"""New pictures against training pictures: the test, the size of a difference, the file of features."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from limner import drift
from limner.drift import DriftReference, judge, read_reference, write_reference
from limner.errors import LimnerError
from limner.features.pixels import Pixels
from limner.features.pretrained import open_pretrained
from limner.packing import PackedDataset
from limner.settings import ImageSettings
from limner.sources.mnist5k import open_mnist5k
from tests.drifting import clouds
from tests.packed import pack

RECORD = {"features": "pixels", "protocol": "", "weights": "pixels-8", "frechet": "fd_pixels", "kernel": "kd_pixels",
          "domain": "pictures"}  # fmt: skip


def normal(count, seed, *, dimensions=8, shift=0.0, scale=1.0):
    rng = torch.Generator().manual_seed(seed)
    return shift + scale * torch.randn(count, dimensions, generator=rng)


def reference_of(train, held_out):
    return DriftReference(train, held_out, RECORD, ImageSettings(size=16, channels=1))


@pytest.fixture(scope="module")
def handwriting():
    """1,700 of mnist5k's 5,000 digits in an order by chance, uint8 [N, 28, 28, 1], and their classes."""
    items = list(open_mnist5k().pictures)
    order = np.random.default_rng(0).permutation(len(items))[:1700]
    pictures = np.stack([items[place].fetch() for place in order]).reshape(-1, 28, 28, 1)
    return pictures, np.array([items[place].label for place in order])


@pytest.fixture(scope="module")
def digits(handwriting):
    """Those of training and those held out, under the pixels."""
    features = seen(handwriting[0])
    return reference_of(features[:300], features[600:900])


def seen(pictures):
    return Pixels()(torch.from_numpy(np.ascontiguousarray(pictures)).permute(0, 3, 1, 2))


# -- the verdict ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_held_out_digits_are_called_a_drift_no_more_often_than_alpha(digits, handwriting):
    features, rng = seen(handwriting[0][900:]), np.random.default_rng(1)
    draws = [features[rng.choice(len(features), 60, replace=False)] for _ in range(20)]
    alarms = sum(judge(draw, digits, seed=seed).verdict == "drift" for seed, draw in enumerate(draws))
    assert alarms <= 4  # at a level of 0.05 more are one case in 400, if the size did not count as well


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda pictures: 255 - pictures, id="inverted"),
        pytest.param(lambda pictures: np.roll(pictures, 2, axis=2), id="shifted by two pixels"),
        pytest.param(lambda pictures: (pictures * 0.7).astype(np.uint8), id="darker"),
        pytest.param(
            lambda pictures: (
                (pictures + np.random.default_rng(0).normal(0, 35, pictures.shape)).clip(0, 255).astype(np.uint8)
            ),
            id="noisy",
        ),
    ],
)
def test_changed_digits_are_a_drift(digits, handwriting, change):
    found = judge(seen(change(handwriting[0][900:1000])), digits)
    assert found.verdict == "drift"
    assert found.effect > 1.5
    assert found.figures["kd_pixels"] > found.held_out["kd_pixels"] + 2 * found.figures["kd_pixels_se"]


def test_a_change_of_spread_alone_is_found():
    """Same mean, another variance: a comparison of means would not see it."""
    reference = reference_of(normal(300, 1), normal(150, 2))
    assert judge(normal(150, 3, scale=1.6), reference).verdict == "drift"


def test_other_digits_are_no_drift(digits, handwriting):
    assert judge(seen(handwriting[0][900:960]), digits).verdict == "no drift"


def test_digits_of_one_class_are_a_drift(digits, handwriting):
    pictures, labels = handwriting
    assert judge(seen(pictures[900:][labels[900:] == 3][:60]), digits).verdict == "drift"


def test_a_trifle_is_a_small_shift_however_many_pictures_show_it():
    reference = reference_of(normal(1200, 1), normal(300, 2))
    found = judge(normal(1200, 3, shift=0.08), reference)
    assert found.test.p_value <= 0.05
    assert found.effect < 1
    assert found.verdict == "a small shift"
    assert any("it is little" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(np.zeros_like, id="black"),
        pytest.param(lambda pictures: np.full_like(pictures, 255), id="white"),
        pytest.param(lambda pictures: 255 - pictures, id="inverted"),
        pytest.param(
            lambda pictures: np.random.default_rng(0).integers(0, 256, pictures.shape, dtype=np.uint8), id="noise"
        ),
    ],
)
def test_a_few_pictures_of_another_kind_are_a_drift_and_named_first(handwriting, other):
    """5 in 100, of which the test of the whole shows little: black ones even lie near to thin digits."""
    features, pictures = seen(handwriting[0][:1000]), handwriting[0][1000:1400].copy()
    pictures[:20] = other(pictures[:20])
    found = judge(seen(pictures), reference_of(features[:700], features[700:]))
    assert found.verdict == "drift"
    assert found.outliers.p_value < 0.01
    assert 0.05 <= found.outliers.share < 0.08
    assert sorted(found.outliers.factors.argsort(descending=True)[:20].tolist()) == list(range(20))
    assert "of them lie outside" in found.reasons[-1]


def test_a_share_of_outliers_that_is_more_than_chance_and_little_is_a_small_shift(monkeypatch):
    reference = reference_of(normal(300, 1), normal(200, 2))
    new = normal(100, 3)
    new[:8, 0] += 7
    assert judge(new, reference).verdict == "drift"
    monkeypatch.setattr(drift, "MANY", 0.2)
    assert judge(new, reference).verdict == "a small shift"


def test_held_out_pictures_that_differ_by_intention_are_no_drift():
    """Fonts that were kept for validation are not those of training: new pictures like them are what was foreseen."""
    reference = reference_of(normal(400, 1), normal(300, 2, shift=0.4))
    found = judge(normal(200, 3, shift=0.4), reference)
    assert found.test.p_value <= 0.025
    assert found.outliers.p_value > 0.025
    assert found.verdict == "a small shift"


def test_few_pictures_that_do_not_differ_are_too_few_to_say():
    reference = reference_of(normal(300, 1), normal(100, 2))
    found = judge(normal(drift.ENOUGH - 1, 8), reference)
    assert found.verdict == "too few pictures to say"
    assert "it takes 50" in found.reasons[-1]
    assert judge(normal(drift.ENOUGH, 8), reference).verdict == "no drift"


def test_few_pictures_that_differ_a_lot_are_a_drift():
    reference = reference_of(normal(300, 1), normal(100, 2))
    assert judge(normal(12, 3, shift=2), reference).verdict == "drift"


def test_of_a_handful_of_pictures_only_their_distances_are_told():
    reference = reference_of(normal(300, 1), normal(100, 2))
    found = judge(normal(1, 3, shift=9), reference)
    assert found.verdict == "too few pictures to say"
    assert found.reasons == ("There is one picture to test; it takes 10, and 50 to say that all is well.",)
    assert found.test is None
    assert found.effect is None
    assert not found.figures
    assert found.outliers.factors[0] > 5
    assert found.outliers.p_value is None


def test_a_model_of_few_training_pictures_cannot_say():
    found = judge(normal(100, 3), reference_of(normal(8, 1), normal(2, 2)))
    assert found.verdict == "too few pictures to say"
    assert "trained on so few pictures" in found.reasons[0]


def test_training_pictures_are_recognised_as_such():
    train = normal(300, 1)
    found = judge(torch.cat([train[:20], normal(40, 9)]), reference_of(train, normal(100, 2)))
    assert found.same == 20


def test_a_stricter_level_asks_for_more():
    reference = reference_of(normal(300, 1), normal(100, 2))
    new = normal(30, 4, shift=0.35)
    p_value = judge(new, reference).test.p_value
    assert 0.001 < p_value < 0.5  # a case on the edge
    assert judge(new, reference, alpha=2 * p_value).verdict == "drift"
    assert judge(new, reference, alpha=2 * p_value - 0.0005).verdict != "drift"


def test_the_judgement_is_the_same_twice():
    reference = reference_of(normal(300, 1), normal(100, 2))
    one, other = (judge(normal(80, 3), reference, seed=4) for _ in range(2))
    assert (one.test, one.effect, dict(one.figures)) == (other.test, other.effect, dict(other.figures))


# -- the file ---------------------------------------------------------------------------------------------------------


def test_a_reference_comes_back_as_it_was_written(tmp_path):
    packed = pack(tmp_path / "set", {"pictures": {"train": (clouds(90, 1), None), "validation": (clouds(60, 2), None)}})
    write_reference(tmp_path / "drift.safetensors", packed)
    found = read_reference(tmp_path / "drift.safetensors")
    assert torch.equal(found.train, seen(clouds(90, 1)))
    assert torch.equal(found.held_out, seen(clouds(60, 2)))
    assert found.image.size == 16
    assert found.image.channels == 1
    expected = RECORD | {"resize": Pixels().resize, "dataset": packed.digest, "held_out": "validation split"}
    assert found.record == expected


def test_the_same_dataset_gives_the_same_bytes(tmp_path):
    packed = pack(tmp_path / "set", {"pictures": {"train": (clouds(90, 1), None)}})
    for name in ("one", "other"):
        write_reference(tmp_path / name, PackedDataset(packed.path))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_translator_is_compared_by_its_source(tmp_path):
    packed = pack(
        tmp_path / "set", {"source": {"train": (clouds(60, 1), None)}, "target": {"train": (clouds(60, 2), None)}}
    )
    write_reference(tmp_path / "file", packed)
    found = read_reference(tmp_path / "file")
    assert found.record["domain"] == "source"
    sources, kept = seen(clouds(60, 1)), torch.cat([found.train, found.held_out])
    assert torch.equal(kept.sum(1).sort().values, sources.sum(1).sort().values)


def test_without_enough_held_out_pictures_a_part_of_the_training_pictures_is_kept_apart(tmp_path):
    packed = pack(tmp_path / "set", {"pictures": {"train": (clouds(80, 1), None), "validation": (clouds(20, 2), None)}})
    write_reference(tmp_path / "file", packed)
    found = read_reference(tmp_path / "file")
    assert (len(found.train), len(found.held_out)) == (60, 20)
    assert len(torch.unique(torch.cat([found.train, found.held_out]), dim=0)) == 80
    assert found.record["held_out"] == "training pictures kept apart"


def test_one_training_picture_is_no_reason_to_fail(tmp_path):
    packed = pack(tmp_path / "set", {"pictures": {"train": (clouds(1, 1), None)}})
    write_reference(tmp_path / "file", packed)
    found = read_reference(tmp_path / "file")
    assert (len(found.train), len(found.held_out)) == (1, 0)
    assert judge(normal(60, 1, dimensions=64), found).verdict == "too few pictures to say"


class Wide:
    """An extractor that can be opened again, with many features."""

    name, identity, resize = "efficientnet-lite0", "f" * 64, "none"

    def __call__(self, images):
        return images.float().flatten(1).repeat(1, 100)


def test_the_file_stays_below_10_mib(tmp_path):
    packed = pack(
        tmp_path / "set", {"pictures": {"train": (clouds(300, 1), None), "validation": (clouds(80, 2), None)}}
    )
    write_reference(tmp_path / "file", packed, judged_by=Wide())
    found = read_reference(tmp_path / "file")
    assert found.train.shape[1] == 25600
    assert (tmp_path / "file").stat().st_size < 10 * 2**20
    assert len(found.train) > 2 * len(found.held_out) > 0


def test_the_extractor_that_a_model_is_judged_by_is_taken_where_it_can_be_opened_again(tmp_path):
    packed = pack(tmp_path / "set", {"pictures": {"train": (clouds(60, 1), None)}})
    write_reference(tmp_path / "file", packed, judged_by=Wide())
    record = read_reference(tmp_path / "file").record
    assert (record["features"], record["weights"], record["kernel"]) == (
        "efficientnet-lite0", "f" * 64, "kd_efficientnet-lite0",
    )  # fmt: skip


def test_a_classifier_of_the_dataset_is_not_taken(tmp_path):
    packed = pack(tmp_path / "set", {"pictures": {"train": (clouds(60, 1), None)}})
    classifier = Wide()
    classifier.name = "classifier"
    write_reference(tmp_path / "file", packed, judged_by=classifier)
    record = read_reference(tmp_path / "file").record
    assert record["features"] == "pixels"
    assert open_pretrained("pixels", weights=None, device=torch.device("cpu")).identity == record["weights"]


def spoilt(kind, path):
    good = {"schema": 1, "record": RECORD, "image": {"size": 16, "channels": 1}}
    tensors = {"train": torch.zeros(5, 4), "held_out": torch.zeros(2, 4)}
    if kind == "no safetensors":
        path.write_bytes(b"\x80\x04pickled")
        return
    if kind == "no record":
        good.pop("record")
    if kind == "other schema":
        good["schema"] = 2
    if kind == "other features":
        tensors["held_out"] = torch.zeros(2, 5)
    if kind == "no picture size":
        good["image"] = {"channels": 1}
    if kind == "no tensor":
        tensors.pop("held_out")
    if kind == "half a record":
        good["record"] = {"features": "pixels"}
    save_file(tensors, path, metadata=None if kind == "nothing said" else {"limner": json.dumps(good)})


@pytest.mark.parametrize(
    "kind",
    ["no safetensors", "no record", "other schema", "other features", "no picture size", "no tensor", "half a record",
     "nothing said"],
)  # fmt: skip
def test_a_spoilt_file_is_refused(tmp_path, kind):
    spoilt(kind, tmp_path / "file")
    with pytest.raises(LimnerError, match="holds no features of training pictures"):
        read_reference(tmp_path / "file")


def test_the_spoilt_files_are_well_otherwise(tmp_path):
    spoilt("", tmp_path / "file")
    assert read_reference(tmp_path / "file").train.shape == (5, 4)
