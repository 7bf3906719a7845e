"""What the Dockerfile must keep, looked up without a container engine. `make test-containers` really builds it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

Instruction = tuple[str, str]
"""Its word, and all that follows, on one line."""


def instructions(text: str) -> list[Instruction]:
    """A Dockerfile's instructions in their order, without comments."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", " ", lines)
    split = (line.split(None, 1) for line in joined.splitlines() if line.strip())
    return [(word.upper(), rest) for word, rest in split]


@pytest.fixture(scope="module")
def written(project: Path) -> list[Instruction]:
    return instructions((project / "Dockerfile").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def last_stage(written: list[Instruction]) -> list[Instruction]:
    """What ends up in the image, with its history."""
    begin = max(at for at, (word, _) in enumerate(written) if word == "FROM")
    return written[begin:]


def test_the_base_is_an_argument_with_a_version(written: list[Instruction]) -> None:
    bases = [rest.split(" AS ")[0] for word, rest in written if word == "FROM"]
    stages = {rest.split(" AS ")[1] for word, rest in written if word == "FROM" and " AS " in rest}
    assert {base for base in bases if base not in stages} == {"${BASE_IMAGE}"}
    assert re.fullmatch(r"BASE_IMAGE=python:\d+\.\d+-slim", written[0][1])
    assert not [rest for _, rest in written if ":latest" in rest]


def test_the_user_is_a_number_that_is_not_root_and_nothing_is_run_after(last_stage: list[Instruction]) -> None:
    words = [word for word, _ in last_stage]
    users = [rest for word, rest in last_stage if word == "USER"]
    assert len(users) == 1, "Kubernetes can verify a number only (runAsNonRoot)"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", users[0])
    assert not {"RUN", "COPY", "ADD"} & set(words[words.index("USER") :])


def test_it_has_no_entrypoint(written: list[Instruction]) -> None:
    assert "ENTRYPOINT" not in {word for word, _ in written}


def test_no_argument_is_a_secret_and_no_index_reaches_the_image(
    written: list[Instruction], last_stage: list[Instruction]
) -> None:
    given = [rest.split("=")[0] for word, rest in written if word in ("ARG", "ENV")]
    assert not [name for name in given if re.search(r"TOKEN|PASSWORD|SECRET|_KEY", name)]
    assert not [rest for _, rest in last_stage if "INDEX" in rest]


def test_a_change_of_the_source_builds_none_of_the_packages_anew(written: list[Instruction]) -> None:
    """PyTorch and all else is installed in a stage that no file of the source reaches."""
    stages: dict[str, list[Instruction]] = {}
    for word, rest in written:
        if word == "FROM":
            stages[name := rest.rpartition(" AS ")[2]] = []
        elif stages:
            stages[name].append((word, rest))
    copied = [rest.split()[0] for word, rest in stages["requirements"] if word == "COPY"]
    assert copied == ["--from=wanted", "requirements.lock"]
    assert [rest for word, rest in stages["wanted"] if word == "COPY"] == ["pyproject.toml /"]


def test_the_commit_comes_after_all_that_takes_time(last_stage: list[Instruction]) -> None:
    """Else every commit would make all layers anew."""
    words = [f"{word} {rest}" for word, rest in last_stage]
    commit = next(at for at, line in enumerate(words) if line.startswith("ARG GIT_COMMIT"))
    assert max(at for at, line in enumerate(words) if line.startswith("COPY")) < commit


def test_it_says_the_version_of_the_project(written: list[Instruction], project: Path) -> None:
    version = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert ("ARG", f"VERSION={version}") in written


def test_it_installs_with_the_uv_of_the_makefile(project: Path) -> None:
    pins = [
        re.findall(r"uv==([\d.]+)", (project / name).read_text(encoding="utf-8")) for name in ("Dockerfile", "Makefile")
    ]
    assert pins[0] == pins[1]
    assert len(pins[0]) == 1


def test_its_extras_are_those_of_the_project(written: list[Instruction], project: Path) -> None:
    (extras,) = [rest.partition("=")[2].strip('"').split() for word, rest in written if rest.startswith("EXTRAS=")]
    known = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    assert set(extras) <= known.keys()


def test_the_builder_is_sent_what_it_copies_and_no_more(written: list[Instruction], project: Path) -> None:
    kept = {line[1:] for line in (project / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    sources = [rest.split()[:-1] for word, rest in written if word == "COPY" and not rest.startswith("--from")]
    assert kept == {name for names in sources for name in names}
    assert "*" in (project / ".dockerignore").read_text().splitlines()
