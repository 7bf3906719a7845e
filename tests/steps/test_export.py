"""The exported files compute what the trained model does, and say what they are."""

import json
import shutil

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from limner.errors import LimnerError
from limner.inference import open_model, open_translator
from limner.lineage import file_sha256, read_lineage, write_lineage
from limner.steps.export import export
from limner.trained import open_trained
from tests.translators import RESNET, export_translator


@pytest.fixture
def evaluation(tmp_path, trained_folder):
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"chosen": "best"}))
    write_lineage(folder, {"export_digest": file_sha256(trained_folder / "best" / "model.safetensors")})
    return folder


@pytest.fixture
def run_export(catalog, trained_folder, evaluation, ports, tmp_path):
    def run(settings=None):
        return export(
            settings or catalog.model("toy"),
            name="toy",
            model=trained_folder,
            evaluation=evaluation,
            output=tmp_path / "export",
            ports=ports,
        )

    return run


@pytest.fixture
def exported(run_export):
    return run_export()


def test_every_format_computes_what_the_trained_model_does(exported, trained_folder):
    product = open_trained(trained_folder, device=torch.device("cpu")).product("best")
    inputs = {"latent": torch.randn(7, 8), "labels": torch.arange(7) % 3}
    expected = product(**inputs).numpy()
    pt2 = torch.export.load(exported.output / "model.pt2").module()(**inputs).numpy()
    session = onnxruntime.InferenceSession(exported.output / "model.onnx", providers=["CPUExecutionProvider"])
    onnx = session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]
    np.testing.assert_allclose(pt2, expected, atol=1e-5)
    np.testing.assert_allclose(onnx, expected, atol=1e-5)
    assert set(exported.parity) == {"pt2", "onnx"}
    assert max(exported.parity.values()) < 1e-5


def test_the_weights_are_those_that_the_evaluation_chose(exported, trained_folder):
    shipped = load_file(exported.output / "model.safetensors")
    chosen = load_file(trained_folder / "best" / "model.safetensors")
    assert all(torch.equal(shipped[name], value) for name, value in chosen.items())


def test_the_configuration_says_how_to_use_the_model(exported):
    config = json.loads((exported.output / "config.json").read_text())
    assert config["classes"] == ["bar", "dot", "ring"]
    assert config["image"] == {"channels": 1, "height": 16, "width": 16, "range": [-1, 1]}
    assert {i["name"]: (i["shape"], i["dtype"]) for i in config["inputs"]} == {
        "latent": ([8], "float32"),
        "labels": ([], "int64"),
    }
    assert set(config["files"]) == {"model.safetensors", "model.pt2", "model.onnx"}
    assert config["files"]["model.safetensors"] == exported.digest
    assert read_lineage(exported.output)["dataset_digest"] == "0" * 64


def test_exporting_again_gives_the_same_digest(exported, run_export):
    again = run_export()
    assert again.digest == exported.digest


def test_a_format_that_computes_something_else_is_refused_and_nothing_is_left(catalog, run_export, tmp_path):
    settings = catalog.model("toy")
    strict = settings.model_copy(update={"export": settings.export.model_copy(update={"parity_tolerance": 1e-30})})
    with pytest.raises(LimnerError, match="differs from the trained one"):
        run_export(strict)
    assert not (tmp_path / "export").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".export")]


def test_formats_that_nobody_asked_for_are_not_made(catalog, run_export):
    settings = catalog.model("toy")
    plain = settings.model_copy(update={"export": settings.export.model_copy(update={"formats": []})})
    result = run_export(plain)
    assert sorted(p.name for p in result.output.iterdir()) == ["config.json", "lineage.json", "model.safetensors"]
    with pytest.raises(LimnerError, match=r"(?s)has no model\.pt2.*export\.formats"):
        open_model(result.output)


@pytest.mark.parametrize("missing", ["model", "weights", "evaluation"])
def test_missing_inputs_are_told_with_the_command_that_makes_them(trained_folder, evaluation, run_export, missing):
    if missing == "evaluation":
        shutil.rmtree(evaluation)
    elif missing == "weights":
        shutil.rmtree(trained_folder / "best")
    else:
        shutil.rmtree(trained_folder)
    with pytest.raises(LimnerError, match=r"limner (train|evaluate) MODEL"):
        run_export()


def test_pictures_depend_on_the_seed_and_their_number_alone(exported):
    model = open_model(exported.output)
    nine = model.generate(9, seed=5)
    assert nine.shape == (9, 16, 16, 1)
    assert nine.dtype == np.uint8
    # Another batch size may take another route through the kernels: equal to within a rounding of the last bit.
    assert np.abs(model.generate(70, seed=5)[:9].astype(int) - nine).max() <= 1
    assert np.array_equal(model.generate(9, seed=5), nine)
    assert not np.array_equal(model.generate(9, seed=6), nine)


def test_a_label_makes_every_picture_of_that_class(exported):
    model = open_model(exported.output)
    all_classes, second = model.generate(6, seed=0), model.generate(6, seed=0, label=1)
    same = [np.array_equal(a, b) for a, b in zip(all_classes, second, strict=True)]
    assert same[1]
    assert same[4]
    assert not same[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"count": 0}, "Ask for 1 to"), ({"count": 10**9}, "Ask for 1 to"), ({"count": 1, "label": 3}, "classes: 0 to 2")],
)
def test_what_cannot_be_generated_is_refused(exported, arguments, message):
    model = open_model(exported.output)
    with pytest.raises(LimnerError, match=message):
        model.generate(**arguments)


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(LimnerError, match="not an exported model"):
        open_model(tmp_path)


def test_weights_that_were_trained_again_since_their_evaluation_are_not_exported(trained_folder, run_export):
    shutil.copy(trained_folder / "last" / "model.safetensors", trained_folder / "best" / "model.safetensors")
    with pytest.raises(LimnerError, match=r"(?s)is not of the weights.*trained again since.*limner evaluate MODEL"):
        run_export()


@pytest.mark.parametrize("damage", ["program", "config"])
def test_a_damaged_export_is_told(exported, damage):
    if damage == "program":
        (exported.output / "model.pt2").write_bytes(b"nothing")
    else:
        (exported.output / "config.json").write_text("{}")
    with pytest.raises(LimnerError, match=r"(?s)cannot be opened.*limner export MODEL"):
        open_model(exported.output)


# -- translators ------------------------------------------------------------------------------------------------------


def disturb(product):
    """Batch normalisation with statistics of its own: a mistake in them would show."""
    for module in product.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)


TRANSLATORS = {
    "resnet": {"name": "fastcut", "generator": RESNET},
    "unet": {"name": "pix2pix", "generator": {"name": "unet", "width": 4, "depth": 3}},
}


@pytest.fixture(scope="module", params=TRANSLATORS)
def translator(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    export_translator(folder, TRANSLATORS[request.param], formats=("pt2", "onnx"), prepare=disturb)
    return folder


def test_a_translator_takes_any_multiple_in_every_format(translator):
    product = open_trained(translator / "model", device=torch.device("cpu")).product("best")
    session = onnxruntime.InferenceSession(translator / "export" / "model.onnx", providers=["CPUExecutionProvider"])
    program = torch.export.load(translator / "export" / "model.pt2").module()
    for shape in ((1, 3, 32, 32), (3, 3, 16, 72), (2, 3, 104, 24)):
        source = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        expected = product(source=source).numpy()
        np.testing.assert_allclose(program(source=source).numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(session.run(None, {"source": source.numpy()})[0], expected, atol=1e-4)


def test_the_configuration_of_a_translator_says_which_sizes_it_takes(translator):
    config = json.loads((translator / "export" / "config.json").read_text())
    assert config["task"] in ("unpaired", "paired")
    assert config["inputs"] == [{"name": "source", "shape": [3, None, None], "dtype": "float32"}]
    resnet = config["task"] == "unpaired"
    assert config["translator"]["multiple"] == (2 if resnet else 8)
    assert config["translator"]["smallest"] == 16
    assert 8 <= config["translator"]["reach"] <= 64
    assert config["translator"]["bytes_per_pixel"] > 12
    assert max(config["parity"].values()) < 1e-4


def test_an_exported_translator_does_what_the_trained_one_does(translator):
    product = open_trained(translator / "model", device=torch.device("cpu")).product("best")
    model = open_translator(translator / "export", precision="fp32", device=torch.device("cpu"))
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    expected = product(source=torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1)
    difference = model.stylize(picture) - (expected[0].permute(1, 2, 0).numpy() + 1) * 127.5
    assert np.abs(difference).max() < 0.51
    assert isinstance(open_model(translator / "export"), type(model))


def test_a_translator_in_tiles_is_the_whole_where_nothing_is_normalised_over_space(tmp_path):
    folder = export_translator(tmp_path, TRANSLATORS["unet"], prepare=disturb)
    model = open_translator(folder, precision="fp32", device=torch.device("cpu"))
    assert not model.program.normalises_over_space
    picture = np.random.default_rng(0).integers(0, 256, (301, 419, 3), dtype=np.uint8)
    tiled = model.stylize(picture, memory=int(model.traits.bytes_per_pixel * 301 * 419 / 2) + 2 * picture.nbytes)
    assert np.abs(tiled.astype(int) - model.stylize(picture)).max() <= 1


def test_a_way_back_is_exported_beside_the_way_there(tmp_path):
    settings = {"name": "cyclegan", "generator": {**RESNET, "resampling": "strided"}}
    folder = export_translator(tmp_path, settings)
    product = open_trained(tmp_path / "model", device=torch.device("cpu")).product("best")
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    back = open_translator(folder, reverse=True, precision="fp32", device=torch.device("cpu"))
    expected = product.back(torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1)
    assert np.abs(back.stylize(picture) - (expected[0].permute(1, 2, 0).numpy() + 1) * 127.5).max() < 0.51
    assert set(json.loads((folder / "config.json").read_text())["parity"]) == {"pt2", "back"}
    assert back.digest != open_translator(folder).digest


def test_each_kind_of_model_refuses_the_others_work(exported, translator):
    from limner.inference import open_generator

    with pytest.raises(LimnerError, match="limner generate --model"):
        open_translator(exported.output)
    with pytest.raises(LimnerError, match="limner stylize PICTURES --model"):
        open_generator(translator / "export")


def test_a_translator_without_its_program_is_told(tmp_path):
    folder = export_translator(tmp_path, formats=())
    with pytest.raises(LimnerError, match=r"(?s)has no model\.pt2.*export\.formats"):
        open_translator(folder)
