"""The five verbs of the pipeline: what the command line, `dvc.yaml`, the Kubeflow components and the tests all call."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from limner.methods import method_settings
from limner.params import Catalog, apply_overrides, read_yaml


def open_catalog(path: Path = Path("params.yaml"), overrides: Iterable[str] = ()) -> Catalog:
    """The catalog in `path` (YAML or JSON), with `a.b.c=value` overrides made."""
    raw = apply_overrides(read_yaml(path), overrides, origin=str(path))
    return Catalog(raw, origin=str(path), method_settings=method_settings)
