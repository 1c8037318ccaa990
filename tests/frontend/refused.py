"""Reads from docs/ops.md what the frontends refuse."""

from __future__ import annotations

from functools import cache
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "ops.md"


@cache
def refused_in_docs(frontend: str, dtype: str) -> frozenset[str]:
    """The functions of a frontend that the page lists as refused for an element type."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith(f"| {frontend} |")]
    rows = {row[1]: row[2] for row in cells}
    return frozenset(name.strip("`") for name in rows.get(dtype, "").split())
