"""docs/ops.md is what the registry says."""

from __future__ import annotations

import pathlib

from qcompiler.opdocs import ops_page

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "ops.md"


def test_the_page_is_current() -> None:
    assert ops_page() == PAGE.read_text(), "python -m qcompiler.opdocs > docs/ops.md"


def test_x86_serves_what_is_quantizable() -> None:
    rows = [line.split(" | ") for line in PAGE.read_text().splitlines() if line.startswith("| [")]
    assert len(rows) > 90
    for row in rows:
        assert "no" not in row[5].replace("not", ""), row[0]
