"""docs/cluster.md tells of what is there: its commands are parsed by the commands themselves, its figures compared."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from limner.cli.app import app as limner
from limner.params import read_yaml
from limner.steps.stylize_batch import MOST_PARTS
from limner.steps.train import NOT_PART_OF_THE_RUN
from pipelines import PIPELINES, load
from pipelines.__main__ import app as pipelines
from pipelines.arguments import run_arguments
from pipelines.placement import MLFLOW_KEYS, Placement
from pipelines.trials import LIMIT, read_trials, settings_of

PROGRAMS = {"python -m pipelines": pipelines, "limner": limner}
NOT_OF_THE_REPOSITORY = {"deploy/.env", "deploy/limner-mlflow"}
"""What the reader writes, and a deployment as kubectl calls it."""
NUMBERS = {4: "four"}


@dataclass(frozen=True)
class Command:
    """A command of the page: the program, its subcommand, and what the subcommand made of the words behind it."""

    program: str
    name: str
    values: dict[str, Any]


@pytest.fixture(scope="module")
def page() -> str:
    return (Path(__file__).parents[1] / "docs" / "cluster.md").read_text(encoding="utf-8")


def blocks(page: str, language: str = "") -> list[str]:
    return [text for found, text in re.findall(r"^```(\w*)\n(.*?)^```", page, re.M | re.S) if found == language]


def spans(page: str) -> list[str]:
    """What stands between single backquotes, on one line each."""
    prose = re.sub(r"^```.*?^```", "", page, flags=re.M | re.S)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def calls(text: str) -> Iterator[tuple[str, list[str]]]:
    """Program and words of each call of ours in a piece of shell; also of those that another command is given."""
    for line in text.replace("\\\n", " ").splitlines():
        words: list[str] = []
        for word in [*shlex.split(line, comments=True), "&&"]:
            if "limner " in word:
                yield from calls(word)
            if word not in ("&&", "|", ";"):
                words.append(word)
                continue
            while words and re.match(r"[A-Z_0-9]+=", words[0]):
                words.pop(0)
            for program in PROGRAMS:
                if words[: len(program.split())] == program.split():
                    yield program, words[len(program.split()) :]
            words = []


def parsed(program: str, words: list[str]) -> Command:
    """Fails as the command would: for a word that it does not know, or one that it misses."""
    command: Any = typer.main.get_command(PROGRAMS[program])
    name: list[str] = []
    while hasattr(command, "commands"):
        assert words, f"{program} {' '.join(name)} is no whole command"
        assert words[0] in command.commands, f"{program} {' '.join(name)} has no command {words[0]}"
        name.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    return Command(program, " ".join(name), command.make_context(" ".join(name), list(words)).params)


def commands(page: str) -> list[Command]:
    in_prose = [span for span in spans(page) if span.startswith(tuple(f"{program} " for program in PROGRAMS))]
    partly = {"python -m pipelines lint"}  # named without the files that it takes
    texts = [*blocks(page), *(span for span in in_prose if span not in partly)]
    return [parsed(program, words) for text in texts for program, words in calls(text)]


def test_every_command_is_one_that_the_programs_take(page: str) -> None:
    found = commands(page)
    names = {one.name for one in found if one.program == "python -m pipelines"}
    assert names == typer.main.get_command(pipelines).commands.keys(), "the page shows all of them"  # type: ignore[attr-defined]
    assert {"doctor", "config show", "track replay"} <= {one.name for one in found if one.program == "limner"}


@pytest.mark.parametrize("call", ["limner docter", "limner doctor --kubeflw x", "python -m pipelines publish digits"])
def test_a_wrong_command_is_found(call: str) -> None:
    ((program, words),) = calls(call)
    with pytest.raises(Exception, match=r"no command docter|No such option|Missing parameter"):
        parsed(program, words)


def test_every_option_in_the_prose_is_one_of_theirs(page: str) -> None:
    known: set[str] = set()
    waiting: list[Any] = [typer.main.get_command(app) for app in PROGRAMS.values()]
    while waiting:
        command = waiting.pop()
        waiting += getattr(command, "commands", {}).values()
        known |= {option for parameter in command.params for option in parameter.opts}
    named = {word for span in spans(page) if span.startswith("--") for word in span.split() if word.startswith("--")}
    assert len(named) > 5
    assert named <= known


def test_runs_are_given_what_their_pipelines_take(page: str, project: Path, tmp_path: Path) -> None:
    trials = _trials(page, tmp_path)
    here = read_yaml(project / "params.yaml")["models"]
    checked = []
    for one in commands(page):
        if "arguments" not in one.values:
            continue
        values, pipeline = one.values, one.values["pipeline"]
        words = values["arguments"] or ()
        assert {word.partition("=")[0] for word in words} <= load(pipeline, Placement()).component_spec.inputs.keys()
        if values["model"] in here or pipeline == "stylize_batch":  # the others are the reader's
            run_arguments(
                pipeline,
                values["model"],
                params=project / "params.yaml",
                overrides=values["overrides"] or (),
                trials=trials if values.get("trials") else None,
                words=words,
            )
            checked.append(pipeline)
    assert set(checked) == set(PIPELINES) - {"retrain"}


def test_the_trials_are_settings_of_the_model(page: str, project: Path, tmp_path: Path) -> None:
    assert len(settings_of(read_trials(_trials(page, tmp_path)), project / "params.yaml")) == 2
    (grid,) = (span for span in spans(page) if span.startswith("grid:"))
    file = tmp_path / "grid.yaml"
    file.write_text(f"model: digits-gan\n{grid}\n", encoding="utf-8")
    assert len(settings_of(read_trials(file), project / "params.yaml")) == 4
    assert f"{LIMIT} trials are the most" in " ".join(page.split())


def _trials(page: str, folder: Path) -> Path:
    (text,) = blocks(page, "yaml")
    (folder / "sweep.yaml").write_text(text, encoding="utf-8")
    return folder / "sweep.yaml"


def test_the_table_has_the_parameters_and_their_defaults(page: str) -> None:
    _, table = page.split("### Parameters of train_and_promote\n\n")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.partition("\n\n")[0].splitlines()[2:]]
    told = {row[0].strip("`"): json.loads(row[1].strip("`")) if row[1] else "required" for row in rows}
    inputs = load("train_and_promote", Placement()).component_spec.inputs
    assert told == {name: one.default if one.optional else "required" for name, one in inputs.items()}


def test_what_is_decided_at_compile_time_is_told(page: str) -> None:
    text, decided = " ".join(page.split()), Placement()
    for figure in (
        f"{decided.shared_memory})",
        f"the longest attempt, {decided.train_hours} and {decided.step_hours}",
        f"`retries` ({decided.train_retries} and {decided.retries},",
        f"`wait` (before each, {decided.wait})",
        f"`workspace` ({decided.workspace})",
        f"`{decided.workspace_access}`",
        f"`parallel` ({decided.parallel} trials or parts at a time)",
        f"a volume of {decided.workspace.removesuffix('Gi')} Gi",
        f"At most {MOST_PARTS:,} parts, {NUMBERS[decided.parallel]} at a time",
    ):
        assert figure in text
    for name in asdict(decided).keys() - {"image"}:
        assert f"`{name}`" in text
    for name in (*NOT_PART_OF_THE_RUN, *(key.removeprefix("MLFLOW_TRACKING") for key in MLFLOW_KEYS)):
        assert f"`{name}`" in text or f"`MLFLOW_TRACKING{name}`" in text


def test_the_version_of_kubeflow_is_that_of_the_lock(page: str, project: Path) -> None:
    lock = (project / "requirements.lock").read_text(encoding="utf-8")
    versions = dict(re.findall(r"^(kfp|kfp-kubernetes)==(\d+\.\d+)", lock, re.M))
    assert set(versions.values()) == set(re.findall(r"Pipelines, server \| (\d+\.\d+)", page))


def test_every_file_that_is_named_is_there(page: str, project: Path) -> None:
    links = {(project / "docs" / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", page)}
    words = [word for text in [*blocks(page), *spans(page)] for word in re.findall(r"[^\s'\"=]+", text)]
    named = {word for word in words if re.match(r"(deploy|docs|pipelines|components|src|tests)/", word)}
    named |= {word for word in words if word in ("Dockerfile", "params.yaml", "requirements.lock")}
    assert len(links) >= 2
    assert len(named) > 10
    assert not [path for path in links if not path.exists()]
    assert not [name for name in named - NOT_OF_THE_REPOSITORY if not (project / name).exists()]
    anchors = {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in re.findall(r"^#+ (.*)", page, re.M)}
    assert set(re.findall(r"\]\(#([^)]+)\)", page)) <= anchors
