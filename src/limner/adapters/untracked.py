"""Tracking and registry that record nothing: for `--no-track`, and where MLflow does not answer."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from limner.errors import LimnerError
from limner.ports import ModelVersion, Movement, Run


@dataclass
class UntrackedRun:
    """A run that records nothing."""

    id: str = ""

    def params(self, values: Mapping[str, str]) -> None:
        """Record nothing."""

    def metrics(self, values: Mapping[str, float], *, images_seen: int) -> None:
        """Record nothing."""

    def picture(self, name: str, pixels_HWC: NDArray[np.uint8], *, images_seen: int) -> None:  # noqa: N803
        """Record nothing."""

    def file(self, path: Path, folder: str = "") -> None:
        """Record nothing."""

    def dataset(self, name: str, *, digest: str, source: str) -> None:
        """Record nothing."""

    def tags(self, values: Mapping[str, str]) -> None:
        """Record nothing."""


class UntrackedTracker:
    """Gives out runs that record nothing."""

    @contextmanager
    def run(self, name: str, *, run_id: str = "") -> Iterator[Run]:
        """A run that keeps the id it already had, if any."""
        del name
        yield UntrackedRun(run_id)


class UntrackedRegistry:
    """A registry without versions."""

    def names(self) -> tuple[str, ...]:
        """None: there is no model."""
        return ()

    def versions(self, name: str) -> tuple[ModelVersion, ...]:
        """None: there is no version."""
        del name
        return ()

    def history(self, name: str) -> tuple[Movement, ...]:
        """Empty: there never was a champion."""
        del name
        return ()

    def champion(self, name: str) -> ModelVersion | None:
        """None: there is no version."""
        del name
        return None

    def trained_on(self, name: str, dataset_md5: str) -> ModelVersion | None:
        """None: there is no version."""
        del name, dataset_md5
        return None

    def register(self, candidate: ModelVersion, export: Path, *, run_id: str) -> ModelVersion:
        """The candidate with the costs of its export, without a version number."""
        del run_id
        path = export / "config.json"
        costs = json.loads(path.read_text(encoding="utf-8")).get("costs", {}) if path.is_file() else {}
        return replace(candidate, costs=costs)

    def challenge(self, version: ModelVersion) -> None:
        """Move nothing."""

    def dismiss(self, version: ModelVersion) -> None:
        """Move nothing."""

    def promote(
        self,
        version: ModelVersion,
        *,
        instead_of: ModelVersion | None,
        reason: str,
        seen: Sequence[Movement] | None = None,
    ) -> Movement | None:
        """Move nothing."""
        del version, instead_of, reason, seen
        return None

    def roll_back(self, name: str, *, expected: str, reason: str) -> Movement:
        """Raises LimnerError: there is nothing to roll back."""
        del expected, reason
        raise LimnerError(f"{name} cannot be rolled back without a registry.", fix="Leave out --no-track.")

    def fetch(self, address: str, folder: Path) -> Path:
        """Raises LimnerError: there is no version."""
        raise LimnerError(f"{address} cannot be had without a registry.", fix="Leave out --no-track.")
