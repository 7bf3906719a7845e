"""demo: a web page of an exported model."""

from __future__ import annotations

import os
import tempfile
import threading
import webbrowser
from typing import Annotated

import typer

from limner.cli.options import AsJson, ExportedModelArgument
from limner.cli.places import find_exported
from limner.cli.results import print_json
from limner.errors import LimnerError

app = typer.Typer()


@app.command()
def demo(
    model: ExportedModelArgument,
    *,
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Who may visit: 127.0.0.1 this machine, 0.0.0.0 all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=1, max=65_535, help="Where it listens.")] = 7860,
    open_it: Annotated[bool, typer.Option("--open/--no-open", help="Open it in the browser.")] = True,
    as_json: AsJson = False,
) -> None:
    """Show an exported model on a web page, until it is interrupted.

    A generator paints by seed, class and truncation; a translator stylizes pictures that visitors upload. The page asks
    nobody for a password: leave it on this machine, or put a proxy with a login before it.

    \b
    Example:
      limner demo exports/digits-gan
      limner demo models:/print-to-hand@champion --host 0.0.0.0 --port 8000 --no-open
    """
    folder = find_exported(model)
    # Ahead of the import: what visitors upload goes with the folder, however the page ends.
    with tempfile.TemporaryDirectory(prefix="limner-demo-") as uploads:
        os.environ["GRADIO_TEMP_DIR"] = uploads
        try:
            from limner.demo import build_page
            from limner.demo_server import published
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise LimnerError(
                "gradio is not installed.", why="The page is built with it.", fix="pip install 'limner[demo]'"
            ) from error
        with published(build_page(folder), host=host, port=port) as address:
            if as_json:
                print_json({"address": address, "model": folder})
            else:
                print(f"The page of {folder} is at {address}; Ctrl-C ends it.", flush=True)
            if open_it:
                webbrowser.open(address)
            threading.Event().wait()
