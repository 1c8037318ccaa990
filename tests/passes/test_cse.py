"""cse: what counts as equal."""

from __future__ import annotations

import pytest

from qcompiler.passes.cse import Cse
from qcompiler.passes.dce import Dce
from qcompiler.quantization.qconfig import get_qconfig
from tests.passes.pass_texts import apply, check_text, load, same_bits, unchanged

X = "%x: f32[4], %z: f32[4]"


def test_equal_nodes_and_what_reads_them_become_one() -> None:
    graph = load(
        X,
        """
        const @one : f32[1]
        const @uno : f32[1]
        %a = add(%x, @one) : f32[4]
        %b = add(%x, @uno) : f32[4]
        %c = mul(%a, %z) : f32[4]
        %d = mul(%z, %b) : f32[4]
        %y = sub(%c, %d) : f32[4]
        return %y, %d""",
        one=[0.5],
        uno=[0.5],
    )
    after = apply(Cse(), graph)
    check_text(
        after,
        X,
        """
        const @one : f32[1]
        %a = add(%x, @one) : f32[4]
        %c = mul(%a, %z) : f32[4]
        %y = sub(%c, %c) : f32[4]
        return %y, %c as "d"
        """,
    )
    same_bits(graph, after)


@pytest.mark.parametrize(
    "lines",
    [
        "%a = sub(%x, %z) : f32[4]\n%b = sub(%z, %x) : f32[4]",
        "%a = elu(%x) : f32[4]\n%b = elu(%x) {alpha=0.5} : f32[4]",
        "%a = pad(%x) {padding=((0, 0),), value=0.0} : f32[4]\n%b = pad(%x) {padding=((0, 0),), value=-0.0} : f32[4]",
    ],
)
def test_other_operands_or_attrs(lines: str) -> None:
    unchanged(Cse(), load(X, f"{lines}\nreturn %a, %b"))


def test_other_constants() -> None:
    unchanged(
        Cse(),
        load(
            X,
            """
        const @p : f32[1]
        const @m : f32[1]
        %a = mul(%x, @p) : f32[4]
        %b = mul(%x, @m) : f32[4]
        return %a, %b""",
            p=[0.0],
            m=[-0.0],
        ),
    )


def test_other_qconfigs() -> None:
    graph = load(X, "%a = exp(%x) : f32[4]\n%b = exp(%x) : f32[4]\nreturn %a, %b")
    unchanged(Cse({"a": get_qconfig("int8"), "b": None}), graph)
    assert len(apply(Cse({"a": None, "b": None}), graph)) == 1


def test_dce_erases_what_no_output_needs_but_keeps_inputs() -> None:
    graph = load(
        X,
        """
        const @w : f32[4]
        %a = mul(%x, @w) : f32[4]
        %b = exp(%a) : f32[4]
        %y = relu(%x) : f32[4]
        return %y""",
    )
    after = apply(Dce(), graph)
    check_text(after, X, "%y = relu(%x) : f32[4]\nreturn %y")
    same_bits(graph, after)
    unchanged(Dce(), load(X, "%a = exp(%x) : f32[4]\n%y = relu(%a) : f32[4]\nreturn %y, %a"))
