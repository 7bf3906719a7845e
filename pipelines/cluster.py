"""Pipelines on a cluster: compiled for it, started, repeated, looked at."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kfp.compiler import Compiler

from limner.errors import LimnerError
from pipelines import load
from pipelines.lint import lint
from pipelines.placement import Placement, is_digest

if TYPE_CHECKING:
    from kfp import Client


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
    if not is_digest(image) and not allowed:
        raise LimnerError(
            f"The image {image} is named by a tag.",
            why="It could be another one tomorrow, and Kubeflow's cache would take old results for its.",
            fix="Name it by its digest, REPOSITORY@sha256:..., which `docker push` prints; or --allow-mutable-image, "
            "and nothing is cached.",
        )


def refuse_traps(text: str, origin: str, *, allow_mutable: bool) -> None:
    """Raise LimnerError for a compiled pipeline in which a cluster would do other than it seems."""
    problems = lint(text, origin=origin, allow_mutable=allow_mutable)
    if problems:
        listed = "\n".join(f"  {one.where}: {one.problem} [{one.rule}]\n    {one.fix}" for one in problems)
        raise LimnerError(f"{origin} has {len(problems)} traps:\n{listed}")


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


def start(
    client: Client, pipeline: str, values: Mapping[str, Any], *, placement: Placement, experiment: str, name: str
) -> str:
    """Start a pipeline now; returns the id of the run."""
    with _compiled(pipeline, placement) as package, _kubeflow_errors("did not take the pipeline"):
        found = client.create_run_from_pipeline_package(
            str(package), dict(values), run_name=f"{pipeline} {name}", experiment_name=experiment
        )
    return str(found.run_id)


def repeat(
    client: Client,
    pipeline: str,
    values: Mapping[str, Any],
    *,
    placement: Placement,
    experiment: str,
    name: str,
    cron: str,
) -> str:
    """Start a pipeline whenever `cron` says, but never beside itself; returns the id of the schedule."""
    if len(cron.split()) != 6:
        raise LimnerError(
            f"{cron!r} has {len(cron.split())} fields.",
            why="Kubeflow's cron has six, the first of which are seconds.",
            fix="Every night at three: '0 0 3 * * *'",
        )
    with _compiled(pipeline, placement) as package, _kubeflow_errors("did not take the schedule"):
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
def _compiled(pipeline: str, placement: Placement) -> Iterator[Path]:
    text = compile_text(pipeline, placement)
    refuse_traps(text, pipeline, allow_mutable=not placement.cached)
    with tempfile.TemporaryDirectory(prefix="limner-") as folder:
        path = Path(folder, f"{pipeline}.yaml")
        path.write_text(text, encoding="utf-8")
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
