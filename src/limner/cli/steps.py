"""prepare, train, evaluate, export, promote: one command a step."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from limner.cli import places
from limner.cli.options import (
    PARAMS,
    AsJson,
    DatasetFolder,
    DatasetName,
    EvaluationFolder,
    ExportFolder,
    ModelFolder,
    ModelName,
    Output,
    Overrides,
    ParamsFile,
    Track,
)
from limner.cli.progress import training_progress
from limner.cli.results import show
from limner.errors import LimnerError

app = typer.Typer()


@app.command()
def prepare(
    dataset: DatasetName,
    *,
    md5: Annotated[
        str,
        typer.Option(
            "--md5", metavar="MD5", help="Fetch it by its md5 in dvc.lock, or that in an object s3://bucket/key."
        ),
    ] = "",
    remote: Annotated[
        str, typer.Option("--remote", metavar="S3_URL", help="The DVC remote to fetch from: s3://bucket/prefix.")
    ] = "",
    place: Annotated[
        str,
        typer.Option("--place", metavar="PATH", help="The md5 is that of the pictures which the repository has there."),
    ] = "",
    output: Output = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Turn a source of pictures into a packed dataset.

    Pictures that cannot be used are set aside, and listed with the reason in its rejected.jsonl.

    \b
    Example:
      limner prepare digits
      limner prepare digits --set datasets.digits.image.size=64 --output /data/digits-64
      limner prepare digits --md5 733b6c2a61c1e6e0dd9ef8bb9c9d4e02.dir --remote s3://bucket/dvc
    """
    from limner.steps import open_catalog
    from limner.steps.fetch import fetch
    from limner.steps.prepare import prepare as step

    settings, output = open_catalog(params, overrides or ()).dataset(dataset), output or places.dataset(dataset)
    if bool(md5) != bool(remote) or (place and not md5):
        raise LimnerError(
            "--md5 and --remote belong together, and --place to them.",
            fix="Name the md5 of the data and the DVC remote that has them, or neither.",
        )
    if md5:
        from limner.adapters.dvc_cache import open_remote, resolve_md5

        contents, md5 = open_remote(remote), resolve_md5(md5)
        result = fetch(settings, name=dataset, md5=md5, place=place, contents=contents, output=output)
    else:
        result = step(settings, name=dataset, output=output)
    show(result, as_json=as_json)


@app.command()
def train(
    model: ModelName,
    *,
    dataset: DatasetFolder = None,
    output: Output = None,
    scratch: Annotated[
        Path | None, typer.Option("--scratch", metavar="DIR", help="Checkpoints and journal.  [default: runs/MODEL]")
    ] = None,
    checkpoints: Annotated[
        str,
        typer.Option(
            "--checkpoints", metavar="S3_URL", help="Copy them to s3://bucket/prefix as well, and go on from there."
        ),
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Take a few steps, save and load, tell what it would take; keep nothing.")
    ] = False,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
    track: Track = True,
    as_json: AsJson = False,
) -> None:
    """Train a model. After an interruption the same command goes on where it stopped.

    \b
    Example:
      limner train digits-gan
      limner train digits-gan --set models.digits-gan.train.kimg=50 --set models.digits-gan.train.seed=1
      limner train digits-gan --dry-run
    """
    from limner.adapters import connect
    from limner.steps import open_catalog
    from limner.steps.train import train as step

    settings = open_catalog(params, overrides or ()).model(model)
    # torchrun's other processes help, and have nothing to tell.
    tells = os.environ.get("RANK", "0") == "0"
    if dry_run:
        from limner.steps.rehearse import rehearse

        if tells:
            place = dataset or places.dataset(settings.dataset)
            show(rehearse(settings, dataset=place, ports=connect(track=False)), as_json=as_json)
        return
    with training_progress(model) as screen:
        result = step(
            settings,
            name=model,
            dataset=dataset or places.dataset(settings.dataset),
            output=output or places.model(model),
            scratch=scratch or places.scratch(model),
            ports=connect(track=track, progress=screen.progress, notice=screen.notice, checkpoints=checkpoints),
        )
    if tells:
        show(result, as_json=as_json)


@app.command()
def evaluate(
    name: ModelName,
    *,
    dataset: DatasetFolder = None,
    model: ModelFolder = None,
    output: Output = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
    track: Track = True,
    as_json: AsJson = False,
) -> None:
    """Judge a trained model, and write its report.

    \b
    Example:
      limner evaluate digits-gan
      limner evaluate digits-gan --set models.digits-gan.evaluate.samples=5000 --json
    """
    from limner.adapters import connect
    from limner.steps import open_catalog
    from limner.steps.evaluate import evaluate as step

    settings = open_catalog(params, overrides or ()).model(name)
    result = step(
        settings,
        name=name,
        dataset=dataset or places.dataset(settings.dataset),
        model=model or places.model(name),
        output=output or places.evaluation(name),
        ports=connect(track=track),
    )
    show(result, as_json=as_json)


@app.command()
def export(
    name: ModelName,
    *,
    model: ModelFolder = None,
    evaluation: EvaluationFolder = None,
    output: Output = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
    track: Track = True,
    as_json: AsJson = False,
) -> None:
    """Write a trained model for other programs.

    As safetensors, as a torch.export program (.pt2) and as ONNX, each checked to compute the same; with a model card.

    \b
    Example:
      limner export digits-gan
      limner export digits-gan --set 'models.digits-gan.export.formats=[onnx]' --output /data/digits-onnx
    """
    from limner.adapters import connect
    from limner.steps import open_catalog
    from limner.steps.export import export as step

    settings = open_catalog(params, overrides or ()).model(name)
    result = step(
        settings,
        name=name,
        model=model or places.model(name),
        evaluation=evaluation or places.evaluation(name),
        output=output or places.export(name),
        ports=connect(track=track),
    )
    show(result, as_json=as_json)


@app.command()
def promote(
    name: ModelName,
    *,
    evaluation: EvaluationFolder = None,
    export: ExportFolder = None,
    output: Output = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
    track: Track = True,
    as_json: AsJson = False,
) -> None:
    """Register a model; promote it if it is better.

    It becomes the champion if it keeps the limits of the policy and beats the present champion.

    \b
    Example:
      limner promote digits-gan
      limner promote digits-gan --set models.digits-gan.promote.min_improvement=0.5
    """
    from limner.adapters import connect
    from limner.steps import open_catalog
    from limner.steps.promote import promote as step

    settings = open_catalog(params, overrides or ()).model(name)
    result = step(
        settings,
        name=name,
        evaluation=evaluation or places.evaluation(name),
        export=export or places.export(name),
        output=output or places.promotion(name),
        ports=connect(track=track),
    )
    show(result, as_json=as_json)
