"""The fields of an op class: its operands and its attributes.

A field is a descriptor. On a view of a node it gives the node's value, typed; on the class it gives the declaration:
`Conv(node).stride` is a tuple of ints, `Conv.stride` is an `AttrSpec`. The functions at the end declare the kinds of
fields that exist.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar, overload

import numpy as np

from qcompiler.errors import VerifyError
from qcompiler.ir import AttrValue, Value
from qcompiler.types import DType

if TYPE_CHECKING:
    from qcompiler.opdef import Op

T = TypeVar("T")


class Role(enum.Enum):
    """What an operand is for; decides how quantization treats it."""

    ACTIVATION = "activation"  # may be quantized by an activation observer
    WEIGHT = "weight"  # may be quantized by a weight observer, if constant
    BIAS = "bias"  # i32 with scale = scale(x) * scale(weight) when its node is quantized
    PARAMETER = "parameter"  # stays as it is (norm gains, running statistics, slopes)
    INDEX = "index"  # plain integers or bools, never quantized


class OperandSpec(Generic[T]):
    """One operand of an op. `T` is `Value`, `Value | None` (optional), or `tuple[Value, ...]` (variadic, the last one).

    Attributes:
        name: in the op's signature; the name of the class field.
        index: its position; a variadic operand stands at this position and at all after it.
        role: what it is for.
        optional: it may be absent.
        variadic: it may be repeated.
    """

    __slots__ = ("name", "index", "role", "optional", "variadic")

    def __init__(
        self, name: str = "", role: Role = Role.ACTIVATION, optional: bool = False, variadic: bool = False
    ) -> None:
        self.name = name
        self.index = -1
        self.role = role
        self.optional = optional
        self.variadic = variadic

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    @overload
    def __get__(self, instance: None, owner: type) -> OperandSpec[T]: ...
    @overload
    def __get__(self, instance: Op, owner: type) -> T: ...
    def __get__(self, instance: Op | None, owner: type) -> Any:
        if instance is None:
            return self
        operands, index = (instance._node or instance.node)._operands, self.index
        if self.variadic:
            return tuple(operands[index:])
        return operands[index] if index < len(operands) else None

    def __repr__(self) -> str:
        return f"<operand {self.name}>"


class Required(enum.Enum):
    """Marks an attribute without a default."""

    REQUIRED = "required"


REQUIRED: Final = Required.REQUIRED


class AttrSpec(Generic[T]):
    """One attribute of an op, of the Python type `T`.

    Attributes:
        name: in text and in `Node.attrs`; the name of the class field unless given.
        kind: "int", "float", "bool", "str", "ints", "floats", "pairs" (a tuple of pairs of ints), "dtype", or "shape"
            (a tuple of ints or Dim text, -1 allowed).
        default: the value where none is given; REQUIRED if one must be given. With the default None, None is legal.
        doc: what it means, where the name does not say it.
        choices: the legal values of a "str".
    """

    __slots__ = ("name", "kind", "default", "doc", "choices")

    def __init__(
        self,
        name: str = "",
        kind: str = "int",
        default: AttrValue | Required = REQUIRED,
        doc: str = "",
        choices: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.kind = kind
        self.default = default
        self.doc = doc
        self.choices = choices

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = self.name or name

    @overload
    def __get__(self, instance: None, owner: type) -> AttrSpec[T]: ...
    @overload
    def __get__(self, instance: Op, owner: type) -> T: ...
    def __get__(self, instance: Op | None, owner: type) -> Any:
        if instance is None:
            return self
        attrs = instance._attrs
        return ((instance._node or instance.node)._attrs if attrs is None else attrs)[self.name]

    def checked(self, op: str, value: AttrValue) -> AttrValue:
        """`value` as the kind wants it; VerifyError if it is of another kind or none of the choices."""
        if value is None and self.default is None:
            return None
        if not _KINDS[self.kind](value):
            raise VerifyError(
                f"attr {self.name!r} of {op} is of another kind", expected=_SPELLED[self.kind], got=repr(value)[:200]
            )
        if self.choices and value not in self.choices:
            raise VerifyError(f"attr {self.name!r} of {op}", expected=" | ".join(self.choices), got=repr(value))
        if self.kind == "float" and isinstance(value, (int, float)):
            return float(value)
        if self.kind == "floats" and isinstance(value, tuple):
            return tuple([float(item) for item in value if isinstance(item, (int, float))])
        return value

    def __repr__(self) -> str:
        return f"<attr {self.name}>"


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    return isinstance(value, float) or _is_int(value)


def _is_size(value: object) -> bool:
    return isinstance(value, str) or _is_int(value)


def _is_pair(value: object) -> bool:
    return isinstance(value, tuple) and len(value) == 2 and all(map(_is_int, value))


def _all(is_item: Callable[[object], bool]) -> Callable[[AttrValue], bool]:
    return lambda value: isinstance(value, tuple) and all(map(is_item, value))


_KINDS: dict[str, Callable[[AttrValue], bool]] = {
    "int": _is_int,
    "float": _is_number,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "dtype": lambda value: isinstance(value, DType),
    "ints": _all(_is_int),
    "floats": _all(_is_number),
    "pairs": _all(_is_pair),
    "shape": _all(_is_size),
}
_SPELLED = {
    "int": "an int of 64 bits",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "dtype": "a dtype",
    "ints": "a tuple of ints of 64 bits",
    "floats": "a tuple of numbers",
    "pairs": "a tuple of pairs of ints of 64 bits",
    "shape": "a tuple of sizes: ints of 64 bits, or texts",
}
_PLAIN = frozenset({int, str, float, bool, type(None)})


def frozen(value: Any) -> AttrValue:
    """`value` with lists made tuples and numpy scalars made Python numbers."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        return tuple([frozen(item) for item in value])
    if isinstance(value, np.generic):
        return value.item()
    return value


# Operands.


def operand(role: Role = Role.ACTIVATION) -> OperandSpec[Value]:
    """An operand that is always present: an activation, unless `role` says otherwise."""
    return OperandSpec(role=role)


def optional_operand(role: Role = Role.ACTIVATION) -> OperandSpec[Value | None]:
    return OperandSpec(role=role, optional=True)


def variadic_operand() -> OperandSpec[tuple[Value, ...]]:
    """Any number of activations; the last operand of its op."""
    return OperandSpec(variadic=True)


def weight_operand() -> OperandSpec[Value]:
    return OperandSpec(role=Role.WEIGHT)


def bias_operand() -> OperandSpec[Value | None]:
    """Added to the accumulator, one number per output channel."""
    return OperandSpec(role=Role.BIAS, optional=True)


def parameter() -> OperandSpec[Value]:
    return OperandSpec(role=Role.PARAMETER)


def optional_parameter() -> OperandSpec[Value | None]:
    return OperandSpec(role=Role.PARAMETER, optional=True)


def index_operand() -> OperandSpec[Value]:
    """Plain integers or bools."""
    return OperandSpec(role=Role.INDEX)


# Attributes.


def int_attr(default: int | Required = REQUIRED, doc: str = "") -> AttrSpec[int]:
    return AttrSpec("", "int", default, doc)


def float_attr(default: float | Required = REQUIRED, doc: str = "") -> AttrSpec[float]:
    return AttrSpec("", "float", default, doc)


def bool_attr(default: bool | Required = REQUIRED, doc: str = "") -> AttrSpec[bool]:
    return AttrSpec("", "bool", default, doc)


def str_attr(
    default: str | Required = REQUIRED, doc: str = "", choices: Sequence[str] = (), name: str = ""
) -> AttrSpec[str]:
    """`name`: in text, where it differs from the field's."""
    return AttrSpec(name, "str", default, doc, tuple(choices))


def ints_attr(default: tuple[int, ...] | Required = REQUIRED, doc: str = "") -> AttrSpec[tuple[int, ...]]:
    return AttrSpec("", "ints", default, doc)


def pairs_attr(doc: str = "") -> AttrSpec[tuple[tuple[int, int], ...]]:
    return AttrSpec("", "pairs", REQUIRED, doc)


def dtype_attr(doc: str = "") -> AttrSpec[DType]:
    return AttrSpec("", "dtype", REQUIRED, doc)


def shape_attr(doc: str = "") -> AttrSpec[tuple[int | str, ...]]:
    return AttrSpec("", "shape", REQUIRED, doc)


def optional_shape_attr(doc: str = "") -> AttrSpec[tuple[int | str, ...] | None]:
    return AttrSpec("", "shape", None, doc)


def optional_int_attr(doc: str = "") -> AttrSpec[int | None]:
    return AttrSpec("", "int", None, doc)


def optional_float_attr(doc: str = "") -> AttrSpec[float | None]:
    return AttrSpec("", "float", None, doc)


def optional_ints_attr(doc: str = "") -> AttrSpec[tuple[int, ...] | None]:
    return AttrSpec("", "ints", None, doc)


def optional_floats_attr(doc: str = "") -> AttrSpec[tuple[float, ...] | None]:
    return AttrSpec("", "floats", None, doc)


ACTIVATION_BOUNDS = {"none": (-math.inf, math.inf), "relu": (0.0, math.inf), "relu6": (0.0, 6.0)}
"""Fused activation -> what it clamps the result to."""

ACTIVATIONS = tuple(ACTIVATION_BOUNDS)


def fused_activation() -> AttrSpec[str]:
    """A clamp of the result that a following relu or relu6 was fused into."""
    return AttrSpec("activation", "str", "none", "fused clamp of the result", ACTIVATIONS)
