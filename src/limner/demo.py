"""A web page of an exported model, for people to try it: one function for each kind of model, see PAGES.

Nothing on it comes from the internet and nothing goes there: system fonts, no analytics, no links that others share.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from limner.demo_server import MOST_WAITING, Page
from limner.errors import LimnerError, suggest
from limner.exported import BACK, WEIGHTS, read_config
from limner.inference import GenerativeModel, StyleModel, open_generator, open_translator
from limner.lineage import FILE_NAME as LINEAGE
from limner.lineage import read_lineage
from limner.picture_files import PictureFile, for_network, read_picture, with_result
from limner.sources import Refused

LARGEST_SEED, MOST_PICTURES = 9_999, 64
READ_MEGAPIXELS, WORK_MEGAPIXELS = 50.0, 2.0
"""A picture of more than the first is refused before it is decoded; one of more than the second is made smaller."""
SMALL = 128
"""Pictures with a side below it are magnified with their pixels as squares: it is what the model made."""

P = ParamSpec("P")
T = TypeVar("T")


def build_page(folder: Path) -> gr.Blocks:
    """The page of an exported model. Raises LimnerError where it cannot be opened or there is no page for its kind."""
    config = read_config(folder)
    task = str(config.get("task"))
    if task not in PAGES:
        raise LimnerError(f"There is no page for a model of the task {task!r}.", fix=suggest(task, PAGES))
    page = Page(f"{config.get('name')} · Limner")
    with page:
        PAGES[task](folder, config)
        _facts(folder, config)
    page.queue(max_size=MOST_WAITING)
    return page


def generator_page(folder: Path, config: Mapping[str, Any]) -> None:
    """Pictures out of a seed: how many, of which class, how typical."""
    model = open_generator(folder)
    _title(config, "Makes pictures of its own. A seed says which: the same seed, the same pictures.")

    def generate(
        seed: float,
        count: float,
        label: int,
        cut: bool,  # noqa: FBT001
        truncation: float,
    ) -> list[tuple[NDArray[np.uint8], str]]:
        chosen = None if label < 0 else int(label)
        pictures = model.generate(int(count), seed=int(seed), label=chosen, truncation=truncation if cut else None)
        return captioned(pictures, model, seed=int(seed), label=chosen)

    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            seed = gr.Slider(
                0,
                LARGEST_SEED,
                0,
                step=1,
                label="Seed",
                buttons=[],
            )
            count = gr.Slider(1, MOST_PICTURES, 16, step=1, label="How many", buttons=[])
            choices = [("All, in turn", -1), *((name, place) for place, name in enumerate(model.classes))]
            label = gr.Dropdown(choices, value=-1, label="Class", filterable=False, visible=bool(model.classes))
            cut = gr.Checkbox(
                value=False, label="Truncation", info="Leaves out what is unusual: less variety, fewer failures."
            )
            truncation = gr.Slider(
                0.1,
                2.0,
                1.0,
                step=0.1,
                label="Truncated at",
                info="The lower, the more typical.",
                visible=False,
                buttons=[],
            )
            button = gr.Button("Generate", variant="primary")
        with gr.Column(scale=3, min_width=280):
            pictures = gr.Gallery(
                captioned(model.generate(16), model, seed=0),  # which warms the model up, too
                label="Pictures",
                format="png",
                columns=4,
                object_fit="contain",
                interactive=False,
                buttons=["download", "download_all", "fullscreen"],
                elem_classes=["pictures", *_magnified(config)],
            )
    cut.change(lambda cut: gr.update(visible=cut), cut, truncation, api_visibility="private")
    _answer(
        generate,
        [button.click, label.input, cut.input],
        inputs=[seed, count, label, cut, truncation],
        outputs=pictures,
    )


def translator_page(folder: Path, config: Mapping[str, Any]) -> None:
    """A visitor's picture in another style, beside it."""
    ways = [open_translator(folder)]
    if BACK in config["files"]:
        ways.append(open_translator(folder, reverse=True))
    _title(config, "Gives your picture the style that it has learned.")

    def stylize(path: str | None, strength: float, way: int) -> tuple[NDArray[np.uint8], str]:
        if path is None:
            raise LimnerError("There is no picture yet.", fix="Choose one, or drop it on the field on the page.")
        picture, note = read_upload(Path(path))
        return shown(stylized(ways[int(way)], picture, strength=strength)), note

    with gr.Row():
        with gr.Column(min_width=280):
            source = gr.Image(
                label="Your picture",
                type="filepath",
                image_mode=None,
                sources=["upload"],
                height=360,
                buttons=["fullscreen"],
                elem_classes=["picture", "before"],
                alt_text="Your picture",
            )
            # Gradio would decode it, whatever its size and kind, and complain in words that are for programmers.
            source.preprocess = _path_of_upload  # type: ignore[method-assign]
            strength = gr.Slider(
                0, 1, 1, step=0.05, label="Strength", info="0: your picture; 1: the full style.", buttons=[]
            )
            way = gr.Radio([("Into the style", 0), ("Out of it", 1)], value=0, label="Direction", visible=len(ways) > 1)
            button = gr.Button("Stylize", variant="primary")
        with gr.Column(min_width=280):
            result = gr.Image(
                label="In the style",
                format="png",
                interactive=False,
                height=360,
                buttons=["download", "fullscreen"],
                elem_classes=["picture", "after"],
                alt_text=f"Your picture in the style of {config['name']}",
            )
            note = gr.Markdown()
    _answer(
        stylize,
        [button.click, source.upload, way.input],
        inputs=[source, strength, way],
        outputs=[result, note],
    )


PAGES: dict[str, Callable[[Path, Mapping[str, Any]], None]] = {
    "pictures": generator_page,
    "unpaired": translator_page,
    "paired": translator_page,
}
"""By the task of the model. A new kind of model is a function that opens it and lays out its page, and a line here."""


def read_upload(path: Path) -> tuple[PictureFile, str]:
    """A visitor's picture, upright, and what to tell of it. Raises LimnerError where it cannot be used."""
    try:
        content = path.read_bytes()
        picture = read_picture(content, max_megapixels=READ_MEGAPIXELS)
        height, width = picture.colours.shape[:2]
        notes = [*picture.notes]
        if height * width > WORK_MEGAPIXELS * 1e6:
            short_side = int(min(height, width) * math.sqrt(WORK_MEGAPIXELS * 1e6 / (height * width)))
            picture = read_picture(content, max_megapixels=READ_MEGAPIXELS, short_side=max(1, short_side))
            smaller = picture.colours.shape
            notes.append(
                f"made smaller, from {width} x {height} to {smaller[1]} x {smaller[0]}, to keep the page quick"
            )
    except Refused as refused:
        large = refused.reason == "too large"
        raise LimnerError(
            "This picture cannot be used.",
            why=f"It has more than {READ_MEGAPIXELS:g} megapixels."
            if large
            else f"{refused.reason}: {refused.detail}.",
            fix="Take a smaller one." if large else "Take a PNG, JPEG or WebP file.",
        ) from None
    except OSError:
        raise LimnerError(
            "Your picture is no longer here.", why="Pictures are deleted after a while.", fix="Upload it again."
        ) from None
    return picture, "; ".join(notes)


def stylized(model: StyleModel, picture: PictureFile, *, strength: float) -> NDArray[np.uint8]:
    """A picture in the style of a model, uint8 [H, W, C]; transparency stays, where it has some."""
    result = with_result(picture, model.stylize(for_network(picture, model.channels), strength=strength), strength=1)
    if result.alpha is None:
        return result.colours
    colours = np.broadcast_to(result.colours, (*result.colours.shape[:2], 3))
    return np.concatenate([colours, result.alpha[..., None]], axis=2)


def shown(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pixels [H, W, C] as Gradio takes them: grey ones have no axis of channels."""
    return picture[..., 0] if picture.shape[2] == 1 else picture


def captioned(
    pictures: NDArray[np.uint8], model: GenerativeModel, *, seed: int, label: int | None = None
) -> list[tuple[NDArray[np.uint8], str]]:
    """Pictures [N, H, W, C] with what says which they are, also to those who do not see them."""

    def caption(place: int) -> str:
        words = f"seed {seed}, picture {place}"  # as `limner generate` numbers its files
        classes = model.classes
        return f"{words}, class {classes[place % len(classes) if label is None else label]}" if classes else words

    return [(shown(picture), caption(place)) for place, picture in enumerate(pictures)]


def readable(answer: Callable[P, T]) -> Callable[P, T]:
    """The same function; what Limner has to say of a mistake, the visitor reads on the page."""

    @functools.wraps(answer)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return answer(*args, **kwargs)
        except LimnerError as error:
            problem, *rest = (escape(part) for part in (error.problem, error.why, error.fix) if part)
            message = "<br>".join([f"<strong>{problem}</strong>", *rest])
            raise gr.Error(message, duration=None, print_exception=False) from error

    return told


def _answer(answer: Callable[..., Any], triggers: list[Any], *, inputs: list[Any], outputs: Any) -> None:
    """Let the model answer, a visitor after the other, whichever of the triggers it was; the last wish counts.

    No slider is a trigger: on its way to the button a number would ask twice, and Gradio writes a file anew that the
    browser is just loading.
    """
    gr.on(
        triggers,
        readable(answer),
        inputs,
        outputs,
        api_visibility="private",
        concurrency_limit=1,
        concurrency_id="model",
        trigger_mode="always_last",
    )


def _title(config: Mapping[str, Any], purpose: str) -> None:
    gr.HTML(f"<h1>{escape(str(config['name']))}</h1><p>{escape(purpose)}</p>")


def _facts(folder: Path, config: Mapping[str, Any]) -> None:
    image = config["image"]
    colours = {1: "grey", 3: "colour", 4: "colour with transparency"}.get(image["channels"], "")
    facts = {
        "Learned from": f"pictures of {image['width']} x {image['height']} pixels, {colours}",
        "Classes": ", ".join(map(str, config["classes"])),
        "Licence of these": read_lineage(folder).get("dataset_licence", "") if (folder / LINEAGE).is_file() else "",
        "Weights": f"SHA-256 {config['files'][WEIGHTS]}",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(str(fact))}</dd>" for name, fact in facts.items() if fact)
    gr.HTML(f"<h2>About this model</h2><dl>{rows}</dl>", elem_classes=["facts"])


def _magnified(config: Mapping[str, Any]) -> list[str]:
    return ["magnified"] if min(config["image"]["height"], config["image"]["width"]) < SMALL else []


def _path_of_upload(payload: Any) -> str | None:
    return str(payload.path) if payload else None
