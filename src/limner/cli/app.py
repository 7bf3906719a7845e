"""The `limner` command: its parts, what it does about errors, and its exit status."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import traceback
from types import FrameType
from typing import Annotated, NoReturn

import typer

from limner.cli import (
    config,
    demo,
    doctor,
    drift,
    fid,
    generate,
    models,
    serve,
    steps,
    stylize,
    summary,
    track,
    train_node,
)
from limner.errors import LimnerError

# Plain help (no rich markup) halves the time of `limner --help` and reads well in a log, too.
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for part in (steps, generate, stylize, serve, demo, drift, fid, summary, doctor, train_node):
    app.add_typer(part.app)
app.add_typer(config.app, name="config")
app.add_typer(models.app, name="models")
app.add_typer(track.app, name="track")


@app.callback()
def limner(
    *,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
) -> None:
    """Learn image styles with GANs, and make the trained model a product.

    \b
    Example:
      limner prepare digits && limner train digits-gan
    """
    del debug  # `main` has read it


def main() -> NoReturn:
    """The command `limner`."""
    run(app, "limner")


def run(program: typer.Typer, name: str) -> NoReturn:
    """Run the command in `sys.argv`.

    Exit status: 0 done, 2 the user's mistake, 1 ours, 130 or 143 stopped by a signal. `--debug` may stand anywhere.
    """
    words = [word for word in sys.argv[1:] if word != "--debug"]
    debug = len(words) < len(sys.argv[1:])
    signal.signal(signal.SIGTERM, _end)
    try:
        program(words, prog_name=name)
        status = 0
    except LimnerError as error:
        _trace(debug=debug)
        # Of the processes that torchrun starts on a machine all have the same trouble: one of them tells.
        if os.environ.get("LOCAL_RANK", "0") == "0":
            _complain(Error=error.problem, Why=error.why, Fix=error.fix)
        status = 2
    except Exception as error:  # noqa: BLE001 - whatever it is, the user gets a line and not a trace
        _trace(debug=debug)
        again = "" if debug else f"See where: {shlex.join([name, '--debug', *words])}"
        _complain(Error=f"Limner failed unexpectedly: {type(error).__name__}: {error}", Fix=again)
        status = 1
    sys.exit(status)


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM as an exception, so that tracked runs are closed as killed and temporary folders go."""
    del frame
    raise SystemExit(128 + number)


def _trace(*, debug: bool) -> None:
    if debug:
        traceback.print_exc()


def _complain(**parts: str) -> None:
    for title, text in parts.items():
        if text:
            print(f"{title}: {text}", file=sys.stderr)
