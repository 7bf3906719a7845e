"""`python -m pipelines`: compile the pipelines, check them, run them here or on a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from limner.cli.app import run
from limner.cli.options import PARAMS, Overrides, ParamsFile
from limner.errors import LimnerError, suggest
from pipelines import PIPELINES

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Compile the Kubeflow pipelines, check them, run them on this machine or on a cluster.",
)

Pipeline = Annotated[str, typer.Option("--pipeline", metavar="NAME", help=f"Which one: {', '.join(PIPELINES)}.")]
Image = Annotated[
    str,
    typer.Option(
        "--image",
        envvar="LIMNER_IMAGE",
        metavar="REF",
        help="Of all steps, by digest: REPOSITORY@sha256:...",
        show_default=False,
    ),
]
Mutable = Annotated[
    bool, typer.Option("--allow-mutable-image", help="Take an image by its tag; nothing is cached then.")
]
Model = Annotated[str, typer.Argument(metavar="MODEL", help="An entry of `models`.", show_default=False)]
Arguments = Annotated[
    list[str] | None,
    typer.Option("--with", metavar="NAME=VALUE", help="A parameter of the pipeline; again for each."),
]
PlacementWords = Annotated[
    list[str] | None,
    typer.Option(
        "--placement",
        metavar="NAME=VALUE",
        help="What a run cannot change, such as train_hours, shared_memory, storage_class; again for each.",
    ),
]
TrialsFile = Annotated[
    Path | None, typer.Option("--trials", metavar="FILE", help="Trials of a sweep.", show_default=False)
]
Host = Annotated[
    str,
    typer.Option("--host", envvar="KFP_HOST", metavar="URL", help="Of the Kubeflow Pipelines API.", show_default=False),
]
Namespace = Annotated[str, typer.Option("--namespace", metavar="NAME", help="Of a cluster that many share.")]
Experiment = Annotated[str, typer.Option("--experiment", metavar="NAME", help="Group of runs in Kubeflow.")]


@app.command("compile")
def compile_pipelines(
    pipeline: Annotated[str, typer.Option("--pipeline", metavar="NAME", help="One of them.  [default: all]")] = "",
    *,
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="For NAME.yaml of each.")] = Path("compiled"),
    image: Image = "",
    allow_mutable_image: Mutable = False,
    placement: PlacementWords = None,
) -> None:
    """Write the pipelines as the YAML that Kubeflow takes, and lint them.

    \b
    Example:
      python -m pipelines compile --image registry.example.org/limner-python@sha256:... --out compiled
    """
    from pipelines.cluster import compile_text, refuse_mutable, refuse_traps
    from pipelines.placement import read_placement

    refuse_mutable(image, allowed=allow_mutable_image)
    placed = read_placement(image, placement or ())
    out.mkdir(parents=True, exist_ok=True)
    for name in _chosen(pipeline):
        text = compile_text(name, placed)
        refuse_traps(text, name, allow_mutable=allow_mutable_image)
        (out / f"{name}.yaml").write_text(text, encoding="utf-8")
        print(out / f"{name}.yaml")


@app.command()
def lint(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Compiled pipelines.", show_default=False)],
    *,
    allow_mutable_image: Mutable = False,
) -> None:
    """Look for what a cluster would do other than it seems, in any compiled pipeline; exit status 2 if there is.

    \b
    Example:
      python -m pipelines lint compiled/*.yaml
    """
    from pipelines.cluster import refuse_traps

    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except OSError as error:
            raise LimnerError(f"{file} cannot be read.", why=str(error.strerror)) from error
        refuse_traps(text, str(file), allow_mutable=allow_mutable_image)
        print(f"{file}: nothing found")


@app.command()
def run_local(
    model: Model,
    *,
    pipeline: Pipeline = "train_and_promote",
    arguments: Arguments = None,
    trials: TrialsFile = None,
    root: Annotated[Path, typer.Option("--root", metavar="DIR", help="Where the results go.")] = Path("local_outputs"),
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Run a pipeline with Kubeflow's local runner: the same components, no cluster, no container.

    \b
    Example:
      python -m pipelines run-local digits-gan --set models.digits-gan.train.kimg=5
      python -m pipelines run-local digits-gan --pipeline sweep --trials sweep.yaml
      python -m pipelines run-local models:/monet@champion --pipeline stylize_batch \
        --with source=s3://bucket/photos --with destination=s3://bucket/paintings
    """
    from pipelines.arguments import run_arguments
    from pipelines.local import run_here, verdict_of

    values = run_arguments(
        pipeline, model, params=params, overrides=overrides or (), trials=trials, words=arguments or ()
    )
    folder = run_here(pipeline, values, root=root)
    verdict = verdict_of(folder)
    print(f"{model}: {verdict or 'done'}. All results are in {folder}.")


@app.command()
def submit(
    model: Model,
    *,
    host: Host = "",
    image: Image = "",
    allow_mutable_image: Mutable = False,
    pipeline: Pipeline = "train_and_promote",
    arguments: Arguments = None,
    trials: TrialsFile = None,
    namespace: Namespace = "",
    experiment: Experiment = "limner",
    placement: PlacementWords = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Start a pipeline on a cluster; prints the id of the run.

    The dataset's md5 and remote come from dvc.lock and .dvc/config where the dataset was prepared from files of this
    machine, which the cluster does not have.

    \b
    Example:
      python -m pipelines submit digits-gan --host https://kubeflow.example.org \
        --image registry.example.org/limner-python@sha256:... --with gpus=1
    """
    from pipelines.arguments import run_arguments
    from pipelines.cluster import connect, refuse_mutable, start
    from pipelines.placement import read_placement

    refuse_mutable(image, allowed=allow_mutable_image)
    values = run_arguments(
        pipeline, model, params=params, overrides=overrides or (), trials=trials, words=arguments or (), on_cluster=True
    )
    placed = read_placement(image, placement or ())
    client = connect(host, namespace)
    print(start(client, pipeline, values, placement=placed, experiment=experiment, name=model))


@app.command()
def schedule(
    model: Model,
    *,
    cron: Annotated[
        str, typer.Option("--cron", metavar="CRON", help="Six fields, the first are seconds: '0 0 3 * * *'.")
    ],
    host: Host = "",
    image: Image = "",
    allow_mutable_image: Mutable = False,
    pipeline: Pipeline = "retrain",
    arguments: Arguments = None,
    namespace: Namespace = "",
    experiment: Experiment = "limner",
    placement: PlacementWords = None,
    params: ParamsFile = PARAMS,
    overrides: Overrides = None,
) -> None:
    """Start a pipeline again and again, never two of them at one time; prints the id of the schedule.

    \b
    Example:
      python -m pipelines schedule digits-gan --cron '0 0 3 * * *' \
        --with dataset_md5=s3://bucket/digits.md5 --with remote=s3://bucket/dvc
    """
    from pipelines.arguments import refuse_fixed_data, run_arguments
    from pipelines.cluster import connect, refuse_mutable, repeat
    from pipelines.placement import read_placement

    refuse_mutable(image, allowed=allow_mutable_image)
    values = run_arguments(
        pipeline, model, params=params, overrides=overrides or (), trials=None, words=arguments or (), on_cluster=True
    )
    refuse_fixed_data(pipeline, values)
    placed = read_placement(image, placement or ())
    client = connect(host, namespace)
    print(repeat(client, pipeline, values, placement=placed, experiment=experiment, name=model, cron=cron))


@app.command()
def status(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="Id of a run, as `submit` prints it.", show_default=False)
    ],
    *,
    host: Host = "",
    namespace: Namespace = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Tell how a run goes, task by task. Exit status 1 where it has failed.

    \b
    Example:
      python -m pipelines status 3f0c... --host https://kubeflow.example.org
    """
    from pipelines.cluster import connect, describe

    found = describe(connect(host, namespace), run_id)
    if as_json:
        print(json.dumps(found, indent=2))
    else:
        print(f"{found['name']}: {found['state']}")
        for task in found["tasks"]:
            print(f"  {task['state']:10} {task['name']}{': ' + task['error'] if task['error'] else ''}")
    raise typer.Exit(1 if found["state"] in ("FAILED", "CANCELED") else 0)


@app.command()
def publish(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="An entry of `datasets`.", show_default=False)],
    pointer: Annotated[str, typer.Argument(metavar="S3_URL", help="Where scheduled runs look.", show_default=False)],
) -> None:
    """Tell scheduled runs which data are the newest: write the dataset's md5, from dvc.lock, to an object.

    \b
    Example:
      dvc push && python -m pipelines publish digits s3://bucket/limner/digits.md5
    """
    from limner.adapters.dvc_cache import publish as write
    from pipelines.arguments import locked_md5

    md5 = locked_md5(dataset)
    write(md5, pointer)
    print(f"{pointer} -> {md5}")


@app.command()
def queue(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Trials of a sweep.", show_default=False)],
) -> None:
    """Queue the trials of a sweep as experiments of DVC on this machine: `dvc queue start` runs them.

    \b
    Example:
      python -m pipelines queue sweep.yaml && dvc queue start && dvc exp show
    """
    from pipelines.trials import queue as put
    from pipelines.trials import read_trials

    put(read_trials(file))


def _chosen(name: str) -> tuple[str, ...]:
    if name and name not in PIPELINES:
        raise LimnerError(f"There is no pipeline {name!r}.", fix=suggest(name, PIPELINES))
    return (name,) if name else PIPELINES


if __name__ == "__main__":
    run(app, "python -m pipelines")
