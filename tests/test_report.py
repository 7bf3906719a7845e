"""The report: one file, the same one for the same content, that says everything in words, too."""

import base64
import dataclasses
import functools
import io
import itertools
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from limner.metric_words import HEADLINES, MEANINGS, TRANSFER_HEADLINES
from limner.report import (
    Exhibits,
    ReportContent,
    Rival,
    Safeguard,
    Sheet,
    Yardstick,
    compared,
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
        self.headings, self.ids, self.headers = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.references += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag == "img":
            self.images[attributes["alt"]] = attributes["src"]
        self.ids += [attributes["id"]] if "id" in attributes else []
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append(int(tag[1]))
        if tag == "th":
            self.headers.append(attributes.get("scope"))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag not in ("meta", "img", "br", "link", "wbr"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"style", "nav"} & set(self.open):
            self.text += data
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


@functools.cache
def whole():
    return render_report(CONTENT)


def page(**changes):
    """The page of the content; with changes without its plots, which take most of the time."""
    return Page(render_report(dataclasses.replace(CONTENT, **{"journal": [], "distances": {}} | changes)))


def image(uri):
    return base64.b64decode(uri.partition("base64,")[2])


def test_it_refers_to_nothing_outside_itself():
    html = whole()
    found = Page(html)
    inside = {f"#{name}" for name in found.ids}
    assert all(reference.startswith("data:image/") or reference in inside for reference in found.references)
    assert not re.search(r"@import|url\(|<script|<link|<iframe", html)


def test_the_same_content_gives_the_same_file():
    assert render_report(CONTENT) == whole()


def test_every_picture_has_words_and_they_say_what_the_columns_are():
    images = Page(whole()).images
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
    assert ["copy_share", "25 of 2,000", "", "lower", MEANINGS["copy_share"][1]] in rows
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
    assert "25 of 2,000" in top  # copies
    assert "3.5" not in top
    other = page(chosen="last").text
    assert "3.5" in other[: other.index("Pictures")]


def test_an_error_stands_behind_its_figure_and_never_in_its_place():
    figures = {"fd_classifier": 12.5, "fd_classifier_se": 0.31, "fd_classifier_infinity": 11.0, "sharpness_se": 3.0}
    found = page(metrics={"best": figures})
    assert "12.5" in found.text[: found.text.index("Pictures")]
    assert "0.31" not in found.text[: found.text.index("Pictures")]
    assert ["fd_classifier", "12.50 ± 0.31", "lower", MEANINGS["fd_"][1]] in found.rows


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
    found = Page(whole())
    assert ["samples", "2000"] in found.rows
    assert ["dataset.digest", "abc123"] in found.rows
    assert not any(row[0] == "kfp.run_id" for row in found.rows), "what is empty says nothing"
    assert "There is no validation split." in found.text
    assert "After 1,500 images: The training was interrupted, and went on from here." in found.text


def test_plots_are_drawings_that_follow_the_theme():
    words = (
        "Losses over thousands of images: generator from 0.7 to 0.6, discriminator from 0.6 to 0.7. Marked events: 1."
    )
    uri = Page(whole()).images[words]
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
        dataclasses.replace(CONTENT, journal=[], name=evil, exhibits=exhibits, lineage={evil: evil}, notes=(evil,))
    )
    assert "<script" not in html
    Page(html)


# -- the champion -----------------------------------------------------------------------------------------------------

MINE = {"fd_classifier": 1.0, "fd_classifier_se": 0.1, "sure_share": 0.9, "diversity": 0.9, "copy_share_real": 0.0}
THEIRS = {"fd_classifier": 2.0, "fd_classifier_se": 0.1, "sure_share": 0.9, "diversity": 1.2, "copy_share_real": 0.1}


def verdicts(mine=MINE, theirs=THEIRS, **changes):
    return {row.name: row.verdict for row in compared(mine, Rival("version 3", theirs, **changes), {})}


def test_figures_stand_beside_the_champions_with_their_errors_and_who_is_better():
    sheet = Sheet("The same seeds", "Bands of pictures.", NOISE)
    found = page(metrics={"best": MINE}, rival=Rival("version 3 of digits-gan", THEIRS, sheets=[sheet]))
    assert "The champion is version 3 of digits-gan." in found.text
    assert [
        "fd_classifier",
        "this model",
        "1.00 \N{PLUS-MINUS SIGN} 0.10",
        "2.00 \N{PLUS-MINUS SIGN} 0.10",
        "lower",
    ] in found.rows
    assert "Bands of pictures." in found.images


@pytest.mark.parametrize(
    ("name", "mine", "theirs", "verdict"),
    [
        ("fd_classifier", 1.0, 2.0, "this model"),
        ("fd_classifier", 2.0, 1.0, "the champion"),
        ("sure_share", 0.9, 0.8, "this model"),
        ("sure_share", 0.8, 0.9, "the champion"),
        ("diversity", 0.9, 1.2, "this model"),
        ("diversity", 0.7, 1.2, "the champion"),
        ("sure_share", 0.9, 0.9, "no clear difference"),
        ("sure_share", 0.9, float("nan"), ""),
    ],
)
def test_better_means_lower_or_higher_or_nearer_to_1_as_the_metric_has_it(name, mine, theirs, verdict):
    sides = ({name: value, f"{name}_se": 0.001} for value in (mine, theirs))
    assert verdicts(*sides) == {name: verdict}


def test_nobody_is_better_where_an_error_is_unknown():
    known, unknown = {"fid": 1.0, "fid_se": 0.1}, {"fid": 9.0}
    assert verdicts(known, unknown) == verdicts(unknown, known) == {"fid": "errors unknown"}


@pytest.mark.parametrize(("error", "verdict"), [(0.3, "this model"), (0.4, "no clear difference")])
def test_a_difference_counts_from_two_standard_errors_on(error, verdict):
    """The error of a difference of 1 is sqrt(2) times that of either side."""
    mine, theirs = ({"fid": value, "fid_se": error} for value in (1.0, 2.0))
    assert verdicts(mine, theirs) == {"fid": verdict}


def test_the_champions_copies_are_counted_only_where_it_was_judged_alike():
    figures = {"copy_share": 0.0005}
    (alike,) = compared(figures, Rival("version 3", {"copy_share": 0.0}), {"samples": "2000"})
    assert (alike.mine, alike.rivals) == ("1 of 2,000", "none of 2,000")
    (unlike,) = compared(figures, Rival("v", {"copy_share": 0.0}, ["samples was 5, is 2000"]), {"samples": "2000"})
    assert (unlike.mine, unlike.rivals) == ("1 of 2,000", "0")


def test_what_has_no_better_and_what_one_of_both_lacks_is_not_compared():
    assert set(verdicts({**MINE, "novelty": 1.0})) == {"fd_classifier", "sure_share", "diversity"}


def test_unlike_protocols_and_the_same_weights_have_no_winner_and_say_why():
    unlike = Rival("version 3", THEIRS, unlike=["samples was 500, is 2000"])
    found = page(metrics={"best": MINE}, rival=unlike)
    assert "The figures are not to be compared" in found.text
    assert "samples was 500, is 2000" in found.text
    assert set(verdicts(unlike=unlike.unlike).values()) == {""}
    same = page(metrics={"best": MINE}, rival=Rival("version 3", MINE, same_weights=True))
    assert "It has the very same weights: it is this model." in same.text
    assert not any("this model" in row for row in same.rows if row[0] in MINE)


def test_without_a_champion_it_says_why():
    assert "The server is away." in page(rival_note="The server is away.").text
    assert "It was not compared with a champion." in page().text


# -- for everybody ----------------------------------------------------------------------------------------------------

EVERYTHING = {
    "growth": Sheet("While it learnt", "Rows of pictures.", NOISE, rows=("10k", "20k")),
    "rival": Rival("version 3", THEIRS, ["samples was 500, is 2000"], sheets=[CONTENT.exhibits.sheets[0]]),
    "exhibits": Exhibits(
        CONTENT.exhibits.sheets, HEADLINES, [Yardstick("read", "97%", "85%", "")], [Safeguard(False, "Nothing is.")]
    ),
}


@pytest.fixture(scope="module")
def everything():
    return render_report(dataclasses.replace(CONTENT, **EVERYTHING))


def test_headings_are_in_order_and_every_header_of_a_table_says_of_what(everything):
    found = Page(everything)
    assert found.headings.count(1) == 1
    assert found.headings[0] == 1
    assert all(below - above <= 1 for above, below in itertools.pairwise(found.headings))
    assert set(found.headers) == {"row", "col"}
    assert len(set(found.ids)) == len(found.ids)


def test_the_words_of_a_picture_say_what_its_rows_and_columns_are(everything):
    assert "Rows of pictures. Rows: 10k, 20k." in Page(everything).images


def luminance(colour):
    """Relative luminance of #rrggbb: WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_computed_as_wcag_has_it():
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_all_text_stands_out_from_its_ground_on_a_light_and_on_a_dark_page(everything):
    themes = [dict(re.findall(r"--(\w+): (#\w{6});", rule)) for rule in re.findall(r":root \{([^}]*)\}", everything)]
    assert len(themes) == 2
    for theme in themes:
        for text in ("ink", "soft", "good", "bad", "link"):
            assert contrast(theme[text], theme["paper"]) >= 4.5, (text, theme)
        assert contrast(theme["soft"], theme["panel"]) >= 4.5
        assert contrast(theme["ink"], theme["panel"]) >= 4.5


def test_nothing_moves_for_those_who_asked_for_stillness(everything):
    moving = re.search(r"scroll-behavior|transition|animation", everything.split("@media (prefers-reduced-motion")[0])
    assert not moving


@pytest.mark.slow
def test_a_phone_need_not_scroll_sideways(everything, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("there is no Chromium")
    from playwright.sync_api import sync_playwright

    (tmp_path / "report.html").write_text(everything, encoding="utf-8")
    with sync_playwright() as player:
        browser = player.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for width in (320, 390, 1280):
            view = browser.new_page(viewport={"width": width, "height": 900})
            view.goto((tmp_path / "report.html").as_uri())
            view.evaluate("document.querySelectorAll('details').forEach(part => part.open = true)")
            assert view.evaluate("document.documentElement.scrollWidth") <= width
        browser.close()
