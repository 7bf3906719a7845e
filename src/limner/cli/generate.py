"""generate: pictures out of an exported model."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limner.cli.options import AsJson, ExportedModel
from limner.cli.places import find_exported
from limner.cli.results import print_json
from limner.errors import LimnerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

app = typer.Typer()

OURS = re.compile(r"\d{5}\.png|grid\.png")


@app.command()
def generate(
    *,
    model: ExportedModel,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the pictures go.", show_default=False)],
    count: Annotated[int, typer.Option("--count", metavar="N", help="How many.")] = 64,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="The same seed, the same pictures.")] = 0,
    label: Annotated[
        int | None, typer.Option("--label", metavar="N", help="Only this class.  [default: all, in turn]")
    ] = None,
    truncation: Annotated[
        float | None,
        typer.Option(
            "--truncation",
            metavar="X",
            help="Keep the noise within +-X, such as 0.7: more typical, less varied.  [default: not cut]",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Generate pictures with an exported model.

    They are 00000.png, 00001.png, ...; all of them together are grid.png.

    \b
    Example:
      limner generate --model exports/digits-gan --count 64 --seed 0 --out pictures
      limner generate --model models:/digits-gan@champion --truncation 0.7 --label 3 --out threes
    """
    from limner.inference import open_generator

    _refuse_foreign_files(out)
    opened = open_generator(find_exported(model))
    _save(opened.generate(count, seed=seed, label=label, truncation=truncation), out)
    if as_json:
        print_json({"output": out, "count": count, "seed": seed, "label": label, "truncation": truncation})
    else:
        print(f"{count} pictures are in {out}; all of them on one sheet: {out / 'grid.png'}")


def _refuse_foreign_files(out: Path) -> None:
    """The folder is replaced as a whole, so that pictures of two calls never mix; it must hold nothing else."""
    if out.exists() and not (out.is_dir() and all(OURS.fullmatch(path.name) for path in out.iterdir())):
        raise LimnerError(
            f"{out} is in use.", why="It holds more than generated pictures.", fix="Name another folder with --out."
        )


def _save(pictures_NHWC: NDArray[np.uint8], out: Path) -> None:  # noqa: N803
    import torch

    from limner.pixels import encode_png, grid
    from limner.steps.output import replaced

    columns = math.isqrt(len(pictures_NHWC) - 1) + 1
    with replaced(out) as folder:
        for number, picture in enumerate(pictures_NHWC):
            (folder / f"{number:05d}.png").write_bytes(encode_png(picture))
        sheet = grid(torch.from_numpy(pictures_NHWC).permute(0, 3, 1, 2), columns=columns)
        (folder / "grid.png").write_bytes(encode_png(sheet))
