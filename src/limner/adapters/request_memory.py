"""What the requests in hand may take of a server's memory, and what reading one will take, before it is read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

from limner.batching import Busy
from limner.errors import LimnerError
from limner.scoring import Limits

BODY_COPIES = 6
"""Of a body while it is read: in parts, joined, the strings in it, their base64, and the files in that."""
LIST_BYTES, OBJECT_BYTES, VALUE_BYTES = 128, 256, 64
"""What a [, a {, and what follows a comma become at the most, parser's notes and all. Measured: 96 for a list within a
list, 168 for an RGB pixel with its three commas, 249 for {"a":0}, 88 for a comma with the bytes of a short string."""
MOST_CHANNELS = 4


class TooLarge(LimnerError):  # noqa: N818 - it is an answer, not a failure
    """A request of more bytes than one may have, or that takes more memory than there is for all."""


class Memory:
    """Bytes that all requests in hand may take, and take. From any thread."""

    def __init__(self, most: int) -> None:
        self.most, self.taken = most, 0
        self._lock = Lock()

    @contextmanager
    def share(self) -> Iterator[Share]:
        """A request's part, which is given back in the end."""
        share = Share(self)
        try:
            yield share
        finally:
            share.hold(0)

    def change(self, before: int, now: int) -> None:
        """A part is another now. Raises TooLarge where there is not so much at all, Busy where others have it."""
        with self._lock:
            if now > before and now > self.most:
                raise TooLarge(
                    "The request takes too much memory.",
                    why=f"It would be {now} bytes of {self.most}.",
                    fix="Send fewer or smaller pictures, or start the server with more: limner serve --memory-mib N.",
                )
            if now > before and self.taken - before + now > self.most:
                raise Busy("The server has too much to do.", why="Its memory is full.", fix="Ask again later.")
            self.taken += now - before


class Share:
    """What one request takes."""

    def __init__(self, memory: Memory) -> None:
        self._memory, self._held = memory, 0

    def take(self, size: int) -> None:
        """So many bytes more. Raises TooLarge or Busy."""
        self.hold(self._held + size)

    def hold(self, size: int) -> None:
        """So many bytes in all. Raises TooLarge or Busy, but not for less than before."""
        self._memory.change(self._held, size)
        self._held = size


def reading_bytes(body: bytes, limits: Limits) -> int:
    """Memory that reading a JSON body takes at the most, without the pictures of the files in it.

    Raises TooLarge where it holds more lists or values than the largest arrays that a request may have: then it is not
    parsed at all. Commas and brackets within strings are counted, too; base64 has none.
    """
    lists, objects, values = body.count(b"["), body.count(b"{"), body.count(b",")
    # Each pixel is a list, and at the most a row of its own.
    if lists + objects > 2 * limits.array_pixels + limits.pictures + 8:
        raise _too_many(limits)
    if values > MOST_CHANNELS * limits.array_pixels + limits.pictures + 8:
        raise _too_many(limits)
    return BODY_COPIES * len(body) + LIST_BYTES * lists + OBJECT_BYTES * objects + VALUE_BYTES * values


def _too_many(limits: Limits) -> TooLarge:
    return TooLarge(
        "The request holds too many values.",
        why=f"As arrays the pictures of a request may have {limits.array_pixels} pixels together.",
        fix="Send PNG files in base64.",
    )
