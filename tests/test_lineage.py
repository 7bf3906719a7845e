import json
import subprocess
from pathlib import Path

import pytest
from dvc.repo import Repo

from limner import __version__
from limner.errors import LimnerError
from limner.lineage import directory_md5, file_sha256, read_lineage, write_lineage

NO_IMAGE = Path("/nonexistent/BUILD_INFO.json")


def git(*words: str) -> None:
    who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    git("init", "--quiet")
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    (tmp_path / "dvc.lock").write_text("stages: {}\n")
    git("add", ".")
    git("commit", "--quiet", "-m", "Begin")
    (tmp_path / "out").mkdir()
    return tmp_path


def written(folder: Path, record: dict[str, object] | None = None) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    write_lineage(folder, record or {}, build_info=NO_IMAGE)
    return read_lineage(folder)


def test_record_is_flat_sorted_text_with_versions_of_what_computes(tmp_path: Path) -> None:
    record = written(tmp_path, {"seed": 3, "run_id": "abc", "dataset_md5": None})
    assert record["seed"] == "3"
    assert record["dataset_md5"] == ""
    assert record["limner_version"] == __version__
    assert all(record[f"{name}_version"] for name in ("python", "torch", "torchvision", "numpy"))
    assert record["platform"]
    text = (tmp_path / "lineage.json").read_text()
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert text.endswith("}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["lineage.json"]


def test_caller_goes_before_what_is_found_out(tmp_path: Path) -> None:
    assert written(tmp_path, {"platform": "a cluster"})["platform"] == "a cluster"


def test_commit_of_the_project_is_recorded(repository: Path) -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    record = written(repository / "out")
    assert record["git_commit"] == head
    assert record["git_dirty"] == "false"


@pytest.mark.parametrize("changed", ["params.yaml", "new_method.py"])
def test_changed_or_new_file_makes_it_dirty(repository: Path, changed: str) -> None:
    (repository / changed).write_text("seed: 1\n")
    assert written(repository / "out")["git_dirty"] == "true"


@pytest.mark.parametrize("written_by_pipeline", ["dvc.lock", "reports/digits/metrics.json"])
def test_what_the_pipeline_writes_does_not_make_it_dirty(repository: Path, written_by_pipeline: str) -> None:
    path = repository / written_by_pipeline
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    assert written(repository / "out")["git_dirty"] == "false"


def test_changes_count_in_the_whole_repository(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "params.yaml").write_text("seed: 1\n")
    monkeypatch.chdir(repository / "out")
    assert written(repository / "out")["git_dirty"] == "true"


def test_without_repository_the_commit_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    record = written(tmp_path)
    assert (record["git_commit"], record["git_dirty"]) == ("", "")


def test_without_git_the_commit_is_empty(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert written(repository / "out")["git_commit"] == ""


def test_image_knows_its_commit_where_there_is_no_repository(tmp_path: Path) -> None:
    note = tmp_path / "BUILD_INFO.json"
    note.write_text(json.dumps({"git_commit": "c0ffee", "git_dirty": "false", "image_digest": "sha256:1"}))
    write_lineage(tmp_path, {}, build_info=note)
    record = read_lineage(tmp_path)
    assert (record["git_commit"], record["git_dirty"], record["image_digest"]) == ("c0ffee", "false", "sha256:1")


def test_missing_record_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(LimnerError, match=r"has no lineage\.json[\s\S]*Make it again"):
        read_lineage(tmp_path)


@pytest.mark.parametrize(("text", "problem"), [("{", "cannot be read"), ("[]", "not a lineage record")])
def test_broken_record_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    (tmp_path / "lineage.json").write_text(text)
    with pytest.raises(LimnerError, match=problem):
        read_lineage(tmp_path)


# dvc calls what pygtrie has deprecated.
@pytest.mark.filterwarnings("ignore:_NoneStep.value:DeprecationWarning")
def test_folder_has_the_name_that_dvc_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data"
    files = {"b.bin": b"\x00\xff", "a/z.txt": b"z\r\n", "a.txt": b"a", "A.txt": b"", "ä ö/ü.txt": "ü".encode()}
    for name, content in files.items():
        (data / name).parent.mkdir(parents=True, exist_ok=True)
        (data / name).write_bytes(content)
    (data / "empty").mkdir()
    (data / "linked").symlink_to(data / "a", target_is_directory=True)
    (data / "link").symlink_to(data / "b.bin")
    monkeypatch.chdir(tmp_path)
    with Repo.init(no_scm=True) as repo:
        (stage,) = repo.add(["data"])
    assert directory_md5(data) == stage.outs[0].hash_info.value


def test_folder_has_another_name_once_a_file_is_renamed_or_changed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    name = directory_md5(tmp_path)
    (tmp_path / "a").write_bytes(b"2")
    assert directory_md5(tmp_path) != name
    (tmp_path / "a").write_bytes(b"1")
    assert directory_md5(tmp_path) == name
    (tmp_path / "a").rename(tmp_path / "b")
    assert directory_md5(tmp_path) != name


def test_absent_folder_has_no_name(tmp_path: Path) -> None:
    with pytest.raises(LimnerError, match="no folder"):
        directory_md5(tmp_path / "absent")


def test_sha256_of_a_file_is_the_published_one(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, appendix B.1
    assert file_sha256(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
