"""What an examination finds: each finding says what is so and, where it is not well, what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from limner.errors import LimnerError

Status = Literal["ok", "warning", "error", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. An `error` would fail later; `skipped` says why there was nothing to look at."""

    check: str
    status: Status
    what: str
    fix: str = ""


Check = Callable[[], Iterable[Finding]]
"""Looks at one thing. What is wrong with it is a finding, not an exception."""


def refused(check: str, error: LimnerError) -> Finding:
    """An error as a finding."""
    return Finding(check, "error", " ".join(part for part in (error.problem, error.why) if part), error.fix)
