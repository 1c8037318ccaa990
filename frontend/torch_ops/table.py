"""The table of meanings, and helpers that several of them use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from qcompiler.errors import TraceError
from qcompiler.frontend.array_ops import binary, cast
from qcompiler.frontend.recorder import required_trace
from qcompiler.types import DType

Meaning = Callable[..., Any]
TABLE: dict[str, Meaning] = {}
_DTYPES = {
    "torch.float32": DType.F32,
    "torch.float64": DType.F64,
    "torch.float16": DType.F16,
    "torch.int64": DType.I64,
    "torch.int32": DType.I32,
    "torch.int16": DType.I16,
    "torch.int8": DType.I8,
    "torch.uint8": DType.U8,
    "torch.bool": DType.BOOL,
}


def aten(*names: str) -> Callable[[Meaning], Meaning]:
    """Register a meaning under overload names; a name without a dot means `.default`."""

    return meaning(*(f"aten.{name}" if "." in name else f"aten.{name}.default" for name in names))


def meaning(*names: str) -> Callable[[Meaning], Meaning]:
    """Register a meaning under the printed names of ops of any namespace."""

    def add(function: Meaning) -> Meaning:
        TABLE.update(dict.fromkeys(names, function))
        return function

    return add


def element_type(dtype: Any) -> DType | None:
    """The IR's element type of this name, if it has one."""
    return _DTYPES.get(str(dtype))


def dtype_of(dtype: Any) -> DType:
    """The IR's element type for a torch dtype: f32 for the float types in which the module keeps its own tensors."""
    trace = required_trace("import")
    if str(dtype) in trace.widened:
        return DType.F32
    found = element_type(dtype)
    if found is None:
        raise TraceError(
            f"element type {dtype} is not supported", where=trace.place(), hint="cast to float32: x.float()"
        )
    return found


@dataclass(frozen=True)
class Missing:
    """Stands for a second result of an op, which has no meaning here. An op that reads it is refused."""

    what: str


@dataclass(frozen=True)
class Later:
    """Stands for a second result of an op, which is computed if something reads it."""

    compute: Callable[[], Any]


def cast_to(x: Any, dtype: Any) -> Any:
    """x in torch's dtype; None leaves it as it is."""
    return x if dtype is None else cast(x, dtype_of(dtype))


def unsupported(what: str) -> TraceError:
    return TraceError(what, where=required_trace("import").place())


def scaled_by(x: Any, factor: Any) -> Any:
    return x if factor == 1 else binary("mul", x, factor)
