"""A translator as MLflow serves it: pictures in, pictures out."""

import json

import numpy as np
import pytest
import torch
from mlflow.models import Model

from limner.adapters.mlflow_registry import SIGNATURE, TRANSLATOR_SIGNATURE, _save
from limner.errors import LimnerError
from limner.inference import open_translator
from tests.mlflow_stand import third_party_warnings, write_export
from tests.translators import export_translator

# On import it warns of the type hints of its own classes.
pytestmark = [third_party_warnings, pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return export_translator(tmp_path_factory.mktemp("translator"))


def test_a_served_translator_does_what_the_exported_one_does(export, tmp_path):
    _save(tmp_path / "model", export, Model())
    import mlflow.pyfunc

    served = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    assert served.metadata.signature == TRANSLATOR_SIGNATURE
    pictures = np.random.default_rng(0).integers(0, 256, (2, 20, 24, 3), dtype=np.uint8)
    results = served.predict(pictures)
    assert results.shape == pictures.shape
    assert results.dtype == np.uint8
    assert np.array_equal(results, open_translator(export).stylize_batch(pictures))


def test_a_generator_keeps_its_signature(tmp_path):
    export = write_export(tmp_path / "export", digest="1" * 64)
    _save(tmp_path / "model", export, Model())
    assert Model.load(str(tmp_path / "model")).signature == SIGNATURE


@pytest.fixture
def as_pictures():
    from limner.adapters.mlflow_model import as_pictures

    return as_pictures


def test_numbers_from_json_are_pictures(as_pictures):
    sent = json.loads(json.dumps(np.arange(48).reshape(1, 4, 4, 3).tolist()))
    assert np.array_equal(as_pictures(np.array(sent)), np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3))


@pytest.mark.parametrize(
    "bad",
    [np.zeros((4, 4, 3), int), np.full((1, 4, 4, 3), 256), np.full((1, 4, 4, 3), -1), torch.zeros(1, 4, 4, 3).numpy()],
)
def test_what_is_no_pictures_is_refused(as_pictures, bad):
    with pytest.raises(LimnerError, match="whole numbers from 0 to 255"):
        as_pictures(bad)
