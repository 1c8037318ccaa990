"""The part of quantize-dynamic that is about tables whose rows are read by index."""

from __future__ import annotations

import numpy as np

from qcompiler.ir import AttrValue, Const, Graph, Node, Value
from qcompiler.notes import DECODES_TABLE, KeptFloat
from qcompiler.ops.elementwise import Add, Cast, Floor, Mul, Sub
from qcompiler.ops.indexing import Gather
from qcompiler.ops.shape import Concat, Slice
from qcompiler.quantization.qconfig import ROWS4, QConfig
from qcompiler.quantization.row_codes import row_codes
from qcompiler.types import DType


def why_no_rows(op: Gather, config: QConfig) -> str | None:
    """Why the rows that a node reads can't be codes, or None."""
    table = op.x
    if not isinstance(table, Const):
        return "its table is not constant"
    if table.type.dtype is not DType.F32 or table.type.rank != 2 or op.axis != 0:
        return "it does not read rows of an f32 table [rows, columns]"
    if not table.data.size:
        return "its table is empty"
    if not np.isfinite(table.data).all():
        return "its table is not finite"
    widest = np.finfo(np.float16 if config.dynamic == ROWS4 else np.float32).max / 2
    return None if np.abs(table.data).max() < widest else "the bias of a row could overflow"


class Tables:
    """Replaces nodes that read rows of tables. Reads of one table share its codes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: dict[object, tuple[Const, Const, Const]] = {}

    def quantize(self, op: Gather, config: QConfig) -> None:
        """Read the codes of rows with their scales and biases, in place of numbers: y = f32(q) * scale + bias."""
        table, node, graph = op.x, op.node, self.graph
        assert isinstance(table, Const)
        packed = config.dynamic == ROWS4
        steps = _Steps(graph, node)

        def read(rows: Const) -> Value:
            return steps.append(Gather.name, [rows, op.indices], {"axis": 0}, rows.name.removeprefix(f"{table.name}."))

        codes, scale, bias = map(read, self._constants(table, 4 if packed else 8))
        real = steps.append(Cast.name, [codes], {"dtype": DType.F32}, "real")
        if packed:
            real = steps.unpacked(real, int(table.data.shape[1]))
        graph.notes.append(KeptFloat(node.name, Add.name, DECODES_TABLE))
        graph.replace(node, Add.name, [steps.append(Mul.name, [real, scale], {}, "scaled"), bias])

    def _constants(self, table: Const, bits: int) -> tuple[Const, Const, Const]:
        """The codes, scales and biases of a table."""
        key = (id(table), bits)
        if key not in self.made:
            found, add = row_codes(table.data, bits), self.graph.add_const
            self.made[key] = (
                add(f"{table.name}.q", found.codes),
                add(f"{table.name}.scale", found.scale),
                add(f"{table.name}.bias", found.bias),
            )
        return self.made[key]


class _Steps:
    """Appends nodes in front of the one that they compute, under its name and source line."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node

    def append(self, op: str, operands: list[Value], attrs: dict[str, AttrValue], part: str) -> Value:
        node = self.node
        made = self.graph.create(
            op, operands, attrs, names=f"{node.name}.{part}", loc=node.loc, origin=node.origin, before=node
        )
        if made.result.type.dtype.is_float:
            self.graph.notes.append(KeptFloat(made.name, op, DECODES_TABLE))
        return made.result

    def unpacked(self, pairs: Value, columns: int) -> Value:
        """The codes of bytes that hold two each: f32 [..., columns] of f32 [..., (columns + 1) // 2]. All steps are
        exact."""
        axis = pairs.type.rank - 1
        sixteenth = self.graph.add_const(f"{self.node.name}.sixteenth", np.array(1 / 16, np.float32))
        sixteen = self.graph.add_const(f"{self.node.name}.sixteen", np.array(16, np.float32))
        shifted = self.append(Mul.name, [pairs, sixteenth], {}, "shifted")
        high = self.append(Floor.name, [shifted], {}, "high")
        rest = self.append(Mul.name, [high, sixteen], {}, "rest")
        low = self.append(Sub.name, [pairs, rest], {}, "low")
        codes = self.append(Concat.name, [low, high], {"axis": axis}, "codes")
        if columns % 2 == 0:
            return codes
        attrs: dict[str, AttrValue] = {"axes": (axis,), "starts": (0,), "stops": (columns,), "steps": (1,)}
        return self.append(Slice.name, [codes], attrs, "row")
