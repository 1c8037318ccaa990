"""The tool that draws mutants: which changes it makes, and which tests it runs for them."""

from __future__ import annotations

import ast
import builtins

import pytest

from tests.mutants.reach import Recorded, noting, rounds
from tests.mutants.sites import Site, sites_of

TEXT = '''"""A text, with names of 3 bytes: é."""
LIMIT = -2

def f(x: int, y: int = 3) -> int:
    if x - y - 1 < 0 and (
        x > LIMIT
    ): return max(x, y)
    if x == 100: raise ValueError(f"{x + 1}")
    return [x, y][1:][0] + sum(i * 2 for i in range(x))
'''


def _sites() -> list[Site]:
    return sites_of("passes/f.py", TEXT)


def test_each_mutant_is_another_program_on_as_many_lines() -> None:
    sites = _sites()
    assert len({site.key for site in sites}) == len(sites) > 30
    assert {site.kind for site in sites} >= {
        "a comparison",
        "a constant",
        "a dropped raise",
        "a dropped guard",
        "a sign",
    }
    for site in sites:
        changed = site.apply(TEXT)
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(TEXT)), site
        assert changed.count("\n") == TEXT.count("\n"), site


def test_places_note_that_they_are_evaluated_and_keep_their_meaning(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    monkeypatch.setattr(builtins, "_noted_mutants", seen.update, raising=False)
    plain: dict[str, object] = {}
    noted: dict[str, object] = {}
    exec(TEXT, plain)
    exec(noting(_sites(), TEXT), noted)
    imported = {site.old for site in _sites() if site.key in seen}
    assert imported == {"-2", "3"}

    def reached(x: int) -> set[str]:
        seen.clear()
        assert noted["f"](x) == plain["f"](x)  # type: ignore[operator]
        return {site.old for site in _sites() if site.key in seen}

    assert "max(x, y)" in reached(1) and "i * 2" not in reached(1)
    assert "max(x, y)" not in reached(7) and reached(7) >= {"i * 2", "x - y - 1", "x - y", "x == 100"}
    with pytest.raises(ValueError):
        reached(100)
    assert 'raise ValueError(f"{x + 1}")' in {site.old for site in _sites() if site.key in seen}


def test_the_likeliest_tests_run_first() -> None:
    site = _sites()[0]
    keys = (site.key,)
    recorded = {
        "tests/test_far.py": Recorded((), {"far": (0.1, keys)}),
        "tests/passes/test_g.py": Recorded((), {"near": (2.0, keys), "not": (0.1, ("other",))}),
        "tests/passes/test_f.py": Recorded((), {"a[1]": (1.0, keys), "a[2]": (2.0, keys), "b": (5.0, keys)}),
        "tests/passes/test_h.py": Recorded(keys, {"any": (30.0, ("other",))}),
        "tests/test_long.py": Recorded((), {"long": (90.0, keys)}),
    }
    assert rounds(site, recorded, 60) == [["a[1]", "b", "a[2]"], ["near", "not", "any", "far"]]
    assert rounds(site, recorded, 7) == [["a[1]", "b"], ["not", "far"]]
    assert rounds(site, {}, 60) == []


def test_tests_of_an_op_run_first_for_its_attributes() -> None:
    [site] = sites_of("qcompiler/ops/norm.py", "class RmsNorm:\n    centers = False\n")
    recorded = {
        "tests/backends/rules/test_norm.py": Recorded((site.key,), {"test_long_rows": (1.0, ())}),
        "tests/ops/test_all.py": Recorded((site.key,), {"test_op[add]": (0.1, ()), "test_op[rms_norm]": (0.2, ())}),
    }
    assert rounds(site, recorded, 60) == [["test_op[rms_norm]", "test_op[add]"], ["test_long_rows"]]
