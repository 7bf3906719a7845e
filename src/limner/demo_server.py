"""The server behind a demo's page: it answers what the page asks, and to anything else says no in a sentence.

Gradio's own server does more: it fetches addresses that a request names, and streams them to whoever asks.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from limner.errors import LimnerError
from limner.sources.decode import quiet_pillow

LARGEST_UPLOAD = 64 * 2**20
"""Bytes."""
KEPT_SECONDS, SWEEP_SECONDS = 3600, 300
"""How long visitors' pictures lie on the disk at most, and how often those that are older are looked for."""
MOST_WAITING = 32
"""Visitors whose request waits for its turn; the model does one at a time."""

ASKED_BY_THE_PAGE = re.compile(
    r"/gradio_api/(app_id|cancel|heartbeat/\w+|info|queue/(data|join)|reset|startup-events|theme\.css"
    r"|upload|upload_progress|file=(?!.*://).*)/?"
)
"""Of the paths below /gradio_api. A file's path that is an address would be fetched from there."""

STYLE = """
.gradio-container { width: 100% !important; max-width: 1100px !important; margin: 0 auto !important; }
.facts dl { display: grid; grid-template-columns: max-content 1fr; gap: 0.25rem 1rem; }
.facts dt { color: var(--body-text-color-subdued); }
.facts dd { margin: 0; overflow-wrap: anywhere; }
.pictures .grid-wrap { height: auto !important; max-height: none !important; }
.pictures .grid-container { grid-template: none / repeat(auto-fill, minmax(min(124px, 22%), 1fr)) !important; }
.pictures .grid-container { grid-auto-rows: auto !important; }
.pictures .gallery-item, .pictures .thumbnail-item { width: 100%; height: auto; min-width: 0; min-height: 0; }
.pictures .thumbnail-item { aspect-ratio: 1; }
.pictures .thumbnail-item .caption-label { display: none; } /* it would cover the picture; its alternative stays */
.picture .image-frame img { width: 100%; height: 100%; object-fit: contain; }
.pictures .grid-container, .picture .image-frame { padding-top: 1.75rem; box-sizing: border-box; }
.gradio-container input[type=range]::-webkit-slider-thumb { border: 2px solid var(--slider-color); }
.gradio-container input[type=range]::-moz-range-thumb { border: 2px solid var(--slider-color); }
.magnified img { image-rendering: pixelated; }
"""


class Page(gr.Blocks):
    """A page whose visitors are told what is wrong with a request that it does not make itself."""

    def __init__(self, title: str) -> None:
        super().__init__(title=title, analytics_enabled=False, delete_cache=(SWEEP_SECONDS, KEPT_SECONDS))

    async def preprocess_data(self, *args: Any, **kwargs: Any) -> list[Any]:
        """Gradio's, of a function's inputs, the second argument. Raises gr.Error and nothing else: no stack traces."""
        inputs = kwargs.get("inputs", args[1] if len(args) > 1 else None)
        try:
            if _names_an_address(inputs):
                raise gr.Error("A picture has to be uploaded: no address is fetched.")
            values: list[Any] = await super().preprocess_data(*args, **kwargs)
            if any(isinstance(value, float) and not math.isfinite(value) for value in values):
                raise gr.Error("A value is not a number.")
        except gr.Error as error:
            raise gr.Error(escape(str(error.message)), print_exception=False) from None
        except Exception:  # noqa: BLE001 (whatever a stranger sends is no fault of ours to log)
            raise gr.Error("The server cannot use this request.", print_exception=False) from None
        return values


class Gate:
    """ASGI middleware: lets through what a page needs of Gradio's server."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it. A request that Gradio fails over is refused, else each leaves a stack trace in the log."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begun = False

        async def watched(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        path = scope["path"]
        if path.startswith("/gradio_api") and not ASKED_BY_THE_PAGE.fullmatch(path):
            await PlainTextResponse("The page has no use for this.", status_code=404)(scope, receive, send)
            return
        try:
            await self.app(scope, receive, watched)
        except Exception:
            if begun:
                raise
            await PlainTextResponse("The server cannot use this request.", status_code=400)(scope, receive, send)


@contextmanager
def published(page: gr.Blocks, *, host: str, port: int) -> Iterator[str]:
    """Inside it the page can be visited at the address that is given. Raises LimnerError where that is not to be had.

    What visitors upload and receive lies in the folder that the environment names GRADIO_TEMP_DIR, until it is
    KEPT_SECONDS old or the block ends.
    """
    with quiet_pillow():
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                share=False,
                inbrowser=False,
                prevent_thread_lock=True,
                quiet=True,
                footer_links=[],
                run_history=False,
                enable_monitoring=False,
                ssr_mode=False,
                max_file_size=LARGEST_UPLOAD,
                app_kwargs={"middleware": [Middleware(Gate)]},
                theme=_theme(),
                css=STYLE,
            )
        except OSError as error:
            raise LimnerError(
                f"The page cannot be put at {host}:{port}.", why=str(error), fix="Name another port with --port."
            ) from error
        try:
            yield address
        finally:
            page.close(verbose=False)


def _names_an_address(value: Any) -> bool:
    """Whether one of the files in a request lies elsewhere: Gradio would fetch it, of any size."""
    if isinstance(value, dict):
        return "://" in str(value.get("path", "")) or any(map(_names_an_address, value.values()))
    return isinstance(value, list) and any(map(_names_an_address, value))


def _theme() -> gr.themes.Base:
    theme: gr.themes.Base = gr.themes.Default(
        primary_hue="indigo",
        secondary_hue="indigo",
        neutral_hue="slate",
        font=("system-ui", "sans-serif"),
        font_mono=("ui-monospace", "monospace"),
    )
    return theme.set(  # Gradio's own grey on white has a contrast of 2.6 to 1
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
    )
