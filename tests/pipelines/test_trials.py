"""The list of trials: what it may say, what Kubeflow gets of it, and what a real DVC repository makes of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from limner.errors import LimnerError
from limner.steps import open_catalog
from pipelines.trials import LIMIT, Trial, Trials, dvc_commands, queue, read_trials, settings_of


def read(text: str) -> Trials:
    file = Path("sweep.yaml")
    file.write_text(text, encoding="utf-8")
    return read_trials(file)


def names(text: str) -> list[str]:
    return [trial.name for trial in read(text).trials]


# -- reading -----------------------------------------------------------------------------------------------------------


def test_a_list_of_trials_is_read_as_it_stands() -> None:
    text = "model: tiny-gan\ntrials:\n- {name: gentle, method.loss: hinge, train.seed: 1}\n- {train.batch: 16}\n"
    assert read(text) == Trials(
        "tiny-gan",
        (Trial("gentle", {"method.loss": "hinge", "train.seed": 1}), Trial("batch-16", {"train.batch": 16})),
    )


def test_a_grid_is_all_combinations() -> None:
    found = read("model: m\ngrid: {train.seed: [1, 2], method.loss: [hinge, rpgan]}")
    assert [dict(trial.changes) for trial in found.trials] == [
        {"train.seed": 1, "method.loss": "hinge"},
        {"train.seed": 1, "method.loss": "rpgan"},
        {"train.seed": 2, "method.loss": "hinge"},
        {"train.seed": 2, "method.loss": "rpgan"},
    ]
    assert [trial.name for trial in found.trials] == [
        "seed-1-loss-hinge",
        "seed-1-loss-rpgan",
        "seed-2-loss-hinge",
        "seed-2-loss-rpgan",
    ]


def test_keys_that_end_alike_are_named_in_full() -> None:
    assert names("model: m\ngrid: {method.a.rate: [1], method.b.rate: [2]}") == ["method-a-rate-1-method-b-rate-2"]


@pytest.mark.parametrize(
    "text",
    [
        "grid: {a.rate: [1, -1, 0.1, '0.1', true, null, 1e-7]}",
        "grid: {a.penalty: [{r1: 1}, {r1: [1]}, [r1, 1]]}",
        f"grid: {{{'long.' * 15}key: [1, 2], other.key: [3]}}",
        "trials: [{}, {a.b: ''}, {name: unchanged-1, a.b: 1}]",
        "trials: [{name: b-1, a.b: 2}, {a.b: 1}]",
    ],
)
def test_derived_names_are_unique_fit_dns_and_stay(text: str) -> None:
    found = names(f"model: m\n{text}")
    assert len(set(found)) == len(found)
    assert all(len(name) <= 63 and name.strip("-") == name for name in found)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for name in found)
    assert names(f"model: m\n{text}") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "is not a map of keys"),
        ("model: m\ntrails: []", r"no key 'trails'.\nDid you mean 'trials'"),
        ("trials: [{a.b: 1}]", "does not say which model"),
        ("model: m", "either `trials` or `grid`"),
        ("model: m\ntrials: [{a.b: 1}]\ngrid: {a.b: [1]}", "either `trials` or `grid`"),
        ("model: m\ntrials: []", "a list of at least one map"),
        ("model: m\ntrials: [1]", "trial 1 has to be a map, but it is 1"),
        ("model: m\ntrials: [{name: Gentle}]", "'Gentle' cannot be the name"),
        ("model: m\ntrials: [{name: 5}]", "5 cannot be the name"),
        ("model: m\ntrials: [{name: a, b.c: 1}, {name: a, b.c: 2}]", "2 trials have the name a"),
        ("model: m\ntrials: [{b.c: 1}, {b.c: 1}]", r'2 trials have the changes {"b.c": 1}'),
        ("model: m\ntrials: [{name: a, b.c: 1}, {name: b, b.c: 1}]", "2 trials have the changes"),
        ("model: m\ngrid: {a.b: [1, 1]}", "2 trials have the changes"),
        ("model: m\ntrials: [{b..c: 1}]", r"'b\.\.c' is no key"),
        ("model: m\ntrials: [{1: 1}]", "1 is no key"),
        ("model: m\ntrials: [{train: {}, train.seed: 1}]", "changes train as a whole and train.seed in it"),
        ("model: m\ntrials: [{dataset: other}]", "cannot change the dataset"),
        ("model: m\ngrid: {dataset: [a, b]}", "cannot change the dataset"),
        ("model: m\ntrials: [{a.b: .nan}]", "a.b cannot travel as JSON"),
        ("model: m\ntrials: [{a.b: 2020-01-01}]", "a.b cannot travel as JSON"),
        ("model: m\ngrid: {}", "a map of at least one key"),
        ("model: m\ngrid: {a.b: 1}", "grid.a.b has to be a list"),
        ("model: m\ngrid: {a.b: []}", "grid.a.b has to be a list"),
        (f"model: m\ngrid: {{a.b: {list(range(LIMIT + 1))}}}", "has 501 trials, and 500 are the most"),
        (f"model: m\ngrid: {{a.b: {list(range(600))}, a.c: {list(range(600))}}}", "has 360000 trials"),
    ],
)
def test_a_list_with_a_mistake_is_refused(text: str, message: str) -> None:
    with pytest.raises(LimnerError, match=message):
        read(text)


# -- Kubeflow ----------------------------------------------------------------------------------------------------------


def test_kubeflow_gets_the_settings_of_each_trial(tiny_params: Path) -> None:
    trials = read(
        "model: tiny-gan\ntrials: [{train.seed: 1}, {method.generator: {name: dcgan, width: 4}, method.loss: hinge}]"
    )
    first, second = (
        json.loads(text) for text in settings_of(trials, tiny_params, ("models.tiny-gan.train.kimg=0.32",))
    )
    assert first["models"]["tiny-gan"]["train"]["seed"] == 1
    assert second["models"]["tiny-gan"]["train"]["seed"] == 0
    assert second["models"]["tiny-gan"]["method"]["generator"]["width"] == 4
    assert second["models"]["tiny-gan"]["method"]["loss"] == "hinge"
    assert {one["models"]["tiny-gan"]["train"]["kimg"] for one in (first, second)} == {0.32}
    assert (
        first["datasets"] == second["datasets"] == json.loads(open_catalog(tiny_params).to_json("tiny-gan"))["datasets"]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.batch: many", "Trial batch-many: .*models.tiny-gan.train.batch"),
        ("train.bath: 3", r"Trial bath-3: (?s:.*)Did you mean 'batch'"),
    ],
)
def test_a_wrong_setting_is_told_with_the_name_of_its_trial(change: str, message: str, tiny_params: Path) -> None:
    with pytest.raises(LimnerError, match=message):
        settings_of(read(f"model: tiny-gan\ntrials: [{{{change}}}]"), tiny_params)


def test_a_model_that_is_not_there_is_refused(tiny_params: Path) -> None:
    with pytest.raises(LimnerError, match="models has no entry 'huge-gan'"):
        settings_of(read("model: huge-gan\ntrials: [{train.seed: 1}]"), tiny_params)


# -- DVC ---------------------------------------------------------------------------------------------------------------


def test_a_trial_is_an_experiment_that_ends_with_the_evaluation() -> None:
    assert dvc_commands(read("model: tiny-gan\ntrials: [{name: a, train.seed: 1, method.loss: hinge}]")) == [
        [
            *("dvc", "exp", "run", "--queue", "--name", "a"),
            *("-S", "++models.tiny-gan.train.seed=1", "-S", "++models.tiny-gan.method.loss='hinge'"),
            "evaluate@tiny-gan",
        ]
    ]


AWKWARD: list[Any] = [
    *(1, -1, 1e-07, 0.5, 1e30, True, False, None, "", "1", "true", "null", "a b", "a,b", "a=b", "{a}", "[a]", "a:b"),
    *("it's", 'say "so"', "back\\slash", "ends with \\", "quote\\'", "schräg", "#1", "~", "a#b", " x "),
    *([], [1, "two, three", [None, False]], {}, {"start": 6e-4, "end": 2e-05}, {"a": [1], "b": {"c": "d'e"}}),
]


@pytest.mark.parametrize("value", AWKWARD, ids=repr)
def test_dvc_and_the_catalog_read_a_value_as_it_was_meant(value: Any, tmp_path: Path) -> None:
    from dvc.utils.hydra import apply_overrides
    from ruamel.yaml import YAML

    trials = Trials("m", (Trial("t", {"a.new": value, "a.old": value}),))
    params = tmp_path / "params.yaml"
    params.write_text("models: {m: {a: {old: {left: over}}}}\n", encoding="utf-8")
    (words,) = dvc_commands(trials)
    apply_overrides(params, [word for word in words if word.startswith("++")])
    found = YAML(typ="safe").load(params.read_text(encoding="utf-8"))["models"]["m"]["a"]
    assert found == {"new": value, "old": value}
    assert {key: type(item) for key, item in found.items()} == {"new": type(value), "old": type(value)}


def test_a_text_that_dvc_would_take_for_a_reference_is_refused() -> None:
    with pytest.raises(LimnerError, match="reference"):
        dvc_commands(read("model: m\ntrials: [{a.b: '${c}'}]"))


def in_environment(words: list[str], *, check: bool = True, **options: Any) -> subprocess.CompletedProcess[Any]:
    """A command as a person runs it who has activated this environment, in a repository of their own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    who = {f"GIT_{role}_{what}": "t@example.org" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    surroundings = {**os.environ, **who, "PATH": path, "GIT_CONFIG_GLOBAL": os.devnull, "DVC_NO_ANALYTICS": "1"}
    return subprocess.run(words, env=surroundings, text=True, timeout=120, check=check, **options)


def answer(*words: str) -> str:
    said: str = in_environment(list(words), capture_output=True).stdout
    return said


def test_dvc_queues_the_trials_with_the_settings_that_kubeflow_gets(project: Path, tiny_params: Path) -> None:
    shutil.copy(tiny_params, "params.yaml")
    shutil.copy(project / "dvc.yaml", "dvc.yaml")
    Path(".gitignore").write_text("sweep.yaml\n", encoding="utf-8")
    for words in (["git", "init", "-q"], ["dvc", "init", "-q"], ["git", "add", "-A"], ["git", "commit", "-qm", "All"]):
        in_environment(words)
    trials = read(
        "model: tiny-gan\ntrials:\n"
        "- {name: gentle, method.loss: hinge, train.seed: 1}\n"
        "- {method.generator: {name: dcgan, width: 4}, train.ema_half_life_kimg: 1e-2, evaluate.samples: 20}\n"
    )
    queue(trials, run=in_environment)

    status = answer("dvc", "queue", "status")
    assert [status.count(trial.name) for trial in trials.trials] == [1, 1]
    stashed = answer("git", "log", "-g", "--format=%H", "refs/exps/celery/stash").split()
    found = []
    for revision in reversed(stashed):
        Path("queued.yaml").write_text(answer("git", "show", f"{revision}:params.yaml"), encoding="utf-8")
        found.append(open_catalog(Path("queued.yaml")).to_json("tiny-gan"))
    assert found == settings_of(trials)


def test_a_trial_that_dvc_does_not_take_is_told() -> None:
    trials = read("model: tiny-gan\ntrials: [{name: gentle, train.seed: 1}]")
    with pytest.raises(LimnerError, match="DVC did not queue the trial gentle"):
        queue(trials, run=lambda words, **_: subprocess.CompletedProcess(words, 255))


def test_a_machine_without_dvc_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(LimnerError, match="There is no command dvc"):
        queue(read("model: tiny-gan\ntrials: [{name: gentle, train.seed: 1}]"))
