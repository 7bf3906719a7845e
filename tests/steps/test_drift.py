"""New pictures in all their places, against exported models."""

import json
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from limner.errors import LimnerError
from limner.packing import PackedDataset
from limner.steps.drift import DriftOptions, check_drift, write_drift
from tests.drifting import clouds, save, write_export
from tests.packed import pack, quiet_ports


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """A model of 200 grey clouds of 16 pixels, with 60 held out."""
    folder = tmp_path_factory.mktemp("exported")
    parts = {"train": (clouds(200, 1), None), "validation": (clouds(60, 2), None)}
    return write_export(folder / "export", pack(folder / "set", {"pictures": parts}))


@pytest.fixture
def check(export, tmp_path):
    def call(place, *, model=None, **options):
        return check_drift(
            model or export, str(place), options=DriftOptions(**options), ports=quiet_ports(tmp_path / "cache")
        )

    return call


def test_pictures_of_the_same_kind_are_no_drift(check, tmp_path):
    found = check(save(tmp_path / "new", clouds(80, 3)))
    assert found.verdict == "no drift"
    assert (found.count, found.of) == (80, 80)
    assert found.p_value > 0.05
    assert found.effect < 1
    assert not found.notes
    assert not found.set_aside


def test_brighter_pictures_are_a_drift(check, tmp_path):
    found = check(save(tmp_path / "new", clouds(80, 3, brighter=60)))
    assert found.verdict == "drift"
    assert found.p_value == pytest.approx(0.001)
    assert found.metrics["kd_pixels"] > 5 * found.metrics["kd_pixels_se"]
    assert set(found.metrics) == {"kd_pixels", "kd_pixels_se", "fd_pixels", "fd_pixels_se"}
    assert set(found.held_out) == set(found.metrics)


def test_the_picture_that_is_like_no_other_is_named_first(check, tmp_path):
    new = clouds(80, 3)
    new[17] = 0
    found = check(save(tmp_path / "new", new), top=3)
    assert found.furthest[0].picture == "0017.png"
    assert found.furthest[0].factor > 1.5 * found.furthest[1].factor
    assert len(found.furthest) == 3
    assert found.outlier_share >= 1 / 80


def test_too_many_outliers_are_all_named(check, tmp_path):
    new = clouds(80, 3)
    new[10:17] = 0
    found = check(save(tmp_path / "new", new), top=2)
    assert found.verdict == "drift"
    assert found.outlier_p_value < 0.025
    assert {one.picture for one in found.furthest} >= {f"{number:04}.png" for number in range(10, 17)}
    assert len(found.furthest) == round(found.outlier_share * 80)


def test_an_archive_a_glob_and_a_packed_dataset_say_the_same_as_a_folder(check, tmp_path):
    pictures = clouds(70, 3)
    folder = save(tmp_path / "new", pictures)
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.write(path, path.name)
    pack(tmp_path / "packed", {"pictures": {"train": (pictures, None)}})
    expected = check(folder)
    for place in (tmp_path / "new.zip", folder / "*.png", tmp_path / "packed"):
        found = check(place)
        assert (found.verdict, found.p_value, found.metrics) == (expected.verdict, expected.p_value, expected.metrics)
        assert [one.factor for one in found.furthest] == [one.factor for one in expected.furthest]


def test_pictures_are_brought_to_what_the_model_saw(check, tmp_path):
    """Colour, alpha and other sizes are no drift by themselves: the model would have been trained on the same."""
    (tmp_path / "new").mkdir()
    for number, pixels in enumerate(clouds(80, 3)[..., 0]):
        picture = Image.fromarray(pixels)
        if number % 3 == 0:
            picture = picture.resize((64, 64), Image.Resampling.BOX).convert("RGB")
        elif number % 3 == 1:
            picture = picture.convert("RGBA")
        picture.save(tmp_path / "new" / f"{number}.png")
    assert check(tmp_path / "new").verdict == "no drift"


def test_a_colour_model_takes_grey_pictures_and_sees_the_difference(check, tmp_path):
    def autumn(count, seed):
        return (clouds(count, seed, channels=3) * [1.0, 0.7, 0.4]).astype(np.uint8)

    packed = pack(
        tmp_path / "set", {"pictures": {"train": (autumn(200, 1), None), "validation": (autumn(60, 2), None)}}
    )
    model = write_export(tmp_path / "colour", packed)
    grey, colour = save(tmp_path / "grey", clouds(80, 3)), save(tmp_path / "rgb", autumn(80, 3))
    assert check(grey, model=model).verdict == "drift"
    assert check(colour, model=model).verdict == "no drift"


def test_what_cannot_be_used_is_set_aside_and_listed(check, tmp_path):
    folder = save(tmp_path / "new", clouds(62, 3))
    (folder / "0005.png").write_bytes((folder / "0005.png").read_bytes()[:80])
    (folder / "0006.png").write_bytes(b"no picture")
    (folder / "readme.txt").write_text("hello")
    found = check(folder)
    assert found.count == 60
    assert found.notes == ("2 pictures could not be used.",)
    assert {entry["name"] for entry in found.set_aside} == {"0005.png", "0006.png", "*.txt"}
    assert found.verdict == "no drift"


def test_a_selection_of_many_pictures_is_judged(check, tmp_path):
    found = check(save(tmp_path / "new", clouds(90, 3)), samples=60)
    assert (found.count, found.of) == (60, 90)
    assert found.notes == ("60 of 90 pictures were looked at, drawn at random with a fixed seed.",)
    assert found == check(tmp_path / "new", samples=60)


def test_copies_are_told_of(check, tmp_path):
    found = check(save(tmp_path / "new", clouds(30, 3)[[*range(30), *range(10)]]))
    assert any(note.startswith("10 of them are copies of others") for note in found.notes)


def test_training_pictures_are_told_of(check, tmp_path):
    found = check(save(tmp_path / "new", clouds(200, 1)[:70]))
    assert found.verdict == "no drift"
    assert any(note.startswith("70 of them are training pictures") for note in found.notes)


def test_few_pictures_are_too_few(check, tmp_path):
    assert check(save(tmp_path / "new", clouds(5, 3))).verdict == "too few pictures to say"


def test_a_translator_is_asked_about_its_source(tmp_path):
    """And of a packed dataset with two domains its source is looked at, unless the other is named."""
    sides = {
        "source": {"train": (clouds(200, 1, channels=3), None), "validation": (clouds(60, 2, channels=3), None)},
        "target": {"train": (clouds(200, 4, channels=3, brighter=60), None)},
    }
    packed = pack(tmp_path / "set", sides)
    model = write_export(tmp_path / "export", packed)
    ports = quiet_ports(tmp_path / "cache")

    def verdict(**options):
        return check_drift(model, str(packed.path), options=DriftOptions(**options), ports=ports).verdict

    assert verdict(split="validation") == "no drift"
    assert verdict(domain="target") == "drift"
    with pytest.raises(LimnerError, match="has the domains source and target"):
        verdict(domain="pictures")


def test_a_generator_asks_which_domain_of_two_is_meant(check, tmp_path):
    packed = pack(tmp_path / "set", {side: {"train": (clouds(60, 1), None)} for side in ("source", "target")})
    with pytest.raises(LimnerError, match="has the domains source and target") as refused:
        check(packed.path)
    assert refused.value.fix == "Name one: --domain"
    assert check(packed.path, domain="target").count == 60


def test_an_empty_split_is_refused(check, tmp_path):
    packed = pack(tmp_path / "set", {"pictures": {"train": (clouds(60, 1), None)}})
    with pytest.raises(LimnerError, match=r"The split 'validation' of .* is empty"):
        check(packed.path, split="validation")


def test_a_place_without_pictures_is_refused(check, tmp_path):
    (tmp_path / "new").mkdir()
    with pytest.raises(LimnerError, match=r"There is no picture in .*new") as refused:
        check(tmp_path / "new")
    assert refused.value.why == "It is empty."
    (tmp_path / "new" / "a.txt").write_text("hello")
    with pytest.raises(LimnerError, match=r"There is no picture in .*new") as refused:
        check(tmp_path / "new")
    assert refused.value.why == "1 x *.txt (other file type)"
    with pytest.raises(LimnerError, match=r"There is no folder or archive .*nowhere"):
        check(tmp_path / "nowhere")
    with pytest.raises(LimnerError, match="Nothing matches"):
        check(tmp_path / "*.png")


def test_one_picture_is_refused(check, tmp_path):
    save(tmp_path / "new", clouds(1, 3))
    with pytest.raises(LimnerError, match=r"0000\.png is one picture"):
        check(tmp_path / "new" / "0000.png")


def test_pictures_none_of_which_can_be_used_are_refused(check, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "a.png").write_bytes(b"no picture")
    with pytest.raises(LimnerError, match=r"Not one picture of .* can be used") as refused:
        check(tmp_path / "new")
    assert "a.png: not a picture" in refused.value.why


def test_an_export_of_older_days_says_what_to_do(check, tmp_path):
    model = write_export(tmp_path / "old", pack(tmp_path / "set", {"pictures": {"train": (clouds(60, 1), None)}}))
    config = json.loads((model / "config.json").read_text())
    del config["files"]["drift.safetensors"]  # and a file of that name which nothing vouches for is not read
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(LimnerError, match="does not know the pictures that it was trained on") as refused:
        check(save(tmp_path / "new", clouds(60, 3)), model=model)
    assert "limner evaluate MODEL; limner export MODEL" in refused.value.fix


def test_features_that_were_changed_are_refused(check, tmp_path):
    model = write_export(tmp_path / "export", pack(tmp_path / "set", {"pictures": {"train": (clouds(60, 1), None)}}))
    with (model / "drift.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\0")
    with pytest.raises(LimnerError, match=r"drift\.safetensors was changed since it was exported"):
        check(save(tmp_path / "new", clouds(60, 3)), model=model)


class Unshipped:
    """What a model was judged by elsewhere: here are no weights of it."""

    name, identity, resize = "efficientnet-lite0", "f" * 64, "none"

    def __call__(self, images):
        return images.float().flatten(1)


def test_features_that_cannot_be_had_here_are_told_of(check, tmp_path):
    packed = pack(tmp_path / "set", {"pictures": {"train": (clouds(60, 1), None)}})
    model = write_export(tmp_path / "export", packed, judged_by=Unshipped())
    new = save(tmp_path / "new", clouds(60, 3))
    # Either the package is missing, or its weights are not those.
    with pytest.raises(LimnerError, match=r"are not installed|does not hold the weights that are asked for"):
        check(new, model=model)


def test_weights_for_pixels_are_refused(check, tmp_path):
    with pytest.raises(LimnerError, match="need no weights"):
        check(save(tmp_path / "new", clouds(60, 3)), weights="inception.pth")


@pytest.mark.parametrize(
    ("options", "words"),
    [({"alpha": 0.001}, "--alpha 0.001"), ({"alpha": 0.7}, "--alpha 0.7"), ({"samples": 0}, "--samples 0"),
     ({"samples": 5001}, "--samples 5001"), ({"top": -1}, "--top -1")],
)  # fmt: skip
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(LimnerError, match=f"{words} is out of range"):
        DriftOptions(**options)


def test_the_result_is_written_as_a_whole(check, tmp_path):
    found = check(save(tmp_path / "new", clouds(60, 3)))
    write_drift(tmp_path / "deep" / "drift.json", found)
    assert json.loads((tmp_path / "deep" / "drift.json").read_text()) == json.loads(json.dumps(asdict(found)))
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["drift.json"]
    (tmp_path / "file").write_text("")
    with pytest.raises(LimnerError, match="cannot be written"):
        write_drift(tmp_path / "file" / "drift.json", found)


def test_a_prepared_dataset_is_read_as_it_was_prepared(dataset, tmp_path):
    """The settings of the picture travel with the features: here those that `prepare` had."""
    model = write_export(tmp_path / "export", PackedDataset(dataset))
    found = check_drift(model, str(dataset), options=DriftOptions(), ports=quiet_ports(tmp_path / "cache"))
    assert found.verdict == "no drift"
