"""Wherever Limner reads a file of numbers, one that was made to run code is refused, and nothing of it runs."""

import contextlib
import hashlib
import io
import json
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch

from limner.checkpoint import Checkpoints
from limner.drift import read_reference
from limner.errors import LimnerError
from limner.exported import load_vetted
from limner.features import cache
from limner.features.weights_file import network_from_file
from limner.inference import open_model
from limner.lineage import file_sha256
from limner.methods import load_method
from limner.packing import PackedDataset
from limner.settings import ModelSettings, TrainSettings
from limner.statistics_files import read_statistics
from limner.steps.find_export import find_export
from limner.steps.initial_weights import start_from
from limner.tasks import PictureShape
from limner.trained import open_trained
from tests.exports import GENERATOR, export_generator
from tests.packed import pack, quiet_ports

CPU = torch.device("cpu")


class Bomb:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark):
        self._mark = mark

    def __reduce__(self):
        return (open, (str(self._mark), "w"))


@pytest.fixture
def mark(tmp_path):
    return tmp_path / "it ran"


@pytest.fixture(params=["pickle", "torch"])
def bomb(request, mark):
    """Bytes of a file that runs code where it is unpickled, as `pickle` or as `torch.save` writes it."""
    if request.param == "pickle":
        return pickle.dumps(Bomb(mark))
    return saved(Bomb(mark))


def saved(value):
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # it is the bomb that opens it
def test_the_bomb_is_one(bomb, mark):
    try:
        pickle.loads(bomb)
    except pickle.UnpicklingError:
        torch.load(io.BytesIO(bomb), weights_only=False)
    assert mark.exists()


# -- files of an export -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return export_generator(tmp_path_factory.mktemp("made"))


@pytest.fixture
def export(made, tmp_path):
    return shutil.copytree(made, tmp_path / "export")


def sign_again(export, name):
    """What somebody does who forges a file: config.json has its new hash."""
    config = json.loads((export / "config.json").read_text())
    config["files"][name] = file_sha256(export / name)
    (export / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize("name", ["model.pt2", "model.safetensors"])
def test_a_file_that_was_changed_is_not_opened(export, name, bomb, mark):
    (export / name).write_bytes(bomb)
    with pytest.raises(LimnerError, match=rf"(?s){name} was changed since it was exported.*Nothing was loaded"):
        open_model(export)
    assert not mark.exists()


def test_a_program_that_is_a_pickle_is_refused(export, bomb, mark):
    (export / "model.pt2").write_bytes(bomb)
    sign_again(export, "model.pt2")
    with pytest.raises(LimnerError, match=r"cannot be opened|holds more than a network"):
        open_model(export)
    assert not mark.exists()


def test_weights_that_are_a_pickle_are_not_trained_on_from(export, bomb, mark, tmp_path):
    (export / "model.safetensors").write_bytes(bomb)
    loaded = load_method("gan")
    params = loaded.params.model_validate(GENERATOR)
    train = TrainSettings(kimg=1, init=str(export))
    settings = ModelSettings(dataset="toy", method=params, train=train)
    method = loaded.build(params, PictureShape(1, 16, 16, classes=3))
    with pytest.raises(LimnerError, match="which has no weights"):
        start_from(settings, method, ports=quiet_ports(tmp_path))
    assert not mark.exists()


def test_a_configuration_that_is_a_pickle_is_refused(export, bomb, mark):
    (export / "config.json").write_bytes(bomb)
    with pytest.raises(LimnerError, match="not an exported model"):
        open_model(export)
    assert not mark.exists()


def test_features_for_drift_that_are_a_pickle_are_refused(export, bomb, mark):
    (export / "drift.safetensors").write_bytes(bomb)
    with pytest.raises(LimnerError, match="holds no features of training pictures"):
        read_reference(export / "drift.safetensors")
    assert not mark.exists()


# -- a program that is forged with care -------------------------------------------------------------------------------


def rewrite(path, change):
    """The archive with its records, by name, as `change` leaves them."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(records)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in records.items():
            archive.writestr(name.removeprefix("//") if name.startswith("//") else f"{root}/{name}", content)


def in_sample_inputs(records, mark):
    records["data/sample_inputs/model.pt"] = saved(((Bomb(mark),), {}))


def in_weights(records, mark):
    config = json.loads(records["data/weights/model_weights_config.json"])
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    records[f"data/weights/{entry['path_name']}"] = saved(Bomb(mark))
    records["data/weights/model_weights_config.json"] = json.dumps(config).encode()


def in_constants(records, mark):
    config = {
        "config": {"x": {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}}
    }
    records["data/constants/opaque_obj_0"] = pickle.dumps(Bomb(mark))
    records["data/constants/model_constants_config.json"] = json.dumps(config).encode()


def in_an_older_format(records, mark):
    records.clear()
    records["//version"] = b"8.20"
    records |= {f"//serialized_{part}": b"{}" for part in ("exported_program.json", "example_inputs.pt")}
    records |= {f"//serialized_{part}.pt": saved({"x": Bomb(mark)}) for part in ("state_dict", "constants")}


def calling(mark):
    return f"__import__('pathlib').Path({str(mark)!r}).touch()"


def in_a_size(records, mark):
    edit_program(records, lambda text: text.replace("\"Symbol('s", f"\"{calling(mark)} or Symbol('s", 1))


def edit_program(records, change):
    before = records["models/model.json"].decode()
    after = change(before)
    assert after != before
    json.loads(after)
    records["models/model.json"] = after.encode()


def in_a_guard(records, mark):
    def change(text):
        document = json.loads(text)
        document["guards_code"] = [calling(mark), *document["guards_code"]]
        return json.dumps(document)

    edit_program(records, change)


def in_an_operator(records, mark):
    edit_program(records, lambda text: text.replace("torch.ops.aten.relu", "torch.hub.load", 1))


def in_a_name(records, mark):
    edit_program(records, lambda text: text.replace('"latent"', json.dumps(f"latent={calling(mark)}")))


FORGERIES = [
    in_sample_inputs,
    in_weights,
    in_constants,
    in_an_older_format,
    in_a_size,
    in_a_guard,
    in_an_operator,
    in_a_name,
]
RUN_BY_PYTORCH = [in_sample_inputs, in_weights, in_constants, in_a_size, in_a_guard]


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_a_program_that_was_forged_with_its_hash_is_refused_before_anything_runs(export, forge, mark):
    rewrite(export / "model.pt2", lambda records: forge(records, mark))
    sign_again(export, "model.pt2")
    with pytest.raises(LimnerError, match=r"(?s)model\.pt2 holds more than a network.*Nothing was loaded"):
        open_model(export)
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore")  # whatever PyTorch says of such a file
@pytest.mark.parametrize("forge", RUN_BY_PYTORCH, ids=lambda forge: forge.__name__)
def test_pytorch_alone_runs_them(export, forge, mark):
    """Otherwise the test above would show nothing. Of the others an operator would do harm with the right arguments."""
    rewrite(export / "model.pt2", lambda records: forge(records, mark))
    with contextlib.suppress(Exception):
        program = torch.export.load(export / "model.pt2").module()
        program(latent=torch.zeros(2, 8), labels=torch.zeros(2, dtype=torch.int64))
    assert mark.exists()


def test_a_program_that_was_only_copied_into_a_new_archive_is_opened(export):
    rewrite(export / "model.pt2", lambda records: None)
    load_vetted(export / "model.pt2")


# -- everything else --------------------------------------------------------------------------------------------------


def test_a_trained_model_whose_weights_are_a_pickle_is_refused(made, tmp_path, bomb, mark):
    model = shutil.copytree(made.parent / "model", tmp_path / "model")
    (model / "best" / "model.safetensors").write_bytes(bomb)
    with pytest.raises(LimnerError, match=r"(?s)does not hold the weights of this model.*limner train"):
        open_trained(model, device=CPU).product("best")
    assert not mark.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")  # PyTorch, of the bomb
@pytest.mark.parametrize("name", ["weights.safetensors", "states.pt"])
def test_a_checkpoint_that_is_a_pickle_is_refused(tmp_path, bomb, mark, name):
    parts = {"network": torch.nn.Linear(1, 1)}
    with Checkpoints(tmp_path / "c", identity={}, keep=1) as checkpoints:
        checkpoints.save(parts, {"step": 1})
    folder = next((tmp_path / "c").iterdir())
    (folder / name).write_bytes(bomb)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(bomb).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with Checkpoints(tmp_path / "c", identity={}, keep=1) as checkpoints, pytest.raises(LimnerError, match=str(folder)):
        checkpoints.restore(parts)
    assert not mark.exists()


def test_labels_of_a_dataset_that_are_a_pickle_are_refused(tmp_path, bomb, mark):
    pictures = np.zeros((4, 8, 8, 1), np.uint8)
    pack(tmp_path / "d", {"pictures": {"train": (pictures, np.arange(4) % 2)}}, classes=("a", "b"))
    labels = next((tmp_path / "d").rglob("*label*.npy"))
    labels.write_bytes(bomb)
    with pytest.raises(LimnerError, match="The packed dataset is damaged"):
        PackedDataset(tmp_path / "d")
    assert not mark.exists()


def test_weights_of_a_feature_extractor_that_are_a_pickle_are_refused(tmp_path, bomb, mark):
    (tmp_path / "weights.pth").write_bytes(bomb)
    with pytest.raises(LimnerError, match="does not hold weights"):
        network_from_file(tmp_path / "weights.pth", lambda state: torch.nn.Identity(), holding="weights", fix="")
    assert not mark.exists()


def test_statistics_that_are_a_pickle_are_refused(tmp_path, bomb, mark):
    (tmp_path / "s.npz").write_bytes(bomb)
    with pytest.raises(LimnerError, match="holds no statistics of pictures"):
        read_statistics(tmp_path / "s.npz")
    np.savez(tmp_path / "o.npz", mu=np.array([Bomb(mark)], dtype=object), sigma=np.eye(1))
    with pytest.raises(LimnerError, match="Python objects, which are not read"):
        read_statistics(tmp_path / "o.npz")
    assert not mark.exists()


def test_kept_features_that_are_a_pickle_are_computed_again(tmp_path, bomb, mark):
    said = {"data": "x"}
    cache.keep(tmp_path, "features", said, {"a": torch.zeros(1)})
    next(path for path in tmp_path.rglob("*") if path.is_file()).write_bytes(bomb)
    assert cache.load(tmp_path, "features", said) is None
    assert not mark.exists()


def test_a_folder_that_only_looks_like_an_export_is_opened_by_no_command(tmp_path, bomb, mark):
    (tmp_path / "model.pt2").write_bytes(bomb)
    with pytest.raises(LimnerError, match="There is no exported model at"):
        find_export(str(tmp_path), registry=lambda: pytest.fail("it is a folder"), cache=tmp_path)
    assert not mark.exists()
