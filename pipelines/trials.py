"""The trials of a sweep: one list for Kubeflow, where a pipeline takes them, and for DVC, where each is an experiment.

```yaml
model: digits-gan
trials: # each a map of what it changes in the model's entry of params.yaml
- {name: gentle, method.loss: hinge, train.seed: 1}
- {method.penalties: {r1: 1.0}}
```
or, in place of `trials`, all combinations of
```yaml
grid:
  train.seed: [1, 2, 3]
  method.loss: [hinge, rpgan]
```
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limner.errors import LimnerError, suggest
from limner.params import read_yaml
from limner.steps import catalog_from_json, open_catalog

LIMIT = 500
"""Trials in one list: as many as an Argo workflow still holds with ease."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_KEY = re.compile(r"[A-Za-z_][\w-]*(\.[A-Za-z_][\w-]*)*")


@dataclass(frozen=True)
class Trial:
    """One setting of a model: a name that DNS, Git and DVC take, and dotted keys of its entry with their values."""

    name: str
    changes: Mapping[str, Any]


@dataclass(frozen=True)
class Trials:
    """The settings of a model that are tried."""

    model: str
    trials: tuple[Trial, ...]


def read_trials(path: Path) -> Trials:
    """The trials in a YAML file. Raises LimnerError where it is not as described above."""
    document = read_yaml(path)
    if not isinstance(document, Mapping):
        raise LimnerError(f"{path} is not a map of keys and values.", fix="Write `model:`, and `trials:` or `grid:`.")
    for key in document:
        if key not in ("model", "trials", "grid"):
            raise LimnerError(f"{path}: there is no key {key!r}.", fix=suggest(str(key), ("model", "trials", "grid")))
    if not isinstance(document.get("model"), str):
        raise LimnerError(f"{path} does not say which model is tried.", fix="Write `model: NAME`, as in params.yaml.")
    if ("trials" in document) == ("grid" in document):
        raise LimnerError(f"{path} needs either `trials` or `grid`.")
    listed = _listed(document["trials"], path) if "trials" in document else _combined(document["grid"], path)
    return Trials(document["model"], _named(listed, path))


def settings_of(trials: Trials, params: Path = Path("params.yaml"), overrides: Iterable[str] = ()) -> list[str]:
    """The settings of each trial as the JSON that the pipelines take: the catalog, `a.b=value` overrides, its changes.

    Raises LimnerError with the trial's name where they are not right.
    """
    common, settings = tuple(overrides), []
    open_catalog(params, common).model(trials.model)  # else a trial's changes would begin a new entry
    for trial in trials.trials:
        changes = (f"models.{trials.model}.{key}={_json(value)}" for key, value in trial.changes.items())
        try:
            settings.append(open_catalog(params, (*common, *changes)).to_json(trials.model))
        except LimnerError as error:
            raise LimnerError(f"Trial {trial.name}: {error.problem}", why=error.why, fix=error.fix) from error
    _refuse_one_training(trials, settings)
    return settings


def _refuse_one_training(trials: Trials, settings: list[str]) -> None:
    """Trials that differ only in what comes after the training, or not at all, would share its checkpoints."""
    from limner.steps.train import same_run

    seen: dict[str, str] = {}
    for trial, text in zip(trials.trials, settings, strict=True):
        first = seen.setdefault(same_run(catalog_from_json(text).model(trials.model)), trial.name)
        if first != trial.name:
            raise LimnerError(
                f"The trials {first} and {trial.name} are one and the same training.",
                why="What they change does not change what is learnt.",
                fix="Leave one of them out.",
            )


def dvc_commands(trials: Trials) -> list[list[str]]:
    """For each trial the command that queues it as an experiment, which trains and evaluates, and promotes nothing."""
    return [
        ["dvc", "exp", "run", "--queue", "--name", trial.name, *_set(trials.model, trial), f"evaluate@{trials.model}"]
        for trial in trials.trials
    ]


def queue(trials: Trials, run: Callable[..., subprocess.CompletedProcess[Any]] = subprocess.run) -> None:
    """Queue the trials with DVC in the current folder. Raises LimnerError at the first that DVC does not take."""
    for trial, words in zip(trials.trials, dvc_commands(trials), strict=True):
        try:
            status = run(words, check=False).returncode
        except FileNotFoundError:
            raise LimnerError(
                "There is no command dvc.", fix="Activate the environment that has it: make run."
            ) from None
        if status:
            raise LimnerError(
                f"DVC did not queue the trial {trial.name}.",
                why="What it says stands above; the trials before this one are queued.",
                fix="dvc queue status shows them, and dvc queue remove --queued takes them back.",
            )


# -- reading -----------------------------------------------------------------------------------------------------------


def _listed(entries: Any, path: Path) -> list[tuple[str | None, dict[str, Any]]]:
    if not isinstance(entries, list) or not entries:
        raise LimnerError(f"{path}: `trials` has to be a list of at least one map.")
    _refuse_too_many(len(entries), path)
    trials = []
    for position, entry in enumerate(entries, start=1):
        if not isinstance(entry, Mapping):
            raise LimnerError(
                f"{path}: trial {position} has to be a map, but it is {entry!r}.", fix="For instance {train.seed: 1}"
            )
        changes = dict(entry)
        name = changes.pop("name", None)
        if name is not None and not (isinstance(name, str) and _NAME.fullmatch(name)):
            raise LimnerError(
                f"{path}: {name!r} cannot be the name of a trial.",
                fix="A name has lower-case letters, digits and hyphens within, 63 at most. Quote it if it is a number.",
            )
        trials.append((name, _checked(changes, path)))
    return trials


def _combined(grid: Any, path: Path) -> list[tuple[str | None, dict[str, Any]]]:
    if not isinstance(grid, Mapping) or not grid:
        raise LimnerError(f"{path}: `grid` has to be a map of at least one key with the list of its values.")
    count = 1
    for key, values in grid.items():
        if not isinstance(values, list) or not values:
            raise LimnerError(f"{path}: grid.{key} has to be a list of values.", fix=f"For instance {key}: [1, 2]")
        count *= len(values)
    _refuse_too_many(count, path)
    return [
        (None, _checked(dict(zip(grid, values, strict=True)), path)) for values in itertools.product(*grid.values())
    ]


def _refuse_too_many(count: int, path: Path) -> None:
    if count > LIMIT:
        raise LimnerError(f"{path} has {count} trials, and {LIMIT} are the most.", fix="Divide it into several files.")


def _checked(changes: dict[Any, Any], path: Path) -> dict[str, Any]:
    for key, value in changes.items():
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise LimnerError(
                f"{path}: {key!r} is no key of a model's entry.", fix="Write it with dots, as in train.batch: 32"
            )
        if key.partition(".")[0] == "dataset":
            raise LimnerError(
                f"{path}: a trial cannot change the dataset.",
                why="All trials of a sweep learn from the one that is prepared.",
                fix="Write a model of its own in params.yaml, and a second list of trials.",
            )
        try:
            _json(value)
        except (TypeError, ValueError) as error:
            raise LimnerError(f"{path}: the value of {key} cannot travel as JSON.", why=str(error)) from error
        for other in changes:
            if str(other).startswith(f"{key}."):
                raise LimnerError(
                    f"{path}: a trial changes {key} as a whole and {other} in it.", fix="Write one of them."
                )
    return changes


# -- names -------------------------------------------------------------------------------------------------------------


def _named(trials: list[tuple[str | None, dict[str, Any]]], path: Path) -> tuple[Trial, ...]:
    """The trials with a name each: their own, or one made of what they change."""
    for kind, counted in (
        ("the name", Counter(name for name, _ in trials if name is not None)),
        ("the changes", Counter(_json(changes) for _, changes in trials)),
    ):
        for found, times in counted.items():
            if times > 1:
                raise LimnerError(f"{path}: {times} trials have {kind} {found}.", fix="Each trial is another one.")
    keys = {key for _, changes in trials for key in changes}
    leaves = Counter(key.rpartition(".")[2] for key in keys)
    names = [name or _derived(changes, leaves) for name, changes in trials]
    twice = {name for name, times in Counter(names).items() if times > 1}
    return tuple(
        Trial(name if own or name not in twice else _with_digest(name, changes), changes)
        for name, (own, changes) in zip(names, trials, strict=True)
    )


def _derived(changes: Mapping[str, Any], leaves: Mapping[str, int]) -> str:
    """`seed-1-loss-hinge`; a key whose last word is another key's, too, is written in full."""
    words = []
    for key, value in changes.items():
        leaf = key.rpartition(".")[2]
        words += [leaf if leaves[leaf] == 1 else key, value if isinstance(value, str) else _json(value)]
    name = re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower()).strip("-") or "unchanged"
    return name if _NAME.fullmatch(name) else _with_digest(name, changes)


def _with_digest(name: str, changes: Mapping[str, Any]) -> str:
    digest = hashlib.sha256(_json(changes).encode()).hexdigest()[:8]
    return f"{name[:54].rstrip('-')}-{digest}"


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, ensure_ascii=False, sort_keys=True)


# -- DVC ---------------------------------------------------------------------------------------------------------------


def _set(model: str, trial: Trial) -> list[str]:
    """The trial's changes as options of `dvc exp run`, whose language is that of Hydra's overrides.

    `++` sets a key whether params.yaml has it or not. Hydra would merge a map or a list into what is there, so that is
    taken away before.
    """
    words = []
    for key, value in trial.changes.items():
        place = f"++models.{model}.{key}"
        words += ["-S", f"{place}=null"] if isinstance(value, Mapping | list) else []
        words += ["-S", f"{place}={_hydra(value)}"]
    return words


def _hydra(value: Any) -> str:
    """A value in the grammar of Hydra 1.3. Raises LimnerError for a text that it would take for a reference."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_hydra(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_hydra, value)) + "]"
    if not isinstance(value, str):
        return _json(value)
    if "${" in value:
        raise LimnerError(f"DVC cannot be given the text {value!r}.", why="It would take ${...} for a reference.")
    # Backslashes are doubled only where they precede a quote: that is Hydra's rule.
    return "'" + re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value) + "'"
