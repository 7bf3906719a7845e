"""doctor: what would fail later, said now, each finding with its fix."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from limner.errors import LimnerError
from limner.findings import Check, Finding, refused
from limner.lineage import BUILD_INFO, code_version, directory_md5
from limner.params import read_yaml
from limner.steps import machine_checks, open_catalog
from limner.steps.machine_checks import version

MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class Subject:
    """What is examined, beside the machine itself."""

    model: str = ""
    params: Path = Path("params.yaml")
    overrides: Sequence[str] = ()
    dataset_md5: str = ""
    """DVC's name of the dataset; empty: what dvc.lock says of the model's."""
    lock: Path = Path("dvc.lock")
    prepared: Path = Path("data/prepared")
    """Where the packed datasets lie."""
    scratch: Path = Path("runs")
    """Where the checkpoints lie."""
    writes_to: Mapping[str, Path] = field(default_factory=dict)
    """Folders that Limner writes to, by name."""
    processes: int = 1
    """That train together."""
    image: str = ""
    in_pod: bool = False
    build_info: Path = BUILD_INFO


class Outside(Protocol):
    """The servers around Limner."""

    def checks(self, *, dataset_md5: str) -> Sequence[tuple[str, Check]]:
        """What can be asked of them, by name. With a dataset also whether the DVC remote holds it."""


@dataclass(frozen=True)
class Examined:
    """All findings, in the order of the checks."""

    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing was found that would fail."""
        return not any(finding.status == "error" for finding in self.findings)


def doctor(subject: Subject, *, outside: Outside) -> Examined:
    """Examine this machine, the settings and the servers. Raises nothing: what goes wrong is a finding."""
    name, about_settings = settings(subject)
    md5, about_dataset = dataset(subject, name)
    needed = _bytes_to_come(subject)

    def machine() -> Iterator[Finding]:
        return machine_checks.look(subject.writes_to, needed=needed, processes=subject.processes)

    checks: list[tuple[str, Check]] = [
        ("machine", machine),
        ("kubeflow sdk", lambda: [kubeflow_sdk(version("kfp"), version("kfp-kubernetes"), in_pod=subject.in_pod)]),
        ("image", lambda: [image(subject.image, in_pod=subject.in_pod)]),
        ("code", lambda: [code(code_version(subject.build_info))]),
        ("settings", lambda: about_settings),
        ("dataset", lambda: about_dataset),
        *outside.checks(dataset_md5=md5),
    ]
    return Examined(tuple(finding for name, check in checks for finding in _observe(name, check)))


def settings(subject: Subject) -> tuple[str, list[Finding]]:
    """The dataset of the subject's model, if that is right; and whether the entries of params.yaml are."""
    if not subject.model and not subject.params.exists():
        return "", [Finding("settings", "skipped", f"There is no {subject.params} here.")]
    try:
        catalog = open_catalog(subject.params, subject.overrides)
        names = [subject.model] if subject.model else catalog.models
        models = [catalog.model(name) for name in names]
        for model in models:
            catalog.dataset(model.dataset)
    except LimnerError as error:
        return "", [refused("settings", error)]
    if not subject.model:
        return "", [Finding("settings", "ok", f"{subject.params}: {', '.join(names)}")]
    train = models[0].train
    uneven = sharing(train.batch, train.micro_batch, processes=subject.processes)
    return models[0].dataset, [uneven or Finding("settings", "ok", f"{subject.params}: models.{subject.model}")]


def sharing(batch: int, micro_batch: int, *, processes: int) -> Finding | None:
    """A finding where a batch cannot be shared out among the processes."""
    parts = batch // (micro_batch or batch)
    if parts % processes == 0:
        return None
    what = f"A batch of {batch} in micro-batches of {batch // parts} cannot be shared out among {processes} processes."
    fix = f"Set train.micro_batch to {batch // processes}."
    if batch % processes:
        fix = f"Make train.batch a multiple of {processes}, and train.micro_batch that divided by {processes}."
    return Finding("settings", "error", what, fix)


def dataset(subject: Subject, name: str) -> tuple[str, list[Finding]]:
    """DVC's name of the dataset that is meant, empty where nothing says it; and whether it is the present one's."""
    if subject.dataset_md5:
        if MD5.fullmatch(subject.dataset_md5):
            return subject.dataset_md5, []
        what = f"{subject.dataset_md5!r} is no md5 of DVC: 32 hexadecimal digits, and `.dir` behind a folder's."
        return "", [Finding("dataset", "error", what, "Copy it from dvc.lock, or from the .dvc file: outs[0].md5.")]
    if not name:
        return "", []
    stage = f"prepare@{name}"
    try:
        locked = _locked(subject.lock, stage)
    except LimnerError as error:
        return "", [refused("dataset", error)]
    if not locked:
        what = f"{subject.lock} has no {stage}: nothing says which version of {name} is meant."
        return "", [Finding("dataset", "skipped", what, f"dvc repro {stage}")]
    here = subject.prepared / name
    if not here.is_dir():
        return locked, [Finding("dataset", "ok", f"{name} is {locked}; it is not on this machine")]
    present = directory_md5(here)
    if present == locked:
        return locked, [Finding("dataset", "ok", f"{name} is {locked}, here and in {subject.lock}")]
    what = f"{here} is {present}, but {subject.lock} says {locked}: a cluster would train on other data than you see."
    return locked, [Finding("dataset", "warning", what, f"dvc repro {stage} && dvc push {stage}")]


def kubeflow_sdk(kfp: str, kfp_kubernetes: str, *, in_pod: bool) -> Finding:
    """Whether the two halves of Kubeflow's SDK, by version, fit together; empty: not installed."""
    check, both = "kubeflow sdk", f"kfp {kfp or 'missing'}, kfp-kubernetes {kfp_kubernetes or 'missing'}"
    fix = "pip install 'limner[pipeline]'"
    if not kfp:
        if in_pod:  # its launcher runs a component with kfp.dsl.executor_main
            return Finding(check, "error", "kfp is not in this image, and Kubeflow runs components with it.", fix)
        return Finding(check, "skipped", "kfp is not installed; only pipelines need it.", fix)
    if kfp == kfp_kubernetes:
        return Finding(check, "ok", both)
    if in_pod:  # what is compiled has been compiled elsewhere
        return Finding(check, "warning", f"{both}: they belong together.", fix)
    return Finding(
        check,
        "error",
        f"{both}: they have to be equal, or what they compile is not.",
        f"pip install 'kfp[kubernetes]=={kfp}'",
    )


def image(name: str, *, in_pod: bool) -> Finding:
    """Whether the image is named by what it is and not by a tag, under which tomorrow there may be another."""
    if not name:
        what = "LIMNER_IMAGE names no image" + (", so lineage.json cannot tell which one this is." if in_pod else ".")
        fix = "Set LIMNER_IMAGE to repository/limner-python@sha256:..." if in_pod else ""
        return Finding("image", "warning" if in_pod else "skipped", what, fix)
    digest = name.partition("@")[2]
    if re.fullmatch(r"sha256:[0-9a-f]{64}", digest):
        return Finding("image", "ok", name)
    if digest:
        what = f"{digest!r} in {name} is not a digest: sha256: and 64 hexadecimal digits."
        return Finding("image", "error", what, "docker inspect --format '{{index .RepoDigests 0}}' IMAGE prints it.")
    return Finding(
        "image",
        "warning",
        f"{name} is a tag. Kubeflow's cache knows an image by its name alone: new code under it gets old results.",
        "Name it by its digest; docker inspect --format '{{index .RepoDigests 0}}' IMAGE prints it.",
    )


def code(found: Mapping[str, str]) -> Finding:
    """Whether it is known which code runs here."""
    commit = found.get("git_commit", "")
    if not commit:
        what = "Nothing says which commit runs here: models made here cannot be traced to their code."
        fix = "Build the image with --build-arg GIT_COMMIT=$(git rev-parse HEAD), or work in the git repository."
        return Finding("code", "warning", what, fix)
    if found.get("git_dirty") == "true":
        what = f"The code is not commit {commit[:12]} but has changes: what it makes cannot be made again from git."
        return Finding("code", "warning", what, "Commit the changes before a run that counts.")
    return Finding("code", "ok", f"commit {commit[:12]}")


def _observe(name: str, check: Check) -> list[Finding]:
    """A check's findings up to where it fails, and that as one of them."""
    findings: list[Finding] = []
    try:
        for finding in check():
            findings.append(finding)
    except LimnerError as error:
        findings.append(refused(name, error))
    except Exception as error:  # noqa: BLE001 - one check that breaks must not hide what the others find
        what = f"This could not be looked at: {type(error).__name__}: {error}"
        findings.append(Finding(name, "error", what, "If it is not clear why, report it."))
    return findings


def _locked(lock: Path, stage: str) -> str:
    """What dvc.lock calls a stage's output; empty where it does not know the stage."""
    if not lock.exists():
        return ""
    document: Any = read_yaml(lock)
    try:
        return str(document["stages"][stage]["outs"][0]["md5"])
    except (KeyError, IndexError, TypeError):
        return ""


def _bytes_to_come(subject: Subject) -> dict[str, int]:
    """Bytes that a training of the model will add to the folders, as far as earlier checkpoints tell.

    One more than there are is written before the oldest is deleted.
    """
    if not subject.model:
        return {}
    folders = [path for path in (subject.scratch / subject.model).glob("*/checkpoints/step-*") if path.is_dir()]
    return {"checkpoints": max((_bytes(folder) for folder in folders), default=0)}


def _bytes(folder: Path) -> int:
    return sum((Path(root) / name).stat().st_size for root, _, names in os.walk(folder) for name in names)
