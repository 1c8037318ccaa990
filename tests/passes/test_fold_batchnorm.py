"""fold-batchnorm over all weighted ops, ranks and groups; shared weights; and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.passes.fold_batchnorm import FoldBatchnorm
from tests.passes.pass_texts import apply, close, load

STATISTICS = """
const @mean : f32[4]
const @var : f32[4]
const @gamma : f32[4]
const @beta : f32[4]
"""


CASES = {
    "conv1d": ("2,3,9", "4,3,3", "2,4,7", "conv", "stride=(1,), padding=((0, 0),), dilation=(1,)"),
    "conv2d": ("2,3,5,5", "4,3,3,3", "2,4,3,3", "conv", "CONV"),
    "conv3d": (
        "1,3,3,4,5",
        "4,3,2,2,2",
        "1,4,2,3,4",
        "conv",
        "stride=(1, 1, 1), padding=((0, 0), (0, 0), (0, 0)), dilation=(1, 1, 1)",
    ),
    "grouped": ("2,6,5,5", "4,3,3,3", "2,4,3,3", "conv", "CONV, groups=2"),
    "depthwise": ("2,4,5,5", "4,1,3,3", "2,4,3,3", "conv", "CONV, groups=4"),
    "transpose1d": (
        "2,3,4",
        "3,4,2",
        "2,4,5",
        "conv_transpose",
        "stride=(1,), padding=((0, 0),), dilation=(1,), output_padding=(0,)",
    ),
    "transpose2d": ("1,3,4,4", "3,4,2,2", "1,4,5,5", "conv_transpose", "CONV, output_padding=(0, 0)"),
    "transpose_grouped": ("1,6,4,4", "3,4,2,2", "1,4,5,5", "conv_transpose", "CONV, groups=2, output_padding=(0, 0)"),
    "transpose3d": (
        "1,2,2,3,3",
        "2,4,2,2,2",
        "1,4,3,4,4",
        "conv_transpose",
        "stride=(1, 1, 1), padding=((0, 0), (0, 0), (0, 0)), dilation=(1, 1, 1), output_padding=(0, 0, 0)",
    ),
    "linear": ("3,8", "4,8", "3,4", "linear", ""),
}


@pytest.mark.parametrize("affine", ["@gamma, @beta", "@gamma", "none, @beta", ""])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_the_same_function(case: str, bias: bool, affine: str) -> None:
    x, weight, out, op, attrs = CASES[case]
    operands = "%x, @w, @b" if bias else "%x, @w"
    statistics = "@mean, @var" + (f", {affine}" if affine else "")
    used = "\n".join(line for line in STATISTICS.strip().split("\n") if line.split()[1] in statistics)
    graph = load(
        f"%x: f32[{x}]",
        f"const @w : f32[{weight}]\n"
        + ("const @b : f32[4]\n" if bias else "")
        + f"""{used}
%c = {op}({operands}) {f"{{{attrs}}}" if attrs else ""} : f32[{out}]
%y = batch_norm(%c, {statistics}) {{eps=0.001}} : f32[{out}]
return %y""",
        seed=3,
    )
    after = apply(FoldBatchnorm(), graph)
    assert [node.op for node in after.nodes] == [op]
    close(graph, after)


def test_a_shared_weight_is_copied_not_folded_twice() -> None:
    graph = load(
        "%x: f32[1,4,4,4]",
        f"""const @w : f32[4,4,1,1]
{STATISTICS.strip()}
%a = conv(%x, @w) {{CONV}} : f32[1,4,4,4]
%m = batch_norm(%a, @mean, @var, @gamma) : f32[1,4,4,4]
%b = conv(%m, @w) {{CONV}} : f32[1,4,4,4]
%n = batch_norm(%b, @var, @var, @beta) : f32[1,4,4,4]
%y = conv(%n, @w) {{CONV}} : f32[1,4,4,4]
return %y""",
    )
    after = apply(FoldBatchnorm(), graph)
    weights = [node.operands[1].name for node in after.nodes]
    assert weights == ["w.folded", "w.folded_1", "w"]
    assert np.array_equal(after.consts["w"].data, graph.consts["w"].data)
    close(graph, after)
