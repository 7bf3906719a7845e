"""The page of errors can be searched: its headings are in the order of the alphabet, and each says what to do."""

from __future__ import annotations

from pathlib import Path


def test_headings_are_in_order_and_each_says_what_to_do(project: Path) -> None:
    _, *sections = (project / "docs" / "troubleshooting.md").read_text(encoding="utf-8").split("\n## ")
    headings = [section.splitlines()[0] for section in sections]
    assert headings == sorted(headings, key=str.casefold)
    assert not [heading for heading, section in zip(headings, sections, strict=True) if "**Do:**" not in section]
