import json

import pytest

from limner.adapters.request_memory import Memory, TooLarge, reading_bytes
from limner.batching import Busy
from limner.scoring import Limits

LIMITS = Limits(pictures=4, array_pixels=100)


def test_what_one_holds_another_cannot_have_until_it_is_given_back():
    memory = Memory(100)
    with memory.share() as first, memory.share() as second:
        first.take(60)
        with pytest.raises(Busy, match="memory is full"):
            second.take(50)
        second.take(40)
        first.hold(10)
        second.take(50)
        assert memory.taken == 100
    assert memory.taken == 0


def test_more_than_there_is_will_never_be_had():
    memory = Memory(100)
    with memory.share() as share, pytest.raises(TooLarge, match="101 bytes of 100"):
        share.take(101)
    assert memory.taken == 0


def test_a_part_can_shrink_while_memory_is_full():
    memory = Memory(100)
    with memory.share() as first, memory.share() as second:
        first.take(100)
        second.hold(0)
        first.hold(99)
        assert memory.taken == 99


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(("height", "width"), [(10, 10), (1, 100), (100, 1)])
def test_the_largest_arrays_that_are_allowed_may_be_read(channels, height, width):
    body = json.dumps({"inputs": [[[[255] * channels] * width] * height], "params": {"strength": 1, "output": "png"}})
    assert reading_bytes(body.encode(), LIMITS) > 100 * 128


@pytest.mark.parametrize("content", [b"[],", b"{},", b"1,", b'"",', b"[" * 5 + b"]" * 5 + b","])
def test_a_body_of_too_many_values_is_not_parsed(content):
    with pytest.raises(TooLarge, match="too many values"):
        reading_bytes(b'{"inputs":[' + content * 500 + b"0]}", LIMITS)


def test_the_text_of_a_file_is_no_value():
    assert reading_bytes(b'{"inputs":["' + b"A" * 10**6 + b'"]}', LIMITS) < 7 * 10**6
