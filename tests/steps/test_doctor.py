from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from limner.errors import LimnerError
from limner.findings import Check, Finding
from limner.lineage import directory_md5
from limner.steps.doctor import Examined, Subject, code, dataset, doctor, image, kubeflow_sdk, settings, sharing

MD5 = "0123456789abcdef0123456789abcdef.dir"


class Servers:
    """Servers of which only the given checks are known."""

    def __init__(self, **checks: Check) -> None:
        self._checks = checks
        self.asked_for = ""

    def checks(self, *, dataset_md5: str) -> Sequence[tuple[str, Check]]:
        self.asked_for = dataset_md5
        return list(self._checks.items())


@pytest.fixture(autouse=True)
def _no_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limner.steps.machine_checks.look", lambda *a, **k: iter(()))


class TestTogether:
    def subject(self, **values: object) -> Subject:
        return Subject(params=Path("none.yaml"), **values)  # type: ignore[arg-type]

    def test_one_check_that_breaks_does_not_hide_the_others(self) -> None:
        def breaks() -> Iterator[Finding]:
            yield Finding("first", "ok", "fine")
            raise ZeroDivisionError("oh")

        def refuses() -> Iterator[Finding]:
            raise LimnerError("It is away.", why="Somebody switched it off.", fix="Switch it on.")

        last = Finding("last", "ok", "fine")
        found = doctor(self.subject(), outside=Servers(breaks=breaks, refuses=refuses, last=lambda: [last]))
        first, broken, refused, end = found.findings[-4:]
        assert (first.check, end) == ("first", last)
        assert (broken.status, broken.what) == ("error", "This could not be looked at: ZeroDivisionError: oh")
        assert refused == Finding("refuses", "error", "It is away. Somebody switched it off.", "Switch it on.")
        assert not found.sound

    def test_warnings_are_sound(self) -> None:
        assert Examined((Finding("a", "warning", "b"), Finding("c", "skipped", "d"))).sound
        assert not Examined((Finding("a", "error", "b"),)).sound

    def test_the_servers_are_asked_for_the_dataset_that_is_meant(self) -> None:
        servers = Servers()
        doctor(self.subject(dataset_md5=MD5), outside=servers)
        assert servers.asked_for == MD5


class TestSettings:
    def test_a_right_model_names_its_dataset(self, tiny_params: Path) -> None:
        name, (found,) = settings(Subject(model="tiny-gan", params=tiny_params))
        assert (name, found.status) == ("tiny", "ok")

    def test_all_models_are_looked_at_where_none_is_named(self, tiny_params: Path) -> None:
        name, (found,) = settings(Subject(params=tiny_params, overrides=["models.other.dataset=nothing"]))
        assert (name, found.status) == ("", "error")
        assert "models.other.method" in found.what

    def test_a_wrong_value_is_told_with_what_is_allowed(self, tiny_params: Path) -> None:
        _, (found,) = settings(
            Subject(model="tiny-gan", params=tiny_params, overrides=["models.tiny-gan.train.batch=0"])
        )
        assert found.status == "error"
        assert "models.tiny-gan.train.batch" in found.what
        assert ">= 1" in found.fix

    def test_a_model_of_no_catalog_is_an_error_and_no_model_none(self) -> None:
        _, (named,) = settings(Subject(model="digits-gan"))
        _, (unnamed,) = settings(Subject())
        assert (named.status, unnamed.status) == ("error", "skipped")

    @pytest.mark.parametrize(
        ("batch", "micro_batch", "processes", "fix"),
        [
            (64, 0, 1, None),
            (64, 16, 4, None),
            (64, 0, 4, "micro_batch to 16"),
            (64, 32, 4, "micro_batch to 16"),
            (64, 0, 3, "multiple of 3"),
        ],
    )
    def test_a_batch_has_to_be_shared_out_evenly(
        self, batch: int, micro_batch: int, processes: int, fix: str | None
    ) -> None:
        found = sharing(batch, micro_batch, processes=processes)
        assert (found is None) == (fix is None)
        assert found is None or (found.status == "error" and fix is not None and fix in found.fix)

    def test_processes_count_for_the_model_that_is_named(self, tiny_params: Path) -> None:
        _, (found,) = settings(Subject(model="tiny-gan", params=tiny_params, processes=1000))
        assert "1000 processes" in found.what


class TestDataset:
    @pytest.fixture
    def here(self, tmp_path: Path) -> Subject:
        packed = tmp_path / "prepared" / "tiny"
        packed.mkdir(parents=True)
        (packed / "manifest.json").write_text("{}", encoding="utf-8")
        lock = {"stages": {"prepare@tiny": {"outs": [{"path": "data/prepared/tiny", "md5": directory_md5(packed)}]}}}
        (tmp_path / "dvc.lock").write_text(json.dumps(lock), encoding="utf-8")
        return Subject(lock=tmp_path / "dvc.lock", prepared=tmp_path / "prepared")

    def test_dvcs_note_is_of_the_present_data(self, here: Subject) -> None:
        md5, (found,) = dataset(here, "tiny")
        assert md5 == directory_md5(here.prepared / "tiny")
        assert found.status == "ok"

    def test_data_that_have_changed_since_are_a_warning(self, here: Subject) -> None:
        locked, _ = dataset(here, "tiny")
        (here.prepared / "tiny" / "manifest.json").write_text("{ }", encoding="utf-8")
        md5, (found,) = dataset(here, "tiny")
        assert md5 == locked
        assert found.status == "warning"
        assert "other data" in found.what
        assert found.fix == "dvc repro prepare@tiny && dvc push prepare@tiny"

    def test_data_elsewhere_are_named_all_the_same(self, here: Subject) -> None:
        (here.prepared / "tiny" / "manifest.json").unlink()
        (here.prepared / "tiny").rmdir()
        md5, (found,) = dataset(here, "tiny")
        assert (md5.endswith(".dir"), found.status) == (True, "ok")

    def test_what_dvc_does_not_know_is_skipped_with_the_command_that_makes_it(self, here: Subject) -> None:
        md5, (found,) = dataset(here, "other")
        assert (md5, found.status, found.fix) == ("", "skipped", "dvc repro prepare@other")

    def test_a_damaged_lock_is_an_error(self, here: Subject) -> None:
        here.lock.write_text("stages: [", encoding="utf-8")
        _, (found,) = dataset(here, "tiny")
        assert (found.status, "cannot be read" in found.what) == ("error", True)

    def test_a_given_md5_goes_before_the_lock(self, here: Subject) -> None:
        assert dataset(Subject(dataset_md5=MD5, lock=here.lock), "tiny") == (MD5, [])

    @pytest.mark.parametrize("word", ["abc", "0123456789ABCDEF0123456789ABCDEF.dir", f"{MD5}x"])
    def test_a_given_md5_that_is_none_is_an_error(self, word: str) -> None:
        md5, (found,) = dataset(Subject(dataset_md5=word), "tiny")
        assert (md5, found.status) == ("", "error")


class TestKubeflowSdk:
    def test_equal_versions_are_fine(self) -> None:
        assert kubeflow_sdk("2.17.0", "2.17.0", in_pod=False).status == "ok"

    def test_unequal_versions_are_an_error_where_pipelines_are_compiled(self) -> None:
        found = kubeflow_sdk("2.17.0", "2.14.1", in_pod=False)
        assert (found.status, found.fix) == ("error", "pip install 'kfp[kubernetes]==2.17.0'")
        assert kubeflow_sdk("2.17.0", "", in_pod=True).status == "warning"

    def test_a_pod_cannot_do_without_kfp(self) -> None:
        assert kubeflow_sdk("", "", in_pod=True).status == "error"
        assert kubeflow_sdk("", "", in_pod=False).status == "skipped"


class TestImage:
    def test_a_digest_is_fine(self) -> None:
        assert image(f"registry.example/limner-python@sha256:{'a' * 64}", in_pod=True).status == "ok"

    def test_a_tag_is_a_warning_that_tells_of_the_cache(self) -> None:
        found = image("registry.example:5000/limner-python:0.1.0", in_pod=False)
        assert found.status == "warning"
        assert "cache" in found.what

    def test_half_a_digest_is_an_error(self) -> None:
        assert image("limner-python@sha256:abc", in_pod=False).status == "error"

    def test_only_a_pod_should_know_its_image(self) -> None:
        assert image("", in_pod=True).status == "warning"
        assert image("", in_pod=False).status == "skipped"


class TestCode:
    def test_it_is_known_dirty_or_unknown(self) -> None:
        assert code({"git_commit": "0" * 40, "git_dirty": "false"}).status == "ok"
        assert "changes" in code({"git_commit": "0" * 40, "git_dirty": "true"}).what
        unknown = code({"git_commit": "", "git_dirty": ""})
        assert (unknown.status, "GIT_COMMIT" in unknown.fix) == ("warning", True)

    def test_an_images_note_is_read(self, tmp_path: Path) -> None:
        note = tmp_path / "BUILD_INFO.json"
        note.write_text(json.dumps({"git_commit": "f" * 40, "git_dirty": "false"}), encoding="utf-8")
        found = doctor(Subject(params=Path("none.yaml"), build_info=note), outside=Servers())
        assert Finding("code", "ok", f"commit {'f' * 12}") in found.findings


def test_checkpoints_of_before_tell_how_much_room_the_next_needs(
    monkeypatch: pytest.MonkeyPatch, tiny_params: Path, tmp_path: Path
) -> None:
    told = {}
    monkeypatch.setattr("limner.steps.machine_checks.look", lambda places, **k: told.update(k) or iter(()))
    for step, size in ((1, 10), (2, 30)):
        folder = tmp_path / "tiny-gan" / "abc" / "checkpoints" / f"step-{step}.0"
        folder.mkdir(parents=True)
        (folder / "weights.safetensors").write_bytes(b"x" * size)
    doctor(Subject(model="tiny-gan", params=tiny_params, scratch=tmp_path), outside=Servers())
    assert told["needed"] == {"checkpoints": 30}


def test_dvcs_own_note_has_the_shape_that_is_read(tmp_path: Path) -> None:
    """A change in DVC's lock file breaks this and not the doctor."""
    (tmp_path / "dvc.yaml").write_text(
        "stages:\n  prepare:\n    foreach: {tiny: {}}\n    do:\n      cmd: mkdir -p data/prepared/${key} && "
        "echo x > data/prepared/${key}/manifest.json\n      outs: ['data/prepared/${key}']\n",
        encoding="utf-8",
    )
    for words in (["init", "--no-scm", "-q"], ["repro", "-q"]):
        subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    md5, (found,) = dataset(Subject(lock=tmp_path / "dvc.lock", prepared=tmp_path / "data/prepared"), "tiny")
    assert (found.status, len(md5)) == ("ok", 36)
