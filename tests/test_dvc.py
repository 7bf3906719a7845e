"""dvc.yaml: what makes a stage run again, and what does not. DVC itself is asked, about results made up for it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # dvc's own imports are deprecated
    from dvc.repo import Repo

STEPS = ("prepare", "train", "evaluate", "export", "promote")

PLUMBING = {
    "limner", "limner.steps", "limner.methods", "limner.tasks", "limner.steps.output",  # name, find, put in place
    "limner.errors", "limner.params", "limner.ports", "limner.lineage", "limner.strict",  # say what happened
    "limner.checkpoint", "limner.interruption", "limner.journal", "limner.mirror",  # stop and go on, same result
    "limner.distributed",  # do the same in company
}  # fmt: skip
"""Modules that have no say in what comes out of a step."""

JUDGEMENT = {
    "limner.distribution", "limner.evaluation", "limner.features", "limner.frechet", "limner.metrics",
    "limner.picture_metrics", "limner.quick_judging", "limner.reference", "limner.transfer_evaluation",
}  # fmt: skip
"""Used in training to pick `best`; the evaluation judges again. See dvc.yaml."""


def stages(project: Path) -> dict[str, Any]:
    document = YAML(typ="safe").load((project / "dvc.yaml").read_text(encoding="utf-8"))
    return {name: stage["do"] for name, stage in document["stages"].items()}


# -- code --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def imports() -> grimp.ImportGraph:
    return grimp.build_graph("limner", cache_dir=None)


def code_of(stage: dict[str, Any], project: Path) -> set[str]:
    """The modules that a stage of dvc.yaml depends on."""
    names = set()
    for dep in (dep for dep in stage["deps"] if dep.startswith("src/")):
        found = [*project.glob(dep.replace("${item.method.name}", "*")), *project.glob(f"{dep}/**/*.py")]
        assert found, f"there is no {dep}"
        files = (path.relative_to(project / "src").with_suffix("") for path in found)
        names |= {file.as_posix().replace("/", ".").removesuffix(".__init__") for file in files}
    return names


def run_by(step: str, imports: grimp.ImportGraph) -> set[str]:
    """The modules that a step imports; any training method may be among them."""
    used = imports.find_upstream_modules(f"limner.steps.{step}") | {f"limner.steps.{step}"}
    if "limner.methods" in used:
        for method in imports.find_children("limner.methods"):
            used |= imports.find_upstream_modules(method) | {method}
    return used


def part_of(modules: set[str], packages: set[str]) -> set[str]:
    return {module for module in modules if any(f"{module}.".startswith(f"{package}.") for package in packages)}


@pytest.mark.parametrize("step", STEPS)
def test_a_stage_depends_on_all_the_code_that_decides_its_result(
    project: Path, imports: grimp.ImportGraph, step: str
) -> None:
    code = {name: code_of(stage, project) for name, stage in stages(project).items()}
    known = code[step] | PLUMBING
    if step == "train":
        known |= part_of(run_by(step, imports), JUDGEMENT)
    elif step == "prepare":
        known |= {"limner.schedules"}  # settings.py is made of it, but no dataset's settings are
    else:  # what made the model made its bytes, and on these the later stages depend
        known |= code["train"] | code["evaluate"] | code["prepare"]
    lacking = sorted(run_by(step, imports) - known)
    assert lacking == [], "add these to dvc.yaml, or to PLUMBING if they have no say in the result"


@pytest.mark.parametrize("step", STEPS)
def test_a_stage_depends_on_no_code_that_it_does_not_run(project: Path, imports: grimp.ImportGraph, step: str) -> None:
    too_much = code_of(stages(project)[step], project) - run_by(step, imports)
    assert [
        module for module in sorted(too_much) if module in imports.modules and not imports.find_children(module)
    ] == []


# -- results -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which all stages have run, as far as DVC knows."""
    root = tmp_path_factory.mktemp("finished")
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(project / name, root / name)
    shutil.copytree(project / "src", root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(project / "data" / "raw", root / "data" / "raw")
    Repo.init(str(root), no_scm=True)
    with contextlib.chdir(root), Repo() as repo:
        for stage in repo.index.stages:
            for out in stage.outs:
                path = Path(out.fs_path)
                file = path if path.suffix else path / "manifest.json"
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(stage.addressing, encoding="utf-8")
        repo.commit(force=True)
    return root


Edit = Callable[[str, str, str], None]


@pytest.fixture
def edit(finished: Path) -> Iterator[Edit]:
    """`edit(file, pattern, replacement)`, undone afterwards."""
    before: dict[Path, bytes | None] = {}

    def change(name: str, pattern: str, replacement: str) -> None:
        path = finished / name
        old = path.read_bytes() if path.exists() else None
        before.setdefault(path, old)
        new, count = re.subn(pattern, replacement, (old or b"").decode(), count=1, flags=re.DOTALL)
        assert count
        path.write_text(new, encoding="utf-8")

    yield change
    for path, old in before.items():
        path.unlink() if old is None else path.write_bytes(old)


def out_of_date(root: Path) -> set[str]:
    with contextlib.chdir(root), Repo() as repo:
        return set(repo.status())


def test_a_second_repro_runs_nothing(finished: Path) -> None:
    assert out_of_date(finished) == set()


def test_a_stage_runs_for_each_entry_of_the_catalog(finished: Path) -> None:
    catalog = YAML(typ="safe").load((finished / "params.yaml").read_text(encoding="utf-8"))
    wanted = {f"prepare@{name}" for name in catalog["datasets"]}
    wanted |= {f"{step}@{name}" for step in STEPS[1:] for name in catalog["models"]}
    with contextlib.chdir(finished), Repo() as repo:
        assert {stage.addressing for stage in repo.index.stages} == wanted


@pytest.mark.parametrize(
    ("block", "stage"),
    [("method", "train"), ("train", "train"), ("evaluate", "evaluate"), ("export", "export"), ("promote", "promote")],
)
def test_a_changed_setting_concerns_one_stage_of_one_model(finished: Path, edit: Edit, block: str, stage: str) -> None:
    catalog = YAML(typ="safe").load((finished / "params.yaml").read_text(encoding="utf-8"))
    catalog["models"]["digits-gan"][block]["changed"] = 1
    edit("params.yaml", ".*", json.dumps(catalog))  # JSON is YAML
    assert out_of_date(finished) == {f"{stage}@digits-gan"}


def test_a_changed_dataset_concerns_its_preparation(finished: Path, edit: Edit) -> None:
    edit("params.yaml", "size: 32", "size: 64")
    assert out_of_date(finished) == {"prepare@digits"}


MODELS = ("digits-gan", "digits-textbook", "print-to-hand")


@pytest.mark.parametrize("module", ["adversary", "losses", "networks/dcgan", "training_loop"])
def test_a_change_of_what_training_computes_trains_all_models_again(finished: Path, edit: Edit, module: str) -> None:
    edit(f"src/limner/{module}.py", "$", "\n# changed\n")
    assert out_of_date(finished) == {f"train@{model}" for model in MODELS}


@pytest.mark.parametrize(("method", "models"), [("gan", MODELS[:2]), ("fastcut", MODELS[2:]), ("cyclegan", ())])
def test_a_change_of_a_method_trains_its_own_models_again(
    finished: Path, edit: Edit, method: str, models: tuple[str, ...]
) -> None:
    edit(f"src/limner/methods/{method}.py", "$", "\n# changed\n")
    assert out_of_date(finished) == {f"train@{model}" for model in models}


@pytest.mark.parametrize("module", ["cli/app", "ports", "lineage", "adapters/__init__"])
def test_a_change_of_the_surroundings_runs_nothing(finished: Path, edit: Edit, module: str) -> None:
    edit(f"src/limner/{module}.py", "$", "\n# changed\n")
    assert out_of_date(finished) == set()


@pytest.mark.parametrize("module", ["metrics", "report"])
def test_a_change_of_what_judges_trains_nothing(finished: Path, edit: Edit, module: str) -> None:
    edit(f"src/limner/{module}.py", "$", "\n# changed\n")
    assert out_of_date(finished) == {f"evaluate@{model}" for model in MODELS}


def test_new_pictures_are_noticed(finished: Path, edit: Edit) -> None:
    edit("data/raw/new.png", "$", "picture")
    assert out_of_date(finished) == {"prepare@digits", "prepare@print-to-hand"}


def test_data_prepared_again_to_the_same_bytes_trains_nothing(finished: Path, edit: Edit) -> None:
    edit("data/prepared/digits/lineage.json", "$", "another commit")
    assert out_of_date(finished) == {"prepare@digits"}  # its folder is not the one DVC knows; its manifest is
