"""Signatures of kernels: the layout of their arguments, and what a type checker says about mistakes in them."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import textwrap
from typing import Generic

import pytest

from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Aliased, Arguments, At, E, Group, P, S, Written
from qcompiler.backends.kernel_ir.types import F32
from qcompiler.backends.target import parse_target
from qcompiler.errors import LoweringError


class Axis(Group, Generic[E]):
    size: E
    stride: E


class Tiled(Arguments["Tiled"], Generic[P, E, S]):
    x: Aliased[P]
    outer: tuple[Axis[E], ...]
    pair: tuple[E, E]
    y: Aliased[Written[P]]
    inner: Axis[E]
    alpha: S


class Plain(Arguments["Plain"], Generic[P, E]):
    y: Written[P]
    inner: Axis[E]


@kernel(outer=2)
def tiled(b: KernelBuilder, a: Tiled, *, mr: int, residual: bool = False) -> None:
    b.store(a.alpha, a.y, a.outer[1].stride + a.pair[0])


@kernel
def plain(b: KernelBuilder, a: Plain) -> None:
    b.store(b.zero(F32), a.y, a.inner.size)


def _arguments() -> Tiled[At | None, int, float]:
    axes = (Axis(size=2, stride=3), Axis(size=4, stride=5))
    return Tiled(x=None, outer=axes, pair=(6, 7), y=At(1, 64), inner=Axis(size=8, stride=9), alpha=1.0)


def test_fields_are_words_in_the_order_of_their_declaration() -> None:
    names = "x outer.0.size outer.0.stride outer.1.size outer.1.stride pair.0 pair.1 y inner.size inner.stride alpha"
    assert [each.name for each in tiled.parameters] == names.split()
    assert [each.name for each in tiled.parameters if each.written] == ["y"]
    assert tiled.aliased == {"x", "y"} and not plain.aliased
    assert tiled.pack_args(_arguments()).tolist() == [0, 0, 2, 3, 4, 5, 6, 7, 1, 64, 8, 9, 0x3F800000]
    assert plain.pack_args(Plain(y=At(2), inner=Axis(size=1, stride=4))).tolist() == [2, 0, 1, 4]


def test_the_kernel_reads_the_same_fields() -> None:
    text = str(tiled.build(parse_target("native"), mr=1))
    assert "= add %outer.1.stride, %pair.0 : i64\n" in text and "store %alpha, %y[" in text


def test_a_key_leaves_out_defaults() -> None:
    assert tiled(mr=4) == tiled(mr=4, residual=False) != tiled(mr=4, residual=True)
    assert tiled(mr=4, residual=True).name == "tiled_mr4_residual1"


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(LoweringError, match="arguments do not fit kernel plain"):
        plain.arguments(_arguments())  # type: ignore[arg-type]
    short = Tiled(x=None, outer=(), pair=(6, 7), y=At(1), inner=Axis(size=8, stride=9), alpha=1.0)
    with pytest.raises(LoweringError, match="Tiled with 7 values"):
        tiled.arguments(short)
    with pytest.raises(TypeError, match="Axis takes size, stride, not size"):
        Axis(size=1)  # type: ignore[call-arg]
    with pytest.raises(AttributeError, match="Axis is frozen"):
        Axis(size=1, stride=2).size = 3  # type: ignore[misc]


MISTAKES = {
    "s.call(plain(), Tile(y=None, n=1))": 'Cannot infer value of type parameter "A"',
    "s.call(plain(mr=1), Plain(y=None, inner=Axis(size=1, stride=1)))": 'Unexpected keyword argument "mr"',
    "Plain(y=3, inner=Axis(size=1, stride=1))": 'Value of type variable "P"',
    "Axis(size=1.5, stride=1)": 'Value of type variable "E"',
    "Axis(size=1)": 'Missing positional argument "stride"',
    "def f(a: Plain) -> None: print(a.inner.sice)": '"Axis[Value]" has no attribute "sice"',
}


def test_a_type_checker_finds_mistakes(tmp_path: pathlib.Path) -> None:
    pytest.importorskip("mypy")
    program = textwrap.dedent("""
        from typing import Generic
        from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
        from qcompiler.backends.kernel_ir.definition import Arguments, E, Group, P, Written
        from qcompiler.backends.lowering.node import NodeLowering
        class Axis(Group, Generic[E]):
            size: E
            stride: E
        class Plain(Arguments["Plain"], Generic[P, E]):
            y: Written[P]
            inner: Axis[E]
        class Tile(Arguments["Tile"], Generic[P, E]):
            y: Written[P]
            n: E
        @kernel
        def plain(b: KernelBuilder, a: Plain) -> None: ...
        def rule(s: NodeLowering) -> None:
            s.call(plain(), Plain(y=None, inner=Axis(size=1, stride=1)))
        def mistakes(s: NodeLowering) -> None:
        """)
    path = tmp_path / "program.py"
    path.write_text(program.lstrip() + "".join(f"    {line}\n" for line in MISTAKES))
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--no-error-summary", str(path)]
    root = pathlib.Path(__file__).resolve().parents[3]
    output = subprocess.run(command, capture_output=True, text=True, cwd=root).stdout
    errors = [line for line in output.splitlines() if ": error:" in line]
    first = program.lstrip().count("\n") + 1
    for number, message in enumerate(MISTAKES.values(), first):
        assert any(f"program.py:{number}:" in line and message in line for line in errors), output
    assert all(int(line.split(":")[1]) >= first for line in errors), output
