"""What each ATen op means in the graph IR: the table behind `import_torch`.

Keys are printed names of torch's overloads ("aten.conv2d.default"); a meaning takes the op's own arguments, traced
values in place of tensors. Ops that stand for a whole layer arrive as one IR op. torch itself is not imported here.
"""

from qcompiler.frontend.torch_ops import elementwise, layers, reductions, shapes
from qcompiler.frontend.torch_ops.sizes import SIZE_FUNCTIONS, SIZE_NAMES
from qcompiler.frontend.torch_ops.table import TABLE

__all__ = ["SIZE_FUNCTIONS", "SIZE_NAMES", "TABLE", "elementwise", "layers", "reductions", "shapes"]
