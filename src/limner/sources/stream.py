"""The pictures of a source, decoded by several threads, in order, and with few of them in memory at a time."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from limner.settings import ImageSettings
from limner.sources import Picture, Refused, SetAside
from limner.sources.decode import Decoded, decode

WORKERS = 8
"""Most threads that decode; Pillow gives the interpreter's lock away while it does."""


@dataclass(frozen=True)
class Entry:
    """What became of one item of a source."""

    picture: Picture | None
    result: Decoded | SetAside
    fingerprint: bytes


def decoded(items: Iterable[Picture | SetAside], image: ImageSettings) -> Generator[Entry, None, None]:
    """Each item fetched and decoded, in the order of the items. Close it when leaving early: it holds threads."""
    workers = min(WORKERS, os.cpu_count() or 1)
    window: deque[Future[Entry]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                window.append(pool.submit(_fetch_and_decode, item, image))
                if len(window) > 4 * workers:  # so many pictures are in memory, and no more
                    yield window.popleft().result()
            while window:
                yield window.popleft().result()
        finally:
            for future in window:
                future.cancel()


def _fetch_and_decode(item: Picture | SetAside, image: ImageSettings) -> Entry:
    if isinstance(item, SetAside):
        return Entry(None, item, f"{item.name}\0{item.reason}\0{item.count}\n".encode())
    seen = ""
    result: Decoded | SetAside
    try:
        content = item.fetch()
        seen = hashlib.sha256(content if isinstance(content, bytes) else content.tobytes()).hexdigest()
        result = decode(content, image, half=item.half)
    except Refused as refusal:
        result = SetAside(item.name, refusal.reason, refusal.detail)
    return Entry(item, result, f"{item.name}\0{seen}\n".encode())
