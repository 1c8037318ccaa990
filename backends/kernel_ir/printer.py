"""Kernel IR as text, for people and golden files: deterministic, one op a line. There is no parser for it.

kernel scale_unroll1(%x: ptr, %n: i64, %alpha: f32, %thread: i64, %threads: i64) target=x86-64+avx2 {
  %0 = splat %alpha : <8 x f32>
  loop %1 = 0 to %n step 8 {
    %2 = load %x[%1 + 64] align 1 : <8 x f32>
    ...
"""

from __future__ import annotations

from qcompiler.backends.kernel_ir.ir import Block, KernelFunction, Op, Value


def _number(value: float | bool) -> str:
    return repr(value).lower() if isinstance(value, bool) else repr(value)


class _Printer:
    def __init__(self) -> None:
        self.names: dict[Value, str] = {}
        self.lines: list[str] = []
        self.counter = 0

    def define(self, value: Value) -> str:
        self.names[value] = f"%{self.counter}"
        self.counter += 1
        return self.names[value]

    def ref(self, value: Value) -> str:
        if value.const is None:
            return self.names.get(value, "%undefined")
        if isinstance(value.const, tuple):
            return "[" + ", ".join(_number(lane) for lane in value.const) + "]"
        return f"splat({_number(value.const)})" if value.type.lanes else _number(value.const)

    def address(self, pointer: Value, offset: Value, disp: int) -> str:
        parts = [self.ref(offset)] if offset.const != 0 else []
        parts += [str(disp)] if disp or not parts else []
        return f"{self.ref(pointer)}[{' + '.join(parts)}]"

    def block(self, block: Block, depth: int) -> None:
        for op in block.ops:
            self.op(op, "  " * depth, depth)

    def op(self, op: Op, indent: str, depth: int) -> None:
        if op.name == "loop":
            self.loop(op, indent, depth)
            return
        if op.name == "if":
            self.if_(op, indent, depth)
            return
        if op.name == "yield":
            if op.operands:
                self.lines.append(f"{indent}yield {', '.join(self.ref(value) for value in op.operands)}")
            return
        if op.name == "fence":
            self.lines.append(f"{indent}fence")
            return
        text = self.operation(op)
        type = op.results[0].type if op.results else op.operands[0].type
        if op.results:
            text = f"{self.define(op.results[0])} = {text}"
        self.lines.append(f"{indent}{text}" + ("" if op.name == "prefetch" else f" : {type}"))

    def operation(self, op: Op) -> str:
        """The op, its operands and attributes."""
        operands = list(op.operands)
        name = op.instruction.name if op.instruction is not None else op.name
        if op.name in ("load", "masked_load", "prefetch"):
            text = f"{name} {self.address(operands[0], operands[1], op.attrs['disp'])}"
            operands = operands[2:]
        elif op.name in ("store", "masked_store", "stream"):
            text = f"{name} {self.ref(operands[0])}, {self.address(operands[1], operands[2], op.attrs['disp'])}"
            operands = operands[3:]
        else:
            text = f"{name} {self.ref(operands[0])}" if operands else name
            operands = operands[1:]
        text += "".join(f", {self.ref(value)}" for value in operands)
        if op.attrs.get("cache", 1) > 1:
            text += f" cache {op.attrs['cache']}"
        if "align" in op.attrs:
            text += f" align {op.attrs['align']}"
        if "lanes" in op.attrs:
            text += f" [{', '.join(str(lane) for lane in op.attrs['lanes'])}]"
        return text

    def loop(self, op: Op, indent: str, depth: int) -> None:
        lo, hi, step, *initial = (self.ref(value) for value in op.operands)
        index, *carried = (self.define(value) for value in op.blocks[0].args)
        pairs = ", ".join(f"{name} = {value}" for name, value in zip(carried, initial))
        position = len(self.lines)
        self.lines.append("")
        self.block(op.blocks[0], depth + 1)
        self.lines.append(f"{indent}}}")
        results = ", ".join(self.define(value) for value in op.results)
        head = f"{results} = " if results else ""
        self.lines[position] = f"{indent}{head}loop {index} = {lo} to {hi} step {step} " + (
            f"({pairs}) {{" if pairs else "{"
        )

    def if_(self, op: Op, indent: str, depth: int) -> None:
        condition = self.ref(op.operands[0])
        position = len(self.lines)
        self.lines.append("")
        self.block(op.blocks[0], depth + 1)
        if len(op.blocks[1].ops) > 1 or op.results:
            self.lines.append(f"{indent}}} else {{")
            self.block(op.blocks[1], depth + 1)
        self.lines.append(f"{indent}}}")
        results = ", ".join(self.define(value) for value in op.results)
        self.lines[position] = f"{indent}{results + ' = ' if results else ''}if {condition} {{"


def print_kernel(function: KernelFunction) -> str:
    """The whole function as text, ending in a newline."""
    printer = _Printer()
    for value in function.body.args:
        printer.names[value] = f"%{value.hint}"
    parameters = ", ".join(f"%{value.hint}: {value.type}" for value in function.body.args)
    head = f"kernel {function.name}({parameters}) target={function.target.arch}+{function.target.level}"
    if function.aliased:
        head += f" aliased=({', '.join(sorted(function.aliased))})"
    printer.block(function.body, 1)
    return "\n".join([head + " {", *printer.lines, "}", ""])
