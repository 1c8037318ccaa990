"""The builder that kernels are written with.

A kernel is a Python function over a `KernelBuilder`; calling it emits kernel IR. So a Python loop is unrolled, and a
Python `if` is decided while the kernel is built. The second parameter is the kernel's signature (see `definition`),
whose fields are `ir.Value`s here; they vary between calls. Keyword arguments are static and become part of the kernel's
name:

    class Scale(Arguments["Scale"], Generic[P, E, S]):
        x: P
        y: Written[P]
        count: E
        alpha: S

    @kernel
    def scale(b: KernelBuilder, a: Scale) -> None:
        lanes = b.target.f32_lanes
        alpha = b.splat(a.alpha, lanes)
        lo, hi = b.share(a.count, lanes)                       # this thread's part, cut at multiples of `lanes`
        with b.loop(lo, hi, lanes) as loop:
            left = a.count - loop.index                        # a prefix of `left` lanes: never past the end
            value = b.load_prefix(vector(F32, lanes), a.x, loop.index * 4, left)
            b.store_prefix(value * alpha, a.y, loop.index * 4, left)

    function = scale.build(parse_target("native"))             # -> KernelFunction; print(function) shows the IR

Values have types (`F32`, `vector(I8, 64)`), and the operators that `ir.Value` describes; a Python number takes the type
of the other operand. Constants are folded, and `x + 0`, `x * 1` and the like are dropped. Nothing else is optimised
here: hoist by hand what should not be in a loop. Loops carry values in any nesting of lists:

    acc = [[b.zero(vector(I32, n)) for _ in range(nv)] for _ in range(mr)]
    with b.loop(0, k, 4, carried=acc) as loop:
        acc = loop.carried
        ... acc[r][j] = b.target.dot4(b, acc[r][j], x, w[j]) ...
        loop.yield_(acc)
    acc = loop.results

Memory: `b.load(type, pointer, offset, disp=, align=)` reads at a byte offset (a value or an int) plus a constant
displacement. Address the rows of a tile, at a run-time stride, with `b.rows`. A kernel touches only what its caller
gave it and never reads past an end: write tails with `load_prefix` and `store_prefix` (masked, or in parts of powers of
two where the target has no mask for the type), or with `b.if_`. Pointers never alias, unless the signature says
`Aliased` (for a kernel that may work in place).

Threads: a kernel runs as `b.thread` of `b.threads` and works on its own part, which `b.share(total, grain)` gives.
Results must not depend on the number of threads. Vectors may be wider than the machine's registers: <16 x f32> is two
registers on AVX2. So code that needs 16 logical lanes for equal bits says `vector(F32, 16)` on every target.

A kernel reaches the machine only through `b.target`: its sizes (`f32_lanes`, `i32_lanes`, `vector_bytes`,
`register_count`), `has(...)`, and primitives (`dot4`, `round_to_i32`, `narrow`, `lookup`, ...), which emit the target's
instructions. Float arithmetic is single IEEE operations in the order written. Nothing is contracted: `b.fma` is an
operation of its own. `b.fmax` and `b.fmin` give the second operand for NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.backends.kernel_ir.control import If, Loop
from qcompiler.backends.kernel_ir.definition import KernelDef, kernel
from qcompiler.backends.kernel_ir.ir import Block, Number, Op, Operand, Parameter, Value
from qcompiler.backends.kernel_ir.ops import OPS
from qcompiler.backends.kernel_ir.prefix import load_parts, store_parts
from qcompiler.backends.kernel_ir.rows import Rows
from qcompiler.backends.kernel_ir.types import F32, I1, I8, I32, I64, PTR, Type, vector
from qcompiler.errors import VerifyError, nearest

if TYPE_CHECKING:
    from qcompiler.backends.target import Instruction, Target

__all__ = ["KernelBuilder", "KernelDef", "Rows", "kernel"]

_OPERATORS = {  # operator -> (integer op, float op)
    "+": ("add", "fadd"),
    "-": ("sub", "fsub"),
    "*": ("mul", "fmul"),
    "/": (None, "fdiv"),
    "//": ("udiv", None),
    "%": ("urem", None),
    "&": ("and", None),
    "|": ("or", None),
    "^": ("xor", None),
    "<<": ("shl", None),
    ">>": ("ashr", None),
}
_COMPARISONS = {
    "<": ("icmp.slt", "fcmp.olt"),
    "<=": ("icmp.sle", "fcmp.ole"),
    ">": ("icmp.sgt", "fcmp.ogt"),
    ">=": ("icmp.sge", "fcmp.oge"),
    "==": ("icmp.eq", "fcmp.oeq"),
    "!=": ("icmp.ne", "fcmp.une"),
}
_COMMUTATIVE = {"add", "mul", "and", "or", "xor"}
_RIGHT_IDENTITY = {
    "add": 0,
    "sub": 0,
    "mul": 1,
    "udiv": 1,
    "sdiv": 1,
    "or": 0,
    "xor": 0,
    "shl": 0,
    "lshr": 0,
    "ashr": 0,
}
_RIGHT_ZERO = {"mul", "and"}


class KernelBuilder:
    """Emits the kernel IR of one function; see the module's docstring."""

    def __init__(self, name: str, parameters: Sequence[Parameter], target: Target) -> None:
        self.name = name
        self.target = target
        hints = [parameter.name for parameter in parameters] + ["thread", "threads"]
        types = [*({"pointer": PTR, "extent": I64, "scalar": F32}[each.kind] for each in parameters), I64, I64]
        body = Block(tuple(Value(type, self, hint=hint) for type, hint in zip(types, hints)))
        self.blocks = [body]
        self.thread, self.threads = body.args[-2:]

    def share(self, total: Operand, grain: int = 1) -> tuple[Value, Value]:
        """The range [lo, hi) of `total` items that this thread works on, cut at multiples of `grain`. The ranges of two
        threads differ in length by at most one grain."""
        total = self.like(total, self.thread)
        units = (total + (grain - 1)) // grain
        lo = units * self.thread // self.threads * grain
        hi = units * (self.thread + 1) // self.threads * grain
        return self.smin(lo, total), self.smin(hi, total)

    # -- constants ------------------------------------------------------------------------------------------------

    def const(self, type: Type, value: Number | Sequence[Number]) -> Value:
        """A constant: one number (in every lane of a vector), or a sequence with one for each lane. Integers wrap."""
        if type.is_pointer:
            raise VerifyError("a pointer has no constants", where=self.name)
        if isinstance(value, Sequence | np.ndarray):
            lanes = tuple(_normalised(type, item) for item in value)
            if len(lanes) != type.lanes:
                raise VerifyError(f"{len(lanes)} constants for {type}", where=self.name)
            uniform = all(repr(lane) == repr(lanes[0]) for lane in lanes)
            return Value(type, self, lanes[0] if uniform else lanes)
        return Value(type, self, _normalised(type, value))

    def zero(self, type: Type) -> Value:
        """0 in every lane."""
        return self.const(type, 0)

    def like(self, value: Operand, other: Value) -> Value:
        """`value` itself, or a Python number as a constant of the type of `other`."""
        return value if isinstance(value, Value) else self.const(other.type, value)

    def i64(self, value: Operand) -> Value:
        """An offset or an extent; a Python int becomes an i64 constant."""
        return value if isinstance(value, Value) else self.const(I64, value)

    # -- arithmetic -----------------------------------------------------------------------------------------------

    def arithmetic(self, operator: str, x: Value, y: Operand) -> Value:
        """Emit an operator of `ir.Value`, such as `x + y`."""
        if x.type.is_pointer:
            offset = self.i64(y)
            if operator not in "+-":
                raise VerifyError(f"no {operator!r} on pointers", where=self.name)
            offset = offset if operator == "+" else self.const(I64, 0) - offset
            return x if offset.const == 0 else self.emit("ptradd", x, offset, type=PTR)
        name = _OPERATORS[operator][1 if x.type.is_float else 0]
        if name is None:
            raise VerifyError(f"no {operator!r} on {x.type}", where=self.name)
        return self.binary(name, x, y)

    def advance(self, pointer: Value, nbytes: Operand) -> Value:
        """pointer + nbytes in its own register, which LLVM does not merge with other pointers into one base and
        offsets. Use it for pointers that a loop moves, on machines that can add to a pointer in the load."""
        return self.emit("ptrstep", pointer, self.i64(nbytes), type=PTR)

    def compare(self, operator: str, x: Value, y: Operand) -> Value:
        """Emit a comparison of `ir.Value`, such as `x < y`: an i1, or a mask."""
        return self._compare(_COMPARISONS[operator][1 if x.type.is_float else 0], x, y)

    def icmp(self, predicate: str, x: Value, y: Operand) -> Value:
        """Compare integers: eq ne slt sle sgt sge ult ule ugt uge."""
        return self._compare(f"icmp.{predicate}", x, y)

    def fcmp(self, predicate: str, x: Value, y: Operand) -> Value:
        """Compare floats: ordered (oeq one olt ole ogt oge ord) or unordered (ueq une ult ule ugt uge uno)."""
        return self._compare(f"fcmp.{predicate}", x, y)

    def _compare(self, name: str, x: Value, y: Operand) -> Value:
        if name not in OPS:
            raise VerifyError(f"no comparison {name!r}", where=self.name, hint=nearest(name, OPS))
        y = self.like(y, x)
        folded = self._folded(name, x.type.of(I1), x, y)
        return self.emit(name, x, y, type=x.type.of(I1)) if folded is None else folded

    def binary(self, name: str, x: Value, y: Operand) -> Value:
        """Emit the binary op `name` of `ops.OPS`. For integers, constants fold and neutral operands vanish."""
        y = self.like(y, x)
        if x.type.is_int and x.type is y.type:  # a mismatch is for `append` to report
            if name in _COMMUTATIVE and x.const is not None:
                x, y = y, x
            folded = self._folded(name, x.type, x, y)
            if folded is not None:
                return folded
            if y.const is not None and not isinstance(y.const, tuple):
                if name in _RIGHT_IDENTITY and y.const == _RIGHT_IDENTITY[name] and x.type is not I1:
                    return x
                if name in _RIGHT_ZERO and y.const == 0:
                    return y
        return self.emit(name, x, y, type=x.type)

    def _folded(self, name: str, type: Type, *operands: Value) -> Value | None:
        """The constant that an integer op gives for uniform constants. None if an operand is not a uniform constant, or
        if the op would divide by 0."""
        if any(each.const is None or isinstance(each.const, tuple) or not each.type.is_int for each in operands):
            return None
        if any(each.type is not operands[0].type for each in operands):
            return None
        if name in ("sdiv", "udiv", "srem", "urem") and operands[1].const == 0:
            return None
        meaning = OPS[name].meaning
        assert meaning is not None
        with np.errstate(all="ignore"):
            result = meaning(*(np.array([each.const], each.type.numpy) for each in operands))
        return self.const(type, result.item(0))

    def negate(self, x: Value) -> Value:
        return self.emit("fneg", x, type=x.type) if x.type.is_float else self.binary("sub", self.zero(x.type), x)

    def sdiv(self, x: Value, y: Operand) -> Value:
        return self.binary("sdiv", x, y)

    def srem(self, x: Value, y: Operand) -> Value:
        return self.binary("srem", x, y)

    def lshr(self, x: Value, y: Operand) -> Value:
        return self.binary("lshr", x, y)

    def smin(self, x: Value, y: Operand) -> Value:
        return self.binary("smin", x, y)

    def smax(self, x: Value, y: Operand) -> Value:
        return self.binary("smax", x, y)

    def umin(self, x: Value, y: Operand) -> Value:
        return self.binary("umin", x, y)

    def umax(self, x: Value, y: Operand) -> Value:
        return self.binary("umax", x, y)

    def sqrt(self, x: Value) -> Value:
        return self.emit("sqrt", x, type=x.type)

    def rint(self, x: Value) -> Value:
        return self.emit("rint", x, type=x.type)

    def floor(self, x: Value) -> Value:
        return self.emit("floor", x, type=x.type)

    def fabs(self, x: Value) -> Value:
        return self.emit("fabs", x, type=x.type)

    def fma(self, x: Value, y: Operand, z: Operand) -> Value:
        """x * y + z, rounded once."""
        return self.emit("fma", x, self.like(y, x), self.like(z, x), type=x.type)

    def fmax(self, x: Value, y: Operand) -> Value:
        """x > y ? x : y. NaN in x gives y."""
        y = self.like(y, x)
        return self.select(x > y, x, y)

    def fmin(self, x: Value, y: Operand) -> Value:
        """x < y ? x : y. NaN in x gives y."""
        y = self.like(y, x)
        return self.select(x < y, x, y)

    def clamp(self, x: Value, low: Operand, high: Operand) -> Value:
        """Clamp x into [low, high]. A float NaN gives `low`, as in `quantization.qmath`."""
        if x.type.is_int:
            return self.smin(self.smax(x, low), high)
        return self.fmin(self.fmax(x, low), high)

    def select(self, condition: Value, x: Value, y: Operand) -> Value:
        """Choose x where the condition (i1, or a mask with as many lanes) holds, else y."""
        return self.emit("select", condition, x, self.like(y, x), type=x.type)

    # -- conversions and lanes ------------------------------------------------------------------------------------

    def convert(self, name: str, x: Value, element: Type) -> Value:
        """Convert each lane to `element`, by sext, zext, trunc, sitofp, uitofp, fptosi, lrint, fpext or fptrunc."""
        if OPS.get(name) is None or OPS[name].family != "convert":
            raise VerifyError(f"no conversion {name!r}", where=self.name)
        type = x.type.of(element.element)
        if type is x.type:
            return x
        folded = self._folded(name, type, x)
        return self.emit(name, x, type=type) if folded is None else folded

    def sext(self, x: Value, element: Type) -> Value:
        return self.convert("sext", x, element)

    def zext(self, x: Value, element: Type) -> Value:
        return self.convert("zext", x, element)

    def trunc(self, x: Value, element: Type) -> Value:
        return self.convert("trunc", x, element)

    def sitofp(self, x: Value, element: Type = F32) -> Value:
        return self.convert("sitofp", x, element)

    def bitcast(self, x: Value, type: Type) -> Value:
        """Take the bits of x as another type of the same size."""
        return x if type is x.type else self.emit("bitcast", x, type=type)

    def splat(self, x: Value, lanes: int) -> Value:
        """Repeat a scalar in every lane."""
        type = vector(x.type, lanes)
        return self.const(type, x.const) if x.const is not None else self.emit("splat", x, type=type)

    def extract(self, x: Value, lane: Operand) -> Value:
        """Extract one lane: a constant or an integer value below the number of lanes."""
        return self.emit("extract", x, self.like(lane, Value(I32, self)), type=x.type.element)

    def insert(self, x: Value, item: Operand, lane: Operand) -> Value:
        """Replace one lane of `x`."""
        item = item if isinstance(item, Value) else self.const(x.type.element, item)
        return self.emit("insert", x, item, self.like(lane, Value(I32, self)), type=x.type)

    def shuffle(self, x: Value, y: Value | None, lanes: Sequence[int]) -> Value:
        """Pick lanes by constant indices from x, and from y, whose indices follow those of x. If y is None, x is used
        for it."""
        type = vector(x.type.element, len(lanes))
        return self.emit("shuffle", x, x if y is None else y, type=type, lanes=tuple(int(lane) for lane in lanes))

    def concat(self, parts: Sequence[Value]) -> Value:
        """Join vectors of one type. Their number is a power of two."""
        while len(parts) > 1:
            lanes = range(2 * parts[0].type.lanes)
            parts = [self.shuffle(x, y, lanes) for x, y in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def slice(self, x: Value, start: int, lanes: int) -> Value:
        """Take `lanes` lanes of x, from lane `start` on."""
        return x if lanes == x.type.lanes else self.shuffle(x, None, range(start, start + lanes))

    def reduce(self, combine: Callable[[Value, Value], Value], x: Value) -> Value:
        """Combine the halves of a vector of 2^n lanes until one is left: lane i with lane i + 8, then + 4, + 2, + 1."""
        lanes = x.type.lanes
        while lanes > 1:
            lanes //= 2
            x = combine(self.slice(x, 0, lanes), self.slice(x, lanes, lanes))
        return self.extract(x, 0)

    # -- memory ---------------------------------------------------------------------------------------------------

    def load(self, type: Type, pointer: Value, offset: Operand = 0, *, disp: int = 0, align: int = 1) -> Value:
        """Load the value of `type` at pointer + offset + disp bytes."""
        return self.emit("load", pointer, self.i64(offset), type=type, disp=disp, align=align)

    def store(self, value: Value, pointer: Value, offset: Operand = 0, *, disp: int = 0, align: int = 1) -> None:
        """Write `value` at pointer + offset + disp bytes."""
        self.append(Op("store", (value, pointer, self.i64(offset)), (), {"disp": disp, "align": align}))

    def stream(self, value: Value, pointer: Value, offset: Operand = 0, *, disp: int = 0) -> None:
        """Write `value` by a non-temporal store. The address is a multiple of its size. A kernel that streams ends with
        `fence`."""
        self.append(Op("stream", (value, pointer, self.i64(offset)), (), {"disp": disp, "align": value.type.bytes}))

    def fence(self) -> None:
        """Wait until everything that was streamed is in memory."""
        self.append(Op("fence", (), (), {}))

    def masked_load(
        self, type: Type, pointer: Value, offset: Operand, mask: Value, *, disp: int = 0, align: int = 1
    ) -> Value:
        """Like `load`, but a lane whose mask bit is clear touches no memory and gives 0."""
        return self.emit("masked_load", pointer, self.i64(offset), mask, type=type, disp=disp, align=align)

    def masked_store(
        self, value: Value, pointer: Value, offset: Operand, mask: Value, *, disp: int = 0, align: int = 1
    ) -> None:
        """Like `store`, but a lane whose mask bit is clear touches no memory."""
        self.append(Op("masked_store", (value, pointer, self.i64(offset), mask), (), {"disp": disp, "align": align}))

    def prefetch(self, pointer: Value, offset: Operand = 0, *, disp: int = 0, cache: int = 1) -> None:
        """Bring the line at pointer + offset + disp into cache 1 (the nearest), 2 or 3. Never faults."""
        self.append(Op("prefetch", (pointer, self.i64(offset)), (), {"disp": disp, "cache": cache}))

    def mask_below(self, count: Operand, lanes: int) -> Value:
        """Make the mask of the first `count` lanes (count >= 0, i64)."""
        if lanes > 128:
            raise VerifyError("a prefix mask has 128 lanes at most", where=self.name)
        limit = self.trunc(self.umin(self.i64(count), lanes), I8)
        return self.icmp("ult", self.const(vector(I8, lanes), range(lanes)), self.splat(limit, lanes))

    def load_prefix(self, type: Type, pointer: Value, offset: Operand, count: Operand, *, align: int = 1) -> Value:
        """Load the first `count` lanes at pointer + offset (all if count is larger; count >= 0). The others are 0."""
        offset, count = self.i64(offset), self.i64(count)
        if self.target.masks(type):
            return self.masked_load(type, pointer, offset, self.mask_below(count, type.lanes), align=align)
        with self.if_(count >= type.lanes) as whole:
            whole.yield_(self.load(type, pointer, offset, align=align))
        with whole.else_():
            whole.yield_(load_parts(self, type, pointer, offset, count))
        return whole.results

    def store_prefix(self, value: Value, pointer: Value, offset: Operand, count: Operand, *, align: int = 1) -> None:
        """Store the first `count` lanes (all if count is larger; count >= 0)."""
        offset, count, lanes = self.i64(offset), self.i64(count), value.type.lanes
        if self.target.masks(value.type):
            self.masked_store(value, pointer, offset, self.mask_below(count, lanes), align=align)
            return
        with self.if_(count >= lanes) as whole:
            self.store(value, pointer, offset, align=align)
        with whole.else_():
            store_parts(self, value, pointer, offset, count)

    def rows(self, pointer: Value, stride: Operand, count: int) -> Rows:
        """Addresses of `count` rows at a run-time stride; see `Rows`."""
        stride = self.i64(stride)
        group = self.target.row_group
        pointers = [pointer + stride * first for first in range(0, count, group)]
        return Rows(self, pointers, [stride * row for row in range(min(count, group))])

    # -- control flow ---------------------------------------------------------------------------------------------

    def loop(self, lo: Operand, hi: Operand, step: Operand = 1, *, carried: Any = ()) -> Loop:
        """Begin a counted loop: the index is lo, lo + step, ... < hi (signed, step > 0). See `control.Loop`."""
        return Loop(self, self.i64(lo), self.i64(hi), self.i64(step), carried)

    def if_(self, condition: Value) -> If:
        """Begin a conditional; see `control.If`."""
        return If(self, condition)

    # -- emission -------------------------------------------------------------------------------------------------

    def instr(self, instruction: str | Instruction, *operands: Value) -> Value:
        """Emit a target instruction, given by name or declaration. The operands must have exactly its types."""
        found = self.target.instruction(instruction) if isinstance(instruction, str) else instruction
        op = Op("instr", operands, (Value(found.result, self),), instruction=found)
        self.append(op)
        return op.results[0]

    def emit(self, name: str, *operands: Value, type: Type, **attrs: Any) -> Value:
        """Append an op with one result."""
        op = Op(name, operands, (Value(type, self),), attrs)
        self.append(op)
        return op.results[0]

    def append(self, op: Op) -> None:
        """Check an op's types and append it to the block being written."""
        from qcompiler.backends.kernel_ir.verifier import check_op

        block = self.blocks[-1]
        if block.ops and block.ops[-1].name == "yield":
            raise VerifyError("nothing may follow yield_ in a block", where=self.name, got=op.name)
        check_op(op, self.target, self.name)
        block.ops.append(op)


def _normalised(type: Type, value: Number) -> Number:
    """Convert a number to the value that the type holds: a bool for i1, a wrapped signed integer, a rounded f32."""
    if type.is_float:
        return float(type.numpy.type(value))
    if type.bits == 1:
        return bool(int(value) & 1)
    wrapped = int(value) & ((1 << type.bits) - 1)
    return wrapped - (1 << type.bits) if wrapped >> (type.bits - 1) else wrapped
