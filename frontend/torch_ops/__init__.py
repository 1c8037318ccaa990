"""What each ATen op means in the graph IR: the table behind `import_torch`.

Keys are printed names of torch's overloads ("aten.conv2d.default"). A meaning takes the op's own arguments, with traced
values in place of tensors. An op that stands for a whole layer becomes one IR op. torch is not imported here.
"""

from qcompiler.frontend.torch_ops import complex, elementwise, layers, picks, quantized, recurrent, reductions, shapes
from qcompiler.frontend.torch_ops.sizes import CHECKS, SIZE_FUNCTIONS, SIZE_NAMES
from qcompiler.frontend.torch_ops.table import TABLE

__all__ = [
    "CHECKS",
    "SIZE_FUNCTIONS",
    "SIZE_NAMES",
    "TABLE",
    "complex",
    "elementwise",
    "layers",
    "picks",
    "quantized",
    "recurrent",
    "reductions",
    "shapes",
]
