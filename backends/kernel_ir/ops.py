"""The operations of the kernel IR, each declared once: name, family, LLVM spelling and numpy meaning.

The family decides which types an op takes (`verifier` has the rules). Ops of memory, lanes and control flow have
families of their own, and `interpreter` has their meaning.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

Meaning = Callable[..., np.ndarray]


@dataclass(frozen=True)
class OpSpec:
    """One op.

    Attributes:
        llvm: an LLVM instruction, or an overloaded intrinsic (which starts with `llvm.`).
        meaning: the same computation on numpy arrays of the operands' types (integers are held signed); the interpreter
            casts its result to the result's type. None if the meaning is in `interpreter`.
    """

    name: str
    family: str
    llvm: str
    meaning: Meaning | None
    doc: str


def _unsigned(x: np.ndarray) -> np.ndarray:
    return x if x.dtype == np.bool_ else x.view(f"u{x.dtype.itemsize}")


def _truncated_division(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    quotient = np.floor_divide(x, y)
    return quotient + ((np.remainder(x, y) != 0) & ((x < 0) != (y < 0)))


def fused_multiply_add(x: np.ndarray, y: np.ndarray, z: np.ndarray) -> np.ndarray:
    """x * y + z, rounded once.

    For f32 the product is exact in f64. The sum is rounded to odd, with its error from Knuth's TwoSum; then the second
    rounding, to f32, is right, because f64 has more than two extra bits (Boldo and Melquiond, 2008).
    """
    if x.dtype == np.float64:
        exact = [_exact_fma(float(a), float(b), float(c)) for a, b, c in np.nditer([x, y, z])]
        return np.array(exact, np.float64).reshape(np.broadcast_shapes(x.shape, y.shape, z.shape))
    product, addend = x.astype(np.float64) * y.astype(np.float64), z.astype(np.float64)
    total = np.asarray(product + addend)
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)
    bits = total.view(np.int64)
    inexact = np.isfinite(total) & (error != 0) & (bits & 1 == 0)
    toward = np.where((error > 0) == (total > 0), 1, -1)
    return np.where(inexact, bits + toward, bits).view(np.float64).astype(np.float32)


def _exact_fma(x: float, y: float, z: float) -> float:
    if not np.isfinite([x, y, z]).all() or x == 0 or y == 0:
        return x * y + z
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    try:
        return float(exact) if exact else x * y + z
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


_INTEGER: list[tuple[str, str, Meaning, str]] = [
    ("add", "add", lambda x, y: x + y, "sum, wraps"),
    ("sub", "sub", lambda x, y: x - y, "difference, wraps"),
    ("mul", "mul", lambda x, y: x * y, "product, wraps"),
    ("sdiv", "sdiv", _truncated_division, "signed quotient, toward zero"),
    ("udiv", "udiv", lambda x, y: _unsigned(x) // _unsigned(y), "unsigned quotient"),
    ("srem", "srem", lambda x, y: x - _truncated_division(x, y) * y, "signed remainder, sign of x"),
    ("urem", "urem", lambda x, y: _unsigned(x) % _unsigned(y), "unsigned remainder"),
    ("and", "and", lambda x, y: x & y, "bitwise and"),
    ("or", "or", lambda x, y: x | y, "bitwise or"),
    ("xor", "xor", lambda x, y: x ^ y, "bitwise exclusive or"),
    ("shl", "shl", lambda x, y: x << y, "shift left; the count is below the width"),
    ("lshr", "lshr", lambda x, y: _unsigned(x) >> _unsigned(y), "shift right, zeros enter"),
    ("ashr", "ashr", lambda x, y: x >> y, "shift right, the sign enters"),
    ("smin", "llvm.smin", np.minimum, "signed minimum"),
    ("smax", "llvm.smax", np.maximum, "signed maximum"),
    ("umin", "llvm.umin", lambda x, y: np.minimum(_unsigned(x), _unsigned(y)), "unsigned minimum"),
    ("umax", "llvm.umax", lambda x, y: np.maximum(_unsigned(x), _unsigned(y)), "unsigned maximum"),
]
_FLOAT: list[tuple[str, str, Meaning, str]] = [
    ("fadd", "fadd", lambda x, y: x + y, "sum"),
    ("fsub", "fsub", lambda x, y: x - y, "difference"),
    ("fmul", "fmul", lambda x, y: x * y, "product"),
    ("fdiv", "fdiv", lambda x, y: x / y, "quotient"),
]
_FLOAT_UNARY: list[tuple[str, str, Meaning, str]] = [
    ("fneg", "fneg", lambda x: -x, "sign flipped"),
    ("sqrt", "llvm.sqrt", np.sqrt, "square root, correctly rounded"),
    ("rint", "llvm.rint", np.rint, "nearest integer, ties to even, as a float"),
    ("floor", "llvm.floor", np.floor, "largest integer not above, as a float"),
    ("fabs", "llvm.fabs", np.abs, "sign cleared"),
]
_COMPARE: dict[str, Meaning] = {
    "eq": lambda x, y: x == y,
    "ne": lambda x, y: x != y,
    "slt": lambda x, y: x < y,
    "sle": lambda x, y: x <= y,
    "sgt": lambda x, y: x > y,
    "sge": lambda x, y: x >= y,
    "ult": lambda x, y: _unsigned(x) < _unsigned(y),
    "ule": lambda x, y: _unsigned(x) <= _unsigned(y),
    "ugt": lambda x, y: _unsigned(x) > _unsigned(y),
    "uge": lambda x, y: _unsigned(x) >= _unsigned(y),
}
_FLOAT_COMPARE: dict[str, Meaning] = {
    "oeq": lambda x, y: x == y,
    "one": lambda x, y: (x != y) & (x == x) & (y == y),
    "olt": lambda x, y: x < y,
    "ole": lambda x, y: x <= y,
    "ogt": lambda x, y: x > y,
    "oge": lambda x, y: x >= y,
    "ord": lambda x, y: (x == x) & (y == y),
    "uno": lambda x, y: (x != x) | (y != y),
    "ueq": lambda x, y: ~((x < y) | (x > y)),
    "une": lambda x, y: x != y,
    "ult": lambda x, y: ~(x >= y),
    "ule": lambda x, y: ~(x > y),
    "ugt": lambda x, y: ~(x <= y),
    "uge": lambda x, y: ~(x < y),
}
_CONVERT: list[tuple[str, Meaning, str]] = [  # the interpreter then casts to the result's type
    ("trunc", lambda x: x, "low bits of an integer"),
    ("sext", lambda x: np.where(x, -1, 0) if x.dtype == np.bool_ else x, "wider integer, the sign repeated"),
    ("zext", _unsigned, "wider integer, zeros above"),
    ("sitofp", lambda x: x, "signed integer to float, rounded to nearest even"),
    ("uitofp", _unsigned, "unsigned integer to float, rounded to nearest even"),
    ("fptosi", np.trunc, "float to signed integer, toward zero; the value must fit"),
    ("lrint", np.rint, "float to signed integer, ties to even; the value must fit"),
    ("fpext", lambda x: x, "f32 to f64"),
    ("fptrunc", lambda x: x, "f64 to f32, rounded to nearest even"),
]
_STRUCTURE: list[tuple[str, str, str, Meaning | None, str]] = [
    ("fma", "float_ternary", "llvm.fma", fused_multiply_add, "x * y + z, rounded once"),
    ("select", "select", "select", np.where, "x where the condition holds, else y"),
    ("bitcast", "bitcast", "bitcast", None, "the same bits as another type of the same size"),
    ("splat", "splat", "shufflevector", None, "a scalar in every lane"),
    ("extract", "extract", "extractelement", None, "one lane"),
    ("insert", "insert", "insertelement", None, "a vector with one lane replaced"),
    ("shuffle", "shuffle", "shufflevector", None, "lanes of two vectors, picked by constants"),
    ("ptradd", "ptradd", "getelementptr", None, "a pointer moved by a number of bytes"),
    (
        "ptrstep",
        "ptradd",
        "getelementptr",
        None,
        "like ptradd, in a register of its own: see `KernelBuilder.advance`",
    ),
    ("load", "load", "load", None, "a value at pointer + offset + displacement"),
    ("store", "store", "store", None, "write a value at pointer + offset + displacement"),
    (
        "masked_load",
        "masked_load",
        "llvm.masked.load",
        None,
        "load; lanes without a mask bit touch nothing and give zero",
    ),
    ("masked_store", "masked_store", "llvm.masked.store", None, "store; lanes without a mask bit touch nothing"),
    ("stream", "stream", "store", None, "non-temporal store, at a multiple of the value's size"),
    ("fence", "fence", "fence", None, "everything streamed so far is in memory before what is written next"),
    ("prefetch", "prefetch", "llvm.prefetch", None, "bring a line into a cache; changes no value, never faults"),
    ("instr", "instr", "call", None, "a target instruction"),
    ("loop", "loop", "phi", None, "counted loop lo, lo + step, ... < hi, with carried values"),
    ("if", "if", "br", None, "two blocks, with results"),
    ("yield", "yield", "br", None, "ends a block; its operands are the block's results"),
]

OPS: dict[str, OpSpec] = {
    spec.name: spec
    for spec in (
        *(OpSpec(name, "int_binary", llvm, meaning, doc) for name, llvm, meaning, doc in _INTEGER),
        *(OpSpec(name, "float_binary", llvm, meaning, doc) for name, llvm, meaning, doc in _FLOAT),
        *(OpSpec(name, "float_unary", llvm, meaning, doc) for name, llvm, meaning, doc in _FLOAT_UNARY),
        *(OpSpec(f"icmp.{name}", "icmp", f"icmp {name}", m, "integer comparison") for name, m in _COMPARE.items()),
        *(OpSpec(f"fcmp.{name}", "fcmp", f"fcmp {name}", m, "float comparison") for name, m in _FLOAT_COMPARE.items()),
        *(OpSpec(name, "convert", name, meaning, doc) for name, meaning, doc in _CONVERT),
        *(OpSpec(name, family, llvm, meaning, doc) for name, family, llvm, meaning, doc in _STRUCTURE),
    )
}
