"""Requests of many callers put together, because a model takes ten pictures at once in little more time than one.

Callers are threads (MLflow's server calls a model from several) or an event loop (ours). The batchers on the package
index are for an event loop alone (async-batcher), or belong to a server of their own (Ray Serve, BentoML, LitServe).
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from threading import Condition
from typing import Generic, TypeVar

from limner.errors import LimnerError

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Busy(LimnerError):  # noqa: N818 - it is an answer, not a failure
    """There is no room for another request now; later there may be."""


@dataclass(frozen=True)
class _Waiting(Generic[Asked, Answer]):
    asked: Asked
    weight: int
    future: Future[Answer]


class Batcher(Generic[Asked, Answer]):
    """Computes what was asked for, batch by batch, on one thread. Its methods may be called from any thread."""

    def __init__(
        self,
        compute: Callable[[Sequence[Asked]], Sequence[Answer]],
        *,
        size: int,
        wait_seconds: float,
        capacity: int,
        weigh: Callable[[Asked], int] = lambda _: 1,
    ) -> None:
        """`compute` answers a batch in its order.

        A batch weighs at most `size`, unless it is a single request that does; the first in it waits `wait_seconds` at
        most for others to come. No more than `capacity` requests wait.
        """
        self._compute, self._weigh = compute, weigh
        self._size, self._wait_seconds, self._capacity = size, wait_seconds, capacity
        self._changed = Condition()
        self._waiting: deque[_Waiting[Asked, Answer]] = deque()
        self._weight = 0
        self._working, self._closed = False, False
        # Its one thread ends with the process, or when nobody holds the batcher any more.
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="limner-batcher")

    def submit(self, asked: Asked) -> Future[Answer]:
        """What will be the answer, or the error that computing it raised. Raises Busy where too many wait."""
        with self._changed:
            if self._closed:
                raise Busy("The server is stopping.", fix="Ask again: another one may answer.")
            if len(self._waiting) >= self._capacity:
                raise Busy(
                    "The server has too much to do.", why=f"{self._capacity} requests wait.", fix="Ask again later."
                )
            new: _Waiting[Asked, Answer] = _Waiting(asked, self._weigh(asked), Future())
            self._waiting.append(new)
            self._weight += new.weight
            if not self._working:
                self._working = True
                self._executor.submit(self._work)
            elif self._weight >= self._size:
                self._changed.notify()
        return new.future

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return len(self._waiting)

    def close(self) -> None:
        """Answer all that wait, and take no more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._executor.shutdown(wait=True)

    def _work(self) -> None:
        while batch := self._next():
            self._answer([each for each in batch if each.future.set_running_or_notify_cancel()])
            del batch  # or the last pictures would stay until the next come

    def _next(self) -> list[_Waiting[Asked, Answer]]:
        """The next batch; empty where nothing waits, and then the next request starts the work again."""
        with self._changed:
            if not self._waiting:
                self._working = False
                return []
            deadline = time.monotonic() + self._wait_seconds
            while self._weight < self._size and not self._closed:
                left = deadline - time.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            batch: list[_Waiting[Asked, Answer]] = []
            weight = 0
            while self._waiting and (not batch or weight + self._waiting[0].weight <= self._size):
                batch.append(self._waiting.popleft())
                weight += batch[-1].weight
            self._weight -= weight
            return batch

    def _answer(self, batch: Sequence[_Waiting[Asked, Answer]]) -> None:
        if not batch:  # all of them gave up
            return
        try:
            answers = self._compute([each.asked for each in batch])
            if len(answers) != len(batch):
                raise RuntimeError(f"{len(batch)} requests were answered with {len(answers)} answers")
        except BaseException as error:  # noqa: BLE001 - whoever waits has to hear of it, or would wait for ever
            if len(batch) == 1:
                batch[0].future.set_exception(error)
            else:  # one of them cannot be computed: the others can
                for each in batch:
                    self._answer([each])
            return
        for each, answer in zip(batch, answers, strict=True):
            each.future.set_result(answer)
