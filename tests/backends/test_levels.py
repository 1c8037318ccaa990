"""The table of an architecture's levels: what a CPU must have, what QC_ISA hides, and which level a host gets."""

from __future__ import annotations

import pytest

from qcompiler.backends import host
from qcompiler.backends.levels import Extra, Level, Levels
from qcompiler.errors import LoweringError


def _level(name: str, features: tuple[str, ...], needs: tuple[str, ...]) -> Level:
    return Level(
        name=name,
        features=features,
        cpu="generic",
        needs=needs,
        vector_bytes=16,
        register_count=16,
        gemm_tiles=((1, 1),),
        gemm_tiles_f32=((1, 1),),
    )


def _levels(*cpu: str) -> Levels:
    """A table of four levels, on a CPU with these features. The two middle levels do not include each other."""
    rows = (
        _level("base", ("base",), ("b",)),
        _level("dots", ("base", "dots", "shared"), ("b", "d")),
        _level("wide", ("base", "wide"), ("b", "w")),
        _level("all", ("base", "wide", "all", "shared"), ("b", "w", "a")),
    )
    return Levels("toy", rows, lambda: frozenset(cpu), (Extra("more", level="all", llvm="m"),))


@pytest.fixture(autouse=True)
def _no_pretended_level(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QC_ISA", raising=False)


@pytest.mark.parametrize(
    ("cpu", "level"), [("b", "base"), ("bd", "dots"), ("bdw", "wide"), ("bwa", "all"), ("bda", "dots")]
)
def test_the_host_gets_the_last_level_that_its_cpu_has(cpu: str, level: str) -> None:
    assert _levels(*cpu).host_level() == level


def test_a_cpu_without_the_lowest_level() -> None:
    with pytest.raises(LoweringError, match="this CPU lacks base, the lowest level of toy"):
        _levels("d").host_level()


def test_qc_isa_leaves_the_levels_that_it_includes(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = _levels(*"bdwam")
    assert [name for name in levels if levels.is_available(name)] == ["base", "dots", "wide", "all"]
    for pretended, left in (("wide", ["base", "wide"]), ("toy+all", ["base", "wide", "all"])):
        monkeypatch.setenv("QC_ISA", pretended)
        assert levels.host_level() == host.pretended_level() == left[-1]
        assert [name for name in levels if levels.is_available(name)] == left
    monkeypatch.setenv("QC_ISA", "wid")
    with pytest.raises(LoweringError, match="QC_ISA names an unknown level 'wid'"):
        levels.host_level()
    monkeypatch.setenv("QC_ISA", "all")
    with pytest.raises(LoweringError, match="QC_ISA=all is more than this CPU has"):
        _levels("b").host_level()


def test_extras_are_for_the_native_target_of_their_level(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = _levels(*"bwam")
    assert levels.features("all", native=True) == {"base", "wide", "all", "shared", "more"}
    assert "more" not in levels.features("all") | levels.features("wide", native=True)
    assert "more" not in _levels(*"bwa").features("all", native=True)
    monkeypatch.setenv("QC_ISA", "all")
    assert "more" not in levels.features("all", native=True)


def test_an_unknown_level_names_the_nearest() -> None:
    with pytest.raises(LoweringError, match="unknown level 'wde' of toy") as caught:
        _levels("b")["wde"]
    assert "did you mean 'wide'" in str(caught.value)
