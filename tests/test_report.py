"""The report: one file, the same one for the same content, that says everything in words, too."""

import base64
import dataclasses
import io
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from limner.metric_words import HEADLINES, MEANINGS, TRANSFER_HEADLINES
from limner.report import (
    Exhibits,
    ReportContent,
    Safeguard,
    Sheet,
    Yardstick,
    render_report,
)

NOISE = np.random.default_rng(0).integers(0, 256, (32, 64, 1), dtype=np.uint8)
CONTENT = ReportContent(
    name="digits-gan",
    chosen="best",
    metrics={"best": {"fd_classifier": 1.25, "copy_share": 0.0125}, "last": {"fd_classifier": 3.5, "novelty": 0.9}},
    protocol={"features": "classifier", "samples": "2000"},
    notes=("There is no validation split.",),
    exhibits=Exhibits(
        [
            Sheet("Real", "A grid of training pictures.", NOISE, headings=("cats", "dogs")),
            Sheet("Generated", "A grid of generated pictures.", NOISE, caption="None is chosen."),
        ],
        HEADLINES,
    ),
    journal=[
        {
            "images": 1000,
            "step": 16,
            "metrics": {"loss/generator": 0.7, "loss/discriminator": 0.6, "images_per_second": 9},
        },
        {"images": 1000, "step": 16, "metrics": {"quick/fd_classifier": 500.0}},
        {"images": 1500, "step": 20, "event": "resumed"},
        {
            "images": 2000,
            "step": 32,
            "metrics": {"loss/generator": 0.6, "loss/discriminator": 0.7, "images_per_second": 8},
        },
        {"images": 2000, "step": 32, "metrics": {"quick/fd_classifier": 2.0}},
    ],
    lineage={"dataset.digest": "abc123", "seed": "0", "kfp.run_id": ""},
    distances={"generated": np.array([1.0, 2.0, 3.0]), "held-out real": np.array([2.0, 3.0])},
)


class Page(HTMLParser):
    """What a page shows: pictures with their words, tables, text; and whether its tags are closed."""

    def __init__(self, html):
        super().__init__()
        self.open, self.images, self.references, self.rows, self.text = [], {}, [], [], ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.images[attributes["alt"]] = attributes["src"]
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img", "br", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def page(**changes):
    return Page(render_report(dataclasses.replace(CONTENT, **changes)))


def image(uri):
    return base64.b64decode(uri.partition("base64,")[2])


def test_it_refers_to_nothing_outside_itself():
    html = render_report(CONTENT)
    assert all(reference.startswith("data:image/") for reference in Page(html).references)
    assert not re.search(r"@import|url\(|<script|<link|<iframe", html)


def test_the_same_content_gives_the_same_file():
    assert render_report(CONTENT) == render_report(CONTENT)


def test_every_picture_has_words_and_they_say_what_the_columns_are():
    images = page().images
    assert len(images) == 2 + 1 + 3  # sheets, distances, losses and speed and the quick judgement
    assert "A grid of training pictures. Columns: cats, dogs." in images
    assert all(len(words) > 10 for words in images)


def test_a_sheet_comes_out_pixel_by_pixel():
    found = np.asarray(Image.open(io.BytesIO(image(page().images["A grid of generated pictures."]))))
    assert np.array_equal(found, NOISE[:, :, 0])


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_large_sheet_is_scaled_down(channels):
    sheet = Sheet("Large", "A large sheet.", np.full((2000, 4000, channels), 90, np.uint8))
    found = Image.open(io.BytesIO(image(page(exhibits=Exhibits([sheet], HEADLINES)).images["A large sheet."])))
    assert found.size == (1600, 800)
    assert len(found.getbands()) == channels


def test_every_metric_stands_in_the_table_with_its_meaning():
    rows = page().rows
    assert ["metric", "best", "last", "better", "what it says"] in rows
    assert ["fd_classifier", "1.25", "3.5", "lower", MEANINGS["fd_"][1]] in rows
    assert ["copy_share", "0.0125", "", "lower", MEANINGS["copy_share"][1]] in rows
    assert ["novelty", "", "0.9", "near 1", MEANINGS["novelty"][1]] in rows


def test_a_metric_that_nobody_explained_is_shown_all_the_same():
    rows = page(metrics={"best": {"sharpness": 2.0, "fid": 7.0}}).rows
    names = [row[0] for row in rows]
    assert ["sharpness", "2", "", ""] in rows
    assert names.index("fid") < names.index("sharpness")


def test_the_most_important_figures_of_the_chosen_moment_stand_at_the_top():
    text = page().text
    top = text[: text.index("Pictures")]
    assert "1.25" in top
    assert "1.25%" in top  # copies
    assert "3.5" not in top
    other = page(chosen="last").text
    assert "3.5" in other[: other.index("Pictures")]


def test_an_error_stands_behind_its_figure_and_never_in_its_place():
    figures = {"fd_classifier": 12.5, "fd_classifier_se": 0.31, "fd_classifier_infinity": 11.0, "sharpness_se": 3.0}
    found = page(metrics={"best": figures})
    assert "12.5" in found.text[: found.text.index("Pictures")]
    assert "0.31" not in found.text[: found.text.index("Pictures")]
    assert ["fd_classifier", "12.5 ± 0.31", "lower", MEANINGS["fd_"][1]] in found.rows


def test_a_translation_has_its_own_headlines_yardsticks_and_safeguards():
    exhibits = Exhibits(
        [], TRANSFER_HEADLINES,
        [Yardstick("read as what the source shows", "97.5%", "85.0%", "")],
        [Safeguard(True, "All is well."), Safeguard(False, "Nothing is.")],
    )  # fmt: skip
    figures = {
        "fd_classifier": 1.5,
        "fd_classifier_ratio": 0.125,
        "fd_classifier_source": 12.0,
        "label_agreement": 0.975,
    }
    found = page(exhibits=exhibits, metrics={"best": figures})
    top = found.text[: found.text.index("What was reached")]
    assert "12%" in top
    assert "97.5%" in top
    assert "1.5" not in top
    assert ["", "results", "untouched sources", "real targets"] in found.rows
    assert ["read as what the source shows", "97.5%", "85.0%", ""] in found.rows
    assert ["fd_classifier_ratio", "0.125", "lower", MEANINGS["fd_ratio_"][1]] in found.rows
    assert "okAll is well." in found.text
    assert "warningNothing is." in found.text
    assert not any(words in page().text for words in ("What was reached", "What can go wrong"))


def test_protocol_lineage_notes_and_events_are_there():
    found = page()
    assert ["samples", "2000"] in found.rows
    assert ["dataset.digest", "abc123"] in found.rows
    assert not any(row[0] == "kfp.run_id" for row in found.rows), "what is empty says nothing"
    assert "There is no validation split." in found.text
    assert "resumed, after 1500 images" in found.text


def test_plots_are_drawings_that_follow_the_theme():
    uri = page().images["Curve over thousands of images: Losses"]
    assert uri.startswith("data:image/svg+xml;base64,")
    drawing = image(uri).decode()
    ElementTree.fromstring(drawing)
    assert "prefers-color-scheme: dark" in drawing
    assert "currentColor" in drawing
    assert "#010203" not in drawing


def test_plotting_leaves_the_settings_of_matplotlib_alone():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    render_report(CONTENT)
    assert dict(mpl.rcParams) == before


def test_what_is_missing_is_left_out():
    found = page(journal=[], distances={}, exhibits=Exhibits([], {}), notes=(), lineage={}, protocol={})
    assert found.images == {}
    assert "There is no journal" in found.text


def test_names_cannot_break_the_page():
    evil = '<script>alert("x")</script>'
    sheet = Sheet(evil, f'"{evil}', NOISE, caption=evil, headings=(evil,))
    exhibits = Exhibits([sheet], {}, [Yardstick(evil, evil, evil, evil)], [Safeguard(False, evil)])
    html = render_report(
        dataclasses.replace(CONTENT, name=evil, exhibits=exhibits, lineage={evil: evil}, notes=(evil,))
    )
    assert "<script" not in html
    Page(html)
