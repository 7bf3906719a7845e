import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from limner.batching import Batcher, Busy


def squares(batch):
    return [number**2 for number in batch]


@pytest.fixture
def gate():
    """A batcher whose first batch waits at a gate, so that what comes meanwhile is known to wait; and its batches."""
    opened, begun, batches = threading.Event(), threading.Event(), []

    def compute(batch):
        batches.append(list(batch))
        begun.set()
        assert opened.wait(10)
        return squares(batch)

    batcher = Batcher(compute, size=4, wait_seconds=0, capacity=6)
    yield batcher, opened, begun, batches
    opened.set()
    batcher.close()


def test_everybody_gets_their_own_answer():
    batcher = Batcher(squares, size=8, wait_seconds=0.001, capacity=1000)
    with ThreadPoolExecutor(16) as callers:
        answers = list(callers.map(lambda number: batcher.submit(number).result(timeout=10), range(500)))
    assert answers == squares(range(500))
    batcher.close()


def test_what_comes_while_a_batch_is_computed_is_the_next_batch(gate):
    batcher, opened, begun, batches = gate
    first = batcher.submit(1)
    assert begun.wait(10)
    others = [batcher.submit(number) for number in range(2, 8)]
    opened.set()
    assert [future.result(10) for future in (first, *others)] == squares(range(1, 8))
    assert batches == [[1], [2, 3, 4, 5], [6, 7]]


def test_the_first_waits_for_others_but_not_for_long():
    sizes = []

    def compute(batch):
        sizes.append(len(batch))
        return squares(batch)

    batcher = Batcher(compute, size=3, wait_seconds=0.2, capacity=10)
    begin = time.monotonic()
    assert batcher.submit(1).result(10) == 1
    assert time.monotonic() - begin > 0.15
    for future in [batcher.submit(number) for number in range(3)]:
        future.result(10)
    assert sizes == [1, 3]
    batcher.close()


def test_a_full_batch_does_not_wait():
    batcher = Batcher(squares, size=2, wait_seconds=60, capacity=10)
    assert [future.result(10) for future in [batcher.submit(2), batcher.submit(3)]] == [4, 9]
    batcher.close()


def test_weights_bound_a_batch_and_one_that_is_heavier_goes_alone(gate):
    _, opened, begun, _ = gate
    batches = []

    def compute(batch):
        batches.append(list(batch))
        begun.set()
        assert opened.wait(10)
        return squares(batch)

    batcher = Batcher(compute, size=10, wait_seconds=0, capacity=10, weigh=lambda number: number)
    futures = [batcher.submit(10)]
    assert begun.wait(10)
    futures += [batcher.submit(number) for number in (6, 4, 3, 25, 1)]
    opened.set()
    for future in futures:
        future.result(10)
    assert batches == [[10], [6, 4], [3], [25], [1]]
    batcher.close()


def test_a_request_that_cannot_be_computed_fails_alone(gate):
    _, opened, begun, _ = gate

    def compute(batch):
        begun.set()
        assert opened.wait(10)
        return [1 / number for number in batch]

    batcher = Batcher(compute, size=8, wait_seconds=0, capacity=10)
    first = batcher.submit(1)
    assert begun.wait(10)
    futures = [batcher.submit(number) for number in (2, 0, 4)]
    opened.set()
    assert [first.result(10), futures[0].result(10), futures[2].result(10)] == [1, 0.5, 0.25]
    with pytest.raises(ZeroDivisionError, match="division"):
        futures[1].result(10)
    batcher.close()


def test_too_few_answers_fail_the_batch_and_it_goes_on():
    batcher = Batcher(lambda batch: [] if batch == [0] else squares(batch), size=1, wait_seconds=0, capacity=10)
    with pytest.raises(RuntimeError, match="1 requests were answered with 0 answers"):
        batcher.submit(0).result(10)
    assert batcher.submit(3).result(10) == 9
    batcher.close()


def test_it_goes_on_after_the_worst_error():
    def compute(batch):
        raise SystemExit(3) if batch == [0] else ValueError("no")

    batcher = Batcher(compute, size=1, wait_seconds=0, capacity=10)
    with pytest.raises(SystemExit, match="3"):
        batcher.submit(0).result(10)
    with pytest.raises(ValueError, match="no"):
        batcher.submit(1).result(10)
    batcher.close()


def test_more_than_it_holds_is_refused_and_there_is_room_again_later(gate):
    batcher, opened, begun, _ = gate
    first = batcher.submit(0)
    assert begun.wait(10)
    waiting = [batcher.submit(number) for number in range(6)]
    assert batcher.waiting == 6
    with pytest.raises(Busy, match="6 requests wait"):
        batcher.submit(7)
    opened.set()
    assert [future.result(10) for future in (first, *waiting)] == squares([0, *range(6)])
    assert batcher.submit(9).result(10) == 81


def test_who_gives_up_is_not_computed_for(gate):
    batcher, opened, begun, batches = gate
    batcher.submit(1)
    assert begun.wait(10)
    gone, stayed = batcher.submit(2), batcher.submit(3)
    assert gone.cancel()
    opened.set()
    assert stayed.result(10) == 9
    assert batches == [[1], [3]]


def test_closing_answers_all_that_wait_and_takes_no_more(gate):
    batcher, opened, begun, _ = gate
    futures = [batcher.submit(1)]
    assert begun.wait(10)
    futures += [batcher.submit(2), batcher.submit(3)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    opened.set()
    closing.join(10)
    assert [future.result(0) for future in futures] == [1, 4, 9]
    with pytest.raises(Busy, match="stopping"):
        batcher.submit(4)


def test_a_batcher_that_nobody_holds_leaves_no_thread():
    batcher = Batcher(squares, size=1, wait_seconds=0, capacity=1)
    batcher.submit(1).result(10)
    gone, threads = weakref.ref(batcher), set(batcher._executor._threads)
    del batcher
    deadline = time.monotonic() + 10
    while (gone() or any(thread.is_alive() for thread in threads)) and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.01)
    assert gone() is None
    assert not any(thread.is_alive() for thread in threads)
