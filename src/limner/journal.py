"""The journal of a training run: one JSON object a line, appended, and the truth about what happened."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Line = dict[str, Any]
"""{"images", "step", "seconds", "metrics": {name: value}}, or {"images", "step", "event", ...}."""

SYNC_SECONDS = 5.0
"""A power cut loses at most so much of the journal; the process's own death loses nothing."""


class Journal:
    """Appends to a file and tells the listener."""

    def __init__(self, path: Path, *, listener: Callable[[Line], None] = lambda line: None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._listener = listener
        self._file = path.open("a", encoding="utf-8")
        self._synced = time.monotonic()

    def metrics(self, values: Mapping[str, float], *, images: int, step: int, seconds: float) -> None:
        """A line of figures. `seconds` is training time since the run began, interruptions not counted."""
        self._write({"images": images, "step": step, "seconds": round(seconds, 3), "metrics": dict(values)})

    def event(self, event: str, *, images: int, step: int, **details: str | float) -> None:
        """A line about something that happened: resumed, non-finite, stopped."""
        self._write({"images": images, "step": step, "event": event, **details})

    def rewind(self, *, images: int) -> None:
        """Drop the lines beyond a checkpoint: the run that goes on from it writes them again."""
        self._file.close()
        kept = [line for line in read_journal(self._path) if line["images"] <= images]
        rewound = self._path.with_suffix(".rewound")
        rewound.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in kept), encoding="utf-8")
        rewound.replace(self._path)
        self._file = self._path.open("a", encoding="utf-8")

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *error: object) -> None:
        self._sync()
        self._file.close()

    def _write(self, line: Line) -> None:
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        if time.monotonic() - self._synced > SYNC_SECONDS:
            self._sync()
        self._listener(line)

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def describe_event(line: Line) -> str:
    """What happened, in one line for people."""
    details = ", ".join(f"{k} {v}" for k, v in line.items() if k not in ("images", "step", "event", "text"))
    told = line.get("text", "")
    return f"{line['event']} at {line['images']} images" + (f": {told or details}" if told or details else "")


def read_journal(path: Path) -> list[Line]:
    """All whole lines. A last line without its end was cut off by a crash and is left out."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
