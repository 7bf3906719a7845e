"""The five verbs of the pipeline: what the command line, `dvc.yaml`, the Kubeflow components and the tests all call."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from limner.errors import LimnerError
from limner.params import Catalog, apply_overrides, read_yaml
from limner.settings import MethodSettings


def open_catalog(path: Path = Path("params.yaml"), overrides: Iterable[str] = ()) -> Catalog:
    """The catalog in `path` (YAML or JSON), with `a.b.c=value` overrides made."""
    raw = apply_overrides(read_yaml(path), overrides, origin=str(path))
    return Catalog(raw, origin=str(path), method_settings=_method_settings)


def catalog_from_json(text: str) -> Catalog:
    """The catalog that `Catalog.to_json` wrote: how settings travel to a cluster. Raises LimnerError for other text."""
    origin = "the settings"
    try:
        raw = json.loads(text)
    except ValueError as error:
        raise LimnerError(
            f"{origin} are not JSON.", why=str(error), fix="Print good ones: limner config show MODEL --json"
        ) from error
    return Catalog(raw, origin=origin, method_settings=_method_settings)


def _method_settings(name: str) -> type[MethodSettings]:
    from limner.methods import method_settings  # brings PyTorch, which preparing pictures does not need

    return method_settings(name)
