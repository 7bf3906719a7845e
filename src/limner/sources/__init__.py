"""Where pictures come from. A source names its classes and yields its pictures one by one, always in the same order.

A picture is a name and a function that fetches it: the bytes of an image file, or pixels that are already there. What
is fetched is decoded elsewhere (`limner.sources.decode`), so a source knows nothing of sizes or colours. A source never
fails over a single picture: it yields a `SetAside` in its place, or lets the fetch raise `Refused`. It raises
LimnerError where there is nothing to read from, or where going on would mean guessing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Reason = Literal[
    "ambiguous name",
    "broken link",
    "damaged",
    "duplicate",
    "empty folder",
    "encrypted",
    "hidden",
    "link inside an archive",
    "link loop",
    "no partner",
    "not a picture",
    "not a regular file",
    "odd width",
    "other file type",
    "outside the classes",
    "too large",
    "too small",
    "unknown range",
    "unreadable",
]
"""Why a picture is set aside: what the manifest counts by."""

Half = Literal["left", "right"]

Content = bytes | NDArray[np.uint8]
"""An image file's bytes, or pixels uint8 [H, W] or [H, W, 3]."""


class Refused(Exception):  # noqa: N818 - it is an answer, not a failure
    """Raised while a picture is fetched or decoded: it cannot be used, and why."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        self.reason = reason
        self.detail = detail
        super().__init__(reason, detail)


@dataclass(frozen=True)
class SetAside:
    """A picture that is not used, or `count` other files of one kind, and why."""

    name: str
    reason: Reason
    detail: str = ""
    count: int = 1


@dataclass(frozen=True)
class Picture:
    """A picture that may be used. `fetch` may be called in any thread, once, and raises Refused."""

    name: str
    fetch: Callable[[], Content]
    label: int | None = None
    held_out: bool = False
    """The publisher's own choice of what is not trained on; False where there is no such choice."""
    half: Half | None = None
    """The half of the upright picture that is meant; None: all of it."""
    key: str = ""
    """What a picture and its partner in another set have in common; empty: the name."""


@dataclass(frozen=True)
class PictureSource:
    """A set of pictures. `pictures` can be walked once."""

    pictures: Iterator[Picture | SetAside]
    classes: tuple[str, ...] = ()
    """Names of the labels; empty where the pictures are not labelled."""
    has_held_out: bool = False
    """Whether the publisher says which pictures are held out."""


def displayable(name: str) -> str:
    """A file's name as text that can be written anywhere: bytes that are not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
