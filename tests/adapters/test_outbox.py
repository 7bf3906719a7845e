import threading
import time
from collections.abc import Sequence

import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from limner.adapters import outbox
from limner.adapters.outbox import Outbox


class Receiver:
    """Takes figures, unless it is away or does not like them."""

    def __init__(self) -> None:
        self.got: list[float] = []
        self.deliveries = 0
        self.failures = 0
        self.present = threading.Event()
        self.present.set()

    def __call__(self, metrics: Sequence[Metric]) -> None:
        if not self.present.is_set():
            self.failures += 1
            raise ConnectionError("nobody is here")
        if any(metric.key == "bad" for metric in metrics):
            raise MlflowException.invalid_parameter_value("a bad name")
        if metrics:
            self.deliveries += 1
        self.got.extend(metric.value for metric in metrics)


def point(value: float, name: str = "loss") -> tuple[Metric, ...]:
    return (Metric(name, value, 0, 0),)


def wait_until(condition) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen")


@pytest.fixture
def receiver() -> Receiver:
    return Receiver()


@pytest.fixture
def box(receiver: Receiver) -> Outbox:
    return Outbox(receiver, receiver="The server", pause_seconds=0.01)


def test_points_and_errands_arrive_in_order(receiver, box):
    for value in range(0, 500, 5):
        box.put(point(value))
        box.put(lambda value=value: receiver.got.append(value + 1))
        box.put(point(value + 2))
        box.put(point(value + 3))
        box.put(point(value + 4))
    lost = box.close()
    assert receiver.got == list(range(500))
    assert (lost.points, lost.others) == (0, 0)


def test_points_that_wait_travel_together(receiver, box):
    gate = threading.Event()
    box.put(gate.wait)
    for value in range(100):
        box.put(point(value))
    gate.set()
    box.close()
    assert receiver.got == list(range(100))
    assert receiver.deliveries == 2


def test_outage_delays_and_loses_nothing_and_warns_once(receiver, box, caplog):
    receiver.present.clear()
    for value in range(10):
        box.put(point(value))
    wait_until(lambda: "does not answer" in caplog.text)
    time.sleep(0.1)  # several pauses long
    receiver.present.set()
    wait_until(lambda: len(receiver.got) == 10)
    assert box.close().points == 0
    assert receiver.got == list(range(10))
    assert len(caplog.records) == 1


def test_what_need_not_be_kept_is_dropped_and_counted_while_away(receiver, box, caplog):
    receiver.present.clear()
    box.put(point(1))
    wait_until(lambda: "does not answer" in caplog.text)
    box.put(lambda: receiver.got.append(-1), keep=False)
    box.attempt(lambda: receiver.got.append(-2))
    receiver.present.set()
    wait_until(lambda: receiver.got == [1])
    box.put(lambda: receiver.got.append(2), keep=False)
    lost = box.close()
    assert receiver.got == [1, 2]
    assert (lost.points, lost.others) == (0, 2)


def test_closing_while_away_gives_up_at_once_and_counts_all(receiver, caplog):
    box = Outbox(receiver, receiver="The server", pause_seconds=3600)
    receiver.present.clear()
    for value in range(500):
        box.put(point(value))
    box.put(lambda: None)
    wait_until(lambda: "does not answer" in caplog.text)
    began = time.monotonic()
    lost = box.close()
    assert time.monotonic() - began < 2
    assert (lost.points, lost.others) == (500, 1)
    assert receiver.failures <= 2  # each may be a minute of waiting for an answer


def test_closing_does_not_wait_for_ever_for_a_receiver_that_hangs(receiver, box):
    hanging = threading.Event()
    box.put(hanging.wait)
    box.put(point(1))
    assert box.close(within_seconds=0.1).points == 1
    hanging.set()


def test_refused_point_takes_no_other_with_it_and_is_told_once(receiver, box, caplog):
    gate = threading.Event()
    box.put(gate.wait)
    for value in range(5):
        box.put(point(value))
        box.put(point(value, "bad"))
    gate.set()
    assert box.close().points == 5
    assert receiver.got == list(range(5))
    assert len(caplog.records) == 1
    assert "refused a record" in caplog.text
    assert "a bad name" in caplog.text


def test_any_error_of_an_errand_stays_inside(receiver, box):
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    box.put(fail)
    box.attempt(fail)
    box.put(point(1))
    assert box.close().others == 2
    assert receiver.got == [1]


def test_overflow_is_counted_and_never_blocks(receiver, box, monkeypatch):
    monkeypatch.setattr(outbox, "CAPACITY", 3)
    gate, busy = threading.Event(), threading.Event()
    box.put(lambda: (busy.set(), gate.wait()))
    busy.wait()
    for value in range(5):
        box.put(point(value))
    gate.set()
    assert box.close().points == 2
    assert receiver.got == [0, 1, 2]
