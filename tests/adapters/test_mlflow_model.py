"""A packed model: what MLflow loads and serves, with no more of this package than it ships."""

import base64
import io
import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import mlflow
import numpy as np
import onnxruntime
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from PIL import Image

import limner
from limner.adapters.mlflow_packaging import SHIPPED, SIGNATURE, save_mlflow_model
from limner.inference import Wish, open_model
from limner.trained import open_trained
from tests.exports import export_generator
from tests.mlflow_stand import third_party_warnings, write_export
from tests.translators import export_translator

# On import it warns of the type hints of its own classes.
pytestmark = [third_party_warnings, pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")]
TOLERANCE = 1
"""Grey levels: a value between two of them may be rounded to either."""
NOTHING = np.empty(0, object)


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exports")
    return {
        "generator": export_generator(folder / "generator", formats=("pt2", "onnx")),
        "translator": export_translator(folder / "translator"),
    }


@pytest.fixture(scope="module")
def packed(exports, tmp_path_factory):
    """The packed models' folders, and how far they are from the exports."""
    folder = tmp_path_factory.mktemp("packed")
    found = {name: save_mlflow_model(folder / name, export, Model()) for name, export in exports.items()}
    assert found == {"generator": 0, "translator": 0}
    return folder


@pytest.fixture(scope="module")
def served(packed):
    """As MLflow has loaded them."""
    before = sys.path[:]
    yield {name: mlflow.pyfunc.load_model(str(packed / name)) for name in ("generator", "translator")}
    sys.path[:] = before


def sources(*sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes]


def encoded(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def decoded(text):
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        values = np.asarray(image)
    return values[..., None] if values.ndim == 2 else values


def far(a, b):
    return np.abs(np.asarray(a).astype(int) - np.asarray(b)).max()


def test_the_signature_says_all_parameters_and_what_they_are_without_being_said(served):
    for model in served.values():
        assert model.metadata.signature == SIGNATURE
        assert {spec.name: spec.default for spec in SIGNATURE.params.params} == {
            "seed": 0, "count": 1, "label": -1, "truncation": 0.0, "strength": 1.0, "output": "array"
        }  # fmt: skip


def test_one_seed_is_one_picture_in_every_form(exports, served):
    """Eager, pt2, ONNX, and MLflow's; over HTTP: test_http_server, and below."""
    wishes = [Wish(3, number, number) for number in range(3)]
    model = open_model(exports["generator"])
    inputs = {described["name"]: model._input(described, wishes) for described in model.inputs}
    eager = open_trained(exports["generator"].parent / "model", device=torch.device("cpu")).product("best")
    session = onnxruntime.InferenceSession(exports["generator"] / "model.onnx", providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        images = {"eager": eager(**inputs).numpy()}
    images["onnx"] = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    forms = {name: ((values + 1) * 127.5).round().clip(0, 255).transpose(0, 2, 3, 1) for name, values in images.items()}
    forms["pyfunc"] = served["generator"].predict(NOTHING, params={"seed": 3, "count": 3})
    assert forms["pyfunc"].dtype == np.uint8
    expected = model.paint(wishes)
    assert {name: far(form, expected) <= TOLERANCE for name, form in forms.items()} == dict.fromkeys(forms, True)


def test_a_generator_obeys_its_parameters(exports, served):
    model = open_model(exports["generator"])
    params = {"seed": 5, "count": 2, "label": 1, "truncation": 0.5}
    expected = model.generate(2, seed=5, label=1, truncation=0.5)
    assert far(served["generator"].predict(NOTHING, params=params), expected) <= TOLERANCE
    files = served["generator"].predict(NOTHING, params={**params, "output": "png"})
    assert far(np.stack([decoded(text) for text in files]), expected) <= TOLERANCE


def test_a_translator_takes_arrays_and_files_of_any_size(exports, served):
    model = open_model(exports["translator"])
    batch = np.stack(sources((20, 24), (20, 24)))
    assert far(served["translator"].predict(batch), model.stylize_batch(batch)) <= TOLERANCE
    unlike = sources((20, 24), (16, 12))
    for source, result in zip(
        unlike, served["translator"].predict(np.array([encoded(each) for each in unlike], object)), strict=True
    ):
        assert far(result, model.stylize(source)) <= TOLERANCE
    half = served["translator"].predict(batch, params={"strength": 0.5, "output": "png"})
    assert far(np.stack([decoded(text) for text in half]), model.stylize_batch(batch, strength=0.5)) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "inputs", "params", "said"),
    [
        ("generator", NOTHING, {"count": 1000}, "Ask for 1 to 64"),
        ("generator", NOTHING, {"label": 7}, "no class 7"),
        ("generator", NOTHING, {"output": "gif"}, "no output 'gif'"),
        ("generator", np.array(["x"], object), {}, "takes no inputs"),
        ("generator", NOTHING, {"count": 1.5}, "Invalid parameters"),
        ("translator", np.array(["x"], object), {}, "not base64"),
        ("translator", np.zeros((1, 4, 4, 2), np.uint8), {}, "Picture 0"),
        ("translator", NOTHING, {}, "list of pictures"),
    ],
)
def test_a_bad_request_is_the_callers_error(served, name, inputs, params, said):
    with pytest.raises(MlflowException, match=said) as caught:
        served[name].predict(inputs, params=params)
    assert caught.value.get_http_status_code() == 400


def test_threads_get_their_own_pictures(exports, served):
    model = open_model(exports["generator"])
    with ThreadPoolExecutor(16) as callers:
        found = list(callers.map(lambda seed: served["generator"].predict(NOTHING, params={"seed": seed}), range(64)))
    assert far(np.concatenate(found), model.paint([Wish(seed) for seed in range(64)])) <= TOLERANCE


def test_an_export_without_a_program_is_packed_unasked(tmp_path):
    export = write_export(tmp_path / "export", digest="1" * 64)
    assert save_mlflow_model(tmp_path / "model", export, Model()) is None
    assert Model.load(str(tmp_path / "model")).signature == SIGNATURE


def test_loading_a_packed_model_leaves_the_module_path_alone(exports, tmp_path):
    before = sys.path[:]
    save_mlflow_model(tmp_path / "model", exports["generator"], Model())
    assert sys.path == before


ELSEWHERE = """
import importlib.abc, json, sys

class NoInstalledLimner(importlib.abc.MetaPathFinder):  # as on a machine where it is not installed
    def find_spec(self, name, path, target=None):
        if name == "limner" and not any("packed-elsewhere" in place for place in sys.path):
            raise ModuleNotFoundError("limner is not installed here")

sys.meta_path.insert(0, NoInstalledLimner())
sys.path[:] = [place for place in sys.path if place.rstrip("/") != sys.argv[2]]
import numpy as np
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
pictures = model.predict(np.empty(0, object), params={"seed": 3, "count": 3})
import limner
print(json.dumps({
    "pictures": pictures.tolist(), "limner": limner.__file__,
    "loaded": sorted(n.partition(".")[2] or "__init__" for n in sys.modules if n.partition(".")[0] == "limner"),
}))
"""


def test_it_runs_where_limner_is_not_installed_with_no_more_than_it_ships(exports, tmp_path):
    folder = tmp_path / "packed-elsewhere"
    save_mlflow_model(folder, exports["generator"], Model())
    assert {path.stem for path in (folder / "code" / "limner").glob("**/*.py")} == set(SHIPPED)
    installed = str(Path(limner.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, str(folder), installed],
        capture_output=True, text=True, check=False, cwd=tmp_path, timeout=300, env=without_pickle(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert Path(found["limner"]).is_relative_to(folder)
    assert set(found["loaded"]) == set(SHIPPED)  # all of them, and so no others
    assert far(found["pictures"], open_model(exports["generator"]).generate(3, seed=3)) <= TOLERANCE


def without_pickle():
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }


@contextmanager
def mlflow_serving(folder, log):
    """A client of `mlflow models serve`."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = ["--model-uri", str(folder), "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "models", "serve", *words, "--workers", "1"],
            stdout=file, stderr=file, env=without_pickle(), cwd=log.parent,
        )  # fmt: skip
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            deadline = time.monotonic() + 120
            while True:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                try:
                    if client.get("/ping").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.3)
            yield client
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.slow
def test_mlflow_models_serve_answers_for_a_generator(exports, packed, tmp_path):
    model = open_model(exports["generator"])
    with mlflow_serving(packed / "generator", tmp_path / "log") as client:

        def one(seed):
            params = {"seed": seed, "output": ("array", "png")[seed % 2], "label": 99 if seed % 10 == 9 else -1}
            return client.post("/invocations", json={"inputs": [], "params": params})

        with ThreadPoolExecutor(200) as callers:
            answers = list(callers.map(one, range(200)))
        example = json.loads((packed / "generator" / "serving_input_example.json").read_text())
        assert len(client.post("/invocations", json=example).json()["predictions"]) == 2
    assert [answer.status_code for answer in answers] == [400 if seed % 10 == 9 else 200 for seed in range(200)]
    for seed, answer in enumerate(answers):
        if seed % 10 == 9:
            assert "no class 99" in answer.json()["message"]
        else:
            (value,) = answer.json()["predictions"]
            assert far(decoded(value) if seed % 2 else value, model.paint([Wish(seed)])[0]) <= TOLERANCE


@pytest.mark.slow
def test_mlflow_models_serve_answers_for_a_translator(exports, packed, tmp_path):
    model, unlike = open_model(exports["translator"]), sources((20, 24), (16, 12))
    with mlflow_serving(packed / "translator", tmp_path / "log") as client:

        def ask(inputs, **params):
            return client.post("/invocations", json={"inputs": inputs, "params": params})

        arrays = ask([each.tolist() for each in unlike])
        files = ask([encoded(each) for each in unlike], strength=0.5, output="png")
        bad = [ask([encoded(unlike[0])], strength=2), ask(["x"]), ask([[[[0, 0, 300]]]]), ask([])]
        example = json.loads((packed / "translator" / "serving_input_example.json").read_text())
        assert client.post("/invocations", json=example).status_code == 200
    for source, rows, text in zip(unlike, arrays.json()["predictions"], files.json()["predictions"], strict=True):
        assert far(rows, model.stylize(source)) <= TOLERANCE
        assert far(decoded(text), model.stylize(source, strength=0.5)) <= TOLERANCE
    assert [answer.status_code for answer in bad] == [400] * 4
    assert "out of range" in bad[0].json()["message"]
