"""The values of a pipeline's parameters, from the command line's words, the catalog and DVC."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from limner.errors import LimnerError, suggest
from limner.params import read_yaml
from limner.steps import catalog_from_json, open_catalog
from limner.steps.doctor import sharing
from pipelines import PIPELINES, load
from pipelines.placement import Placement
from pipelines.trials import read_trials, settings_of

if TYPE_CHECKING:
    from limner.params import Catalog

NEEDS_TRIALS, NEEDS_NO_SETTINGS, FOLLOWS_A_POINTER = "sweep", "stylize_batch", "retrain"
CONTENTS = "files/md5/{}/{}"
"""Where a DVC remote keeps what a md5 names."""
POINTER = "s3://"
MOST_BYTES = 100_000
"""Of all trials together: Kubeflow hands them on as one word of a command, and Linux takes 128 KiB for one."""
BYTES_BESIDE = 1000
"""For each trial: where its model and its evaluation are."""


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
    parameters that the pipeline does not have, and for what would fail when its pods have come up at last.
    """
    if pipeline not in PIPELINES:
        raise LimnerError(f"There is no pipeline {pipeline!r}.", fix=suggest(pipeline, PIPELINES))
    inputs = load(pipeline, Placement()).component_spec.inputs
    given = dict(_value(word, inputs, pipeline) for word in words)
    values: dict[str, Any] = {"model": model}
    if pipeline != NEEDS_NO_SETTINGS:
        overrides = tuple(overrides)
        catalog = open_catalog(params, overrides)
        values["settings"] = catalog.to_json(model)
        if pipeline == NEEDS_TRIALS:
            values["trials"] = _trials(trials, model, params, overrides)
        if on_cluster and not given.get("dataset_md5"):
            values |= _data_of(catalog, model, remote=str(given.get("remote", "")))
        values |= given
        _refuse_indivisible(values, {name: one.default for name, one in inputs.items()})
        if pipeline != FOLLOWS_A_POINTER and str(values.get("dataset_md5", "")).startswith(POINTER):
            raise LimnerError(
                f"{pipeline} takes the md5 itself, and not a pointer to it.",
                why="Kubeflow's cache would know the pointer only, and give old data for a new md5.",
                fix="Give the md5, or take --pipeline retrain.",
            )
        if values.get("dataset_md5") and not values.get("remote"):
            raise LimnerError(
                "dataset_md5 is given, and no remote that has it.", fix="--with remote=s3://BUCKET/PREFIX"
            )
    values |= given
    missing = [name for name, one in inputs.items() if not one.optional and name not in values]
    if missing:
        raise LimnerError(
            f"The pipeline {pipeline} needs {', '.join(missing)}.", fix=f"--with {missing[0]}=... for each of them."
        )
    return values


def refuse_fixed_data(pipeline: str, values: Mapping[str, Any]) -> None:
    """Raise LimnerError for a schedule that would look at the same data each time."""
    if pipeline != NEEDS_NO_SETTINGS and not str(values.get("dataset_md5", "")).startswith(POINTER):
        raise LimnerError(
            "This schedule would see the same data each time: dataset_md5 is no pointer.",
            fix="python -m pipelines publish DATASET s3://BUCKET/KEY, then schedule --pipeline retrain "
            "--with dataset_md5=s3://BUCKET/KEY",
        )


def _trials(file: Path | None, model: str, params: Path, overrides: tuple[str, ...]) -> list[str]:
    if file is None:
        raise LimnerError("A sweep needs its trials.", fix="--trials FILE; docs/cluster.md shows one.")
    found = read_trials(file)
    if found.model != model:
        raise LimnerError(f"The trials in {file} are of {found.model}, not of {model}.")
    settings = settings_of(found, params, overrides)
    _refuse_too_long(settings, file)
    return settings


def _refuse_too_long(trials: Sequence[str], file: Path) -> None:
    size = len(json.dumps(trials).encode()) + BYTES_BESIDE * len(trials)
    if size > MOST_BYTES:
        raise LimnerError(
            f"The {len(trials)} trials in {file} take {size} bytes, and {MOST_BYTES} are the most.",
            why="Kubeflow hands them on as one word of a command.",
            fix="Divide them into several files, and start a sweep with each.",
        )


def _refuse_indivisible(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    asked = {**defaults, **values}
    processes = max(1, int(asked["gpus"])) * int(asked.get("nodes") or 1)
    for text in values.get("trials", [values["settings"]]):
        train = catalog_from_json(text).model(values["model"]).train
        if processes > 1 and (found := sharing(train.batch, train.micro_batch, processes=processes)):
            raise LimnerError(found.what, fix=found.fix)


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


def _data_of(catalog: Catalog, model: str, *, remote: str) -> dict[str, str]:
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
    remote = remote or _default_remote()
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
