"""fold-pad: borders of zeros, and those that must stay."""

from __future__ import annotations

import pytest

from qcompiler.passes.fold_pad import FoldPad
from tests.passes.pass_texts import apply, check_text, load, same_bits, unchanged

X = "%x: f32[1,3,5,5]"
CONVOLUTION = "%y = conv(%p, @w) {stride=(2, 2), padding=((1, 0), (0, 1)), dilation=(1, 1)}"


def test_before_and_after() -> None:
    graph = load(
        X,
        f"""
        const @w : f32[4,3,3,3]
        %p = pad(%x) {{padding=((0, 0), (0, 0), (0, 1), (2, 1))}} : f32[1,3,6,8]
        {CONVOLUTION} : f32[1,4,3,4]
        return %y""",
    )
    after = apply(FoldPad(), graph)
    check_text(
        after,
        X,
        """
        const @w : f32[4,3,3,3]
        %y = conv(%x, @w) {stride=(2, 2), padding=((1, 1), (2, 2)), dilation=(1, 1)} : f32[1,4,3,4]
        return %y""",
    )
    same_bits(graph, after)


def test_a_border_with_other_readers_stays_for_them() -> None:
    graph = load(
        X,
        f"""
        const @w : f32[4,3,3,3]
        %p = pad(%x) {{padding=((0, 0), (0, 0), (0, 1), (0, 1))}} : f32[1,3,6,6]
        {CONVOLUTION} : f32[1,4,3,3]
        return %y, %p""",
    )
    after = apply(FoldPad(), graph)
    assert [node.op for node in after.nodes] == ["pad", "conv"] and after.node_list[1].operands[0].name == "x"
    same_bits(graph, after)


@pytest.mark.parametrize(
    "pad, shape, channels, reason",
    [
        ("padding=((0, 0), (0, 0), (0, 1), (0, 1)), value=1.0", "1,3,6,6", 3, "the border does not hold zeros"),
        ('padding=((0, 0), (0, 0), (0, 1), (0, 1)), mode="reflect"', "1,3,6,6", 3, "the border does not hold zeros"),
        ("padding=((0, 0), (0, 1), (0, 1), (0, 1))", "1,4,6,6", 4, "the batch or the channels are padded"),
    ],
)
def test_left_alone(pad: str, shape: str, channels: int, reason: str) -> None:
    graph = load(
        X,
        f"""
        const @w : f32[4,{channels},3,3]
        %p = pad(%x) {{{pad}}} : f32[{shape}]
        {CONVOLUTION} : f32[1,4,3,3]
        return %y""",
    )
    unchanged(FoldPad(), graph, reason)
