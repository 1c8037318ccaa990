"""What the declarations of convolutions refuse."""

from __future__ import annotations

import pytest

from qcompiler.errors import ShapeError
from qcompiler.opdef import opdef
from qcompiler.types import tensor

WINDOWS = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1)}


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("op", ["conv", "conv_transpose"])
def test_channels_that_do_not_fit_the_weight_are_refused(op: str, groups: int) -> None:
    """One channel more or less than the weight reads is refused, the right number is taken."""
    definition = opdef(op)
    weight = tensor("f32", 4, 2, 1, 1)
    channels = groups * (2 if op == "conv" else 4)
    more = {"output_padding": (0, 0)} if op == "conv_transpose" else {}
    attrs = definition.complete_attrs({**WINDOWS, **more, "groups": groups})
    operands = [weight, *[None] * (len(definition.operands) - 2)]
    assert definition.infer_types([tensor("f32", 1, channels, 3, 3), *operands], attrs)
    for wrong in (channels - 1, channels + 1):
        with pytest.raises(ShapeError, match=f"channels of {op}"):
            definition.infer_types([tensor("f32", 1, wrong, 3, 3), *operands], attrs)
