"""stylize: pictures through an exported translation model."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from limner.cli.options import AsJson, ExportedModel
from limner.cli.places import find_exported
from limner.cli.progress import picture_progress
from limner.cli.results import print_json
from limner.errors import LimnerError

if TYPE_CHECKING:
    from limner.inference import StyleModel
    from limner.ports import ObjectStore
    from limner.steps.stylize import Stylized, StylizeOptions

app = typer.Typer()

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)i?B?", re.IGNORECASE)
STREAM = "-"


@app.command()
def stylize(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Files, folders, globs, s3://BUCKET/PREFIX; or - for standard input.",
            show_default=False,
        ),
    ],
    *,
    model: ExportedModel,
    out: Annotated[
        str, typer.Option("--out", metavar="DIR", help="Where the results go; a folder or s3://BUCKET/PREFIX.")
    ] = "",
    strength: Annotated[
        float, typer.Option("--strength", metavar="X", help="0 is the source, 1 the full style.")
    ] = 1.0,
    size: Annotated[
        int | None, typer.Option("--size", metavar="N", help="Scale the short side to it first.  [default: no scaling]")
    ] = None,
    memory: Annotated[
        str, typer.Option("--memory", metavar="SIZE", help="What the work may take; larger pictures are done in tiles.")
    ] = "2GiB",
    file_format: Annotated[
        Literal["keep", "png", "jpeg", "webp"], typer.Option("--format", help="Of the results; keep: else PNG.")
    ] = "keep",
    quality: Annotated[int, typer.Option("--quality", metavar="N", help="Of JPEG and WebP, 1 to 100.")] = 95,
    max_megapixels: Annotated[
        float, typer.Option("--max-megapixels", metavar="X", help="A picture that says it has more is refused.")
    ] = 100.0,
    precision: Annotated[
        Literal["auto", "fp32"], typer.Option("--precision", help="auto: bfloat16 where the hardware does it.")
    ] = "auto",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that are in the way; never a source.")
    ] = False,
    reverse: Annotated[bool, typer.Option("--reverse", help="The way back, of a model that has one.")] = False,
    as_json: AsJson = False,
) -> None:
    """Turn pictures into the style of a translation model.

    What was made of the same picture by the same model with the same options is skipped. Size, transparency, EXIF and
    colour profile are kept. Exit status 2 where a picture could not be used; the others are done all the same.

    \b
    Example:
      limner stylize photos --model exports/monet --out paintings
      limner stylize photos --model models:/monet@champion --strength 0.5 --out half-painted
      limner stylize - --model exports/monet --format png < photo.jpg > painting.png
    """
    from limner.inference import open_translator
    from limner.steps.stylize import StylizeOptions

    options = StylizeOptions(
        strength=strength,
        short_side=size,
        file_format=None if file_format == "keep" else file_format,
        quality=quality,
        overwrite=overwrite,
        max_megapixels=max_megapixels,
        memory=_bytes(memory),
    )
    if STREAM in inputs:
        _refuse_more_than_the_stream(inputs, out, as_json=as_json)
        _stream(open_translator(find_exported(model), reverse=reverse, precision=precision), options)
        return
    if not out:
        raise LimnerError("Where do the results go?", fix="Name a folder with --out.")
    folder = find_exported(model)
    result = _all(inputs, out, options, lambda: open_translator(folder, reverse=reverse, precision=precision))
    if as_json:
        print_json({"output": out, "done": result.done, "skipped": result.skipped, "refused": result.refused,
                    "notes": list(result.notes)})  # fmt: skip
    else:
        _print(result, out)
    if result.refused:
        raise typer.Exit(2)


def _all(inputs: list[str], out: str, options: StylizeOptions, open_it: Callable[[], StyleModel]) -> Stylized:
    from limner.picture_places import (
        FolderDestination,
        StoreDestination,
        find_pictures,
        name_results,
        refuse_overwriting,
        refuse_overwriting_in_store,
        results_of_record,
    )
    from limner.steps.stylize import Observer, stylize

    stores = {word: _open_store(word, single=True) for word in inputs if "://" in word}
    earlier = () if "://" in out else results_of_record(Path(out))
    search = find_pictures(inputs, max_megapixels=options.max_megapixels, stores=stores, earlier_results=earlier)
    names = name_results(search, options.file_format)
    if "://" in out:
        destination: FolderDestination | StoreDestination = StoreDestination(_open_store(out))
        refuse_overwriting_in_store(out, names, search)
    else:
        refuse_overwriting(Path(out), names, search)
        destination = FolderDestination(Path(out))
    translator = open_it()
    with picture_progress() as screen:
        observer = Observer(screen.progress, lambda error: screen.notice(_three_lines(error)))
        result = stylize(
            search.pictures, names, model=translator, destination=destination, options=options, observer=observer
        )
    return _with_notes(result, search.left_aside)


def _with_notes(result: Stylized, left_aside: list[str]) -> Stylized:
    from dataclasses import replace

    return replace(result, notes=(*result.notes, *(f"left aside: {text}" for text in left_aside)))


def _stream(model: StyleModel, options: StylizeOptions) -> None:
    from limner.steps.stylize import stylize_bytes

    if sys.stdout.isatty():
        raise LimnerError("The result is a picture, and no text for a terminal.", fix="Redirect it: > result.png")
    largest = int(options.max_megapixels * 1e6) * 8 + 2**24
    content = sys.stdin.buffer.read(largest + 1)
    if len(content) > largest:
        raise LimnerError("Standard input is larger than any picture of --max-megapixels.")
    result = stylize_bytes(content, model=model, options=options)
    sys.stdout.buffer.write(result)
    sys.stdout.buffer.flush()


def _refuse_more_than_the_stream(inputs: list[str], out: str, *, as_json: bool) -> None:
    if len(inputs) > 1 or out not in ("", STREAM) or as_json:
        raise LimnerError(
            "`-` reads one picture from standard input and writes its result to standard output.",
            fix="Leave out the other inputs, --out and --json.",
        )


def _open_store(url: str, *, single: bool = False) -> ObjectStore:
    from limner.picture_places import SingleObject
    from limner.sources.tree import SUFFIXES

    try:
        from limner.adapters.object_store import S3Store
    except ModuleNotFoundError as error:
        if error.name != "boto3":
            raise
        raise LimnerError(
            "boto3 is not installed.", why=f"{url} is reached with it.", fix="pip install 'limner[pipeline]'"
        ) from error
    folder, _, name = url.rpartition("/")
    if single and Path(name).suffix.lower() in SUFFIXES and folder.count("/") > 1:
        return SingleObject(S3Store(folder), name)
    return S3Store(url)


def _bytes(text: str) -> int:
    match = SIZE.fullmatch(text.strip())
    size = float(match[1]) * 2 ** (10 * " KMGT".index(match[2].upper() or " ")) if match else 0
    if size < 2**20:
        raise LimnerError(f"--memory {text} is no size to work in.", fix="Write it as 2GiB or 800MiB.")
    return int(size)


def _three_lines(error: LimnerError) -> str:
    parts = {"Error": error.problem, "Why": error.why, "Fix": error.fix}
    return "\n".join(f"{title}: {text}" for title, text in parts.items() if text)


def _print(result: Stylized, out: str) -> None:
    for note in result.notes:
        print(note, file=sys.stderr)
    counts = (("stylized", result.done), ("there already", result.skipped), ("refused", result.refused))
    print(f"{', '.join(f'{count} {word}' for word, count in counts if count)}; the results are in {out}")
