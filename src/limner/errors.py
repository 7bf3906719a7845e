"""The one family of errors that Limner raises on purpose."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LimnerError(Exception):
    """Something the user can put right: what is wrong, why, and what to do about it.

    The command line prints the three parts on a line each and exits with status 2.
    """

    def __init__(self, problem: str, why: str = "", fix: str = "") -> None:
        self.problem = problem
        self.why = why
        self.fix = fix
        super().__init__(str(self))

    def __str__(self) -> str:
        return "\n".join(part for part in (self.problem, self.why, self.fix) if part)

    def __reduce__(self) -> tuple[type[LimnerError], tuple[str, str, str]]:
        return type(self), (self.problem, self.why, self.fix)  # crosses process borders whole


def suggest(word: str, known: Iterable[str]) -> str:
    """A sentence for an unknown word: the nearest known one, if any, and the list of them all."""
    names = sorted(known)
    near = difflib.get_close_matches(word, names, n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    return f"{guess}There is: {', '.join(names)}." if names else "There is none."
