"""How an op is declared, once, and the registry of all ops.

An `OpDef` holds everything about an op that does not depend on a machine: documentation, operands, attrs, traits, type
inference, the numpy reference, its meaning on quantized operands, how quantization treats it, and samples that feed
every generic test. How a target lowers it is in backends/.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qcompiler.errors import ShapeError, VerifyError, nearest
from qcompiler.ir import AttrValue
from qcompiler.types import DType, QuantParams, TensorType


class Role(enum.Enum):
    """What an operand is for; decides how quantization treats it."""

    ACTIVATION = "activation"  # may be quantized by an activation observer
    WEIGHT = "weight"  # may be quantized by a weight observer, if constant
    BIAS = "bias"  # i32 with scale = scale(x) * scale(weight) when its node is quantized
    PARAMETER = "parameter"  # stays as it is (norm gains, running statistics, slopes)
    INDEX = "index"  # plain integers or bools, never quantized


class Trait(enum.Enum):
    ELEMENTWISE = "elementwise"  # numpy broadcasting over all operands
    UNARY = "unary"  # elementwise in one activation; the rest are scalars: becomes a 256-entry table
    COMMUTATIVE = "commutative"
    MOVES_DATA = "moves_data"  # copies elements without computing: legal on any dtype, quantized or not
    IDENTITY_AT_INFERENCE = "identity_at_inference"  # dropout: erased by canonicalize
    DECOMPOSES = "decomposes"  # the decompose pass rewrites it into simpler ops


class QuantKind(enum.Enum):
    """How quantization parameters of the result come about."""

    WEIGHTED = "weighted"  # i32 accumulator, requantized to a range of its own
    SHARES_INPUT = "shares_input"  # result has the parameters of its activation operands, all equal
    OWN_RANGE = "own_range"  # observed range
    FIXED = "fixed"  # known range: `fixed` below
    FLOAT_ONLY = "float_only"  # stays float


@dataclass(frozen=True)
class QuantRule:
    """Quantization of an op.

    Attributes:
        kind: see QuantKind.
        weight_axis: for WEIGHTED, the channel axis of the weight operand (output channels).
        fixed: for FIXED, u8 (scale, zero_point) of the result.
    """

    kind: QuantKind
    weight_axis: int | None = None
    fixed: tuple[float, int] | None = None

    def fixed_params(self) -> QuantParams:
        scale, zero_point = self.fixed
        return QuantParams.per_tensor(scale, zero_point, DType.U8)


@dataclass(frozen=True)
class OperandSpec:
    """One operand: its name, role, and whether it may be absent or repeated (variadic: last one only)."""

    name: str
    role: Role = Role.ACTIVATION
    optional: bool = False
    variadic: bool = False


@dataclass(frozen=True)
class AttrSpec:
    """One attr. `kind` is one of "int", "float", "bool", "str", "ints", "floats", "pairs" (tuple of int pairs),
    "dtype", "shape" (tuple of ints or Dim text, -1 allowed), "any". Without a default it must be given."""

    name: str
    kind: str
    default: AttrValue | type[_Required] = None
    doc: str = ""
    choices: tuple[str, ...] = ()


class _Required:
    """Marks an attr without default."""


REQUIRED = _Required


@dataclass(frozen=True)
class Sample:
    """A small instance of an op for generic tests.

    operands: a TensorType (random data is drawn), an array (used as it is), or None, by position.
    low, high: range of the random float data.
    """

    operands: tuple[TensorType | np.ndarray | None, ...]
    attrs: Mapping[str, AttrValue] = field(default_factory=dict)
    low: float = -2.0
    high: float = 2.0


Reference = Callable[..., "np.ndarray | tuple[np.ndarray, ...]"]


@dataclass(frozen=True)
class OpDef:
    """The declaration of one op.

    Attributes:
        name: in text.
        doc: one paragraph: formula, shapes, torch name, ONNX name.
        family: the file it stands in, for docs.
        operands, attrs, results: the signature. `results` are names.
        infer: `infer(*types, **attrs) -> TensorType | tuple`: expressed (real) types in, types out; ShapeError names
            expected and got. An absent operand is None. Variadic operands are passed flat.
        reference: `reference(*arrays, **attrs) -> array | tuple`: the float meaning, numpy, f32 in f32 out.
        integer: `integer(arrays, types, out, **attrs) -> array`: the meaning on quantized operands (`types` by
            position, `out` the quantized result type), to the bit what every backend computes. None: float only, or the
            generic table / data-movement rule applies (UNARY, MOVES_DATA).
        quant: how quantization treats it.
        grad: builds graph nodes; None until training comes.
        samples: 5-10 small instances.
    """

    name: str
    doc: str
    family: str
    operands: tuple[OperandSpec, ...]
    infer: Callable[..., TensorType | tuple[TensorType, ...]]
    reference: Reference
    quant: QuantRule
    samples: Callable[[], Sequence[Sample]]
    attrs: tuple[AttrSpec, ...] = ()
    results: tuple[str, ...] = ("result",)
    traits: frozenset[Trait] = frozenset()
    integer: Callable[..., np.ndarray] | None = None
    grad: Callable[..., object] | None = None

    def operand_index(self, name: str) -> int:
        for index, spec in enumerate(self.operands):
            if spec.name == name:
                return index
        raise VerifyError(f"{self.name} has no operand {name!r}", hint=nearest(name, [s.name for s in self.operands]))

    def spec(self, index: int) -> OperandSpec:
        """The declaration of the operand at a position; the variadic one serves all positions past it."""
        if index < len(self.operands):
            return self.operands[index]
        if self.operands and self.operands[-1].variadic:
            return self.operands[-1]
        raise VerifyError(f"{self.name} takes {len(self.operands)} operands", got=f"operand {index}")

    def complete_attrs(self, given: Mapping[str, AttrValue]) -> dict[str, AttrValue]:
        """All attrs in the declared order, defaults filled in, lists made tuples.

        Raises:
            VerifyError: an unknown name (nearest given), a missing one, a value of another kind.
        """
        known = {spec.name for spec in self.attrs}
        for name in given:
            if name not in known:
                raise VerifyError(f"{self.name} has no attr {name!r}", hint=nearest(name, known) if known else None)
        complete: dict[str, AttrValue] = {}
        for spec in self.attrs:
            value = given.get(spec.name, spec.default)
            if value is REQUIRED:
                raise VerifyError(f"{self.name} needs the attr {spec.name!r}", expected=spec.kind)
            complete[spec.name] = _checked(self.name, spec, _frozen(value))
        return complete

    def check_operands(self, count: int) -> None:
        variadic = bool(self.operands) and self.operands[-1].variadic
        least = sum(1 for spec in self.operands if not spec.optional and not spec.variadic)
        most = None if variadic else len(self.operands)
        if count < least or (most is not None and count > most):
            raise VerifyError(
                f"{self.name}: wrong number of operands",
                expected=f"{least}" if least == most else f"{least} to {most if most is not None else 'many'}",
                got=count,
            )

    def infer_types(self, types: Sequence[TensorType | None], attrs: Mapping[str, AttrValue]) -> tuple[TensorType, ...]:
        """Result types for *expressed* operand types (quantized operands count as f32)."""
        self.check_operands(len(types))
        for index, type in enumerate(types):
            if type is None and not self.spec(index).optional:
                raise VerifyError(f"{self.name}: operand {self.spec(index).name!r} is missing")
        padded = list(types) + [None] * (sum(1 for s in self.operands if not s.variadic) - len(types))
        expressed = [None if type is None else type.expressed() for type in padded]
        try:
            inferred = self.infer(*expressed, **attrs)
        except ShapeError as error:
            raise error.located(self.name) from None
        return inferred if isinstance(inferred, tuple) else (inferred,)

    def run_reference(
        self, arrays: Sequence[np.ndarray | None], attrs: Mapping[str, AttrValue]
    ) -> tuple[np.ndarray, ...]:
        """The float meaning; always a tuple."""
        padded = list(arrays) + [None] * (sum(1 for s in self.operands if not s.variadic) - len(arrays))
        with np.errstate(all="ignore"):
            out = self.reference(*padded, **attrs)
        return out if isinstance(out, tuple) else (out,)


def _frozen(value: AttrValue) -> AttrValue:
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (list, tuple)):
        return tuple([_frozen(item) for item in value])
    if isinstance(value, np.generic):
        return value.item()
    return value


_PLAIN = frozenset({int, str, float, bool, type(None)})
_KINDS: dict[str, Callable[[AttrValue], bool]] = {
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, (int, float)) and not isinstance(v, bool),
    "bool": lambda v: isinstance(v, bool),
    "str": lambda v: isinstance(v, str),
    "dtype": lambda v: isinstance(v, DType),
    "ints": lambda v: isinstance(v, tuple) and all(isinstance(i, int) and not isinstance(i, bool) for i in v),
    "floats": lambda v: isinstance(v, tuple) and all(isinstance(i, (int, float)) for i in v),
    "pairs": lambda v: isinstance(v, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in v),
    "shape": lambda v: isinstance(v, tuple) and all(isinstance(i, (int, str)) for i in v),
    "any": lambda v: True,
}


def _checked(op: str, spec: AttrSpec, value: AttrValue) -> AttrValue:
    if value is None and spec.default is None:
        return None
    if not _KINDS[spec.kind](value):
        raise VerifyError(f"attr {spec.name!r} of {op} is of another kind", expected=spec.kind, got=repr(value))
    if spec.choices and value not in spec.choices:
        raise VerifyError(f"attr {spec.name!r} of {op}", expected=" | ".join(spec.choices), got=repr(value))
    if spec.kind == "float":
        return float(value)
    if spec.kind == "floats":
        return tuple(float(item) for item in value)
    return value


_REGISTRY: dict[str, OpDef] = {}
_FAMILIES = (
    "quantized",
    "linear",
    "conv",
    "elementwise",
    "activations",
    "pool",
    "reduce",
    "norm",
    "shape",
    "resize",
    "indexing",
)
_loaded = False


def register(definition: OpDef) -> OpDef:
    """Add an op; a second one of the same name is an error."""
    if definition.name in _REGISTRY:
        raise VerifyError(f"the op {definition.name!r} is declared twice")
    _REGISTRY[definition.name] = definition
    return definition


def _load() -> None:
    global _loaded
    if not _loaded:
        _loaded = True
        for family in _FAMILIES:
            importlib.import_module(f"qcompiler.ops.{family}")


def opdef(name: str) -> OpDef:
    """The declaration of an op; VerifyError with the nearest name if unknown."""
    _load()
    found = _REGISTRY.get(name)
    if found is None:
        raise VerifyError(f"unknown op {name!r}", hint=nearest(name, _REGISTRY))
    return found


def find_opdef(name: str) -> OpDef | None:
    """The declaration of an op, or None if there is none."""
    _load()
    return _REGISTRY.get(name)


def all_ops() -> tuple[OpDef, ...]:
    """Every op, in the order of families and declaration, whatever was imported first."""
    _load()
    return tuple(sorted(_REGISTRY.values(), key=lambda op: _FAMILIES.index(op.family)))
