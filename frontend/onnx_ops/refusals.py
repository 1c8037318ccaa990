"""What the importer refuses of ops that it maps, for docs/ops.md.

The tests hold the table to what is refused: each refusal of a random legal model has its row here, and each row occurs.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Refusal:
    """A row of the table.

    Attributes:
        ops: op types, with spaces between; "any" for all.
        what: which element types, attributes or operands.
        why: the reason.
        message: a regular expression of the error's first line, behind the op's name.
        at_call: whether a call is refused, for its sizes, and not the import.
        open_sizes: whether the import is refused for sizes that the file leaves open.
    """

    ops: str
    what: str
    why: str
    message: str
    at_call: bool = False
    open_sizes: bool = False

    def fits(self, op: str, message: str) -> bool:
        return (self.ops == "any" or op in self.ops.split()) and re.search(self.message, message) is not None


_NO_TYPE = "the graph has no such type"
REFUSALS = (
    Refusal(
        "any", "uint16, uint32, uint64, bfloat16, 8-bit floats, strings, complex numbers", _NO_TYPE, "unsupported type"
    ),
    Refusal("any", "the same as constants, or as what a cast makes", _NO_TYPE, "the element type is not supported"),
    Refusal(
        "MatMul Gemm Einsum",
        "integers",
        "products are summed in f32 or on quantized codes",
        "integers are not supported",
    ),
    Refusal(
        "Erf PRelu Shrink ReduceL2 ReduceLogSum ReduceLogSumExp",
        "integers",
        "a real function, whose rounding to an integer ONNX leaves open",
        "integers are not supported",
    ),
    Refusal(
        "Slice",
        "an open axis that is shorter in a call than a bound counts from its end",
        "the bound is held as the size less a number, which is not clamped at 0",
        "bounds of slice: expected start and stop of 0 or more",
        at_call=True,
    ),
    Refusal(
        "Slice",
        "a negative step from before the first element of an open axis",
        "no bound of the graph's slice says this for every size",
        "a negative step from before the start",
        at_call=True,
    ),
    Refusal(
        "Resize Upsample", "mode=linear of integers", "ONNX leaves the rounding open", "integers are not supported"
    ),
    Refusal(
        "Resize",
        "antialias; exclude_outside with mode=linear",
        "no such kernel",
        "(antialias|exclude_outside)=.* is not",
    ),
    Refusal(
        "Resize",
        "mode=cubic of an open axis",
        "the weights of its pixels are constants",
        "mode='cubic' of an open axis",
        open_sizes=True,
    ),
    Refusal("Flatten", "a negative axis before opset 11", "ONNX had none then", "a negative axis, which opsets before"),
    Refusal(
        "Resize",
        "coordinate_transformation_mode half_pixel_symmetric, tf_half_pixel_for_nn, tf_crop_and_resize",
        "no such kernel",
        "coordinate_transformation_mode=",
    ),
    Refusal(
        "Resize", "align_corners with scales that give a fraction of a pixel", "positions depend on it", "align_corners"
    ),
    Refusal("GridSample", "integers", "ONNX leaves the rounding open", "integers are not supported"),
    Refusal(
        "GridSample", "mode=cubic; images of 3 axes", "no recipe yet", "mode='(bi)?cubic' is not|the rank of the image"
    ),
    Refusal("Pad", "mode=wrap", "no such kernel", "mode=.* is not"),
    Refusal("Pad", "integer values beyond 2^53", "the value is a float in the graph", "not exact as a float"),
    Refusal(
        "Pow",
        "a float to the power of int32 or int64 data",
        "exponents beyond 2^24 are not exact as f32",
        "may not be exact",
    ),
    Refusal(
        "Pow",
        "an integer to the power of a fraction, or of float data",
        "an integer could not hold it",
        "to the power of a",
    ),
    Refusal(
        "ReduceMax ReduceMin ReduceLogSumExp", "an axis of size 0", "there is no largest element", "of no elements"
    ),
    Refusal("AveragePool", "dilations", "no such kernel", "dilations="),
    Refusal("MaxPool", "indices with storage_order=1", "no such kernel", "storage_order="),
    Refusal(
        "ConvTranspose",
        "output_shape beyond the reach of the kernel",
        "padding would be negative",
        "output_shape is larger",
    ),
    Refusal(
        "Dropout", "training_mode; the mask", "training is not supported", "training_mode is not|output 1 .* is not"
    ),
    Refusal("BatchNormalization", "training_mode", "training is not supported", "training_mode=1"),
    Refusal("Einsum", "an index twice in one operand", "no op takes a diagonal", "diagonals are not supported"),
    Refusal("Tile", "a count of 0", "an empty tensor is nearly always a mistake", "repeats of tile"),
)

DIFFERENCES = (
    "Floats of 16 and 64 bits are computed as f32, constants and casts too; the graph has a note for each. So what is "
    "beyond 65504 (a sum, or a bound of Clip on Inf) stays a number where floats of 16 bits have Inf.",
    "A cast of a float to an integer saturates and takes NaN to 0, where ONNX leaves it open.",
    "Integers wrap, in their own type. Dividing by 0 gives 0, and the least integer divided by -1 itself.",
    "NaN stays NaN in ThresholdedRelu and Shrink, as in torch; ONNX's definitions give 0.",
    "A Resize by scales interpolates even if the size stays the same, as ONNX specifies; ONNX Runtime copies.",
    "A pool with auto_pad takes dilations into account, as ONNX specifies, and never crops.",
)


def page() -> list[str]:
    """The section of docs/ops.md, line by line."""
    rows = [f"| {refusal.ops} | {refusal.what} | {refusal.why} |" for refusal in REFUSALS]
    return [
        "## What ONNX imports refuse",
        "",
        "One error names the node. Sizes, axes, pads and the like must be constants or computed from shapes. Written "
        "from `frontend/onnx_ops/refusals.py`, which the tests hold to what is refused.",
        "",
        "| ONNX ops | what | why |",
        "|---|---|---|",
        *rows,
        "",
        "Where ONNX leaves an answer open, or its implementations disagree:",
        "",
        *(f"- {line}" for line in DIFFERENCES),
    ]
