"""How an op is declared, once, as a class; and the registry of all ops.

    class Linear(Op):
        "y = x @ weight.T + bias, then the fused activation."      # the docstring is the op's documentation

        name = "linear"                                            # its name in text; declaring it registers the op
        quant = weighted(axis=0)
        x = operand()                                              # operands, in order
        weight = weight_operand()
        bias = bias_operand()
        activation = fused_activation()                            # attributes, in order

        def infer(self, x: TensorType, weight: TensorType, bias: TensorType | None) -> TensorType: ...
        def reference(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray: ...
        def integer(self, x: TypedArray, weight: TypedArray, bias: TypedArray | None, *, out: TensorType): ...

An instance is a typed view of a node: `Linear(node).bias` is `Value | None`, `Linear(node).activation` is `str`.
`Linear.of(node)` is that view, or None if the node is another op (or None itself); it also works for a base class that
several ops share, such as `Weighted`: `layer = Weighted.of(value.producer)`. `op_of(node)` is the view of any node.
With `attrs`, a view reads these attributes instead of the node's: `Reshape(node, bound_attrs(...))`. `infer`,
`reference` and `integer` run on a view of attributes alone: they may read `self.activation`, but no operand of a node.
On the class a field is its declaration: `graph.set_operand(node, Linear.bias.index, value)`.

`opdef(name)` gives the class. Whatever does not know the op reads the class members: `operands`, `attrs`, `quant`,
`traits`, `samples()`, `complete_attrs`, `infer_types`, `run_reference`, `run_integer`.
How a target lowers an op is in backends/. The kinds of fields are in `opfields`.
"""

from __future__ import annotations

import enum
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np

from qcompiler.dims import DimLike
from qcompiler.errors import ShapeError, VerifyError, nearest
from qcompiler.ir import AttrValue, Node, Value
from qcompiler.opfields import (
    ACTIVATIONS,
    REQUIRED,
    AttrSpec,
    OperandSpec,
    Required,
    Role,
    bias_operand,
    bool_attr,
    dtype_attr,
    float_attr,
    frozen,
    fused_activation,
    index_operand,
    int_attr,
    ints_attr,
    operand,
    optional_float_attr,
    optional_floats_attr,
    optional_int_attr,
    optional_ints_attr,
    optional_operand,
    optional_parameter,
    optional_shape_attr,
    pairs_attr,
    parameter,
    shape_attr,
    str_attr,
    variadic_operand,
    weight_operand,
)
from qcompiler.quant_rules import FLOAT_ONLY, OWN_RANGE, SHARES_INPUT, QuantKind, QuantRule, fixed, weighted
from qcompiler.quantization.typed_array import TypedArray
from qcompiler.types import TensorType

__all__ = [
    "ACTIVATIONS",
    "AttrSpec",
    "FLOAT_ONLY",
    "LayoutRule",
    "OWN_RANGE",
    "Op",
    "OpDef",
    "OperandSpec",
    "QuantKind",
    "QuantRule",
    "REQUIRED",
    "Required",
    "Role",
    "SHARES_INPUT",
    "Sample",
    "Trait",
    "TypedArray",
    "all_ops",
    "bias_operand",
    "bool_attr",
    "dtype_attr",
    "find_opdef",
    "fixed",
    "float_attr",
    "fused_activation",
    "index_operand",
    "int_attr",
    "ints_attr",
    "no_accumulator",
    "op_of",
    "opdef",
    "operand",
    "optional_float_attr",
    "optional_floats_attr",
    "optional_int_attr",
    "optional_ints_attr",
    "optional_operand",
    "optional_parameter",
    "optional_shape_attr",
    "pairs_attr",
    "parameter",
    "shape_attr",
    "str_attr",
    "variadic_operand",
    "weight_operand",
    "weighted",
    "works_on_codes",
]


class Trait(enum.Enum):
    ELEMENTWISE = "elementwise"  # numpy broadcasting over all operands
    UNARY = "unary"  # elementwise in one activation; the rest are scalars: becomes a 256-entry table
    COMMUTATIVE = "commutative"
    MOVES_DATA = "moves_data"  # copies elements without computing: legal on any dtype, quantized or not
    IDENTITY_AT_INFERENCE = "identity_at_inference"  # dropout: erased by canonicalize
    DECOMPOSES = "decomposes"  # the decompose pass rewrites it into simpler ops


class LayoutRule(enum.Enum):
    """How `assign-layout` lays out the result of an op."""

    CHANNELS_LAST = "channels_last"  # always, from rank 3 to 5
    ROW_MAJOR = "row_major"  # always
    KEEPS = "keeps"  # channels last if an operand of its rank is
    AS_READ = "as_read"  # channels last if an operand of its rank is, or if a reader's op has the rule CHANNELS_LAST
    ROW_MAJOR_AT_OUTPUTS = "row_major_at_outputs"  # row major for graph outputs, else KEEPS


def no_accumulator(op: Op) -> None:
    """`terms = no_accumulator`: the integer meaning sums nothing in 32 bits."""


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


class Op:
    """The base class of all ops. A subclass that gives `name` declares an op; one that does not is shared by several.

    Class members that a declaration gives:
        name: in text.
        quant: how quantization treats the op.
        traits: what generic code may assume.
        results: the names of its results.
        infer: expressed (real) types in, types out; ShapeError names expected and got. An absent operand is None,
            variadic operands are passed flat.
        reference: the float meaning, numpy arrays in and out, f32 in f32 out.
        integer: the meaning on quantized operands, to the bit what every backend computes; `out` is the type of the
            result: quantized, or f32 if the op `gives_real`. None: the op is float only, or the generic table or data
            movement rule applies (UNARY, MOVES_DATA).
        samples: 5-10 small instances.

    Facts for passes, each with a default that is always correct:
        layout: how the result lies in memory.
        reads_halo: operands that its kernels can read from inside a larger border. `keeps_halo()` says whether its
            kernels leave a border around the result as it is (lowering fills it), `wanted_halo()` which border they
            want around the first operand.
        is_view: the result is the operand's memory.
        picks: the result holds a selection of the operand's elements.
        carries_masks: -inf in an operand is -inf in the result.
        is_homogeneous: f(s * x) = s * f(x) for a positive s per channel.
        commutes_with_clip: clipping x to [low, high], with low <= 0 <= high, clips the result and does nothing else.
        keeps_dtype: the integer meaning selects codes, so operand and result have one dtype.
        chooses_params: the integer meaning rounds to whatever parameters its result has.
        gives_real: the integer meaning may have an f32 result, by rule (6) of qmath. `reads_real`: the operands that
            may then be f32.
        always_codes: operands that are quantized in every node. An op that has some gives real numbers only.
        wants_real: its answer depends on differences that are small against the range of its operands. Codes lose
            them, so it stays float, with what is computed around it (see passes/choose_precision.py).
        neutral: a second operand of this value gives the first one back.
        checks_values: the reference refuses indices outside of their axes. Programs have steps that check them.
        stages: the stages in which the op may stand; None: all.
        element_cost: nanoseconds per element of its larger side, as (int8, float); see quantization/cost_profile.
        is_identity(): whether a node whose result has the type of its first operand gives that operand back.
        products(): the sizes whose product is the number of multiply-adds of a node; None: it is not made of these.

    The one fact without a default:
        terms(): the sizes whose product is how many codes, or products of codes, one i32 accumulator of the integer
            meaning sums. None: there is no such accumulator; write `terms = no_accumulator`. An op with an integer
            meaning of its own that does not say is refused, since the overflow proof would have nothing to go by.

    Class members that follow from the declaration:
        doc: the docstring, in one line.
        family: the file in which the op stands.
        is_own: whether it is declared outside of qcompiler, in a file of a user.
        operands, attrs: the declared fields in order. The fields of base classes come first; a field that is declared
            again moves to its new place.
    """

    name: ClassVar[str] = ""
    doc: ClassVar[str] = ""
    family: ClassVar[str] = ""
    is_own: ClassVar[bool] = False
    operands: ClassVar[tuple[OperandSpec[Any], ...]] = ()
    attrs: ClassVar[tuple[AttrSpec[Any], ...]] = ()
    results: ClassVar[tuple[str, ...]] = ("result",)
    quant: ClassVar[QuantRule] = FLOAT_ONLY
    traits: ClassVar[frozenset[Trait]] = frozenset()
    integer: ClassVar[Callable[..., np.ndarray] | None] = None
    layout: ClassVar[LayoutRule] = LayoutRule.KEEPS
    reads_halo: ClassVar[tuple[OperandSpec[Any], ...]] = ()
    is_view: ClassVar[bool] = False
    picks: ClassVar[bool] = False
    carries_masks: ClassVar[bool] = False
    is_homogeneous: ClassVar[bool] = False
    commutes_with_clip: ClassVar[bool] = False
    keeps_dtype: ClassVar[bool] = False
    chooses_params: ClassVar[bool] = False
    gives_real: ClassVar[bool] = False
    reads_real: ClassVar[tuple[OperandSpec[Any], ...]] = ()
    always_codes: ClassVar[tuple[OperandSpec[Any], ...]] = ()
    wants_real: ClassVar[bool] = False
    neutral: ClassVar[float | None] = None
    checks_values: ClassVar[bool] = False
    stages: ClassVar[frozenset[str] | None] = None
    element_cost: ClassVar[tuple[float, float]] = (0.05, 0.10)
    _own_fields: ClassVar[dict[str, OperandSpec[Any] | AttrSpec[Any]]] = {}
    _attr_names: ClassVar[frozenset[str]] = frozenset()
    _fixed_operands: ClassVar[int] = 0

    def infer(self, *types: Any, **more: Any) -> TensorType | tuple[TensorType, ...]:
        raise NotImplementedError(self.name)

    def reference(self, *arrays: Any, **more: Any) -> np.ndarray | tuple[np.ndarray, ...]:
        raise NotImplementedError(self.name)

    @staticmethod
    def samples() -> Sequence[Sample]:
        return []

    # -- facts that depend on the node

    def keeps_halo(self) -> bool:
        return False

    def wanted_halo(self) -> tuple[tuple[int, int], ...] | None:
        return None

    def is_identity(self) -> bool:
        return False

    def products(self) -> tuple[DimLike, ...] | None:
        return None

    def terms(self) -> Sequence[DimLike] | None:
        raise NotImplementedError(f"{self.name} declares no terms")

    # -- views

    def __init__(self, node: Node, attrs: Mapping[str, AttrValue] | None = None) -> None:
        if node.op != self.name:
            raise VerifyError(f"a view of {self.name or type(self).__name__} reads {node.op}", where=node.describe())
        self._node: Node | None = node
        self._attrs = attrs

    @classmethod
    def of(cls, node: Node | None) -> Self | None:
        """The view of a node; None if there is no node, or if its op is neither this one nor derives from it."""
        if node is None:
            return None
        definition = opdef(node.op)
        return definition(node) if issubclass(definition, cls) else None

    @classmethod
    def from_attrs(cls, attrs: Mapping[str, AttrValue]) -> Self:
        """A view of attributes alone (complete ones); it has no operands."""
        view = cls.__new__(cls)
        view._node = None
        view._attrs = attrs
        return view

    @property
    def node(self) -> Node:
        """The node of the view; VerifyError if it was made from attributes alone."""
        if self._node is None:
            raise VerifyError(f"a view of the attributes of {self.name} has no node")
        return self._node

    @property
    def first(self) -> Value:
        """The first operand."""
        value = self.node._operands[0]
        if value is None:
            raise VerifyError(f"{self.name} has no first operand", where=self.node.describe())
        return value

    def present_operands(self) -> list[tuple[OperandSpec[Any], int, Value]]:
        """(declaration, position, value) of each operand that is present."""
        specs, last = self.operands, len(self.operands) - 1
        return [(specs[min(i, last)], i, value) for i, value in enumerate(self.node._operands) if value is not None]

    def values(self, *roles: Role) -> list[Value]:
        """The operands of these roles that are present."""
        return [value for spec, _, value in self.present_operands() if spec.role in roles]

    # -- a call in a model

    @classmethod
    def apply(cls, *operands: Any, **attrs: Any) -> Any:
        """The op in a model: recorded on traced values, computed by its reference on arrays (see `own_ops.apply`)."""
        from qcompiler.own_ops import apply

        return apply(cls, operands, attrs)

    # -- the declaration

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._own_fields = {k: v for k, v in cls.__dict__.items() if isinstance(v, (OperandSpec, AttrSpec))}
        fields: dict[str, OperandSpec[Any] | AttrSpec[Any]] = {}
        for base in reversed(cls.__mro__):
            for key, spec in base.__dict__.get("_own_fields", {}).items():
                fields.pop(key, None)
                fields[key] = spec
        cls.operands = tuple(spec for spec in fields.values() if isinstance(spec, OperandSpec))
        cls.attrs = tuple(spec for spec in fields.values() if isinstance(spec, AttrSpec))
        cls._attr_names = frozenset(spec.name for spec in cls.attrs)
        cls._fixed_operands = sum(not spec.variadic for spec in cls.operands)
        for index, spec in enumerate(cls.operands):
            if spec.index not in (-1, index) or (spec.variadic and index != len(cls.operands) - 1):
                raise VerifyError(f"the operand {spec.name!r} of {cls.__name__} stands at two positions")
            spec.index = index
        if "name" in cls.__dict__:
            if cls.integer is not None and cls.terms is Op.terms:
                raise VerifyError(
                    f"{cls.name} has an integer meaning, but does not say how much it sums",
                    expected="a method terms(self), or terms = no_accumulator",
                )
            cls.doc = " ".join((cls.__doc__ or "").split())
            cls.family = cls.__module__.rpartition(".")[2]
            cls.is_own = not is_of_package(cls.__module__)
            if cls.is_own:
                from qcompiler.own_ops import check_declaration

                _load()  # so that no op of the package is declared after one that took its name
                check_declaration(cls)
            register(cls)

    @classmethod
    def has_integer_meaning(cls) -> bool:
        """Whether the op works on codes: by a meaning of its own, by moving them, or by a table."""
        return cls.integer is not None or not cls.traits.isdisjoint((Trait.MOVES_DATA, Trait.UNARY))

    @classmethod
    def operand_index(cls, name: str) -> int:
        for spec in cls.operands:
            if spec.name == name:
                return spec.index
        raise VerifyError(f"{cls.name} has no operand {name!r}", hint=nearest(name, [s.name for s in cls.operands]))

    @classmethod
    def spec(cls, index: int) -> OperandSpec[Any]:
        """The declaration of the operand at a position; the variadic one serves all positions past it."""
        if index < len(cls.operands):
            return cls.operands[index]
        if cls.operands and cls.operands[-1].variadic:
            return cls.operands[-1]
        raise VerifyError(f"{cls.name} takes {len(cls.operands)} operands", got=f"operand {index}")

    @classmethod
    def complete_attrs(cls, given: Mapping[str, AttrValue]) -> dict[str, AttrValue]:
        """All attrs in the declared order, defaults filled in, lists made tuples.

        Raises:
            VerifyError: an unknown name (nearest given), a missing one, a value of another kind.
        """
        known = cls._attr_names
        for name in given:
            if name not in known:
                raise VerifyError(f"{cls.name} has no attr {name!r}", hint=nearest(name, known) if known else None)
        complete: dict[str, AttrValue] = {}
        for spec in cls.attrs:
            value = given.get(spec.name, spec.default)
            if isinstance(value, Required):
                raise VerifyError(f"{cls.name} needs the attr {spec.name!r}", expected=spec.kind)
            complete[spec.name] = spec.checked(cls.name, frozen(value))
        return complete

    @classmethod
    def check_operands(cls, operands: Sequence[object | None]) -> None:
        """VerifyError if an op cannot have these operands: another number of them, or a required one is None."""
        count = len(operands)
        variadic = bool(cls.operands) and cls.operands[-1].variadic
        least = sum(1 for spec in cls.operands if not spec.optional and not spec.variadic)
        most = None if variadic else len(cls.operands)
        if count < least or (most is not None and count > most):
            raise VerifyError(
                f"{cls.name}: wrong number of operands",
                expected=f"{least}" if least == most else f"{least} to {most if most is not None else 'many'}",
                got=count,
            )
        for index, given in enumerate(operands):
            if given is None and not cls.spec(index).optional:
                raise VerifyError(f"{cls.name}: operand {cls.spec(index).name!r} is missing")

    # -- the meaning

    @classmethod
    def infer_types(cls, types: Sequence[TensorType | None], attrs: Mapping[str, AttrValue]) -> tuple[TensorType, ...]:
        """Result types for *expressed* operand types (quantized operands count as f32)."""
        cls.check_operands(types)
        expressed = [None if type is None else type.expressed() for type in cls._padded(types)]
        try:
            inferred = cls.from_attrs(attrs).infer(*expressed)
        except ShapeError as error:
            raise error.located(cls.name) from None
        found = inferred if isinstance(inferred, tuple) else (inferred,)
        if cls.is_own:
            from qcompiler.own_ops import check_inferred

            check_inferred(cls, found)
        return found

    @classmethod
    def run_reference(
        cls, arrays: Sequence[np.ndarray | None], attrs: Mapping[str, AttrValue]
    ) -> tuple[np.ndarray, ...]:
        """The float meaning; always a tuple."""
        with np.errstate(all="ignore"):
            out = cls.from_attrs(attrs).reference(*cls._padded(arrays))
        return out if isinstance(out, tuple) else (out,)

    @classmethod
    def run_integer(
        cls,
        arrays: Sequence[np.ndarray | None],
        types: Sequence[TensorType | None],
        out: TensorType,
        attrs: Mapping[str, AttrValue],
    ) -> np.ndarray:
        """The meaning on quantized operands; VerifyError if the op has none of its own."""
        view = cls.from_attrs(attrs)
        if view.integer is None:
            raise VerifyError(f"{cls.name} has no integer meaning of its own")
        given = [None if a is None or t is None else TypedArray(a, t) for a, t in zip(arrays, types)]
        with np.errstate(all="ignore"):
            return view.integer(*cls._padded(given), out=out)

    @classmethod
    def _padded(cls, operands: Sequence[Any]) -> list[Any]:
        """With None for the optional operands that were left out at the end."""
        return [*operands, *[None] * (cls._fixed_operands - len(operands))]


OpDef: TypeAlias = type[Op]
"""The declaration of an op."""

_REGISTRY: dict[str, OpDef] = {}
_FAMILIES = (
    "quantized",
    "linear",
    "conv",
    "elementwise",
    "division",
    "logic",
    "activations",
    "pool",
    "reduce",
    "sort",
    "norm",
    "shape",
    "shuffle",
    "resize",
    "indexing",
    "scatter",
    "recurrent",
    "dynamic",
    "statistics",
)
_loaded = False


def is_of_package(module: str) -> bool:
    """Whether a module is one of qcompiler's."""
    return module.partition(".")[0] == "qcompiler"


def register(definition: OpDef) -> OpDef:
    """Add an op; a second one of the same name is an error."""
    known = _REGISTRY.get(definition.name)
    if known is not None:
        hint = f"choose another name, or call qc.unregister_op({known.name!r}) first" if known.is_own else None
        raise VerifyError(
            f"the op {definition.name!r} is declared twice",
            where=f"{definition.__module__}.{definition.__qualname__}",
            got=f"it is declared in {known.__module__} already",
            hint=hint or "choose another name",
        )
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
    found = _REGISTRY.get(name)
    if found is None:
        _load()
        found = _REGISTRY.get(name)
        if found is None:
            raise VerifyError(
                f"unknown op {name!r}",
                hint=f"if it is an op of your own, import the file that declares it first; {nearest(name, _REGISTRY)}",
            )
    return found


def find_opdef(name: str) -> OpDef | None:
    """The declaration of an op, or None if there is none."""
    _load()
    return _REGISTRY.get(name)


def all_ops() -> tuple[OpDef, ...]:
    """Every op, in the order of families and declaration, whatever was imported first."""
    _load()
    return tuple(
        sorted(
            _REGISTRY.values(),
            key=lambda op: _FAMILIES.index(op.family) if op.family in _FAMILIES and not op.is_own else len(_FAMILIES),
        )
    )


def works_on_codes(node: Node) -> bool:
    """Whether a node reads or gives quantized values. Conversions do, and integer nodes, also those that give f32."""
    values = (*node._operands, *node.results)
    return any(value is not None and value.type.is_quantized for value in values)


def op_of(node: Node) -> Op:
    """The typed view of a node of any op."""
    return opdef(node.op)(node)
