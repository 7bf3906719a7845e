"""Watches the figures of a run on the device, and stops a run that cannot be saved."""

from __future__ import annotations

import torch
from torch import Tensor

from limner.errors import LimnerError
from limner.methods import Losses


class Tally:
    """Means of every loss term since the last reading, kept on the device: reading them is the only wait for it."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._bad_in_a_row = torch.zeros(())
        self._bad = torch.zeros(())

    def add(self, losses: Losses) -> None:
        """Take in the terms of one step. A term that is not finite does not enter the means; its step counts as bad."""
        values = torch.stack([value.float() for value in losses.values()])
        finite = torch.isfinite(values)
        bad = (~finite.all()).float()
        self._bad = self._bad.to(bad.device) + bad
        self._bad_in_a_row = (self._bad_in_a_row.to(bad.device) + bad) * bad
        for name, value, ok in zip(
            losses, torch.where(finite, values, 0.0).unbind(), finite.float().unbind(), strict=True
        ):
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value
            self._counts[name] = self._counts.get(name, torch.zeros_like(value)) + ok

    def read(self) -> tuple[dict[str, float], int, int]:
        """Means by name, bad steps since the last reading, and bad steps in a row up to now. Begins a new interval."""
        means = {name: float(total / self._counts[name]) for name, total in self._sums.items() if self._counts[name]}
        bad, in_a_row = int(self._bad), int(self._bad_in_a_row)
        self._sums, self._counts, self._bad = {}, {}, torch.zeros(())
        return means, bad, in_a_row


def refuse_divergence(bad_in_a_row: int, *, patience: int, means: dict[str, float]) -> None:
    """Raises LimnerError where training has been producing nothing but non-finite steps."""
    if bad_in_a_row < patience:
        return
    figures = ", ".join(f"{name} {value:.3g}" for name, value in means.items()) or "no finite figure at all"
    raise LimnerError(
        f"Training has diverged: {bad_in_a_row} steps in a row were not finite (each was skipped).",
        why=f"The last finite figures: {figures}.",
        fix="Lower the learning rates, raise penalties.r1 and r2, or set train.precision to fp32.",
    )
