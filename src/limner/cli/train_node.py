"""train-node: what every process of a TrainJob runs. Its words come from the step `train_on_nodes`, not from people."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from limner.cli.options import ModelName
from limner.cli.progress import training_progress
from limner.cli.results import show
from limner.errors import LimnerError

app = typer.Typer()


@app.command("train-node", hidden=True)
def train_node(
    model: ModelName,
    *,
    place: Annotated[str, typer.Option("--place", metavar="S3_URL", help="Where data and results are.")],
    key: Annotated[str, typer.Option("--key", metavar="KEY", help="Names this training there.")],
    dataset: Annotated[str, typer.Option("--dataset", metavar="DIGEST", help="The packed dataset there.")],
    work: Annotated[Path | None, typer.Option("--work", metavar="DIR", help="Scratch of this node.")] = None,
) -> None:
    """Train as one process of many nodes, as torchrun starts it. LIMNER_SETTINGS has the settings as JSON.

    \b
    Example:
      torchrun -m limner train-node digits-gan --place s3://bucket/runs --key 0123456789ab --dataset <digest>
    """
    from limner.train_job import SETTINGS

    text = os.environ.get(SETTINGS)
    if not text:
        raise LimnerError(
            f"{SETTINGS} is not set.",
            why="A node gets its settings from there, as one JSON string.",
            fix="Submit the training with the component train_on_nodes, or on one machine: limner train MODEL",
        )
    from limner.adapters import connect
    from limner.steps import catalog_from_json
    from limner.steps.train_on_nodes import train_here

    first = os.environ.get("RANK", "0") == "0"
    with training_progress(model) as screen:
        result = train_here(
            catalog_from_json(text).model(model),
            name=model,
            key=key,
            dataset=dataset,
            work=work or Path(tempfile.gettempdir(), "limner-node"),
            first=first,
            ports=connect(progress=screen.progress, notice=screen.notice, checkpoints=place),
        )
    if first:
        show(result, as_json=False)
