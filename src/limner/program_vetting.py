"""Look into a `.pt2` archive before PyTorch loads it, because a forged one could make it run anything.

`torch.export.load` unpickles what an archive marks as pickled, evaluates sizes and guards as Python, writes names into
code, and calls what the graph names as an operator. So nothing of it is loaded unless all of it is of the few kinds
that an export of Limner consists of: raw tensors, plain names, arithmetic, ATen's operators.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export.pt2_archive import PT2ArchiveReader

PROGRAM = "models/model.json"
SAMPLE_INPUTS = "data/sample_inputs/model.pt"
CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
RECORD = re.compile(
    r"data/weights/weight_\d+|data/constants/tensor_\d+|archive_format|archive_version|byteorder|\.[\w./]+"
)
FUNCTION = re.compile(r"math\.\w+|torch\._?sym_\w+")
OPERATOR = re.compile(
    rf"torch\.ops\.aten\.(?!from_file\b|save\b|_print\b)\w+\.\w+|{FUNCTION.pattern}"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
)
NAME = re.compile(r"[\w.]*")
NOTES = ("metadata", "torch_version")
"""Said of a program and its nodes; nothing is made of it."""
CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict")
SYMBOLIC = frozenset(
    (
        *("Add", "Mul", "Pow", "Integer", "Rational", "Float", "Symbol", "Max", "Min", "Abs", "Eq", "Ne", "Lt", "Le"),
        *("Gt", "Ge", "And", "Or", "Not", "Equality", "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan"),
        *("GreaterThan", "floor", "ceiling", "FloorDiv", "ModularIndexing", "Where", "PythonMod", "Mod", "CleanDiv"),
        *("CeilToInt", "FloorToInt", "CeilDiv", "LShift", "RShift", "PowByNatural", "FloatPow", "FloatTrueDiv"),
        *("IntTrueDiv", "TruncToFloat", "TruncToInt", "RoundToInt", "RoundDecimal", "ToFloat", "Identity"),
        *("abs", "max", "min", "round"),
    )
)
"""Functions of numbers: of sympy, of PyTorch's additions to it, and of Python."""
SIZES = ("size", "stride", "storage_offset", "shape")
ARITHMETIC = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop),
    *(ast.cmpop, ast.Name, ast.Load, ast.Subscript, ast.keyword),
)


def find_code(path: Path) -> str:
    """What is in an archive that could run code, in words; empty where nothing is. Nothing of it is executed.

    Raises whatever the archive's reader raises where it is none.
    """
    with zipfile.ZipFile(path) as plain:
        if any("/" not in name for name in plain.namelist()):
            return "a file of an older format"
    return next(_suspicious(PT2ArchiveReader(str(path))), "")


def _suspicious(archive: PT2ArchiveReader) -> Iterator[str]:
    for name in archive.get_file_names():
        if name not in (PROGRAM, SAMPLE_INPUTS, *CONFIGS) and not RECORD.fullmatch(name):
            yield f"the record {name}"
    for name in CONFIGS:
        entries = json.loads(archive.read_string(name))["config"].values()
        if any(entry["use_pickle"] is not False for entry in entries):
            yield f"pickled objects, by {name}"
    try:
        torch.load(io.BytesIO(archive.read_bytes(SAMPLE_INPUTS)), map_location="cpu", weights_only=True)
    except Exception:  # noqa: BLE001 - whatever it is, there PyTorch would go on to load it with all it holds
        yield f"pickled objects in {SAMPLE_INPUTS}"
    yield from _strings(json.loads(archive.read_string(PROGRAM)), "")


def _strings(value: Any, key: str) -> Iterator[str]:
    """Strings of the program that are none of what it needs."""
    if isinstance(value, dict):
        for name, each in value.items():
            yield from _strings(name, "")
            if name not in NOTES:
                yield from _strings(each, name)
    elif isinstance(value, list):
        for each in value:
            yield from _strings(each, key)
    elif isinstance(value, str) and not _is_plain(value, key):
        yield f"{key or 'the name'} {value[:80]!r}"


def _is_plain(text: str, key: str) -> bool:
    if key == "target":
        return OPERATOR.fullmatch(text) is not None
    if key in ("in_spec", "out_spec", "context") and text:  # JSON in JSON
        return not any(_strings(json.loads(text), ""))
    if key == "type" and text.startswith("builtins."):
        return text in CONTAINERS
    return NAME.fullmatch(text) is not None or _is_arithmetic(text)


def _is_arithmetic(text: str) -> bool:
    """Whether all that an expression calls are functions of numbers, and the sizes of an input."""
    try:
        return all(map(_is_part_of_arithmetic, ast.walk(ast.parse(text, mode="eval"))))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False


def _is_part_of_arithmetic(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name in SYMBOLIC
        case ast.Call(func=called):
            return isinstance(called, ast.Attribute)
        case ast.Attribute(attr=name):
            return name in SIZES or FUNCTION.fullmatch(ast.unparse(node)) is not None
        case ast.Constant(value=str(text)):
            return NAME.fullmatch(text) is not None  # sympy evaluates a text
        case _:
            return isinstance(node, (ast.Constant, *ARITHMETIC))
