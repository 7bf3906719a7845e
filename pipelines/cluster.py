"""Pipelines on a cluster: compiled for it, given their arguments, started, repeated, looked at."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp.compiler import Compiler
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from limner.errors import LimnerError, suggest
from limner.params import read_yaml
from limner.steps import open_catalog
from pipelines import PIPELINES, load
from pipelines.placement import Placement

if TYPE_CHECKING:
    from kfp import Client

    from limner.params import Catalog
    from limner.settings import TrainSettings

NEEDS_TRIALS, NEEDS_NO_SETTINGS = "sweep", "stylize_batch"
CONTENTS = "files/md5/{}/{}"
"""Where a DVC remote keeps what a md5 names."""


def compile_text(name: str, placement: Placement) -> str:
    """A pipeline as the YAML that Kubeflow takes."""
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        path = Path(folder, "pipeline.yaml")
        Compiler().compile(load(name, placement), str(path))
        return path.read_text(encoding="utf-8")


def refuse_mutable(image: str, *, allowed: bool) -> None:
    """Raise LimnerError for an image that could be another one tomorrow."""
    if not image:
        raise LimnerError(
            "No image is named.",
            fix="--image REPOSITORY@sha256:..., or LIMNER_IMAGE in the environment. See docs/cluster.md.",
        )
    if "@sha256:" not in image and not allowed:
        raise LimnerError(
            f"The image {image} is named by a tag.",
            why="It could be another one tomorrow, and Kubeflow's cache would take old results for its.",
            fix="Name it by its digest, REPOSITORY@sha256:..., which `docker push` prints; or --allow-mutable-image, "
            "and nothing is cached.",
        )


# -- arguments --------------------------------------------------------------------------------------------------------


def run_arguments(
    pipeline: str,
    model: str,
    *,
    params: Path,
    overrides: Iterable[str],
    trials: Path | None,
    words: Iterable[str],
    on_cluster: bool = False,
) -> dict[str, Any]:
    """The values of a pipeline's parameters for a model; `words` are NAME=VALUE.

    On a cluster a dataset that was prepared from files of this machine is named by its md5. Raises LimnerError for
    parameters that the pipeline does not have, and where the cluster could not get the data.
    """
    if pipeline not in PIPELINES:
        raise LimnerError(f"There is no pipeline {pipeline!r}.", fix=suggest(pipeline, PIPELINES))
    inputs = load(pipeline, Placement()).component_spec.inputs
    values: dict[str, Any] = {"model": model}
    given = dict(_value(word, inputs, pipeline) for word in words)
    if pipeline != NEEDS_NO_SETTINGS:
        overrides = tuple(overrides)
        catalog = open_catalog(params, overrides)
        values["settings"] = catalog.to_json(model)
        if on_cluster and not given.get("dataset_md5"):
            values |= _data_of(catalog, model)
    if pipeline == NEEDS_TRIALS:
        from pipelines.trials import read_trials, settings_of

        if trials is None:
            raise LimnerError("A sweep needs its trials.", fix="--trials FILE; docs/cluster.md shows one.")
        found = read_trials(trials)
        if found.model != model:
            raise LimnerError(f"The trials in {trials} are of {found.model}, not of {model}.")
        values["trials"] = settings_of(found, params, overrides)
    values |= given
    if pipeline != NEEDS_NO_SETTINGS:
        _refuse_indivisible(catalog.model(model).train, int(values.get("gpus", inputs["gpus"].default)))
    missing = [name for name, one in inputs.items() if not one.optional and name not in values]
    if missing:
        raise LimnerError(
            f"The pipeline {pipeline} needs {', '.join(missing)}.", fix=f"--with {missing[0]}=... for each of them."
        )
    return values


def _refuse_indivisible(train: TrainSettings, gpus: int) -> None:
    """What the training would refuse when its pod has come up at last."""
    parts = train.batch // (train.micro_batch or train.batch)
    if gpus > 1 and parts % gpus:
        raise LimnerError(
            f"A batch of {train.batch} in {parts} micro-batches cannot be shared out among {gpus} GPUs.",
            fix=f"--set models.MODEL.train.micro_batch={max(1, train.batch // gpus)}, or another number of GPUs.",
        )


def _value(word: str, inputs: Mapping[str, Any], pipeline: str) -> tuple[str, Any]:
    name, equals, text = word.partition("=")
    if not equals:
        raise LimnerError(f"--with {word!r} is not of the form NAME=VALUE.", fix="For instance --with gpus=2")
    if name not in inputs:
        raise LimnerError(f"The pipeline {pipeline} has no parameter {name!r}.", fix=suggest(name, inputs))
    if inputs[name].type == "String":
        return name, text
    try:
        value = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise LimnerError(f"--with {word!r}: the value is not valid YAML or JSON.", why=str(error)) from error
    kinds = {"Integer": int, "Float": (int, float), "Bool": bool, "List": list, "Dict": dict}
    wanted = inputs[name].type.partition("[")[0]
    if not isinstance(value, kinds.get(wanted, object)):  # type: ignore[arg-type]
        raise LimnerError(f"--with {word!r}: {name} has to be of the kind {wanted}.")
    return name, value


def _data_of(catalog: Catalog, model: str) -> dict[str, str]:
    """Md5 and remote of the packed dataset, where a pod could not prepare it itself."""
    from limner.adapters.object_store import S3Store
    from limner.lineage import directory_md5
    from limner.sources.domains import places

    dataset = catalog.model(model).dataset
    if not list(places(catalog.dataset(dataset).source)):
        return {}  # the pictures are in the image
    md5, packed = locked_md5(dataset), Path("data/prepared", dataset)
    if packed.is_dir() and directory_md5(packed) != md5:
        raise LimnerError(
            f"{packed} is not what dvc.lock says.",
            why="The cluster would train on other data than lie here.",
            fix=f"dvc repro prepare@{dataset} && dvc push, then submit again.",
        )
    remote = _default_remote()
    if not S3Store(remote).sizes(CONTENTS.format(md5[:2], md5[2:])):
        raise LimnerError(f"{remote} does not have the dataset {dataset}, {md5}.", fix="dvc push, then submit again.")
    return {"dataset_md5": md5, "remote": remote}


def locked_md5(dataset: str) -> str:
    """DVC's name of a packed dataset, from dvc.lock. Raises LimnerError where it was not prepared by `dvc repro`."""
    lock = Path("dvc.lock")
    stages = read_yaml(lock).get("stages", {}) if lock.is_file() else {}
    try:
        return str(stages[f"prepare@{dataset}"]["outs"][0]["md5"])
    except (KeyError, IndexError, TypeError):
        raise LimnerError(
            f"dvc.lock does not know the dataset {dataset}.", fix=f"dvc repro prepare@{dataset} && dvc push"
        ) from None


def _default_remote() -> str:
    name = _dvc_config("core.remote")
    url = _dvc_config(f"remote.{name}.url") if name else ""
    if not url.startswith("s3://"):
        raise LimnerError(
            f"DVC's default remote is {url or 'not set'}, which a cluster cannot reach.",
            fix="dvc remote add --default storage s3://BUCKET/PREFIX && dvc push; or --with remote=s3://...",
        )
    return url


def _dvc_config(key: str) -> str:
    answer = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-m", "dvc", "config", key], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() if answer.returncode == 0 else ""


# -- the cluster ------------------------------------------------------------------------------------------------------


def connect(host: str, namespace: str) -> Client:
    """The API of Kubeflow Pipelines. Raises LimnerError where it does not answer."""
    import kfp

    if not host:
        raise LimnerError("No cluster is named.", fix="--host URL, or KFP_HOST in the environment.")
    try:
        client = kfp.Client(host=host, namespace=namespace or "kubeflow")
        client.get_kfp_healthz()
        if namespace:
            client.set_user_namespace(namespace)
    except Exception as error:  # kfp lets through whatever its HTTP library raises
        raise LimnerError(
            f"Kubeflow at {host} does not answer.",
            why=_first_line(error),
            fix="Look at the address and whether you are logged in; `limner doctor --kubeflow URL` looks closer.",
        ) from error
    return client


def start(client: Client, pipeline: str, values: Mapping[str, Any], *, image: str, experiment: str, name: str) -> str:
    """Start a pipeline now; returns the id of the run."""
    with _compiled(pipeline, image) as package, _kubeflow_errors("did not take the pipeline"):
        found = client.create_run_from_pipeline_package(
            str(package), dict(values), run_name=f"{pipeline} {name}", experiment_name=experiment
        )
    return str(found.run_id)


def repeat(
    client: Client, pipeline: str, values: Mapping[str, Any], *, image: str, experiment: str, name: str, cron: str
) -> str:
    """Start a pipeline whenever `cron` says, but never beside itself; returns the id of the schedule."""
    if len(cron.split()) != 6:
        raise LimnerError(
            f"{cron!r} has {len(cron.split())} fields.",
            why="Kubeflow's cron has six, the first of which are seconds.",
            fix="Every night at three: '0 0 3 * * *'",
        )
    with _compiled(pipeline, image) as package, _kubeflow_errors("did not take the schedule"):
        group = client.create_experiment(experiment)
        found = client.create_recurring_run(
            group.experiment_id,
            f"{pipeline} {name}",
            cron_expression=cron,
            max_concurrency=1,
            no_catchup=True,
            params=dict(values),
            pipeline_package_path=str(package),
        )
    return str(found.recurring_run_id)


def describe(client: Client, run_id: str) -> dict[str, Any]:
    """How a run goes: its name, its state, and those of its tasks in the order they began."""
    with _kubeflow_errors(f"does not tell of the run {run_id}"):
        found = client.get_run(run_id)
    tasks = (found.run_details.task_details if found.run_details else None) or []
    ordered = sorted(tasks, key=lambda task: str(task.create_time or ""))
    return {
        "name": found.display_name,
        "state": found.state or "PENDING",
        "error": found.error.message if found.error else "",
        "tasks": [
            {
                "name": task.display_name,
                "state": task.state or "PENDING",
                "error": (task.error.message or "") if task.error else "",
            }
            for task in ordered
        ],
    }


@contextmanager
def _compiled(pipeline: str, image: str) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        path = Path(folder, f"{pipeline}.yaml")
        path.write_text(compile_text(pipeline, Placement(image)), encoding="utf-8")
        yield path


@contextmanager
def _kubeflow_errors(what: str) -> Iterator[None]:
    try:
        yield
    except LimnerError:
        raise
    except Exception as error:  # kfp lets through whatever its HTTP library raises
        raise LimnerError(f"Kubeflow {what}.", why=_first_line(error)) from error


def _first_line(error: BaseException) -> str:
    body = getattr(error, "body", None)  # of an answer of the API
    text = str(body or error).strip() or type(error).__name__
    return " ".join(text.split())[:300]
