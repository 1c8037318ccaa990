"""Runs a kernel on buffers in numpy, for tests, and checks the bounds of every access. It defines the kernel IR's
meaning.

It is simple, not fast: it runs one op after the other. A vector is an array of its lanes, and a pointer is a buffer and
a byte offset. An access outside its buffer, a misaligned access, a division by zero and a shift by the width or more
are errors here, while machine code would go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler.backends.kernel_ir.ir import Block, KernelFunction, Op, Value
from qcompiler.backends.kernel_ir.ops import OPS
from qcompiler.backends.kernel_ir.types import Type
from qcompiler.errors import LoweringError


@dataclass(frozen=True)
class Pointer:
    """A byte offset in a named buffer. Offsets may leave the buffer; accesses may not."""

    name: str
    data: np.ndarray
    offset: int


def _cast(x: Any, type: Type) -> np.ndarray:
    """x in the numpy form of a type. Integers wrap; unsigned results are held as signed integers."""
    x = np.asarray(x)
    if type.is_int and x.dtype.kind == "u":
        x = x.astype(type.unsigned)
    return x.astype(type.numpy)


class _Interpreter:
    def __init__(self, function: KernelFunction) -> None:
        self.function = function
        self.values: dict[Value, Any] = {}

    def get(self, value: Value) -> Any:
        if value.const is None:
            return self.values[value]
        shape = (value.type.lanes,) if value.type.lanes else ()
        return np.broadcast_to(np.array(value.const, value.type.numpy), shape)

    def fail(self, message: str, **details: Any) -> LoweringError:
        return LoweringError(message, where=f"kernel {self.function.name}", **details)

    def block(self, block: Block, args: list[Any]) -> list[Any]:
        """Run a block; gives the values that it yields."""
        for value, arg in zip(block.args, args, strict=True):
            self.values[value] = arg
        for op in block.ops:
            if op.name == "yield":
                return [self.get(value) for value in op.operands]
            results = self.op(op)
            for value, result in zip(op.results, results, strict=True):
                self.values[value] = result
        return []

    def op(self, op: Op) -> list[Any]:
        if op.name == "loop":
            return self.loop(op)
        operands = [self.get(value) for value in op.operands]
        if op.name == "if":
            return self.block(op.blocks[0 if operands[0] else 1], [])
        handler = getattr(self, f"do_{op.name}", None)
        if handler is not None:
            result = handler(op, *operands)
            return [] if result is None else [result]
        return [self.computed(op, operands)]

    def computed(self, op: Op, operands: list[np.ndarray]) -> np.ndarray:
        """The result of a target instruction, or of an op whose meaning `OPS` declares."""
        if op.name in ("sdiv", "udiv", "srem", "urem") and not np.all(operands[1]):
            raise self.fail(f"{op.name} by zero")
        if op.name in ("shl", "lshr", "ashr") and np.any((operands[1] < 0) | (operands[1] >= op.operands[0].type.bits)):
            raise self.fail(f"{op.name} by the width or more")
        meaning = op.instruction.meaning if op.instruction is not None else OPS[op.name].meaning
        assert meaning is not None
        with np.errstate(all="ignore"):
            # at least one dimension: numpy's scalars would warn of wrapping and lose their dtype
            result = np.asarray(meaning(*(np.atleast_1d(operand) for operand in operands)))
            if op.name in ("fptosi", "lrint"):
                info = np.iinfo(op.results[0].type.numpy)
                if not np.all((result >= info.min) & (result < -float(info.min))):
                    raise self.fail(f"{op.name}: a value does not fit {op.results[0].type}")
            type = op.results[0].type
            result = _cast(result, type)
        return result.reshape((type.lanes,) if type.lanes else ())

    def loop(self, op: Op) -> list[Any]:
        lo, hi, step = (int(self.get(value)) for value in op.operands[:3])
        if step <= 0:
            raise self.fail("a loop's step is positive", got=step)
        carried = [self.get(value) for value in op.operands[3:]]
        index_type = op.operands[0].type.numpy
        for index in range(lo, hi, step):
            carried = self.block(op.blocks[0], [np.array(index, index_type), *carried])
        return carried

    # -- lanes ----------------------------------------------------------------------------------------------------

    def do_bitcast(self, op: Op, x: np.ndarray) -> np.ndarray:
        source, result = op.operands[0].type, op.results[0].type
        if source.bits == 1 or result.bits == 1:
            bits = np.packbits(x, bitorder="little") if source.bits == 1 else np.atleast_1d(x).view(np.uint8)
            if result.bits == 1:
                return np.unpackbits(bits, bitorder="little")[: result.lanes].astype(np.bool_)
            flat = bits.view(result.numpy)
        else:
            flat = np.ascontiguousarray(np.atleast_1d(x)).view(result.numpy)
        return flat.reshape((result.lanes,) if result.lanes else ())

    def do_splat(self, op: Op, x: np.ndarray) -> np.ndarray:
        return np.full(op.results[0].type.lanes, x)

    def lane(self, op: Op, lane: np.ndarray) -> int:
        if not 0 <= int(lane) < op.operands[0].type.lanes:
            raise self.fail(f"{op.name} of lane {int(lane)} from {op.operands[0].type}")
        return int(lane)

    def do_extract(self, op: Op, x: np.ndarray, lane: np.ndarray) -> np.ndarray:
        return np.asarray(x[self.lane(op, lane)])

    def do_insert(self, op: Op, x: np.ndarray, item: np.ndarray, lane: np.ndarray) -> np.ndarray:
        result = x.copy()
        result[self.lane(op, lane)] = item
        return result

    def do_shuffle(self, op: Op, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.concatenate([x, y])[list(op.attrs["lanes"])]

    def do_select(self, op: Op, condition: np.ndarray, x: Any, y: Any) -> Any:
        if op.operands[0].type.lanes:
            return np.where(condition, x, y)
        return x if condition else y

    # -- memory ---------------------------------------------------------------------------------------------------

    def do_ptradd(self, op: Op, pointer: Pointer, offset: np.ndarray) -> Pointer:
        return Pointer(pointer.name, pointer.data, pointer.offset + int(offset))

    do_ptrstep = do_ptradd

    def start_of(self, op: Op, pointer: Pointer, offset: np.ndarray, type: Type, lanes: range | np.ndarray) -> int:
        """The first byte of an access, after checking the alignment and the bounds of the lanes that are touched."""
        start = pointer.offset + int(offset) + op.attrs["disp"]
        if len(lanes):
            size = type.element.bytes
            low, high = start + int(lanes[0]) * size, start + (int(lanes[-1]) + 1) * size
            if low < 0 or high > pointer.data.size:
                raise self.fail(
                    f"{op.name} of {type} outside its buffer",
                    expected=f"bytes 0 to {pointer.data.size} of {pointer.name}",
                    got=f"{low} to {high}",
                )
        address = pointer.data.ctypes.data + start
        if address % op.attrs["align"]:
            raise self.fail(
                f"{op.name} of {type} is misaligned", expected=f"a multiple of {op.attrs['align']}", got=start
            )
        return start

    def do_load(self, op: Op, pointer: Pointer, offset: np.ndarray) -> np.ndarray:
        type = op.results[0].type
        start = self.start_of(op, pointer, offset, type, range(type.count))
        raw = pointer.data[start : start + type.bytes].copy().view(type.numpy)
        return raw.reshape((type.lanes,) if type.lanes else ())

    def do_store(self, op: Op, value: np.ndarray, pointer: Pointer, offset: np.ndarray) -> None:
        type = op.operands[0].type
        start = self.start_of(op, pointer, offset, type, range(type.count))
        pointer.data[start : start + type.bytes] = np.array(value, type.numpy, ndmin=1).view(np.uint8)

    def do_masked_load(self, op: Op, pointer: Pointer, offset: np.ndarray, mask: np.ndarray) -> np.ndarray:
        type, lanes = op.results[0].type, np.flatnonzero(mask)
        start, size = self.start_of(op, pointer, offset, type, lanes), type.element.bytes
        result = np.zeros(type.lanes, type.numpy)
        for lane in lanes:
            at = start + lane * size
            result[lane] = pointer.data[at : at + size].copy().view(type.numpy)[0]
        return result

    def do_masked_store(
        self, op: Op, value: np.ndarray, pointer: Pointer, offset: np.ndarray, mask: np.ndarray
    ) -> None:
        type, lanes = op.operands[0].type, np.flatnonzero(mask)
        start, size = self.start_of(op, pointer, offset, type, lanes), type.element.bytes
        for lane in lanes:
            at = start + lane * size
            pointer.data[at : at + size] = value[lane : lane + 1].view(np.uint8)

    do_stream = do_store

    def do_fence(self, op: Op) -> None:
        return None

    def do_prefetch(self, op: Op, pointer: Pointer, offset: np.ndarray) -> None:
        return None


def interpret(
    function: KernelFunction,
    buffers: Mapping[str, np.ndarray | tuple[np.ndarray, int]],
    *,
    thread: int = 0,
    threads: int = 1,
    **values: float,
) -> None:
    """Run a kernel on buffers, which it changes in place; LoweringError for an access outside a buffer.

    Args:
        buffers: for each pointer by name a C-contiguous array, or (array, byte offset of the pointer).
        values: the extents and scalars by name.
    """
    args: list[Any] = []
    for parameter in function.parameters:
        if parameter.kind == "pointer":
            found = buffers[parameter.name]
            array, offset = found if isinstance(found, tuple) else (found, 0)
            if not array.flags.c_contiguous:
                raise LoweringError(f"buffer {parameter.name} is not contiguous")
            args.append(Pointer(parameter.name, array.reshape(-1).view(np.uint8), offset))
        elif parameter.kind == "extent":
            args.append(np.array(values[parameter.name], np.int64))
        else:
            args.append(np.array(values[parameter.name], np.float32))
    args += [np.array(thread, np.int64), np.array(threads, np.int64)]
    _Interpreter(function).block(function.body, args)
