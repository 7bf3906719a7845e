"""The model card: what the Hub, MLflow and Kubeflow read of it."""

import base64
import dataclasses

import numpy as np
import pytest
from PIL import Image
from ruamel.yaml import YAML

from limner.adapters.mlflow_registry import MlflowRegistry
from limner.adapters.mlflow_server import MlflowServer
from limner.card import INLINE_MOST, SHORT_MOST, CardContent, inline_card, render_card, render_short_card, short_card
from limner.card_files import CARD, PICTURES, SHORT
from limner.lineage import read_lineage
from limner.ports import ModelVersion
from tests.exports import CLASSES, export_generator
from tests.mlflow_stand import database, third_party_warnings
from tests.translators import export_translator

TRANSLATORS = (
    "fd_classifier fd_classifier_ratio kd_classifier precision_classifier recall_classifier density_classifier "
    "coverage_classifier label_agreement l1 l1_ratio psnr ssim ms_ssim perceptual_distance_classifier "
    "feature_distance_classifier cycle_l1 identity_share inverted_share checkerboard within_class_diversity novelty"
)
CONTENT = CardContent(
    name="digits-gan",
    registered_name="digits",
    translates=False,
    has_program=True,
    summary="Makes grey pictures.",
    licence="CC BY-SA 3.0",
    dataset="digits",
    data={"dataset": "digits", "licence": "CC BY-SA 3.0", "set aside": ""},
    metrics={"fd_classifier": 1.25, "fd_classifier_se": 0.25, "copy_share_real": 0.5},
    protocol={"features": "classifier", "samples": "2000", "held_out_pictures": "466"},
    training={"method": "gan", "seed": "0"},
    uses=("Ask it for pictures.",),
    not_uses=("Pictures of cats.",),
    limits=("It makes nothing else.",),
    lineage={"commit": "abc123", "Kubeflow run": ""},
    origin={"commit": "abc123", "MLflow run": ""},
    formats=(("model.pt2", "a program", "1e-06"),),
    costs={"milliseconds a picture": "2.5"},
    samples="A grid of pictures. None is chosen.",
    curve=True,
)


def card(**changes):
    return render_card(dataclasses.replace(CONTENT, **changes))


def front_matter(text):
    head = text.split("---\n")
    assert head[0] == ""
    return YAML(typ="safe").load(head[1])


def test_the_front_matter_is_what_the_hub_asks_for():
    found = front_matter(card())
    assert found["library_name"] == "limner"
    assert found["pipeline_tag"] == "unconditional-image-generation"
    assert found["tags"] == ["gan", "pytorch"]
    (result,) = found["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "fd_classifier", "value": 1.25}]
    assert front_matter(card(translates=True))["pipeline_tag"] == "image-to-image"


def test_the_hubs_own_library_takes_it():
    hub = pytest.importorskip("huggingface_hub")
    for licence in ("CC BY-SA 3.0", "House rules: ask first", ""):
        found = hub.ModelCard(card(licence=licence))
        assert found.data.library_name == "limner"
        assert found.data.eval_results[0].metric_value == 1.25


def test_the_licence_of_the_pictures_is_not_declared_as_the_models():
    text = card(licence="CC BY-SA 3.0")
    assert "license" not in front_matter(text)
    assert "| licence | CC BY-SA 3.0 |" in text
    assert "Nobody has said under which one the model may be used" in text


def test_the_head_has_no_digits_that_mean_nothing():
    (result,) = front_matter(card(metrics={"fd_classifier": 0.13191426358665126}))["model-index"][0]["results"]
    assert result["metrics"] == [{"type": "fd_classifier", "value": 0.1319}]


def test_a_missing_licence_is_said():
    assert "Nobody has named the licence" in card(licence="")
    assert "Nobody has named the licence" not in card()


def test_it_says_all_that_is_known_and_leaves_out_what_is_not():
    text = card()
    for words in (
        "| `fd_classifier` | 1.25 \N{PLUS-MINUS SIGN} 0.25 | lower |",
        "- It makes nothing else.",
        "| commit | `abc123` |",
        "| `model.pt2` | a program | 1e-06 |",
        "![A grid of pictures. None is chosen.](card/samples.png)",
        "](card/curve.png)",
        'load_model("models:/digits@champion")',
        'open_generator(Path("exports/digits-gan"))',
        "limner generate --model exports/digits-gan",
    ):
        assert words in text
    assert "Kubeflow run" not in text
    assert "card/" not in card(samples="", curve=False)
    assert "limner stylize" in card(translates=True)
    assert "add `pt2`" in card(has_program=False)


def python_blocks(text):
    return [block.partition("```")[0] for block in text.split("```python\n")[1:]]


def test_loading_takes_five_lines():
    for translates in (False, True):
        for block in python_blocks(card(translates=translates)):
            loading = block.partition("\n\n")[0].splitlines()
            assert len(loading) <= 5
            assert loading[-1].startswith("model = ")


def test_it_says_where_the_folder_and_the_server_are_from():
    for words in ("`limner export`", "the registry", "`MLFLOW_TRACKING_URI`"):
        assert words in card()


@pytest.mark.parametrize("classes", [(), ("bar", "dot", "ring")])
def test_what_the_card_says_of_a_generator_runs(tmp_path, monkeypatch, classes):
    export_generator(tmp_path / "made", classes=CLASSES).rename(tmp_path / "export")
    here, _ = python_blocks(card(classes=classes).replace("exports/digits-gan", "export"))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(here, names)
    assert names["pictures"].shape == (16, 16, 16, 1)
    assert ("of_a_class" in names) == bool(classes)
    assert names.get("of_a_class", names["pictures"]).shape == (16, 16, 16, 1)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_what_the_card_says_of_a_translator_runs(tmp_path, monkeypatch, channels, mode):
    export_translator(tmp_path / "made", channels=channels).rename(tmp_path / "export")
    here, _ = python_blocks(card(translates=True, mode=mode).replace("exports/digits-gan", "export"))
    Image.new("RGBA", (24, 20), "red").save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(here, names)
    assert names["result"].shape == (20, 24, channels)
    assert names["result"].dtype == np.uint8


@pytest.mark.slow
@third_party_warnings
@pytest.mark.parametrize("translates", [False, True])
def test_what_the_card_says_of_mlflow_runs(tmp_path, tmp_path_factory, monkeypatch, translates):
    uri = database(tmp_path, tmp_path_factory)
    export = (export_translator if translates else export_generator)(tmp_path / "made")
    registry, digest = MlflowRegistry(MlflowServer(uri)), read_lineage(export)["export_digest"]
    version = registry.register(ModelVersion("digits", "", (), {}, {}, digest), export, run_id="")
    registry.promote(version, instead_of=None, reason="the first")
    Image.new("RGBA", (24, 20), "red").save(tmp_path / "picture.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    _, served = python_blocks(card(translates=translates, mode="RGB", classes=CLASSES))
    names = {}
    exec(served, names)
    assert names["results" if translates else "of_a_class"].shape == ((1, 20, 24, 3) if translates else (16, 16, 16, 1))


def test_the_same_content_gives_the_same_text():
    assert card() == card()


def test_no_name_can_break_out_of_its_place():
    evil = "a|b\n# <script>x</script> [y](z) `q`"
    text = card(name="n", limits=(evil,), data={"dataset": evil}, lineage={"commit": evil}, summary=evil)
    assert "<script>" not in text.split("## Where it comes from")[0]
    assert "\n# <script" not in text
    (row,) = [line for line in text.splitlines() if line.startswith("| commit")]
    assert row.replace("\\|", "").count("|") == 3
    (row,) = [line for line in text.splitlines() if line.startswith("| dataset |")]
    assert row.replace("\\|", "").count("|") == 3


# -- as a description -------------------------------------------------------------------------------------------------


def short(**changes):
    return render_short_card(dataclasses.replace(CONTENT, **changes))


def test_the_short_card_has_what_matters_most_and_no_pictures():
    text = short()
    for words in (
        "# digits-gan",
        "- It makes nothing else.",
        "| `fd_classifier` | 1.25 \N{PLUS-MINUS SIGN} 0.25 | lower |",
        'load_model("models:/digits@champion")',
        "- commit: `abc123`",
    ):
        assert words in text
    assert not any(words in text for words in ("![", "---\n\n#", "MLflow run", "copy_share_real"))


def test_a_translators_many_figures_are_all_there():
    metrics = dict.fromkeys(TRANSLATORS.split(), 0.123456789)
    text = short(translates=True, metrics=metrics | {f"{name}_se": 0.0123 for name in metrics})
    assert len(text) <= SHORT_MOST
    assert "| `identity_share` |" in text  # as a count
    assert [name for name in metrics if f"| `{name}` | 0.123 ± 0.012 |" not in text] == ["identity_share"]


def test_a_short_card_is_never_too_long_and_loses_its_last_limits_first():
    limits = tuple(f"Limit {number} is such and such." for number in range(300))
    text = short(limits=limits)
    assert len(text) <= SHORT_MOST
    assert "- Limit 0 is such" in text
    assert f"more in {CARD}" in text
    assert "Limit 299" not in text
    assert "- commit: `abc123`" in text
    for evil in ({"summary": "word " * 3000}, {"limits": ("word " * 3000,)}, {"origin": {"commit": "c" * 9000}}):
        assert len(short(**evil)) <= SHORT_MOST
    assert len(short(metrics={f"precision_{number}": 1.0 for number in range(999)})) == SHORT_MOST


def test_the_short_card_is_read_from_its_file_and_an_older_export_has_none(tmp_path):
    assert short_card(tmp_path) == ""
    (tmp_path / PICTURES).mkdir()
    (tmp_path / PICTURES / SHORT).write_text("Two ± one.", encoding="utf-8")
    assert short_card(tmp_path) == "Two ± one."


# -- as one text ------------------------------------------------------------------------------------------------------


def write(folder, text, **pictures):
    (folder / PICTURES).mkdir()
    (folder / CARD).write_text(text, encoding="utf-8")
    for name, data in pictures.items():
        (folder / PICTURES / f"{name}.png").write_bytes(data)
    return folder


def test_the_inlined_card_holds_its_pictures(tmp_path):
    text = inline_card(write(tmp_path, card(), samples=b"samples", curve=b"curve"))
    assert f"(data:image/png;base64,{base64.b64encode(b'samples').decode()})" in text
    assert f"(data:image/png;base64,{base64.b64encode(b'curve').decode()})" in text
    assert "card/" not in text
    assert text.startswith("# digits-gan")


def test_a_picture_that_kubeflow_would_cut_off_is_left_as_words(tmp_path):
    text = inline_card(write(tmp_path, card(), samples=bytes(INLINE_MOST), curve=b"curve"))
    assert len(text) <= INLINE_MOST
    assert "*A grid of pictures. None is chosen.*" in text
    assert base64.b64encode(b"curve").decode() in text
