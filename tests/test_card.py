"""The model card: what the Hub, MLflow and Kubeflow read of it."""

import base64
import dataclasses

import pytest
from ruamel.yaml import YAML

from limner.card import CARD, INLINE_MOST, PICTURES, SHORT_MOST, CardContent, inline_card, render_card, short_card

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
    protocol={"features": "classifier", "samples": "2000"},
    training={"method": "gan", "seed": "0"},
    uses=("Ask it for pictures.",),
    limits=("It makes nothing else.",),
    lineage={"commit": "abc123", "Kubeflow run": ""},
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
    assert found["license"] == "cc-by-sa-3.0"
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


@pytest.mark.parametrize(
    ("licence", "identifier", "name"),
    [
        ("CC BY-SA 3.0", "cc-by-sa-3.0", None),
        ("cc0", "cc0-1.0", None),
        ("MIT", "mit", None),
        ("House rules: ask first", "other", "House rules: ask first"),
        ("", "unknown", None),
    ],
)
def test_a_licence_becomes_the_hubs_identifier_or_other(licence, identifier, name):
    found = front_matter(card(licence=licence))
    assert (found["license"], found.get("license_name")) == (identifier, name)


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


def test_loading_takes_five_lines():
    for translates in (False, True):
        for block in card(translates=translates).split("```python\n")[1:]:
            assert len(block.split("```")[0].strip().splitlines()) <= 5


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


def test_the_short_card_has_neither_head_nor_pictures():
    short = short_card(card())
    assert short.startswith("# digits-gan")
    assert "![" not in short
    assert "None is chosen" not in short  # stands below one of them
    assert "license:" not in short
    assert "## Where it comes from" in short


def test_a_long_card_is_cut_at_its_parts_and_says_so():
    limits = tuple(f"Limit {number} is such and such." for number in range(300))
    short = short_card(card(limits=limits))
    assert len(short) <= SHORT_MOST
    assert "## Limits" not in short
    assert "| commit | `abc123` |" in short
    assert short.endswith(f"*Shortened: the whole card is {CARD}, among the model's files.*\n")
    assert len(short_card(card(summary="word " * 3000))) <= SHORT_MOST


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
