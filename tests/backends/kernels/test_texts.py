"""One kernel of each family as kernel IR text, at one level: golden files in tests/golden/backends/kernels/texts.

The kernels are those that lowering calls for the small graphs of `test_interpreted`, with smaller tiles where there are
any, so that they can be read. Levels are exact: no extra of this CPU shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from qcompiler.backends.lower import lower
from qcompiler.backends.target import parse_target
from tests.backends.kernels.test_interpreted import GRAPHS


@dataclass(frozen=True)
class Text:
    """A kernel that a graph calls. tile: static arguments that replace those of the rule."""

    graph: str
    level: str = "x86-64-linux+avx2"
    tile: dict[str, int] = field(default_factory=dict)


ONE = {"mr": 1, "nv": 1}
VNNI, NEON = "x86-64-linux+avx512vnni", "aarch64-linux+neon"
KERNELS = {
    "conv_u8": Text("conv-4-codes", VNNI, ONE),
    "conv_f32": Text("linear-0", tile=ONE),
    "depthwise_f32": Text("conv-2", tile={"mr": 1}),
    "max_pool_u8": Text("adaptive_max_pool-2-codes"),
    "avg_pool_f32": Text("adaptive_avg_pool-2", NEON),
    "map_real_1": Text("abs-4"),
    "reduce_real": Text("mean-4", NEON),
    "softmax_real": Text("softmax-0"),
    "norm_real": Text("layer_norm-4"),
    "copy_transposed": Text("conv-2"),
    "copy_strided_nd": Text("resize-3-codes"),
    "interpolate": Text("resize-3-codes", NEON),
    "gather_single": Text("gather_elements-1-codes"),
    "quantize_flat": Text("conversions"),
    "requantize_flat": Text("conversions", NEON),
}


@pytest.mark.parametrize("kernel", KERNELS)
def test_text(kernel: str, golden: Callable[..., None]) -> None:
    text = KERNELS[kernel]
    target = parse_target(text.level, exact=True)
    key = next(key for key in lower(GRAPHS[text.graph](), target).kernels if key.definition.name == kernel)
    golden(str(key.definition.build(target, **{**dict(key.static), **text.tile})), "kir")
