"""The script that writes docs/arm.md asks for a new enough llvm-mca before it measures."""

from __future__ import annotations

import pathlib
import sys

import pytest

from qcompiler.opdef import works_on_codes

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "benchmarks"))
try:
    import arm_static
finally:
    sys.path.pop(0)


def _install(folder: pathlib.Path, name: str, version: int) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\necho 'Debian LLVM version {version}.0.6'\n")
    program.chmod(0o755)


@pytest.fixture
def programs(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """An empty folder that is the only one on the path."""
    monkeypatch.setenv("PATH", str(tmp_path))
    arm_static.mca.cache_clear()
    return tmp_path


def test_without_llvm_mca_it_says_what_to_install(programs: pathlib.Path) -> None:
    with pytest.raises(SystemExit, match="none is installed: apt install llvm-19"):
        arm_static.mca()


def test_an_old_llvm_mca_is_named_with_its_version(programs: pathlib.Path) -> None:
    _install(programs, "llvm-mca", 14)
    with pytest.raises(SystemExit, match="LLVM 16 or newer is needed, and llvm-mca is of LLVM 14"):
        arm_static.main()


@pytest.mark.parametrize("plain, newest", [(14, "llvm-mca-19"), (20, "llvm-mca")])
def test_the_newest_is_taken(programs: pathlib.Path, plain: int, newest: str) -> None:
    _install(programs, "llvm-mca", plain)
    _install(programs, "llvm-mca-16", 16)
    _install(programs, "llvm-mca-19", 19)
    assert arm_static.mca() == (newest, max(plain, 19))


@pytest.mark.parametrize("level", arm_static.LEVELS)
def test_loops_are_found_in_todays_kernels(level: str) -> None:
    found = list(arm_static.loops(level))
    assert len(found) == 2 * len(arm_static.LOOPS) + len(arm_static.STATES)
    for _, mr, nv, loop in found:
        assert loop.multiplies >= mr * nv and loop.stack == 0


@pytest.mark.parametrize("op", arm_static.COUNTED)
def test_what_is_counted_as_int8_runs_on_codes(op: str) -> None:
    wanted = op if op not in ("quantize", "dequantize") else "add"
    graph, _ = arm_static.graph_of(wanted, True)
    assert {"quantize", "dequantize"} <= {node.op for node in graph.nodes}
    [measured] = [node for node in graph.nodes if node.result.name == "measured"]
    assert works_on_codes(measured) and (measured.op in (wanted, "lookup") or wanted == "depthwise")
