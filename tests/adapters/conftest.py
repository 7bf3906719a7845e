from pathlib import Path

import pytest

from limner.adapters import find_server
from limner.adapters.mlflow_server import MlflowServer
from tests.mlflow_stand import database


@pytest.fixture
def server(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    return find_server(database(tmp_path, tmp_path_factory))
