"""The known traps of Kubeflow Pipelines 2.17, a function each, which yields what is wrong with a pipeline or a pod."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A trap: the rule that found it, the task (`exit-handler-1/train`), what will happen, and what to do about it."""

    rule: str
    where: str
    problem: str
    fix: str

    def __str__(self) -> str:
        return f"{self.where}: {self.problem} {self.fix} [{self.rule}]"
