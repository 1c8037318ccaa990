"""Emits kernel IR as LLVM text, one function for each kernel.

Owns the spelling of every op in LLVM. It optimises nothing, and sets no fast-math or `contract` flag on any op. A
kernel becomes two functions: the body, whose pointers are `noalias` arguments, and the ABI entry, which reads the
argument block:

    void kernel(const i64* args, u8* const* bases, i64 thread, i64 threads)
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from qcompiler.backends.kernel_ir.ir import Block, KernelFunction, Op, Value
from qcompiler.backends.kernel_ir.ops import OPS
from qcompiler.backends.kernel_ir.types import F32, I32, I64, PTR, Type


def literal(type: Type, value: float) -> str:
    """One element of a constant as LLVM text. A float is written as the bits of the double that equals it, as LLVM
    requires for f32 too."""
    if type.is_float:
        return f"0x{struct.unpack('>Q', struct.pack('>d', value))[0]:016X}"
    return ("true" if value else "false") if type.bits == 1 else str(int(value))


def _reads(block: Block, value: Value) -> bool:
    """Whether an op of the block, or of one inside it, has this operand."""
    return any(
        any(operand is value for operand in op.operands) or any(_reads(inner, value) for inner in op.blocks)
        for op in block.ops
    )


class _FunctionEmitter:
    """Emits the body of one kernel; holds the names of its values, the labels of its blocks, and the lines so far."""

    def __init__(self, declarations: set[str]) -> None:
        self.lines: list[str] = []
        self.names: dict[Value, str] = {}
        self.declarations = declarations
        self.label = "entry"
        self.counter = 0

    def fresh(self, prefix: str = "v") -> str:
        self.counter += 1
        return f"%{prefix}{self.counter}"

    def ref(self, value: Value) -> str:
        """The operand text without its type."""
        if value.const is None:
            return self.names[value]
        type = value.type
        if not type.lanes:
            return literal(type, value.const)
        if not isinstance(value.const, tuple) and value.const == 0 and str(value.const)[0] != "-":
            return "zeroinitializer"
        lanes = value.const if isinstance(value.const, tuple) else (value.const,) * type.lanes
        element = type.element
        return "<" + ", ".join(f"{element.llvm} {literal(element, lane)}" for lane in lanes) + ">"

    def typed(self, value: Value) -> str:
        return f"{value.type.llvm} {self.ref(value)}"

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def assign(self, text: str, prefix: str = "v") -> str:
        name = self.fresh(prefix)
        self.line(f"{name} = {text}")
        return name

    def start(self, label: str) -> None:
        self.lines.append(f"{label}:")
        self.label = label

    def result(self, op: Op, text: str) -> None:
        self.names[op.results[0]] = self.assign(text)

    def call(self, intrinsic: str, result: str, operands: Sequence[Value], extra: Sequence[str] = ()) -> str:
        """The text of a call. Notes the declaration that it needs."""
        arguments = [*(self.typed(value) for value in operands), *extra]
        types = [*(value.type.llvm for value in operands), *(text.split()[0] for text in extra)]
        self.declarations.add(f"declare {result} @{intrinsic}({', '.join(types)})")
        return f"call {result} @{intrinsic}({', '.join(arguments)})"

    def address(self, pointer: Value, offset: Value, disp: int) -> str:
        """pointer + offset + disp. The constant comes last, where instruction selection folds it."""
        base = self.ref(pointer)
        if offset.const is not None:
            disp += offset.const
        else:
            base = self.assign(f"getelementptr i8, ptr {base}, i64 {self.ref(offset)}", "p")
        return base if disp == 0 else self.assign(f"getelementptr i8, ptr {base}, i64 {disp}", "p")

    # -- ops ------------------------------------------------------------------------------------------------------

    def block(self, block: Block) -> None:
        for op in block.ops:
            _EMITTERS[OPS[op.name].family](self, op)

    def binary(self, op: Op) -> None:
        llvm, (x, y) = OPS[op.name].llvm, op.operands
        if llvm.startswith("llvm."):
            self.overloaded(op)
        else:
            self.result(op, f"{llvm} {self.typed(x)}, {self.ref(y)}")

    def overloaded(self, op: Op) -> None:
        """A unary instruction, or an intrinsic overloaded on its result's type."""
        llvm, type = OPS[op.name].llvm, op.results[0].type
        if llvm.startswith("llvm."):
            self.result(op, self.call(f"{llvm}.{type.mangled}", type.llvm, op.operands))
        else:
            self.result(op, f"{llvm} {self.typed(op.operands[0])}")

    def convert(self, op: Op) -> None:
        source, result = op.operands[0], op.results[0].type
        if op.name == "lrint":
            name = f"llvm.lrint.{result.mangled}.{source.type.mangled}"
            self.result(op, self.call(name, result.llvm, [source]))
        else:
            self.result(op, f"{op.name} {self.typed(source)} to {result.llvm}")

    def select(self, op: Op) -> None:
        self.result(op, f"select {', '.join(self.typed(value) for value in op.operands)}")

    def splat(self, op: Op) -> None:
        type = op.results[0].type
        first = self.assign(f"insertelement {type.llvm} poison, {self.typed(op.operands[0])}, i64 0")
        self.result(op, f"shufflevector {type.llvm} {first}, {type.llvm} poison, <{type.lanes} x i32> zeroinitializer")

    def shuffle(self, op: Op) -> None:
        x, y = op.operands
        second = f"{y.type.llvm} poison" if x is y else self.typed(y)
        count = x.type.lanes
        lanes = ", ".join(f"i32 {lane % count if x is y else lane}" for lane in op.attrs["lanes"])
        self.result(op, f"shufflevector {self.typed(x)}, {second}, <{len(op.attrs['lanes'])} x i32> <{lanes}>")

    def ptradd(self, op: Op) -> None:
        pointer, offset = op.operands
        moved = f"getelementptr i8, {self.typed(pointer)}, {self.typed(offset)}"
        self.result(op, f"freeze ptr {self.assign(moved, 'p')}" if op.name == "ptrstep" else moved)

    def load(self, op: Op) -> None:
        place = self.address(op.operands[0], op.operands[1], op.attrs["disp"])
        self.result(op, f"load {op.results[0].type.llvm}, ptr {place}, align {op.attrs['align']}")

    def store(self, op: Op) -> None:
        value, pointer, offset = op.operands
        place = self.address(pointer, offset, op.attrs["disp"])
        self.line(f"store {self.typed(value)}, ptr {place}, align {op.attrs['align']}")

    def stream(self, op: Op) -> None:
        self.store(op)
        self.declarations.add("!1000 = !{i32 1}")
        self.lines[-1] += ", !nontemporal !1000"

    def fence(self, op: Op) -> None:
        self.line("fence seq_cst")

    def masked_load(self, op: Op) -> None:
        pointer, offset, mask = op.operands
        type, align = op.results[0].type, op.attrs["align"]
        place = self.address(pointer, offset, op.attrs["disp"])
        name = f"llvm.masked.load.{type.mangled}.p0"
        self.declarations.add(f"declare {type.llvm} @{name}(ptr, {mask.type.llvm}, {type.llvm})")
        arguments = f"ptr align {align} {place}, {self.typed(mask)}, {type.llvm} zeroinitializer"
        self.result(op, f"call {type.llvm} @{name}({arguments})")

    def masked_store(self, op: Op) -> None:
        value, pointer, offset, mask = op.operands
        place = self.address(pointer, offset, op.attrs["disp"])
        name = f"llvm.masked.store.{value.type.mangled}.p0"
        self.declarations.add(f"declare void @{name}({value.type.llvm}, ptr, {mask.type.llvm})")
        self.line(f"call void @{name}({self.typed(value)}, ptr align {op.attrs['align']} {place}, {self.typed(mask)})")

    def prefetch(self, op: Op) -> None:
        place = self.address(op.operands[0], op.operands[1], op.attrs["disp"])
        self.declarations.add("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
        self.line(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 {4 - op.attrs['cache']}, i32 1)")

    def instr(self, op: Op) -> None:
        instruction = op.instruction
        assert instruction is not None
        self.result(op, self.call(instruction.llvm, instruction.result.llvm, op.operands))

    def loop(self, op: Op) -> None:
        """Emit a do-while loop behind a guard, or without one where the bounds are constants. The phis come first in
        their block but name the latch, so their text is filled in after the body. If the body does not read its index,
        the loop counts down to zero, which takes no comparison."""
        lo, hi, step, *initial = op.operands
        body, before, number = op.blocks[0], self.label, self.fresh("loop")[1:]
        index, type = body.args[0], lo.type.llvm
        guarded = lo.const is None or hi.const is None
        if not guarded and lo.const >= hi.const:
            for result, value in zip(op.results, initial):
                self.names[result] = self.ref(value)
            return
        counted = guarded and bool(step.const) and not _reads(body, index)
        first = self._trips(lo, hi, step) if counted else self.ref(lo)
        if guarded:
            guard = self.assign(f"icmp slt {self.typed(lo)}, {self.ref(hi)}")
            self.line(f"br i1 {guard}, label %{number}, label %{number}.end")
        else:
            self.line(f"br label %{number}")
        self.start(number)
        for arg in body.args:
            self.names[arg] = self.fresh("i" if arg is index else "c")
        position = len(self.lines)
        self.block(body)
        if counted:
            following = self.assign(f"sub nsw {self.typed(index)}, 1")
            again = self.assign(f"icmp ne {type} {following}, 0")
        else:
            following = self.assign(f"add nsw {self.typed(index)}, {self.ref(step)}")
            again = self.assign(f"icmp slt {type} {following}, {self.ref(hi)}")
        self.line(f"br i1 {again}, label %{number}, label %{number}.end")
        latch, yielded = self.label, body.ops[-1].operands
        sources = [(first, following), *((self.ref(value), self.ref(last)) for value, last in zip(initial, yielded))]
        self.lines[position:position] = [
            f"  {self.names[arg]} = phi {arg.type.llvm} [ {start}, %{before} ], [ {last}, %{latch} ]"
            for arg, (start, last) in zip(body.args, sources)
        ]
        self.start(f"{number}.end")
        for result, (start, last) in zip(op.results, sources[1:]):
            if guarded:
                edges = f"[ {start}, %{before} ], [ {last}, %{latch} ]"
                self.names[result] = self.assign(f"phi {result.type.llvm} {edges}")
            else:
                self.names[result] = last

    def _trips(self, lo: Value, hi: Value, step: Value) -> str:
        """The number of iterations of a loop that has at least one."""
        type, left = lo.type.llvm, self.assign(f"sub nsw {self.typed(hi)}, {self.ref(lo)}")
        if step.const == 1:
            return left
        return self.assign(f"udiv {type} {self.assign(f'add nsw {type} {left}, {step.const - 1}')}, {step.const}")

    def if_(self, op: Op) -> None:
        number = self.fresh("if")[1:]
        has_else = len(op.blocks[1].ops) > 1 or bool(op.results)
        otherwise = f"{number}.else" if has_else else f"{number}.end"
        self.line(f"br {self.typed(op.operands[0])}, label %{number}.then, label %{otherwise}")
        edges = []
        for label, block in zip(("then", "else") if has_else else ("then",), op.blocks):
            self.start(f"{number}.{label}")
            self.block(block)
            self.line(f"br label %{number}.end")
            edges.append((self.label, [self.ref(value) for value in block.ops[-1].operands]))
        self.start(f"{number}.end")
        for position, result in enumerate(op.results):
            phi = ", ".join(f"[ {values[position]}, %{label} ]" for label, values in edges)
            self.names[result] = self.assign(f"phi {result.type.llvm} {phi}")

    def extract(self, op: Op) -> None:
        self.result(op, f"extractelement {', '.join(self.typed(value) for value in op.operands)}")

    def insert(self, op: Op) -> None:
        self.result(op, f"insertelement {', '.join(self.typed(value) for value in op.operands)}")

    def bitcast(self, op: Op) -> None:
        self.result(op, f"bitcast {self.typed(op.operands[0])} to {op.results[0].type.llvm}")

    def nothing(self, op: Op) -> None:
        """Emit nothing for a yield: the owner of its block reads the operands."""


_EMITTERS: dict[str, Callable[[_FunctionEmitter, Op], None]] = {
    "int_binary": _FunctionEmitter.binary,
    "float_binary": _FunctionEmitter.binary,
    "float_unary": _FunctionEmitter.overloaded,
    "float_ternary": _FunctionEmitter.overloaded,
    "icmp": _FunctionEmitter.binary,
    "fcmp": _FunctionEmitter.binary,
    "convert": _FunctionEmitter.convert,
    "select": _FunctionEmitter.select,
    "bitcast": _FunctionEmitter.bitcast,
    "splat": _FunctionEmitter.splat,
    "extract": _FunctionEmitter.extract,
    "insert": _FunctionEmitter.insert,
    "shuffle": _FunctionEmitter.shuffle,
    "ptradd": _FunctionEmitter.ptradd,
    "load": _FunctionEmitter.load,
    "store": _FunctionEmitter.store,
    "masked_load": _FunctionEmitter.masked_load,
    "masked_store": _FunctionEmitter.masked_store,
    "prefetch": _FunctionEmitter.prefetch,
    "stream": _FunctionEmitter.stream,
    "fence": _FunctionEmitter.fence,
    "instr": _FunctionEmitter.instr,
    "loop": _FunctionEmitter.loop,
    "if": _FunctionEmitter.if_,
    "yield": _FunctionEmitter.nothing,
}


def _emit_body(function: KernelFunction, symbol: str, declarations: set[str]) -> list[str]:
    emitter = _FunctionEmitter(declarations)
    parameters = []
    for value in function.body.args:
        name = f"%{value.hint}"
        emitter.names[value] = name
        noalias = " noalias" if value.type is PTR and value.hint not in function.aliased else ""
        parameters.append(f"{value.type.llvm}{noalias} {name}")
    emitter.block(function.body)
    return [
        f"define internal void @{symbol}.body({', '.join(parameters)}) #0 {{",
        "entry:",
        *emitter.lines,
        "  ret void",
        "}",
    ]


def _emit_entry(function: KernelFunction, symbol: str, linkage: str) -> list[str]:
    """Emit the ABI entry, which reads the arguments from the block of i64 words and calls the body."""
    lines = [f"define {linkage}void @{symbol}(ptr %args, ptr %bases, i64 %thread, i64 %threads) #0 {{"]
    arguments, word = [], 0

    def read(index: int, name: str, type: Type) -> None:
        lines.append(f"  %{name}.at = getelementptr i64, ptr %args, i64 {index}")
        lines.append(f"  %{name} = load {type.llvm}, ptr %{name}.at, align {type.bytes}")

    for position, parameter in enumerate(function.parameters):
        name = f"a{position}"
        if parameter.kind == "pointer":
            read(word, f"{name}.base", I64)
            read(word + 1, f"{name}.offset", I64)
            lines.append(f"  %{name}.slot = getelementptr ptr, ptr %bases, i64 %{name}.base")
            lines.append(f"  %{name}.start = load ptr, ptr %{name}.slot, align 8")
            lines.append(f"  %{name} = getelementptr i8, ptr %{name}.start, i64 %{name}.offset")
            arguments.append(f"ptr %{name}")
        elif parameter.kind == "extent":
            read(word, name, I64)
            arguments.append(f"i64 %{name}")
        else:
            read(word, f"{name}.bits", I32)
            lines.append(f"  %{name} = bitcast i32 %{name}.bits to float")
            arguments.append(f"{F32.llvm} %{name}")
        word += parameter.words
    call = ", ".join([*arguments, "i64 %thread", "i64 %threads"])
    return [*lines, f"  call void @{symbol}.body({call})", "  ret void", "}"]


def emit_module(functions: Sequence[KernelFunction], symbols: Sequence[str], *, internal: bool = False) -> str:
    """The LLVM text of verified kernels of one target; entry i is called symbols[i]. internal: whether the entries are
    visible in the module alone."""
    target = functions[0].target
    declarations: set[str] = set()
    lines: list[str] = []
    for function, symbol in zip(functions, symbols, strict=True):
        lines += [
            *_emit_body(function, symbol, declarations),
            "",
            *_emit_entry(function, symbol, "internal " if internal else ""),
            "",
        ]
    attributes = f'{target.function_attributes} "target-cpu"="{target.cpu}" "target-features"="{target.llvm_features}"'
    head = [f'target triple = "{target.triple}"', ""]
    return "\n".join([*head, *lines, *sorted(declarations), "", f"attributes #0 = {{ {attributes} }}", ""])
