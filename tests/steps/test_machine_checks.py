from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from limner.findings import Finding
from limner.steps.machine_checks import (
    GIB,
    Disk,
    Gpus,
    _fits,
    disk,
    gpu,
    libraries,
    look,
    memory,
    python,
    shared_memory,
    version,
)


@pytest.mark.parametrize(
    ("running", "status"), [((3, 10, 14), "error"), ((3, 11, 0), "ok"), ((3, 14, 1), "ok"), ((4, 0, 0), "ok")]
)
def test_a_python_that_is_too_old_is_an_error(running: tuple[int, int, int], status: str) -> None:
    found = python(running, supported=">=3.11")
    assert found.status == status
    assert ("PYTHON=" in found.fix) == (status == "error")


class TestLibraries:
    NEEDED = ("numpy>=1.26", 'mlflow<4,>=3.17; extra == "pipeline"', 'boto3>=1; extra == "pipeline"', "torch>=2.11")
    DEV = 'ruff>=0.9; extra == "dev"'

    def examine(self, **installed: str) -> list[Finding]:
        return list(libraries((*self.NEEDED, self.DEV), version_of=lambda name: installed.get(name, "")))

    def test_all_there_is_fine_and_a_contributors_tools_do_not_matter(self) -> None:
        (found,) = self.examine(numpy="2.4", torch="2.15.0+cu130", mlflow="3.17.2", boto3="1.40")
        assert (found.status, found.what[:2]) == ("ok", "4 ")

    def test_a_version_beyond_the_range_is_an_error_that_names_both(self) -> None:
        (found,) = self.examine(numpy="2.4", torch="2.15.0", mlflow="4.0.0", boto3="1.40")
        assert found.status == "error"
        assert "mlflow 4.0.0 is not <4,>=3.17" in found.what

    def test_a_missing_library_of_the_core_is_an_error(self) -> None:
        (found,) = self.examine(torch="2.15.0", mlflow="3.17.2", boto3="1.40")
        assert (found.status, found.what) == ("error", "numpy is missing.")

    def test_without_the_pipelines_libraries_it_is_a_warning(self) -> None:
        core, pipeline = self.examine(numpy="2.4", torch="2.15.0")
        assert (core.status, pipeline.status) == ("ok", "warning")
        assert "mlflow, boto3" in pipeline.what
        assert "limner[pipeline]" in pipeline.fix

    def test_the_packages_own_metadata_can_be_read(self) -> None:
        assert [found.status for found in libraries(metadata.requires("limner") or (), version_of=version)] == ["ok"]


class TestGpu:
    def test_none_is_fine(self) -> None:
        found = gpu(Gpus(built_for="13.0", precision="float32"))
        assert found.status == "ok"
        assert "CPU" in found.what

    def test_those_there_are_told_by_name(self) -> None:
        found = gpu(Gpus(built_for="13.0", names=("NVIDIA H100",), driver=True, precision="bfloat16"))
        assert (found.status, found.what) == ("ok", "NVIDIA H100 with CUDA 13.0; precision auto is bfloat16")

    def test_a_build_for_the_cpu_beside_a_gpu_is_an_error(self) -> None:
        found = gpu(Gpus(built_for="", driver=True))
        assert found.status == "error"
        assert "CUDA build" in found.fix

    def test_a_driver_that_pytorch_cannot_use_is_an_error_in_pytorchs_words(self) -> None:
        found = gpu(Gpus(built_for="13.0", driver=True, complaint="The NVIDIA driver on your system is too old"))
        assert found.status == "error"
        assert "too old" in found.what
        assert "nvidia-smi" in found.fix

    def test_a_gpu_that_the_build_has_no_code_for_is_an_error(self) -> None:
        found = gpu(Gpus(built_for="13.0", names=("Tesla P100",), too_old=("Tesla P100",), driver=True))
        assert (found.status, "no code for Tesla P100" in found.what) == ("error", True)

    @pytest.mark.parametrize(
        ("capability", "built", "fits"),
        [
            ((9, 0), ["sm_80", "sm_90"], True),
            ((8, 6), ["sm_80", "sm_90"], True),  # binaries run on later ones of their generation
            ((8, 0), ["sm_86", "sm_90"], False),
            ((6, 0), ["sm_75", "sm_90a"], False),
            ((12, 0), ["sm_90", "compute_90"], True),  # PTX is translated for whatever comes later
            ((12, 0), ["sm_90"], False),
        ],
    )
    def test_which_code_a_gpu_can_run(self, capability: tuple[int, int], built: list[str], fits: bool) -> None:
        assert _fits(capability, built) is fits


class TestSharedMemory:
    DOCKERS_DEFAULT = 64 * 2**20

    def test_one_process_needs_none(self) -> None:
        assert shared_memory(self.DOCKERS_DEFAULT, gpus_together=1).status == "ok"

    def test_several_gpus_need_more_than_dockers_default(self) -> None:
        found = shared_memory(self.DOCKERS_DEFAULT, gpus_together=2)
        assert found.status == "warning"
        assert "64 MiB" in found.what
        assert "--shm-size" in found.fix
        assert "emptyDir" in found.fix

    def test_a_gibibyte_is_enough(self) -> None:
        assert shared_memory(GIB, gpus_together=8).status == "ok"


def test_little_memory_is_a_warning_with_the_containers_limit() -> None:
    found = memory(GIB, limit=4 * GIB)
    assert found.status == "warning"
    assert "1.0 GiB free of the container's 4.0 GiB" in found.what
    assert memory(8 * GIB, limit=0).status == "ok"


class TestDisk:
    def test_room_is_fine(self, tmp_path: Path) -> None:
        assert disk("results", Disk(tmp_path, free=50 * GIB, writable=True)).status == "ok"

    @pytest.mark.parametrize(("free", "status"), [(0.5, "error"), (5, "warning"), (10, "ok")])
    def test_little_room_is_told_before_it_is_none(self, tmp_path: Path, free: float, status: str) -> None:
        assert disk("results", Disk(tmp_path, free=int(free * GIB), writable=True)).status == status

    def test_what_is_known_to_come_counts(self, tmp_path: Path) -> None:
        found = disk("checkpoints", Disk(tmp_path, free=50 * GIB, writable=True, needed=60 * GIB))
        assert found.status == "error"
        assert "60.0 GiB will be needed" in found.what

    def test_a_folder_of_somebody_else_is_an_error(self, tmp_path: Path) -> None:
        found = disk("results", Disk(tmp_path, free=50 * GIB, writable=False))
        assert (found.status, found.check) == ("error", "disk: results")


def test_this_machine_is_looked_at_without_creating_anything(tmp_path: Path) -> None:
    places = {"results": tmp_path / "models" / "a"}
    found = {finding.check: finding for finding in look(places, needed={"results": 2**62}, processes=1)}
    assert {"python", "libraries", "torch", "gpu", "shared memory", "onnxruntime", "memory"} < set(found)
    assert found["torch"].status == "ok"
    assert found["disk: results"].status == "error"  # so much is on no disk
    assert not list(tmp_path.iterdir())
