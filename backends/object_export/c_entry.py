"""The entry points of an exported model as LLVM text: run, self_test, abi_version, and the constants they read.

Owns all global symbols of the object. The kernels come from `emit_llvm` with internal linkage. No function here or
there writes to a global, so calls from several threads are independent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.backends.codegen.emit_llvm import literal
from qcompiler.backends.kernel_ir.types import F32
from qcompiler.backends.object_export import interface as codes
from qcompiler.backends.object_export.golden import DIGEST_FACTOR, FACTOR, INCREMENT, NAN_ABOVE, Recipe, is_stored
from qcompiler.backends.object_export.interface import ABI_VERSION, Interface, Port
from qcompiler.backends.program.arena import ALIGNMENT
from qcompiler.backends.program.image import ARENA, CONSTANTS, FIRST_INPUT
from qcompiler.backends.runtime.dispatcher import Dialect
from qcompiler.types import DType

_HEX = np.frombuffer(b"0123456789ABCDEF", np.uint8)
_LLVM_FLOATS = {DType.F16: "half", DType.F32: "float", DType.F64: "double"}


@dataclass(frozen=True)
class KernelCall:
    """The call of one step: the kernel's symbol, and the byte offset of its argument block among all arguments."""

    symbol: str
    args: int


@dataclass(frozen=True)
class Code:
    """The program that the entry points run: its calls in order, all argument blocks (i64 words), and the packed
    constants (u8)."""

    calls: tuple[KernelCall, ...]
    args: np.ndarray
    constants: np.ndarray


def emit_entry(
    interface: Interface, code: Code, recipes: Sequence[Recipe], golden: Sequence[bytes], dialect: Dialect
) -> str:
    """The LLVM text that follows the kernels' text. golden: the golden data of each output, see `golden_bytes`."""
    prefix = interface.prefix
    parts = [
        dialect.declarations,
        _constant(f"{prefix}.constants", code.constants),
        _constant(f"{prefix}.args", code.args.view(np.uint8)),
        _emit_steps(interface, code, dialect),
        _emit_run(interface, code.constants.size > 0),
        f"define i32 @{prefix}_abi_version() #0 {{\n  ret i32 {ABI_VERSION}\n}}",
    ]
    for index, recipe in enumerate(recipes):
        parts.append(_emit_fill(f"{prefix}.fill{index}", recipe))
    for index, (port, expected) in enumerate(zip(interface.outputs, golden, strict=True)):
        parts.append(_constant(f"{prefix}.golden{index}", np.frombuffer(expected, np.uint8)))
        parts.append(_emit_check(f"{prefix}.check{index}", f"{prefix}.golden{index}", port))
    parts.append(_emit_self_test(interface))
    return "\n\n".join(part for part in parts if part) + "\n"


def _constant(symbol: str, data: np.ndarray) -> str:
    """A read-only global of these bytes; no text if there are none. It is not `unnamed_addr`, because a linker may
    merge such globals and drop their alignment."""
    if data.size == 0:
        return ""
    text = np.empty((data.size, 3), np.uint8)
    text[:, 0], text[:, 1], text[:, 2] = ord("\\"), _HEX[data >> 4], _HEX[data & 15]
    return f'@{symbol} = internal constant [{data.size} x i8] c"{text.tobytes().decode("ascii")}", align {ALIGNMENT}'


def _emit_steps(interface: Interface, code: Code, dialect: Dialect) -> str:
    """A function that calls all kernels in order, in the floating-point environment that they assume, on thread 0 of
    1."""
    lines = [f"define internal void @{interface.prefix}.steps(ptr %bases) #0 {{", "entry:", dialect.enter]
    for call in code.calls:
        args = f"ptr getelementptr (i8, ptr @{interface.prefix}.args, i64 {call.args})"
        lines.append(f"  call void @{call.symbol}({args}, ptr %bases, i64 0, i64 1)")
    return "\n".join([*lines, dialect.leave, "  ret void", "}"])


class _Checks:
    """Collects conditions that end a function with a status. The first that holds decides the status."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.found: list[tuple[str, int]] = []

    def null(self, pointer: str) -> None:
        self._add(f"icmp eq ptr {pointer}, null", codes.NULL)

    def misaligned(self, pointer: str, alignment: int, code: int) -> None:
        if alignment == 1:
            return
        number = len(self.found)
        self.lines.append(f"  %address{number} = ptrtoint ptr {pointer} to i64")
        self.lines.append(f"  %low{number} = and i64 %address{number}, {alignment - 1}")
        self._add(f"icmp ne i64 %low{number}, 0", code)

    def smaller(self, size: str, least: int) -> None:
        self._add(f"icmp ult i64 {size}, {least}", codes.ARENA_SIZE)

    def _add(self, condition: str, code: int) -> None:
        name = f"%failed{len(self.found)}"
        self.lines.append(f"  {name} = {condition}")
        self.found.append((name, code))

    def emit(self) -> list[str]:
        """Ends in block `good`."""
        lines, status = list(self.lines), "0"
        for number, (name, code) in reversed(list(enumerate(self.found))):
            lines.append(f"  %status{number} = select i1 {name}, i32 {code}, i32 {status}")
            status = f"%status{number}"
        return [*lines, f"  %fine = icmp eq i32 {status}, 0", "  br i1 %fine, label %good, label %bad",
                "bad:", f"  ret i32 {status}", "good:"]  # fmt: skip


def _arena_checks(checks: _Checks, interface: Interface, size: int) -> None:
    if size:
        checks.null("%arena")
        checks.smaller("%arena_size", size)
        checks.misaligned("%arena", interface.arena_align, codes.ARENA_ALIGN)


def _emit_run(interface: Interface, has_constants: bool) -> str:
    """The function `run`: it checks its arguments, fills in the base pointers, and calls the steps."""
    ports = interface.ports
    checks = _Checks()
    for port in ports:
        checks.null(f"%{port.name}")
    _arena_checks(checks, interface, interface.arena_size)
    for port in ports:
        checks.misaligned(f"%{port.name}", port.itemsize, codes.DATA_ALIGN)
    parameters = ", ".join([*(f"ptr %{port.name}" for port in ports), "ptr %arena", "i64 %arena_size"])
    count = FIRST_INPUT + len(ports)
    lines = [
        f"define i32 @{interface.prefix}_run({parameters}) #0 {{",
        "entry:",
        f"  %bases = alloca [{count} x ptr], align 16",
    ]
    lines += checks.emit()
    where = {CONSTANTS: f"@{interface.prefix}.constants" if has_constants else "null", ARENA: "%arena"}
    where.update({FIRST_INPUT + index: f"%{port.name}" for index, port in enumerate(ports)})
    for index, pointer in sorted(where.items()):
        lines.append(f"  %base{index} = getelementptr ptr, ptr %bases, i64 {index}")
        lines.append(f"  store ptr {pointer}, ptr %base{index}, align 8")
    return "\n".join([*lines, f"  call void @{interface.prefix}.steps(ptr %bases)", "  ret i32 0", "}"])


# -- the self-test


def _emit_self_test(interface: Interface) -> str:
    """The function `self_test`: it generates inputs behind the arena of `run`, calls `run`, and compares the
    outputs."""
    checks = _Checks()
    _arena_checks(checks, interface, interface.self_test_size)
    lines = [f"define i32 @{interface.prefix}_self_test(ptr %arena, i64 %arena_size) #0 {{", "entry:", *checks.emit()]
    for port, offset in zip(interface.ports, interface.self_test_offsets()):
        lines.append(f"  %{port.name} = getelementptr i8, ptr %arena, i64 {offset}")
    for index, port in enumerate(interface.inputs):
        if port.elements:
            lines.append(f"  call void @{interface.prefix}.fill{index}(ptr %{port.name})")
    arguments = ", ".join(
        [*(f"ptr %{port.name}" for port in interface.ports), "ptr %arena", f"i64 {interface.arena_size}"]
    )
    lines.append(f"  %ran = call i32 @{interface.prefix}_run({arguments})")
    lines.append("  %ran.well = icmp eq i32 %ran, 0")
    same = "%ran.well"
    for index, port in enumerate(interface.outputs):
        if port.elements:
            lines.append(f"  %same{index} = call i1 @{interface.prefix}.check{index}(ptr %{port.name})")
            lines.append(f"  %all{index} = and i1 {same}, %same{index}")
            same = f"%all{index}"
    lines.append(f"  %result = select i1 {same}, i32 0, i32 {codes.SELF_TEST}")
    return "\n".join([*lines, "  ret i32 %result", "}"])


def _emit_fill(symbol: str, recipe: Recipe) -> str:
    """A function that does what `golden.Recipe.generate` does."""
    port = recipe.port
    if not port.elements:
        return ""
    type, value = _element(recipe)
    return f"""\
define internal void @{symbol}(ptr %x) #0 {{
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  %state = phi i32 [ {_signed(recipe.seed)}, %entry ], [ %next, %loop ]
  %scaled = mul i32 %state, {FACTOR}
  %next = add i32 %scaled, {INCREMENT}
{value}
  %at = getelementptr {type}, ptr %x, i64 %i
  store {type} %value, ptr %at, align {port.itemsize}
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, {port.elements}
  br i1 %more, label %loop, label %done
done:
  ret void
}}"""


def _element(recipe: Recipe) -> tuple[str, str]:
    """The LLVM type of an element, and the lines that make %value of the generator's state %next."""
    port = recipe.port
    if port.type.dtype.is_float:
        type = _LLVM_FLOATS[port.type.dtype]
        wide = "double" if type == "double" else "float"
        lines = [
            f"  %bits = ashr i32 %next, {recipe.shift}",
            f"  %whole = sitofp i32 %bits to {wide}",
            f"  %{'real' if type == 'half' else 'value'} = fmul {wide} %whole, {literal(F32, recipe.step)}",
        ]
        if type == "half":
            lines.append("  %value = fptrunc float %real to half")
        return type, "\n".join(lines)
    type = f"i{8 * port.itemsize}"
    lines = [
        "  %wide = zext i32 %next to i64",
        f"  %product = mul i64 %wide, {recipe.span}",
        "  %high = lshr i64 %product, 32",
        f"  %whole = add i64 %high, {recipe.low}",
        "  %value = add i64 %whole, 0" if type == "i64" else f"  %value = trunc i64 %whole to {type}",
    ]
    return type, "\n".join(lines)


def _emit_check(symbol: str, golden: str, port: Port) -> str:
    """A function i1(ptr) that says whether an output equals its golden data."""
    if not port.elements:
        return ""
    type = f"i{8 * port.itemsize}"
    body = _compare_stored(golden, type, port) if is_stored(port) else _compare_digest(golden, type, port)
    return f"define internal i1 @{symbol}(ptr %y) #0 {{\nentry:\n  br label %loop\n{body}\n}}"


def _is_nan(name: str, type: str, port: Port) -> str:
    """The lines that say whether %name is NaN: %name.nan."""
    size = port.itemsize
    return f"""\
  %{name}.size = and {type} %{name}, {(1 << (8 * size - 1)) - 1}
  %{name}.nan = icmp ugt {type} %{name}.size, {NAN_ABOVE[size]}"""


def _compare_stored(golden: str, type: str, port: Port) -> str:
    if port.type.dtype.is_float:
        equal = f"""\
{_is_nan("got", type, port)}
{_is_nan("want", type, port)}
  %nans = and i1 %got.nan, %want.nan
  %bits = icmp eq {type} %got, %want
  %equal = or i1 %bits, %nans"""
    else:
        equal = f"  %equal = icmp eq {type} %got, %want"
    return f"""\
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %next ]
  %got.at = getelementptr {type}, ptr %y, i64 %i
  %got = load {type}, ptr %got.at, align {port.itemsize}
  %want.at = getelementptr {type}, ptr @{golden}, i64 %i
  %want = load {type}, ptr %want.at, align {port.itemsize}
{equal}
  br i1 %equal, label %next, label %differs
next:
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, {port.elements}
  br i1 %more, label %loop, label %done
differs:
  ret i1 false
done:
  ret i1 true"""


def _compare_digest(golden: str, type: str, port: Port) -> str:
    if port.type.dtype.is_float:
        canonical = f"""\
{_is_nan("got", type, port)}
  %bits = select i1 %got.nan, {type} {NAN_ABOVE[port.itemsize] + 1}, {type} %got"""
    else:
        canonical = f"  %bits = add {type} %got, 0"
    widen = f"  %word = add {type} %bits, 0" if type == "i64" else f"  %word = zext {type} %bits to i64"
    return f"""\
loop:
  %i = phi i64 [ 0, %entry ], [ %i.next, %loop ]
  %digest = phi i64 [ 0, %entry ], [ %digest.next, %loop ]
  %got.at = getelementptr {type}, ptr %y, i64 %i
  %got = load {type}, ptr %got.at, align {port.itemsize}
{canonical}
{widen}
  %scaled = mul i64 %digest, {_signed(DIGEST_FACTOR, 64)}
  %digest.next = add i64 %scaled, %word
  %i.next = add i64 %i, 1
  %more = icmp ult i64 %i.next, {port.elements}
  br i1 %more, label %loop, label %done
done:
  %want = load i64, ptr @{golden}, align 8
  %equal = icmp eq i64 %digest.next, %want
  ret i1 %equal"""


def _signed(word: int, bits: int = 32) -> int:
    """A word as LLVM prints it."""
    return word - (1 << bits) if word >> (bits - 1) else word
