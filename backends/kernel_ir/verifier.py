"""The verifier of the kernel IR: operand types, structure, dominance, and that the target has each instruction.

The builder runs `check_op` on each op that it appends; `verify_kernel` checks a whole function. An instruction that the
target lacks must never reach LLVM, which would end the process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from qcompiler.backends.kernel_ir.ir import Block, KernelFunction, Op, Value
from qcompiler.backends.kernel_ir.ops import OPS
from qcompiler.backends.kernel_ir.types import I1, I64, PTR, Type
from qcompiler.errors import VerifyError

if TYPE_CHECKING:
    from qcompiler.backends.target import Target

ALIGNMENTS = (1, 2, 4, 8, 16, 32, 64)
SCALAR_BITS = {"i": (1, 8, 16, 32, 64), "f": (32, 64), "ptr": (64,)}


def _need(condition: bool, what: str) -> None:
    if not condition:
        raise VerifyError(what)


def _types(op: Op) -> list[Type]:
    return [value.type for value in op.operands]


def _arity(op: Op, operands: int, results: int = 1) -> None:
    _need(len(op.operands) == operands, f"takes {operands} operands")
    _need(len(op.results) == results, f"has {results} results")


def _same(op: Op, count: int, kind: str) -> None:
    _arity(op, count)
    types = [*_types(op), op.results[0].type]
    _need(all(type is types[0] for type in types), "operands and result are of one type")
    _need(types[0].kind == kind, f"works on {'integers' if kind == 'i' else 'floats'}")


def _compare(op: Op, kind: str) -> None:
    _arity(op, 2)
    x, y = _types(op)
    _need(x is y, "compares values of one type")
    _need(x.kind == kind, f"compares {'integers' if kind == 'i' else 'floats'}")
    _need(op.results[0].type is x.of(I1), "gives i1 or a mask")


def _select(op: Op) -> None:
    _arity(op, 3)
    condition, x, y = _types(op)
    _need(x is y and op.results[0].type is x, "both choices and the result are of one type")
    _need(condition is I1 or condition is x.of(I1), "the condition is i1 or a mask with as many lanes")


_CONVERSIONS: dict[str, tuple[str, str, Callable[[int, int], bool]]] = {
    "trunc": ("i", "i", lambda a, b: a > b),
    "sext": ("i", "i", lambda a, b: a < b),
    "zext": ("i", "i", lambda a, b: a < b),
    "sitofp": ("i", "f", lambda a, b: True),
    "uitofp": ("i", "f", lambda a, b: True),
    "fptosi": ("f", "i", lambda a, b: b > 1),
    "lrint": ("f", "i", lambda a, b: b in (32, 64)),
    "fpext": ("f", "f", lambda a, b: a < b),
    "fptrunc": ("f", "f", lambda a, b: a > b),
}


def _convert(op: Op) -> None:
    _arity(op, 1)
    source, result = op.operands[0].type, op.results[0].type
    from_kind, to_kind, widths = _CONVERSIONS[op.name]
    _need(source.kind == from_kind and result.kind == to_kind, "converts other kinds of type")
    _need(widths(source.bits, result.bits), "converts to another width")
    _need(source.lanes == result.lanes, "keeps the number of lanes")


def _bitcast(op: Op) -> None:
    _arity(op, 1)
    source, result = op.operands[0].type, op.results[0].type
    _need(not source.is_pointer and not result.is_pointer, "casts no pointers")
    _need(source.count * source.bits == result.count * result.bits, "keeps the size")


def _splat(op: Op) -> None:
    _arity(op, 1)
    _need(not op.operands[0].type.lanes and op.results[0].type.element is op.operands[0].type, "repeats a scalar")


def _lane(value: Value, lanes: int) -> None:
    _need(value.type.is_int and not value.type.lanes, "a lane is an integer")
    if value.const is not None:
        _need(0 <= value.const < lanes, f"lane {value.const} is not below {lanes}")


def _extract(op: Op) -> None:
    _arity(op, 2)
    source = op.operands[0].type
    _need(bool(source.lanes) and op.results[0].type is source.element, "takes a lane of a vector")
    _lane(op.operands[1], source.lanes)


def _insert(op: Op) -> None:
    _arity(op, 3)
    source, item = _types(op)[:2]
    _need(bool(source.lanes) and item is source.element and op.results[0].type is source, "replaces a lane of a vector")
    _lane(op.operands[2], source.lanes)


def _shuffle(op: Op) -> None:
    _arity(op, 2)
    x, y = _types(op)
    lanes = op.attrs["lanes"]
    _need(bool(x.lanes) and x is y, "picks from two vectors of one type")
    _need(op.results[0].type is not None and op.results[0].type.element is x.element, "keeps the element type")
    _need(op.results[0].type.lanes == len(lanes), "gives a lane for each index")
    _need(all(0 <= lane < 2 * x.lanes for lane in lanes), f"indices are below {2 * x.lanes}")


def _ptradd(op: Op) -> None:
    _arity(op, 2)
    _need(_types(op) == [PTR, I64] and op.results[0].type is PTR, "moves a pointer by an i64")


def _address(pointer: Type, offset: Type, op: Op, value: Type | None) -> None:
    _need(pointer is PTR and offset is I64, "an address is a ptr and an i64 offset")
    _need(isinstance(op.attrs["disp"], int) and abs(op.attrs["disp"]) < 2**31, "the displacement is a 32-bit constant")
    if value is None:
        return
    _need(op.attrs["align"] in ALIGNMENTS, f"the alignment is one of {ALIGNMENTS}")
    _need(value.bits >= 8, "masks and i1 don't live in memory")


def _load(op: Op) -> None:
    _arity(op, 2)
    pointer, offset = _types(op)
    _address(pointer, offset, op, op.results[0].type)


def _store(op: Op) -> None:
    _arity(op, 3, 0)
    value, pointer, offset = _types(op)
    _address(pointer, offset, op, value)
    _need(op.name != "stream" or op.attrs["align"] == value.bytes, "a streamed value is aligned to its size")


def _masked_load(op: Op) -> None:
    _arity(op, 3)
    pointer, offset, mask = _types(op)
    result = op.results[0].type
    _address(pointer, offset, op, result)
    _need(bool(result.lanes) and mask is result.of(I1), "the mask has a bit a lane")


def _masked_store(op: Op) -> None:
    _arity(op, 4, 0)
    value, pointer, offset, mask = _types(op)
    _address(pointer, offset, op, value)
    _need(bool(value.lanes) and mask is value.of(I1), "the mask has a bit a lane")


def _prefetch(op: Op) -> None:
    _arity(op, 2, 0)
    pointer, offset = _types(op)
    _address(pointer, offset, op, None)
    _need(op.attrs["cache"] in (1, 2, 3), "caches are 1, 2 and 3")


def _loop(op: Op) -> None:
    carried = op.operands[3:]
    _need(len(op.operands) >= 3 and len(op.blocks) == 1, "takes lo, hi, step and a block")
    _need(all(type is op.operands[0].type for type in _types(op)[:3]), "lo, hi and step are of one type")
    _need(op.operands[0].type.is_int and not op.operands[0].type.lanes, "counts integers")
    step = op.operands[2].const
    _need(step is None or step > 0, "the step is positive")
    expected = [value.type for value in carried]
    _need([value.type for value in op.results] == expected, "a result for each carried value")
    _need(
        [value.type for value in op.blocks[0].args] == [op.operands[0].type, *expected],
        "an argument for each carried value",
    )
    _need([value.type for value in _yielded(op.blocks[0])] == expected, "yields the next carried values")


def _if(op: Op) -> None:
    _need(_types(op) == [I1] and len(op.blocks) == 2, "takes an i1 and two blocks")
    expected = [value.type for value in op.results]
    else_is_open = bool(op.blocks[1].ops) and op.blocks[1].ops[-1].operands == () and bool(expected)
    if not else_is_open:
        _need([value.type for value in _yielded(op.blocks[1])] == expected, "both branches yield the results")
    _need([value.type for value in _yielded(op.blocks[0])] == expected, "both branches yield the results")


def _yielded(block: Block) -> tuple[Value, ...]:
    _need(bool(block.ops) and block.ops[-1].name == "yield", "a block ends in a yield")
    return block.ops[-1].operands


def _instr(op: Op, target: Target) -> None:
    instruction = op.instruction
    if instruction is None:
        raise VerifyError("an instr names its instruction")
    if not target.has(instruction.feature):
        raise VerifyError(
            f"{instruction.name} needs {instruction.feature}",
            got=target.name,
            hint="ask target.has(...) before emitting it",
        )
    declared = target.instructions.get(instruction.name)
    _need(declared is instruction, f"{instruction.name} is not declared by {target.name}")
    if _types(op) != list(instruction.operands):
        raise VerifyError(f"{instruction.name} on other types", expected=list(instruction.operands), got=_types(op))
    _need([value.type for value in op.results] == [instruction.result], "has the declared result")


_FAMILIES: dict[str, Callable[[Op], None]] = {
    "int_binary": lambda op: _same(op, 2, "i"),
    "float_binary": lambda op: _same(op, 2, "f"),
    "float_unary": lambda op: _same(op, 1, "f"),
    "float_ternary": lambda op: _same(op, 3, "f"),
    "icmp": lambda op: _compare(op, "i"),
    "fcmp": lambda op: _compare(op, "f"),
    "convert": _convert,
    "select": _select,
    "bitcast": _bitcast,
    "splat": _splat,
    "extract": _extract,
    "insert": _insert,
    "shuffle": _shuffle,
    "ptradd": _ptradd,
    "ptrstep": _ptradd,
    "load": _load,
    "store": _store,
    "masked_load": _masked_load,
    "masked_store": _masked_store,
    "prefetch": _prefetch,
    "stream": _store,
    "fence": lambda op: _arity(op, 0, 0),
    "loop": _loop,
    "if": _if,
    "yield": lambda op: _need(not op.results, "a yield has no results"),
}


def check_op(op: Op, target: Target, where: str) -> None:
    """Raise VerifyError unless the op's operands, results and attributes fit its declaration."""
    if op.name not in OPS:
        raise VerifyError(f"no kernel op {op.name!r}", where=where)
    try:
        for value in (*op.operands, *op.results):
            if value.type.bits not in SCALAR_BITS[value.type.kind]:
                raise VerifyError(f"no type {value.type}")
        if op.name == "instr":
            _instr(op, target)
        else:
            _FAMILIES[OPS[op.name].family](op)
    except VerifyError as error:
        types = ", ".join(str(type) for type in _types(op))
        results = ", ".join(str(value.type) for value in op.results)
        text = f"{op.name}({types}) -> ({results})"
        got = text if error.got is None else f"{error.got} in {text}"
        raise VerifyError(
            f"{op.name}: {error.message}", where=where, expected=error.expected, got=got, hint=error.hint
        ) from None


def verify_kernel(function: KernelFunction) -> None:
    """Raise VerifyError unless each op is legal, each value is defined once, in an enclosing block and before its uses,
    and each inner block ends in a yield."""
    defined: set[Value] = set()

    def define(values: tuple[Value, ...]) -> None:
        for value in values:
            if value.const is not None or value in defined:
                raise VerifyError("a value is defined twice", where=function.name)
            defined.add(value)

    def visit(block: Block, inner: bool) -> None:
        define(block.args)
        scope = list(block.args)
        for position, op in enumerate(block.ops):
            check_op(op, function.target, function.name)
            if (op.name == "yield") != (inner and position == len(block.ops) - 1):
                raise VerifyError("an inner block ends in its one yield", where=function.name, got=op.name)
            for value in op.operands:
                if value.const is None and value not in defined:
                    raise VerifyError(
                        f"{op.name} uses a value that is not defined there", where=function.name, got=value.type
                    )
            for nested in op.blocks:
                visit(nested, True)
            if op.name == "if":
                yielded = [value.type for value in op.blocks[1].ops[-1].operands]
                if yielded != [value.type for value in op.results]:
                    raise VerifyError("if: both branches yield the results", where=function.name)
            define(op.results)
            scope += op.results
        defined.difference_update(scope)

    visit(function.body, False)
