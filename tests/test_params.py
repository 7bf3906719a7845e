"""The catalog: what is accepted, and what is said about what is not."""

import json

import pytest
from pydantic import Field

from limner.errors import LimnerError
from limner.params import Catalog, apply_overrides, read_yaml
from limner.settings import FONTS, MethodSettings, Mnist5k, Unpaired


class ToyParams(MethodSettings):
    """Settings of a method that does not exist."""

    learning_rate: float = Field(1e-3, gt=0, le=1)


RAW = {
    "datasets": {"digits": {"source": {"kind": "mnist5k"}, "image": {"size": 32, "channels": 1}}},
    "models": {"toy": {"dataset": "digits", "method": {"name": "toy"}, "train": {"kimg": 10}}},
}


def catalog(*overrides, raw=RAW):
    changed = apply_overrides(raw, overrides, origin="params.yaml")
    return Catalog(changed, origin="params.yaml", method_settings=lambda name: ToyParams)


def test_an_entry_is_resolved_with_its_defaults():
    model = catalog().model("toy")
    assert model.train.kimg == 10.0
    assert model.train.batch == 64
    assert model.method.learning_rate == 1e-3
    assert isinstance(catalog().dataset("digits").source, Mnist5k)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("models.toy.train.kimg=-1", r"params.yaml: models.toy.train.kimg = -1 .*\n.*than 0\nAllowed: number, > 0"),
        ("models.toy.train.kimgs=3", r"models.toy.train is not right.\n.*no key 'kimgs' here. Did you mean 'kimg'\?"),
        ("models.toy.trian={}", r"models.toy is not right.\n.*Did you mean 'train'\?"),
        ("models.toy.train.batch=many", r"train.batch = 'many'.*\n.*valid integer\nAllowed: integer, >= 1, <= 65536"),
        ("models.toy.train.batch=64.5", r"models.toy.train.batch = 64.5"),
        ("models.toy.train.batch='64'", r"models.toy.train.batch = '64'"),
        ("models.toy.train.mirror=1", r"models.toy.train.mirror = 1"),
        ("models.toy.train.kimg=.inf", r"models.toy.train.kimg = inf.*\n.*finite number"),
        ("models.toy.train=3", r"models.toy.train = 3 is not right"),
        ("models.toy.evaluate.features=clasifier", r"no features 'clasifier'. Did you mean 'classifier'\?"),
        ("models.toy.evaluate.protocol=clean", r"protocol 'clean' belongs to the features 'inception-v3-2015'"),
        ("models.toy.evaluate.weights=a.pth", r"the features 'auto' take no weights"),
        ("models.toy.evaluate={features: inception-v3-2015, weights_sha256: 67}", r"weights_sha256"),
        ("models.toy.method.learning_rate=7", r"method.learning_rate = 7 .*\n.*\nAllowed: number, > 0, <= 1"),
        ("models.toy.method={}", r"models.toy.method has no name"),
        ("models.toy.dataset=digit", r"models.toy.dataset = 'digit', .*\nDid you mean 'digits'\?"),
        ("datasets.digits.source.kind=minst5k", r"datasets.digits.source is not right.\n.*'mnist5k', 'printed-digits'"),
        ("datasets.digits.source={kind: folder}", r"datasets.digits.source.path is not right.\n.*required"),
        (
            "datasets.digits.source={kind: unpaired, source: {kind: folder, path: 3}, target: {kind: mnist5k}}",
            r"datasets.digits.source.source.path = 3",
        ),
        (
            "datasets.digits.source={kind: paired, source: {kind: folder}, target: {kind: mnist5k}}",
            r"datasets.digits.source.source.path is not right.\n.*required",
        ),
        (
            "datasets.digits.source={kind: paired, source: {kind: mnist5k}}",
            r"datasets.digits.source.target is not right.\n.*required",
        ),
        (
            "datasets.digits.source={kind: paired, source: {kind: mnist5k}, target: {kind: fodler, path: x}}",
            r"datasets.digits.source.target is not right.\n.*'folder'",
        ),
        (
            "datasets.digits.source={kind: paired, source: {kind: unpaired}, target: {kind: mnist5k}}",
            r"datasets.digits.source.source is not right.\n.*'class-folders'",
        ),
        (
            "datasets.digits.source={kind: paired, path: x, source: {kind: mnist5k}, target: {kind: mnist5k}}",
            r"datasets.digits.source.* is not right.\n.*no key 'path' here.*source, target",
        ),
        ("datasets.digits.source={kind: side-by-side}", r"datasets.digits.source.path is not right.\n.*required"),
        (
            "datasets.digits.source={kind: side-by-side, path: x, source_on: top}",
            r"datasets.digits.source.source_on = 'top' .*\n.*\nAllowed: string, one of left, right. It is: which half",
        ),
        (
            "datasets.digits.source={kind: printed-digits, fonts: [DejaVuSan]}",
            r"source.fonts = \['DejaVuSan'\] is not right.\nthere is no font 'DejaVuSan'. Did you mean 'DejaVuSans'\?",
        ),
        (
            "datasets.digits.source={kind: printed-digits, held_out_fonts: [Arial]}",
            r"source.held_out_fonts = \['Arial'\].*\n.*There is: DejaVuSans, .*cmtt10",
        ),
        (
            "datasets.digits.source={kind: printed-digits, fonts: [cmr10, cmb10], held_out_fonts: [cmb10]}",
            r"source.held_out_fonts = \['cmb10'\].*\n'cmb10' is in `fonts` too",
        ),
        (
            "datasets.digits.source={kind: paired, source: {kind: printed-digits, fonts: x}, target: {kind: mnist5k}}",
            r"datasets.digits.source.source.fonts = 'x' .*\n.*valid list\nAllowed: array. It is: fonts to train on",
        ),
        ("models.toy.train.crop=-1", r"train.crop = -1 .*\n.*\nAllowed: integer, >= 0"),
        ("datasets.digits.image.channels=2", r"image.channels = 2 .*\n.*\nAllowed: integer, one of 1, 3, 4"),
        ("modles={}", r"no top-level key 'modles'.\nDid you mean 'models'\?"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_place_its_value_and_what_may_stand_there(override, message):
    with pytest.raises(LimnerError, match=message):
        read_all(override)


def read_all(override):
    changed = catalog(override)
    return changed.dataset("digits"), changed.model("toy")


def test_one_wrong_entry_does_not_stop_another():
    raw = {**RAW, "models": {**RAW["models"], "broken": {"dataset": 3}}}
    assert catalog(raw=raw).model("toy").dataset == "digits"


def test_an_unknown_entry_is_answered_with_the_known_ones():
    with pytest.raises(LimnerError, match=r"(?s)models has no entry 'tyo'.*Did you mean 'toy'\?"):
        catalog().model("tyo")


def test_overrides_are_read_as_yaml_and_leave_the_original_alone():
    changed = catalog(
        "models.toy.train.kimg=2.5", "models.toy.method.learning_rate=2e-4", "models.toy.train.mirror=true"
    )
    model = changed.model("toy")
    assert (model.train.kimg, model.method.learning_rate, model.train.mirror) == (2.5, 2e-4, True)
    assert RAW["models"]["toy"]["train"] == {"kimg": 10}


@pytest.mark.parametrize("override", ["models.toy", "=3", "a..b=3", "models.toy.train.kimg.deep=3"])
def test_an_override_that_is_none_is_refused(override):
    with pytest.raises(LimnerError, match=r"form a\.b\.c=value|has to be a map"):
        catalog(override)


def test_settings_cannot_be_changed():
    with pytest.raises(ValueError, match="frozen"):
        catalog().model("toy").train.kimg = 3.0


def test_the_json_that_travels_gives_the_same_settings_back():
    text = catalog("models.toy.train.seed=9007199254740993").to_json("toy")
    again = Catalog(json.loads(text), origin="settings", method_settings=lambda name: ToyParams)
    assert again.model("toy") == catalog("models.toy.train.seed=9007199254740993").model("toy")
    assert again.dataset("digits") == catalog().dataset("digits")
    assert again.to_json("toy") == text


def test_an_unpaired_source_has_two_sides():
    settings = catalog(
        "datasets.digits.source={kind: unpaired, source: {kind: printed-digits}, target: {kind: mnist5k}}"
    ).dataset("digits")
    assert isinstance(settings.source, Unpaired)
    assert isinstance(settings.source.target, Mnist5k)


def test_fonts_are_a_set_whatever_order_they_are_written_in():
    source = (
        catalog("datasets.digits.source={kind: printed-digits, fonts: [cmr10, cmb10, cmr10]}").dataset("digits").source
    )
    assert source.fonts == ["cmb10", "cmr10"]


def test_all_fonts_cannot_be_held_out():
    held_out = ", ".join(FONTS)
    with pytest.raises(LimnerError, match="none is left to train on"):
        catalog(f"datasets.digits.source={{kind: printed-digits, held_out_fonts: [{held_out}]}}").dataset("digits")


def test_a_missing_file_and_a_broken_one_are_told(tmp_path):
    with pytest.raises(LimnerError, match="There is no file"):
        read_yaml(tmp_path / "params.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1, 2", encoding="utf-8")
    with pytest.raises(LimnerError, match=r"broken\.yaml cannot be read"):
        read_yaml(broken)


def test_a_key_given_twice_is_refused(tmp_path):
    path = tmp_path / "twice.yaml"
    path.write_text("a: 1\na: 2\n", encoding="utf-8")
    with pytest.raises(LimnerError, match="duplicate key"):
        read_yaml(path)


def test_a_file_that_is_no_map_is_refused():
    with pytest.raises(LimnerError, match="the whole file has to be a map"):
        Catalog([1], origin="params.yaml", method_settings=lambda name: ToyParams)
