"""Watches the figures of a run, and says when to go back to a checkpoint and when to give up.

The finite check of a step is in `limner.optimise.descend`, on the device. What is here looks at the means once a log
line: that is when the host waits for the device anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from limner import distributed
from limner.errors import LimnerError
from limner.game import Losses
from limner.settings import GuardSettings

DIVERSITY, MEMORISED, DISCRIMINATOR_LOSS = "signal/diversity", "overfitting/r_v", "loss/discriminator"
UPDATE = "update/"
MEMORISED_ABOVE = 0.9
"""r_v of the ADA paper (arXiv:2006.06676, equation 1) is 0 without and 1 with complete overfitting."""
WON_BELOW = 1e-3
"""A discriminator loss that stays below has no gradient left for the generator."""
WARM_UP, LATEST = 0.05, 0.25
"""Share of a run in which a generator may still be as it began; and as flat as it began, if it has never been else."""


class Tally:
    """Means of every loss term since the last reading, kept on the device: reading them is the only wait for it.

    Of what a step changes ("update/<player>") also the largest since then ("update/<player>/peak"): a long interval
    would hide in its mean the few steps that have ruined a network.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, Tensor] = {}
        self._peaks: dict[str, Tensor] = {}
        self._bad = torch.zeros(())
        self._bad_in_a_row = torch.zeros(())

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
            if name.startswith(UPDATE):
                self._peaks[name] = torch.maximum(self._peaks.get(name, value), value)

    def read(self) -> tuple[dict[str, float], int, int]:
        """Means by name, bad steps since the last reading, and bad steps in a row up to now. Begins a new interval.

        Over all processes: a step is bad where it is so in any of them.
        """
        names, peaks = sorted(self._sums), sorted(self._peaks)
        pairs = [figure for name in names for figure in (self._sums[name], self._counts[name])]
        figures = [self._bad, self._bad_in_a_row, *(self._peaks[name] for name in peaks), *pairs]
        # What a checkpoint brought back lies on the host until its term is seen again.
        row = torch.stack([figure.to(self._bad.device) for figure in figures])
        bad, in_a_row, *rest = distributed.gathered(row[None]).cpu().double().unbind(1)
        largest, rest = rest[: len(peaks)], rest[len(peaks) :]
        means = {
            name: float(sums.sum() / counts.sum())
            for name, sums, counts in zip(names, rest[::2], rest[1::2], strict=True)
            if counts.sum()
        }
        means |= {f"{name}/peak": float(peak.max()) for name, peak in zip(peaks, largest, strict=True) if name in means}
        self._sums, self._counts, self._peaks, self._bad = {}, {}, {}, torch.zeros_like(self._bad)
        return means, int(bad.max()), int(in_a_row.max())

    def state_dict(self) -> dict[str, Any]:
        """What was taken in since the last reading."""
        rows = {"bad": self._bad, "bad_in_a_row": self._bad_in_a_row}
        return {"sums": self._sums, "counts": self._counts, "peaks": self._peaks} | rows

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self._sums, self._counts, self._peaks = dict(state["sums"]), dict(state["counts"]), dict(state["peaks"])
        self._bad, self._bad_in_a_row = state["bad"], state["bad_in_a_row"]


class Guard:
    """Judges log lines. All it knows is in every checkpoint, so a resumed run is judged as if it had never stopped."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self.rollbacks = 0
        self._strikes: dict[str, int] = {}
        self._history: list[str] = []
        self._means: dict[str, float] = {}
        self._bad = 0
        self._flat_so_far = True

    @property
    def suspicious(self) -> bool:
        """Whether the last line looked ill. Nothing is saved then: it could be what one has to go back from."""
        return any(problem in self._strikes for problem in _ADVICE)

    def look(self, means: Mapping[str, float], *, bad: int = 0, bad_in_a_row: int, progress: float = 1.0) -> str | None:
        """Why the run cannot go on from here, or None. Judges a line's means and the bad steps in it and up to it.

        `progress` in [0, 1] is the share of the run that is over.
        """
        self._means = dict(means)
        # What is computed every k-th step only fails every k-th step: never in a row, and for ever.
        self._bad = self._bad + bad if bad else 0
        if (steps := max(self._bad, bad_in_a_row)) >= self._settings.patience:
            return f"{NOT_FINITE}: {steps} steps were not, and were skipped; no log line is free of them"
        for problem, figure in self._problems(means, progress).items():
            lines = self._strikes[problem]
            if lines >= (1 if problem == RESTLESS else self._settings.strikes):
                return f"{problem}: {figure}" + (f" for {lines} log lines" if lines > 1 else "")
        return None

    def warnings(self, means: Mapping[str, float]) -> list[str]:
        """What a person should look at, told once each time that it begins."""
        signs = {
            "the discriminator knows the training pictures by heart (overfitting/r_v): more augmentation, more data": (
                means.get(MEMORISED, 0.0) > MEMORISED_ABOVE
            ),
            "the discriminator has won, and tells the generator nothing any more: a penalty, or a lower rate for it": (
                0 <= means.get(DISCRIMINATOR_LOSS, 1.0) < WON_BELOW
            ),
        }
        return [sign for sign, shown in signs.items() if self._count(sign, shown=shown) == self._settings.strikes]

    def more_careful(self, reason: str) -> dict[str, Any] | None:
        """Its state once the run has gone back for this reason; None where it has gone back often enough."""
        if self.rollbacks == self._settings.rollbacks:
            return None
        care = {"rollbacks": self.rollbacks + 1, "history": [*self._history, reason]}
        return care | {"strikes": {}, "bad": 0, "flat_so_far": True}

    def diagnosis(self, reason: str) -> LimnerError:
        """What to tell whoever has to mend it."""
        figures = ", ".join(f"{name} {value:.3g}" for name, value in self._means.items()) or "no finite figure at all"
        tried = (
            f"The run went back {self.rollbacks} times, each time to half the learning rates and twice the penalties"
        )
        before = f", because: {'; '.join(dict.fromkeys(self._history))}" if self._history else ""
        return LimnerError(
            f"Training fails: {reason}.",
            why=f"{tried}{before}. Last figures: {figures}.",
            fix=next(advice for problem, advice in _ADVICE.items() if reason.startswith(problem)),
        )

    def state_dict(self) -> dict[str, Any]:
        """All it knows."""
        counts = {"rollbacks": self.rollbacks, "bad": self._bad}
        seen = {"strikes": dict(self._strikes), "flat_so_far": self._flat_so_far}
        return counts | seen | {"history": list(self._history)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.rollbacks, self._bad = state["rollbacks"], state["bad"]
        self._strikes, self._history = dict(state["strikes"]), list(state["history"])
        self._flat_so_far = state["flat_so_far"]

    def _problems(self, means: Mapping[str, float], progress: float) -> dict[str, str]:
        """Problems that this line shows, with the figure that shows them; counts how many lines in a row do."""
        limits = self._settings
        diversity = means.get(DIVERSITY, 1.0)
        change = max((value for name, value in means.items() if name.startswith(UPDATE)), default=0.0)
        # As initialised, a generator's pictures may all be the same.
        flat = diversity < limits.collapsed
        self._flat_so_far = self._flat_so_far and flat
        collapsed = flat and progress > (LATEST if self._flat_so_far else WARM_UP)
        shown = {
            COLLAPSED: (collapsed, f"they differ by {diversity:.2g} of the real ones' difference"),
            EXPLODED: (diversity > limits.exploded, f"they differ by {diversity:.2g} times the real ones' difference"),
            RESTLESS: (change > limits.restless, f"a step changed a player's weights by {change:.2g} of their size"),
        }
        counts = {problem: self._count(problem, shown=ill) for problem, (ill, _) in shown.items()}
        return {problem: shown[problem][1] for problem, count in counts.items() if count}

    def _count(self, sign: str, *, shown: bool) -> int:
        """How many lines in a row, this one included, show the sign."""
        if not shown:
            self._strikes.pop(sign, None)
            return 0
        self._strikes[sign] = self._strikes.get(sign, 0) + 1
        return self._strikes[sign]


NOT_FINITE = "figures are not finite"
COLLAPSED = "the generator has collapsed, its pictures are all the same"
EXPLODED = "the generator's pictures have left the range of pictures"
RESTLESS = "the weights do not settle"
_ADVICE = {
    NOT_FINITE: "Lower the learning rates, raise penalties.r1 and r2, or set train.precision to fp32.",
    COLLAPSED: "Use loss rpgan with penalties.r1 and r2, raise them, or lower the learning rates.",
    EXPLODED: "Lower the learning rates, or raise penalties.r1 and r2.",
    RESTLESS: "Lower the learning rates: a healthy step changes the weights by 0.0001 to 0.01 of their size.",
}
