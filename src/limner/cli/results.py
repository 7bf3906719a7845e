"""Results on standard output: a table for people, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limner.metric_words import with_errors


def show(result: Any, *, as_json: bool) -> None:
    """Print a step's result, a dataclass."""
    rows = {name.replace("_", " "): value for name, value in asdict(result).items()}
    if "metrics" in rows:
        rows["metrics"] = with_errors(rows["metrics"])
    if as_json:
        print_json(asdict(result))
    else:
        _print_rows(rows)


def print_json(document: Any) -> None:
    """Print a document; a path becomes its text."""
    print(json.dumps(document, indent=2, ensure_ascii=False, default=_text))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table with a heading. Only the last column breaks its lines."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), collapse_padding=True)
    for name in columns:
        table.add_column(name, no_wrap=name != columns[-1])
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _print_rows(rows: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table.grid("", "", padding=(0, 2))
    for name, value in rows.items():
        table.add_row(Text(name, style="bold"), Text(figures(value)))
    Console().print(table)


def figures(value: Any) -> str:
    """A value as text: figures with four digits, lists and maps on one line each item."""
    if isinstance(value, Mapping):
        return "\n".join(f"{name} {figures(item)}" for name, item in value.items()) or "-"
    if isinstance(value, list | tuple):
        return "\n".join(figures(item) for item in value) or "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value) or "-"


def _text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{value!r} has no form in JSON")
