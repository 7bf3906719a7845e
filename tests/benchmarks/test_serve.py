"""The plain server answers as ours does, and the benchmark runs from end to end."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image

from benchmarks.plain_server import open_app
from benchmarks.serve import build_model, main


def test_the_plain_server_answers_in_the_same_form(tmp_path):
    model, _ = build_model(tmp_path, width=4, size=16)
    client = open_app(str(model), threads=1).test_client()
    params = {"count": 2, "seed": 1, "label": 3}
    arrays, files = (
        client.post("/invocations", json={"inputs": [], "params": {**params, "output": output}}).json["predictions"]
        for output in ("array", "png")
    )
    for rows, text in zip(arrays, files, strict=True):
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            assert np.array_equal(np.array(rows)[..., 0], np.asarray(picture))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # mlflow's, of its own classes
def test_quick_run_writes_a_row_for_each_server(tmp_path):
    main(["--quick", "--json", str(tmp_path / "found.json")])
    found = json.loads((tmp_path / "found.json").read_text())
    assert {"machine", "rows", "at_once"} <= found.keys()
    assert {(row["server"], row["output"]) for row in found["rows"]} == {
        (server, output) for server in ("plain, threads", "limner") for output in ("png", "array")
    }
    for row in found["rows"]:
        assert row["lost"] == 0
        assert row["right"] in (None, True)
        assert row["over_plain"] > 0
