"""Plots of a training: what happened is marked, and said in words."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from limner import curves
from limner.curves import COLOURS, DARK_INK, LIGHT_INK, events_of, plots_of, training_png
from tests.test_report import contrast

JOURNAL = [
    {"images": 1000, "step": 1, "metrics": {"loss/generator": 0.7, "loss/discriminator": 0.6}},
    {"images": 1000, "step": 1, "metrics": {"quick/fid": 9.0}},
    {"images": 2000, "step": 2, "metrics": {"loss/generator": 0.6, "loss/discriminator": 0.7}},
]
WENT_BACK = {
    "images": 1500,
    "step": 1,
    "event": "went back",
    "from_images": 1900,
    "times": 1,
    "reason": "the weights do not settle",
}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (WENT_BACK, "The guard went back to here from 1,900 images (time 1): the weights do not settle."),
        ({"event": "warning", "text": "more data"}, "Warning: more data."),
        (
            {"event": "skipped non-finite steps", "count": 3},
            "Steps whose figures were not finite, and were skipped: 3.",
        ),
        ({"event": "gave up", "reason": "it fails"}, "The guard gave up: it fails."),
        (
            {"event": "stopped early", "best": 1.25, "best_images": 20000},
            "Stopped early: it had been best after 20,000 images, at 1.25.",
        ),
        ({"event": "resumed"}, "The training was interrupted, and went on from here."),
        ({"event": "sneezed", "loudness": 3}, "sneezed: loudness 3"),
        ({"event": "went back"}, "went back"),
    ],
)
def test_what_happened_is_said_in_a_sentence(line, sentence):
    (event,) = events_of([{"images": 1500, "step": 1, **line}])
    assert event.sentence == sentence
    assert event.images == 1500


def test_events_are_marked_in_every_plot_and_named_in_its_words():
    with_event, without = plots_of([*JOURNAL, WENT_BACK]), plots_of(JOURNAL)
    assert [plot.title for plot in with_event] == ["Losses", "Quick judgement: fid"]
    assert "Marked events: 1." in with_event[0].alternative
    assert "Marked" not in without[0].alternative
    drawings = [[plot.svg().decode() for plot in plots] for plots in (with_event, without)]
    assert all(len(marked) > len(plain) for marked, plain in zip(*drawings, strict=True))


def test_numbers_of_events_close_together_share_a_place():
    events = [{**WENT_BACK, "images": images} for images in (1500, 1500, 1501, 1900)]
    drawing = plots_of([*JOURNAL, *events])[0].svg().decode()
    assert re.findall(r"<!-- (\d[\d, -]*) -->", drawing)[-2:] == ["1-3", "4"]


def test_the_same_journal_is_the_same_picture_and_another_is_another():
    assert training_png(JOURNAL) == training_png(JOURNAL) != training_png([*JOURNAL, WENT_BACK])


def test_the_training_curve_is_a_picture_on_white_of_losses_and_judgements():
    image = np.asarray(Image.open(io.BytesIO(training_png(JOURNAL))).convert("RGB"))
    assert (image[0] == 255).all()
    assert image.shape[0] > np.asarray(Image.open(io.BytesIO(training_png(JOURNAL[:1])))).shape[0]
    assert training_png([{"images": 1, "step": 1, "metrics": {"memory_gib": 1.0}}]) is None


def figure_lines(*moments):
    """What a plot draws of a figure that has these thousands of images, beside one that has all up to 100."""
    import matplotlib.axes

    drawn = {}

    class Axes(matplotlib.axes.Axes):
        def plot(self, *values, label="", **options):
            drawn[label] = (list(values[0]), options["marker"])
            return super().plot(*values, label=label, **options)

    lines = [{"images": place * 1000, "metrics": {"overfitting/r_t": 1.0}} for place in range(100)]
    lines += [{"images": place * 1000, "metrics": {"overfitting/r_v": 1.0}} for place in moments]
    (plot,) = plots_of(lines)
    figure = matplotlib.figure.Figure()
    curves._draw(figure.add_subplot(axes_class=Axes), plot)
    assert drawn["r_t"] == (list(range(100)), "")
    return drawn["r_v"]


def test_no_line_is_drawn_where_nothing_was_measured():
    places, marker = figure_lines(*range(1, 30), 60, 61)
    assert marker == "o", "a point that stands alone has no line"
    assert places == [*range(1, 30), 60, 60, 61]
    assert figure_lines(*range(0, 100, 10)) == (list(range(0, 100, 10)), "o"), "far apart, but evenly"


def test_lines_and_letters_stand_out_on_both_papers():
    for paper, ink in (("#ffffff", LIGHT_INK), ("#17171b", DARK_INK)):
        assert contrast(ink, paper) >= 4.5
        assert all(contrast(colour, paper) >= 3 for colour in COLOURS)
