"""The exported files compute what the trained model does, and say what they are."""

import json
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file

from limner.drift import FILE_NAME as DRIFT_REFERENCE
from limner.errors import LimnerError
from limner.exported import load_vetted
from limner.inference import open_model, open_translator
from limner.lineage import file_sha256, read_lineage, write_lineage
from limner.randomness import generator
from limner.steps.export import export
from limner.trained import open_trained
from tests.exports import export_generator
from tests.translators import RESNET, export_translator

FORMATS = ("pt2", "onnx", "onnx-bf16", "onnx-int8")
FILES = {"onnx": "model.onnx", "onnx-bf16": "model.bf16.onnx", "onnx-int8": "model.int8.onnx"}


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
def in_formats(catalog):
    """The settings with other formats, and other tolerances."""

    def changed(*formats, **tolerances):
        settings = catalog.model("toy")
        wanted = settings.export.model_copy(update={"formats": list(formats), **tolerances})
        return settings.model_copy(update={"export": wanted})

    return changed


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A generator in every format; its trained model lies beside it."""
    return export_generator(tmp_path_factory.mktemp("generator"), formats=FORMATS)


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copied")


def run_onnx(path, inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {name: value.numpy() for name, value in inputs.items()})[0]


def read_config(folder):
    return json.loads((folder / "config.json").read_text())


def test_every_format_computes_what_the_trained_model_does(exported):
    product = open_trained(exported.parent / "model", device=torch.device("cpu")).product("best")
    inputs = {"latent": torch.randn(7, 8), "labels": torch.arange(7) % 3}
    expected = product(**inputs).numpy()
    np.testing.assert_allclose(load_vetted(exported / "model.pt2").module()(**inputs).numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(run_onnx(exported / "model.onnx", inputs), expected, atol=1e-5)
    parity = read_config(exported)["parity"]
    assert set(parity) == set(FORMATS)
    assert max(parity["pt2"], parity["onnx"]) < 1e-5
    for kind in ("onnx-bf16", "onnx-int8"):
        difference = np.abs(run_onnx(exported / FILES[kind], inputs) - expected)
        assert 0 < difference.mean() < 0.02  # of weights that were rounded, and only that
        assert 0 < parity[kind] < 0.02
    painted = open_model(exported).generate(7, seed=4)  # and as a user meets it
    noise = torch.stack([torch.randn(8, generator=generator(4, "picture", number)) for number in range(7)])
    pictures = (product(latent=noise, labels=inputs["labels"]).permute(0, 2, 3, 1).numpy() + 1) * 127.5
    assert np.abs(painted - pictures).max() < 0.51


def test_the_weights_are_those_that_the_evaluation_chose(exported):
    shipped = load_file(exported / "model.safetensors")
    chosen = load_file(exported.parent / "model" / "best" / "model.safetensors")
    assert all(torch.equal(shipped[name], value) for name, value in chosen.items())


def test_the_configuration_says_how_to_use_the_model(exported):
    config = read_config(exported)
    assert config["classes"] == ["bar", "dot", "ring"]
    assert config["image"] == {"channels": 1, "height": 16, "width": 16, "range": [-1, 1]}
    assert {i["name"]: (i["shape"], i["dtype"]) for i in config["inputs"]} == {
        "latent": ([8], "float32"),
        "labels": ([], "int64"),
    }
    assert set(config["files"]) == {"model.safetensors", "model.pt2", *FILES.values()}
    assert {name: file_sha256(exported / name) for name in config["files"]} == config["files"]
    assert read_lineage(exported)["dataset_digest"] == "0" * 64


def test_the_configuration_says_what_the_model_costs(exported):
    config = read_config(exported)
    assert set(config["costs"]) == {"size_mib", "parity", "latency_ms"}
    size = sum((exported / name).stat().st_size for name in config["files"])
    assert config["costs"]["size_mib"] == pytest.approx(size / 2**20, abs=1e-3)
    assert config["costs"]["parity"] == max(config["parity"]["pt2"], config["parity"]["onnx"])
    assert 0 < config["costs"]["latency_ms"] < 10_000


def test_exporting_again_gives_the_same_digest_and_says_what_was_measured(in_formats, run_export):
    first, again = run_export(in_formats()), run_export(in_formats("pt2"))
    assert again.digest == first.digest == file_sha256(again.output / "model.safetensors")
    assert set(again.parity) == {"pt2"}


def test_a_format_that_computes_something_else_is_refused_and_nothing_is_left(in_formats, run_export, tmp_path):
    with pytest.raises(LimnerError, match=r"(?s)onnx model differs from the trained one.*export\.parity_tolerance"):
        run_export(in_formats("onnx", parity_tolerance=1e-30))
    assert not (tmp_path / "export").exists()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".export")]


def test_rounded_weights_that_are_too_far_off_are_refused(in_formats, run_export, tmp_path):
    with pytest.raises(LimnerError, match=r"(?s)onnx-int8 model differs.* on average .*export\.rounded_tolerance"):
        run_export(in_formats("onnx-int8", rounded_tolerance=1e-9))
    assert not (tmp_path / "export").exists()


def test_what_tells_strange_inputs_travels_with_the_model(in_formats, run_export, evaluation):
    (evaluation / DRIFT_REFERENCE).write_bytes(b"features")
    result = run_export(in_formats())
    assert (result.output / DRIFT_REFERENCE).read_bytes() == b"features"
    assert DRIFT_REFERENCE in read_config(result.output)["files"]
    assert read_config(result.output)["costs"].keys() == {"size_mib"}


def test_formats_that_nobody_asked_for_are_not_made(in_formats, run_export):
    result = run_export(in_formats())
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
    model = open_model(exported)
    nine = model.generate(9, seed=5)
    assert nine.shape == (9, 16, 16, 1)
    assert nine.dtype == np.uint8
    # Another batch size may take another route through the kernels: equal to within a rounding of the last bit.
    assert np.abs(model.generate(70, seed=5)[:9].astype(int) - nine).max() <= 1
    assert np.array_equal(model.generate(9, seed=5), nine)
    assert not np.array_equal(model.generate(9, seed=6), nine)


def test_a_label_makes_every_picture_of_that_class(exported):
    model = open_model(exported)
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
    model = open_model(exported)
    with pytest.raises(LimnerError, match=message):
        model.generate(**arguments)


def test_a_folder_that_is_no_export_is_refused(tmp_path):
    with pytest.raises(LimnerError, match="not an exported model"):
        open_model(tmp_path)


def test_weights_that_were_trained_again_since_their_evaluation_are_not_exported(trained_folder, run_export):
    shutil.copy(trained_folder / "last" / "model.safetensors", trained_folder / "best" / "model.safetensors")
    with pytest.raises(LimnerError, match=r"(?s)is not of the weights.*trained again since.*limner evaluate MODEL"):
        run_export()


@pytest.mark.parametrize("name", ["model.safetensors", "model.pt2", *FILES.values()])
@pytest.mark.parametrize("damage", ["a bit", "cut off", "gone"])
def test_a_file_that_is_not_what_was_exported_is_told(copied, name, damage):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "gone":
        (copied / name).unlink()
    else:
        (copied / name).write_bytes(content if damage == "a bit" else content[:-1])
    problem = "is missing or cannot be read" if damage == "gone" else "was changed since it was exported"
    with pytest.raises(LimnerError, match=rf"(?s){name} {problem}.*Nothing was loaded.*limner export MODEL"):
        open_model(copied)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"files": None}, "does not say in `files` which files it has"),
        ({"files": {}}, "does not say in `files` which files it has"),
        ({"files": {"model.safetensors": "0", "../model/config.json": "0"}}, "names a file outside the folder"),
        ({"files": {"model.safetensors": "0", "/etc/passwd": "0"}}, "names a file outside the folder"),
        ({"files": {"model.safetensors": "0", "..": "0"}}, "names a file outside the folder"),
        ({"files": {"model.safetensors": "0", "": "0"}}, "names a file outside the folder"),
        ({"inputs": None}, "TypeError"),
        ({"image": {}}, "KeyError"),
    ],
)
def test_a_configuration_that_cannot_be_one_is_told(copied, change, why):
    document = read_config(copied) | change
    if "0" in (document["files"] or {}).values():
        document["files"]["model.safetensors"] = file_sha256(copied / "model.safetensors")
    (copied / "config.json").write_text(json.dumps(document))
    with pytest.raises(LimnerError, match=rf"(?s)cannot be opened.*{why}.*limner export MODEL"):
        open_model(copied)


def test_a_configuration_that_is_a_list_is_told(copied):
    (copied / "config.json").write_text("[]")
    with pytest.raises(LimnerError, match=r"(?s)cannot be opened.*has to be a JSON object"):
        open_model(copied)


def test_a_program_that_the_configuration_does_not_name_is_not_loaded(copied):
    document = read_config(copied)
    del document["files"]["model.pt2"]
    (copied / "config.json").write_text(json.dumps(document))
    with pytest.raises(LimnerError, match=r"has no model\.pt2"):
        open_model(copied)


# -- rounded weights --------------------------------------------------------------------------------------------------


def weights_of(path):
    model = onnx.load(path)
    return {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}, model.graph


def test_int8_weights_are_within_half_a_step_of_the_exact_ones_in_every_channel(exported):
    exact, graph = weights_of(exported / "model.onnx")
    rounded, new_graph = weights_of(exported / "model.int8.onnx")
    layers = {n.input[1]: n for n in graph.node if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")}
    opened = {n.output[0]: n for n in new_graph.node if n.op_type == "DequantizeLinear"}
    assert layers.keys() == opened.keys()
    assert {node.op_type for node in layers.values()} >= {"Conv"}
    for name, node in layers.items():
        axis = next(a.i for a in opened[name].attribute if a.name == "axis")
        transposed = any(a.name == "transB" and a.i for a in node.attribute)
        assert axis == {"Conv": 0, "ConvTranspose": 1, "MatMul": 1, "Gemm": 0 if transposed else 1}[node.op_type]
        steps, scale = (
            rounded[f"{name}.int8"],
            np.expand_dims(
                rounded[f"{name}.scale"], tuple(place for place in range(exact[name].ndim) if place != axis)
            ),
        )
        assert steps.dtype == np.int8
        assert np.abs(steps.astype(int)).max() == 127
        assert (np.abs(steps * scale - exact[name]) <= scale / 2 * 1.001).all()
    biases = [name for name, values in exact.items() if values.ndim == 1 and values.dtype == np.float32]
    assert biases
    assert all(np.array_equal(rounded[name], exact[name]) for name in biases)


def test_rounded_files_are_smaller_by_what_was_rounded(exported):
    exact, _ = weights_of(exported / "model.onnx")
    for kind, share in (("onnx-bf16", 1 / 2), ("onnx-int8", 3 / 4)):
        rounded, _ = weights_of(exported / FILES[kind])
        changed = sum(values.nbytes for name, values in exact.items() if name not in rounded)
        less = (exported / "model.onnx").stat().st_size - (exported / FILES[kind]).stat().st_size
        assert changed > sum(values.nbytes for values in exact.values()) / 2
        assert 0.8 * share * changed < less <= share * changed


def test_a_channel_of_zeros_stays_zero():
    from limner.steps.export_formats import round_weights

    weight = np.zeros((2, 3), np.float32)
    weight[0] = [1, -2, 0.5]
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)],
        "one",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n", 2])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    for kind in ("onnx-bf16", "onnx-int8"):
        session = onnxruntime.InferenceSession(round_weights(model, kind).SerializeToString())
        np.testing.assert_allclose(session.run(None, {"x": np.eye(3, dtype=np.float32)})[0], weight.T, atol=0.01)


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
    export_translator(folder, TRANSLATORS[request.param], formats=FORMATS, prepare=disturb)
    return folder


def test_a_translator_takes_any_multiple_in_every_format(translator):
    product = open_trained(translator / "model", device=torch.device("cpu")).product("best")
    program = load_vetted(translator / "export" / "model.pt2").module()
    for shape in ((1, 3, 32, 32), (3, 3, 16, 72), (2, 3, 104, 24)):
        source = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        expected = product(source=source).numpy()
        np.testing.assert_allclose(program(source=source).numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(
            run_onnx(translator / "export" / "model.onnx", {"source": source}), expected, atol=1e-4
        )
        for kind in ("onnx-bf16", "onnx-int8"):
            result = run_onnx(translator / "export" / FILES[kind], {"source": source})
            assert result.shape == expected.shape
            assert 0 < np.abs(result - expected).mean() < 0.03


def test_the_configuration_of_a_translator_says_which_sizes_it_takes(translator):
    config = json.loads((translator / "export" / "config.json").read_text())
    assert config["task"] in ("unpaired", "paired")
    assert config["inputs"] == [{"name": "source", "shape": [3, None, None], "dtype": "float32"}]
    resnet = config["task"] == "unpaired"
    assert config["translator"]["multiple"] == (2 if resnet else 8)
    assert config["translator"]["smallest"] == 16
    assert 8 <= config["translator"]["reach"] <= 64
    assert config["translator"]["bytes_per_pixel"] > 12
    assert max(config["parity"]["pt2"], config["parity"]["onnx"]) < 1e-4
    assert config["costs"]["latency_ms"] > 0


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
        open_translator(exported)
    with pytest.raises(LimnerError, match="limner stylize PICTURES --model"):
        open_generator(translator / "export")


def test_a_translator_without_its_program_is_told(tmp_path):
    folder = export_translator(tmp_path, formats=())
    with pytest.raises(LimnerError, match=r"(?s)has no model\.pt2.*export\.formats"):
        open_translator(folder)
