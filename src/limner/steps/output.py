"""Outputs that are there as a whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
