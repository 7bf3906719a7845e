"""Delivers the records of a run in the background, in order. Whoever hands one in neither waits nor sees an error."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlflow.entities import Metric

from limner.adapters.mlflow_server import first_line, is_temporary

_log = logging.getLogger(__name__)

Point = tuple[Metric, ...]
"""All figures of one moment."""
Errand = Callable[[], object]
"""Anything else that has to be sent: a picture, tags, the run's status."""

CAPACITY = 5_000
"""Records that wait while the receiver is away. What comes on top is dropped, and counted."""
LARGEST_BATCH = 50
"""Points that travel together."""


@dataclass
class Losses:
    """What did not arrive."""

    points: int = 0
    others: int = 0


class Outbox:
    """A queue and the thread that empties it.

    A delivery that fails for a while is tried again after a pause, and records wait meanwhile; one warning is logged.
    What the receiver refuses for good is dropped, counted, and logged once for each reason.
    """

    def __init__(self, send: Callable[[Sequence[Metric]], None], *, receiver: str, pause_seconds: float = 30.0) -> None:
        """`send` delivers the figures of one or many points; `receiver` names it in the log."""
        self._send = send
        self._receiver = receiver
        self._pause_seconds = pause_seconds
        self._waiting: deque[Point | Errand] = deque()
        self._handed_in = threading.Condition()
        self._closing = threading.Event()
        self._said: set[str] = set()
        self._lost = Losses()
        self._away = False
        # A daemon, so that it never keeps a process alive that has come to its end without closing.
        self._thread = threading.Thread(target=self._work, name="tracking", daemon=True)
        self._thread.start()

    def put(self, record: Point | Errand, *, keep: bool = True) -> None:
        """Hand in a record; one that is not to be kept is dropped while the receiver is away."""
        with self._handed_in:
            if len(self._waiting) < CAPACITY and (keep or not self._away):
                self._waiting.append(record)
                self._handed_in.notify()
            else:
                self._lose([record])

    def attempt(self, errand: Errand) -> None:
        """Do something at once, in the caller's thread, but not while the receiver is away. Never raises."""
        if self._away:
            self._lose([errand])
        else:
            self._deliver([errand], last_chance=True)

    def close(self, *, within_seconds: float = 60.0) -> Losses:
        """Deliver what waits, giving up at the first failure, and say what was lost."""
        self._closing.set()
        with self._handed_in:
            self._handed_in.notify()
        self._thread.join(within_seconds)
        with self._handed_in:
            self._lose(self._waiting)
            self._waiting.clear()
        return self._lost

    def _work(self) -> None:
        while batch := self._next():
            while not self._deliver(batch, last_chance=self._closing.is_set()):
                self._closing.wait(self._pause_seconds)
            if self._closing.is_set() and self._away:  # the last chance has failed: `close` counts the rest
                return

    def _next(self) -> list[Point | Errand]:
        """One errand, or the points that come next; empty when closing and nothing waits."""
        with self._handed_in:
            self._handed_in.wait_for(lambda: self._waiting or self._closing.is_set())
            batch: list[Point | Errand] = []
            while self._waiting and len(batch) < LARGEST_BATCH and (not batch or not callable(self._waiting[0])):
                batch.append(self._waiting.popleft())
                if callable(batch[0]):
                    break
            return batch

    def _deliver(self, batch: Sequence[Point | Errand], *, last_chance: bool) -> bool:
        """Whether the matter is settled: delivered, refused, or given up. False: try again later."""
        try:
            for record in batch:
                if callable(record):
                    record()
            self._send([metric for record in batch if not callable(record) for metric in record])
        except Exception as error:  # noqa: BLE001 - tracking must not end a training run, whatever it raises
            return self._failed(batch, error, last_chance=last_chance)
        self._away = False
        return True

    def _failed(self, batch: Sequence[Point | Errand], error: Exception, *, last_chance: bool) -> bool:
        self._away = is_temporary(error)
        if self._away:
            self._warn_once("away", f"does not answer; training goes on, and its records wait. {first_line(error)}")
            if last_chance:
                self._lose(batch)
            return last_chance
        if len(batch) > 1:  # one bad point must not take the others with it
            settled = [self._deliver([record], last_chance=last_chance) for record in batch]
            return all(settled)
        self._warn_once(first_line(error), f"refused a record: {first_line(error)}")
        self._lose(batch)
        return True

    def _warn_once(self, reason: str, text: str) -> None:
        if reason not in self._said:
            self._said.add(reason)
            _log.warning("%s %s", self._receiver, text)

    def _lose(self, records: Sequence[Point | Errand] | deque[Point | Errand]) -> None:
        others = sum(callable(record) for record in records)
        self._lost.others += others
        self._lost.points += len(records) - others
