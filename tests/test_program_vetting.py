"""What an exported program may consist of: all that our networks need, and nothing that calls anything else."""

import pytest

from limner.program_vetting import OPERATOR, _is_arithmetic
from tests.exports import export_generator
from tests.translators import export_translator

GENERATORS = {
    "dcgan": {"name": "dcgan", "latent": 8, "width": 8, "max_width": 16},
    "sngan": {"name": "sngan", "latent": 8, "width": 8},
    "r3gan": {"name": "r3gan", "latent": 8, "widths": [32, 32, 32], "blocks": 1, "embedding": 4},
}
TRANSLATORS = {
    "blur": {"name": "resnet", "width": 4, "blocks": 1, "halvings": 2},
    "strided": {"name": "resnet", "width": 4, "blocks": 1, "halvings": 2, "resampling": "strided"},
    "nearest": {"name": "resnet", "width": 4, "blocks": 1, "halvings": 1, "resampling": "nearest", "norm": "none"},
    "unet": {"name": "unet", "width": 4, "depth": 3, "norm": "instance"},
    "unet to a pixel": {"name": "unet", "width": 4},
}
FORMATS = ("pt2", "onnx-bf16", "onnx-int8")


@pytest.mark.slow
@pytest.mark.parametrize("classes", [(), ("a", "b")], ids=["plain", "conditional"])
@pytest.mark.parametrize("name", GENERATORS)
def test_every_generator_is_exported_opened_and_rounded(name, classes, tmp_path):
    export_generator(tmp_path, formats=FORMATS, classes=classes, generator=GENERATORS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", TRANSLATORS)
def test_every_translator_is_exported_opened_and_rounded(name, tmp_path):
    method = "pix2pix" if name.startswith("unet") else "fastcut"
    export_translator(tmp_path, {"name": method, "generator": TRANSLATORS[name]}, formats=FORMATS)


@pytest.mark.parametrize(
    "text",
    [
        "1",
        "-s0 + 2*s1 // 3",
        "Max(1, Mod(s0, 16))",
        "Symbol('s12', positive=True, integer=True)",
        "L['source'].size()[2] <= 2 + 2*(((-1) + L['source'].size()[2]) // 2)",
        "torch.sym_max(1, L['source'].size()[3] // 2) < math.floor(x) and not (a == b)",
        "math.inf",
    ],
)
def test_sizes_and_guards_are_arithmetic(text):
    assert _is_arithmetic(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('ls')",
        "eval('x')",
        "open('x')",
        "sympify('x')",
        "x.size.__class__",
        "x.system('ls')",
        "(lambda: 1)()",
        "[x for x in y]",
        "(x := 3)",
        "f'{x}'",
        "Max('os.system(1)')",
        "Symbol('a b')",
        "torch.load('x')",
        "torch.sym_max.__globals__",
        "math.floor.__self__.x()",
        "max(1, key=eval('x'))",
        "x; y",
        "x\nimport os",
        "1" + "+1" * 100_000,
        "(" * 1000 + ")" * 1000,
        "",
    ],
)
def test_what_calls_anything_else_is_not(text):
    assert not _is_arithmetic(text)


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("torch.ops.aten.conv2d.default", True),
        ("torch.ops.aten.save.default", False),
        ("torch.ops.aten.from_file.default", False),
        ("torch.ops.prims.device_put.default", False),
        ("torch.load", False),
        ("_operator.add", True),
        ("_operator.methodcaller", False),
    ],
)
def test_operators_are_those_that_compute(name, known):
    assert bool(OPERATOR.fullmatch(name)) == known
