"""`python -m pipelines`: compile a pipeline for a cluster, or run it on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limner.cli.app import run
from limner.cli.options import PARAMS, ModelName, Overrides, ParamsFile

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Compile the Kubeflow pipeline, or run it on this machine.",
)


@app.command("compile")
def compile_pipeline(
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The compiled pipeline.")] = Path(
        "pipelines/train_and_promote.yaml"
    ),
) -> None:
    """Write the pipeline as the YAML that Kubeflow takes. The environment variable LIMNER_IMAGE names the image.

    \b
    Example:
      LIMNER_IMAGE=registry.example.org/limner-python@sha256:... python -m pipelines compile --out pipeline.yaml
    """
    from kfp.compiler import Compiler

    from pipelines.train_and_promote import train_and_promote

    Compiler().compile(train_and_promote, str(out))
    print(f"{out} can be uploaded to Kubeflow. Its parameter `settings`: limner config show MODEL --json")


@app.command()
def run_local(
    model: ModelName,
    *,
    root: Annotated[Path, typer.Option("--root", metavar="DIR", help="Where the results go.")] = Path("local_outputs"),
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Run the pipeline for a model with Kubeflow's local runner: the same components, no cluster, no container.

    \b
    Example:
      python -m pipelines run-local digits-gan --set models.digits-gan.train.kimg=5
    """
    from limner.steps import open_catalog
    from pipelines.local import run_here

    verdict = run_here(model, settings=open_catalog(params, overrides or ()).to_json(model), root=root)
    print(f"{model}: {verdict}. All results are in {root}.")


if __name__ == "__main__":
    run(app, "python -m pipelines")
