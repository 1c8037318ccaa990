"""The C interface of an exported model: names, types, sizes and status codes.

Owns what the header (`c_header`) and the entry points (`c_entry`) must agree on. Knows no kernels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcompiler.backends.program.arena import ALIGNMENT
from qcompiler.errors import LoweringError
from qcompiler.ir import Graph, Value
from qcompiler.types import DType, TensorType

ABI_VERSION = 1
"""Raised when the functions, their arguments or the status codes change their meaning."""

OK, NULL, ARENA_SIZE, ARENA_ALIGN, DATA_ALIGN, SELF_TEST = 0, -1, -2, -3, -4, -5
STATUSES = {
    "OK": (OK, "done"),
    "ERROR_NULL": (NULL, "a pointer is NULL"),
    "ERROR_ARENA_SIZE": (ARENA_SIZE, "the arena is smaller than asked for"),
    "ERROR_ARENA_ALIGN": (ARENA_ALIGN, "the arena is not aligned as asked for"),
    "ERROR_DATA_ALIGN": (DATA_ALIGN, "an input or output is not aligned to its element type"),
    "ERROR_SELF_TEST": (SELF_TEST, "the self-test ran, and gave other bits than the compiler's"),
}
"""Name of a status code -> (code, meaning)."""

C_TYPES = {
    DType.F32: "float", DType.F64: "double", DType.F16: "uint16_t", DType.I64: "int64_t", DType.I32: "int32_t",
    DType.I16: "int16_t", DType.I8: "int8_t", DType.U8: "uint8_t", DType.I4: "int8_t", DType.U4: "uint8_t",
    DType.BOOL: "uint8_t",
}  # fmt: skip
"""The C type of one element. f16 is its bits; a 4-bit value and a bool fill a byte each."""

_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,31}")


@dataclass(frozen=True)
class Port:
    """An input or output. name: its name in C (`input_x`); value: its name in the graph; type: its static type."""

    name: str
    value: str
    type: TensorType

    @property
    def c_type(self) -> str:
        return C_TYPES[self.type.dtype]

    @property
    def itemsize(self) -> int:
        return self.type.dtype.numpy.itemsize

    @property
    def elements(self) -> int:
        return math.prod(self.type.sizes)

    @property
    def nbytes(self) -> int:
        return self.elements * self.itemsize


@dataclass(frozen=True)
class Interface:
    """What C code sees of a model.

    Attributes:
        prefix: the prefix of every global symbol; in upper case that of every macro.
        model: the graph's name. target, features: those that the object was emitted for.
        arena_size: bytes of scratch memory for `run`.
    """

    prefix: str
    model: str
    target: str
    features: str
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    arena_size: int
    arena_align: int = ALIGNMENT

    @property
    def ports(self) -> tuple[Port, ...]:
        """The ports in the order of `run`'s arguments: inputs, then outputs."""
        return (*self.inputs, *self.outputs)

    @property
    def macro(self) -> str:
        return self.prefix.upper()

    def self_test_offsets(self) -> list[int]:
        """The offsets of the self-test's inputs and outputs in its arena, behind the arena of `run`; then its size."""
        offsets, end = [], _aligned(self.arena_size)
        for port in self.ports:
            offsets.append(end)
            end = _aligned(end + port.nbytes)
        return [*offsets, end]

    @property
    def self_test_size(self) -> int:
        return self.self_test_offsets()[-1]


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def choose_prefix(prefix: str | None, model: str) -> str:
    """The prefix asked for, or one made from the model's name. LoweringError if it can't start C names."""
    if prefix is None:
        plain = re.sub(r"[^a-z0-9]+", "_", model.lower()).strip("_") or "model"
        return (plain if plain[0].isalpha() else f"model_{plain}")[:32]
    if not _PREFIX.fullmatch(prefix):
        raise LoweringError(
            "a bad prefix of C names",
            expected="a lower-case letter, then lower-case letters, digits and _, 32 in all"
            " (macros take its upper case)",
            got=repr(prefix),
            hint=f"--prefix {choose_prefix(None, prefix)}",
        )
    return prefix


def make_ports(kind: str, values: Sequence[Value], names: Sequence[str], sizes: Mapping[str, int]) -> tuple[Port, ...]:
    """Ports with unique C names. kind: "input" or "output"; names: the names by which users know the values."""
    ports: list[Port] = []
    taken: set[str] = set()
    for index, (value, given) in enumerate(zip(values, names, strict=True)):
        name = f"{kind}_{re.sub(r'[^a-z0-9]+', '_', given.lower()).strip('_') or index}"
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        ports.append(Port(name, given, value.type.bind(sizes).with_layout(None)))
    return tuple(ports)


def bound_sizes(graph: Graph, sizes: Mapping[str, int] | None) -> dict[str, int]:
    """Check that `sizes` are the sizes that the graph needs, and give them. LoweringError for a size that is missing,
    unknown or no count."""
    given = dict(sizes or {})
    missing = [name for name in graph.dim_names if name not in given]
    unknown = [name for name in given if name not in graph.dim_names]
    if missing:
        raise LoweringError(
            f"an object has fixed sizes, and {', '.join(missing)} may vary",
            where=f"graph {graph.name}",
            expected="a value for each",
            hint=f"export at fixed sizes: {' '.join(f'--size {name}=1' for name in missing)},"
            f" or sizes={dict.fromkeys(missing, 1)}",
        )
    if unknown:
        raise LoweringError(
            f"the model has no size {unknown[0]!r}",
            where=f"graph {graph.name}",
            expected=", ".join(graph.dim_names) or "no sizes: all are fixed",
        )
    for name, size in given.items():
        if size < 1:
            raise LoweringError("a size is a whole number from 1", where=f"graph {graph.name}, size {name}", got=size)
    return given
