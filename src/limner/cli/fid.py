"""fid: how far two sets of pictures are from each other."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from limner.cli.options import PARAMS, AsJson
from limner.cli.progress import work_progress
from limner.cli.results import print_json
from limner.errors import LimnerError, suggest

if TYPE_CHECKING:
    from limner.steps.compare import Comparison
    from limner.steps.compare_sides import MetricName, Side

app = typer.Typer()

FEATURES_HELP = "inception-v3-2015, efficientnet-lite0, torchvision:<model> or pixels: what the pictures are seen by."
METRICS = ("fid", "kid", "prdc", "is")
DIGEST_DIGITS, SHOWN_DIGITS = 64, 8


@app.command()
def fid(
    judged: Annotated[
        Path,
        typer.Argument(metavar="A", help="The pictures to judge.", show_default=False),
    ],
    reference: Annotated[
        Path | None,
        typer.Argument(metavar="B", help="What they are judged by.", show_default=False),
    ] = None,
    *,
    features: Annotated[str, typer.Option("--features", metavar="NAME", help=FEATURES_HELP)] = "inception-v3-2015",
    protocol: Annotated[
        Literal["pytorch-fid", "tf1", "clean"], typer.Option("--protocol", help="Whose way of resizing.")
    ] = "pytorch-fid",
    weights: Annotated[
        str,
        typer.Option("--weights", metavar="PATH|URL", help="Of the features.  [default: where other tools leave them]"),
    ] = "",
    weights_sha256: Annotated[
        str, typer.Option("--weights-sha256", metavar="HEX", help="What the weights must have; 8 digits at least.")
    ] = "",
    metrics: Annotated[
        str, typer.Option("--metrics", metavar="LIST", help="Some of fid,kid,prdc,is; `is` looks at A alone.")
    ] = "fid",
    biased: Annotated[bool, typer.Option("--biased", help="Covariances divided by N instead of N - 1.")] = False,
    errors: Annotated[
        bool, typer.Option("--errors/--no-errors", help="Say how sure the distance is; costs dozens of distances more.")
    ] = True,
    neighbours: Annotated[int, typer.Option("--neighbours", metavar="N", help="Of prdc.")] = 5,
    count: Annotated[
        int | None, typer.Option("--count", metavar="N", help="So many pictures of each set, drawn at random.")
    ] = None,
    split: Annotated[Literal["train", "validation"], typer.Option("--split", help="Of packed datasets.")] = "train",
    domain: Annotated[
        str, typer.Option("--domain", metavar="NAME", help="Of packed datasets that have two: source or target.")
    ] = "",
    mixed_sizes: Annotated[
        bool, typer.Option("--mixed-sizes", help="Take pictures of different sizes; each is resized by itself.")
    ] = False,
    skip_damaged: Annotated[
        bool, typer.Option("--skip-damaged", help="Go on without pictures that cannot be read; they are listed.")
    ] = False,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="FILE.npz", help="Write the statistics of A, without B.", show_default=False),
    ] = None,
    cache: Annotated[bool, typer.Option("--cache/--no-cache", help="Keep what was computed for the next time.")] = True,
    batch: Annotated[int, typer.Option("--batch", metavar="N", help="Pictures at a time.")] = 32,
    threads: Annotated[
        int,
        typer.Option("--threads", metavar="N", help="That decode.  [default: by the processors]", show_default=False),
    ] = 0,
    device: Annotated[
        str, typer.Option("--device", metavar="NAME", help="cpu or cuda.  [default: a GPU where there is one]")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Frechet inception distance of two sets of pictures, with its standard error.

    A set is a folder with all below it, a .zip or .tar, a packed dataset, or a statistics file (.npz) of this command,
    pytorch-fid, clean-fid or StudioGAN. Values compare only where features, protocol and counts are the same.

    \b
    Example:
      limner fid generated photos
      limner fid generated data/prepared/digits --metrics fid,kid,prdc --json
      limner fid photos --save photos.npz
      limner fid generated photos.npz
    """
    from limner.adapters import connect, user_cache
    from limner.picture_sets import ReadOptions
    from limner.steps.compare import compare
    from limner.steps.compare_sides import CompareOptions

    read = ReadOptions(
        split=split, domain=domain, count=count, skip_damaged=skip_damaged, mixed_sizes=mixed_sizes, batch=batch,
        threads=threads,
    )  # fmt: skip
    options = CompareOptions(
        read=read,
        features=features,
        protocol=protocol,
        weights=weights,
        weights_sha256=weights_sha256,
        metrics=_metrics(metrics),
        biased=biased,
        errors=errors,
        neighbours=neighbours,
        device=device,
        cache=cache,
        save=save,
    )
    # In a project its own cache; elsewhere no folder that nobody asked for.
    ports = connect(track=False) if PARAMS.is_file() else connect(track=False, cache=user_cache())
    with work_progress() as progress:
        found = compare(judged, reference, options=options, ports=ports, progress=progress)
    if as_json:
        print_json(asdict(found) | {"saved": save})
    else:
        _print(found, save, covariance=save is not None or "fid" in options.metrics)


def _metrics(words: str) -> tuple[MetricName, ...]:
    names = [word.strip() for word in words.split(",") if word.strip()]
    for name in names:
        if name not in METRICS:
            raise LimnerError(f"There is no metric {name!r}.", fix=suggest(name, METRICS))
    return cast("tuple[MetricName, ...]", tuple(dict.fromkeys(names)))


def _print(found: Comparison, save: Path | None, *, covariance: bool) -> None:
    for note in found.notes:
        print(f"Note: {note}", file=sys.stderr)
    for side in found.sides:
        _print_damaged(side)
    values = dict(found.metrics)
    for name, value in found.metrics.items():
        if name not in values or name.endswith(("_se", "_sd", "_infinity")):
            continue
        error = next((f" ± {found.metrics[name + end]:.2g}" for end in ("_se", "_sd") if name + end in values), "")
        line = f"{name}  {value:.6g}{error}"
        if f"{name}_infinity" in values and f"{name}_infinity" not in found.doubtful:
            line += f"  ({values[f'{name}_infinity']:.6g} extrapolated to ever more pictures)"
        print(line)
    record = found.protocol
    if record:
        weights = record.get("weights", "unstated")
        weights = weights[:SHOWN_DIGITS] if len(weights) == DIGEST_DIGITS else weights
        print(
            f"features    {record.get('features', 'unstated')}, weights {weights}, {record.get('resize', 'unstated')}"
        )
        if covariance:
            print(f"covariance  {record.get('covariance', 'unstated')}")
    for word, side in zip("AB", found.sides, strict=False):
        print(f"{word}           {_describe(side)}")
    if save:
        print(f"The statistics of A are in {save}")


def _print_damaged(side: Side) -> None:
    from limner.picture_sets import MOST_NAMED

    for entry in side.damaged[:MOST_NAMED]:
        print(f"Left out of {side.path}: {entry['name']} ({entry['reason']})", file=sys.stderr)
    if len(side.damaged) > MOST_NAMED:
        print(f"Left out of {side.path}: {len(side.damaged) - MOST_NAMED} more; --json names all", file=sys.stderr)


def _describe(side: Side) -> str:
    count = "an unstated number of" if side.pictures is None else side.pictures
    sizes = next(iter(side.sizes), "") if len(side.sizes) < 2 else f"{len(side.sizes)} sizes"
    return ", ".join(filter(None, (f"{side.path}: {count} pictures", sizes, side.kind)))
