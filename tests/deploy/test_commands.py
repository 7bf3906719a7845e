"""What the manifests run: the words are options that the programs have, and the schedule's script talks to Kubeflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.manifests import documents, pods
from tests.mlflow_stand import third_party_warnings

DEPLOY = Path(__file__).parents[2] / "deploy"


def commands() -> list[list[str]]:
    """All commands that begin with `mlflow`."""
    return [
        command_of("base/mlflow-deployment.yaml"),
        documents(DEPLOY / "compose.yaml")[0]["services"]["mlflow"]["command"],
    ]


def command_of(name: str) -> list[str]:
    (container,) = next(pods(documents(DEPLOY / name)[0]))["containers"]
    return [*container["command"], *container["args"]]


@third_party_warnings
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType:UserWarning")  # mlflow's, of its own classes
@pytest.mark.parametrize("words", commands(), ids=lambda words: " ".join(words[:3]))
def test_mlflow_knows_its_words(words: list[str]) -> None:
    from mlflow.cli import cli

    command: Any = cli
    words = words[1:]
    while not words[0].startswith("-"):
        command = command.commands[words.pop(0)]
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    assert {word.partition("=")[0] for word in words} <= options


def test_limner_serve_knows_its_words() -> None:
    import typer

    from limner.cli.app import app

    program, command, model, *words = command_of("kserve-limner/inference-service.yaml")
    assert (program, command, model) == ("limner", "serve", "$(MODEL)")
    found: Any = typer.main.get_command(app)
    options = {name for parameter in found.commands["serve"].params for name in parameter.opts}
    assert {word.partition("=")[0] for word in words} <= options


def test_mlflow_knows_its_variables() -> None:
    from mlflow import environment_variables

    (container,) = next(pods(documents(DEPLOY / "base/mlflow-deployment.yaml")[0]))["containers"]
    ours = {each["name"] for each in container["env"] if each["name"].startswith("MLFLOW_")}
    # An option of the command, which reads it itself.
    ours -= {"MLFLOW_ARTIFACTS_DESTINATION"}
    assert ours == {name for name in ours if hasattr(environment_variables, name)}


def test_the_schedule_submits_the_newest_version_with_the_parameters_of_the_config_map(tmp_path: Path) -> None:
    asked: list[tuple[str, str, str, Any]] = []

    class Kubeflow(BaseHTTPRequestHandler):
        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            path = self.path.partition("?")[0].removeprefix("/apis/v2beta1/")
            asked.append((self.command, path, self.headers.get("authorization", ""), body))
            version = {"pipeline_id": "p", "pipeline_version_id": "v2", "display_name": "new"}
            answers: dict[tuple[str, str], Any] = {
                ("GET", "healthz"): {"multi_user": True},
                ("GET", "pipelines"): {"pipelines": [{"pipeline_id": "p", "display_name": "limner-retrain"}]},
                ("GET", "pipelines/p/versions"): {"pipeline_versions": [version]},
                ("GET", "experiments"): {},
                ("POST", "experiments"): {"experiment_id": "e", "display_name": "limner"},
                ("POST", "runs"): {"run_id": "r", "display_name": "limner-retrain"},
            }
            answer = answers.get((self.command, path))
            text = json.dumps(answer if answer is not None else {"error": "unknown"}).encode()
            self.send_response(200 if answer is not None else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        do_GET = do_POST = _do

        def log_message(self, *words: object) -> None:
            del words

    http = ThreadingHTTPServer(("127.0.0.1", 0), Kubeflow)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    parameters = tmp_path / "parameters"
    (parameters / "..data").mkdir(parents=True)  # as Kubernetes mounts a ConfigMap
    for name, text in {
        "model": "digits-gan",
        "settings": '{"models": {}}\n',
        "gpus": "2",
        "fine_tune": "false",
    }.items():
        (parameters / name).write_text(text)
    (tmp_path / "token").write_text("secret-token")
    (container,) = next(pods(documents(DEPLOY / "recurring/cron-job.yaml")[0]))["containers"]
    surroundings = {
        **{name: value for name, value in os.environ.items() if "proxy" not in name.lower()},
        "PIPELINES": f"http://127.0.0.1:{http.server_port}",
        "PARAMETERS": str(parameters),
        "PIPELINES_NAMESPACE": "kubeflow",
        "PROFILE": "team-a",
        "KF_PIPELINES_SA_TOKEN_PATH": str(tmp_path / "token"),
        "HOME": str(tmp_path),
    }
    declared = {each["name"] for each in container["env"]}
    assert surroundings.keys() >= declared
    words = [sys.executable, *container["command"][1:]]
    said = subprocess.run(words, env=surroundings, capture_output=True, text=True, check=False, timeout=60)
    http.shutdown()
    http.server_close()
    assert said.returncode == 0, said.stderr
    assert said.stdout.endswith("submitted r\n")
    assert all(token == "Bearer secret-token" for _, _, token, _ in asked)
    (run,) = [body for verb, path, _, body in asked if (verb, path) == ("POST", "runs")]
    assert run["pipeline_version_reference"] == {"pipeline_id": "p", "pipeline_version_id": "v2"}
    assert run["experiment_id"] == "e"
    assert run["runtime_config"]["parameters"] == {
        "model": "digits-gan",
        "settings": '{"models": {}}',
        "gpus": 2,
        "fine_tune": False,
    }


def test_the_schedule_has_the_parameters_of_the_pipeline() -> None:
    """Those that are no strings have to be known to it."""
    retrain = pytest.importorskip("pipelines.retrain")
    from pipelines.placement import Placement

    component = retrain.build(Placement(image="limner-python@sha256:" + "0" * 64))
    inputs = component.pipeline_spec.root.input_definitions.parameters
    typed = {name for name, spec in inputs.items() if spec.parameter_type != 3}  # ParameterType.STRING
    (container,) = next(pods(documents(DEPLOY / "recurring/cron-job.yaml")[0]))["containers"]
    line = next(line for line in container["command"][2].splitlines() if line.startswith("typed = "))
    assert eval(line.removeprefix("typed = ")) == typed
