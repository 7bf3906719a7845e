"""Outputs that are there as a whole or not at all."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from limner.errors import LimnerError


@contextmanager
def held(folder: Path, *, name: str) -> Iterator[None]:
    """Inside it no other process trains in this folder; the lock ends with the process, however that ends.

    Raises LimnerError where another one does: the two would write over each other's checkpoints.
    """
    with (folder / ".lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LimnerError(
                f"{name} is being trained with these settings already.",
                why=f"Another process has {folder}.",
                fix="Wait for it or end it; or give this one another --scratch.",
            ) from None
        except OSError:  # some disks that machines share know no locks
            pass
        yield


@contextmanager
def replaced(output: Path) -> Iterator[Path]:
    """A new folder to write into; when the block ends without an error it takes the place of `output`."""
    output = output.resolve()  # a link to a larger disk stays one
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    try:
        partial.chmod(0o755)  # mkdtemp keeps others out, a shared output must not
        yield partial
        if output.exists():
            old = partial.with_name(f"{partial.name}.old")
            output.rename(old)
            try:
                partial.rename(output)
            except OSError:
                old.rename(output)
                raise
            shutil.rmtree(old)
        else:
            partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
