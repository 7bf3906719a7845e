"""What all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

FROM_OUTSIDE = (
    "DVC_ROOT",
    "DVC_EXP_NAME",
    "LIMNER_CHECKPOINTS",
    "LIMNER_IMAGE",
    "MLFLOW_RUN_ID",
    "MLFLOW_TRACKING_URI",
    "MLFLOW_EXPERIMENT_ID",
    "MLFLOW_EXPERIMENT_NAME",
    "KFP_HOST",
    "KFP_RUN_ID",
    "KUBERNETES_SERVICE_HOST",
    "LIMNER_CACHE",
)


@pytest.fixture(autouse=True)
def _own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees the caller's tracking server or DVC stage, or leaves a trace in the project's folder."""
    for name in FROM_OUTSIDE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))


@pytest.fixture(scope="session")
def project() -> Path:
    """The root of the repository."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tiny_params(project: Path) -> Path:
    """A catalog of one dataset and one model whose five steps take seconds."""
    return project / "tests" / "tiny.yaml"
