"""Ops that are declared outside of qcompiler: the checks of their declarations and results, and calls in a model.

Declaring a subclass of `Op` with a `name` registers the op (docs/extending.md). What a user's class gets wrong is said
when it is declared, and again when it runs: a result that is not what `infer` said is an error, not a broadcast.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompiler import opdef as declared
from qcompiler.arguments import check_text
from qcompiler.errors import VerifyError, nearest
from qcompiler.opdef import Op, OpDef, QuantKind, Trait
from qcompiler.types import TensorType, type_of

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_EMPTY = inspect.Parameter.empty


def check_declaration(op: OpDef) -> None:
    """Check the class of an op of a user.

    Raises:
        VerifyError: a name that the text of a graph cannot hold, a base class that is an op, a missing meaning, other
            parameters of a method than the op has operands, or a quantization rule without a meaning on codes.
    """
    if not isinstance(op.name, str) or not _NAME.fullmatch(op.name):
        raise _wrong(op, "the name of an op", expected="letters, digits and _", got=repr(op.name)[:80])
    parent = next((base for base in op.__mro__[1:] if base.__dict__.get("name")), None)
    if parent is not None:  # passes and rules take what derives from an op for that op
        raise _wrong(
            op,
            f"{op.name} derives from another op, {parent.__dict__['name']}",
            expected="Op, or a base class of several ops (qcompiler.ops.interfaces)",
        )
    for method in ("infer", "reference"):
        if getattr(op, method) is getattr(Op, method):
            raise _wrong(op, f"{op.name} has no {method}", expected=f"a method {method}({_spelled(op)})")
        _check_parameters(op, method)
    if op.integer is not None:
        _check_parameters(op, "integer", "out")
    kind = op.quant.kind
    on_codes = op.integer is not None or not op.traits.isdisjoint((Trait.MOVES_DATA, Trait.UNARY))
    if kind is not QuantKind.FLOAT_ONLY and not on_codes:
        raise _wrong(
            op,
            f"{op.name} has the quantization rule {kind.value}, but no meaning on codes",
            expected="a method integer, the trait UNARY or MOVES_DATA, or quant = FLOAT_ONLY",
        )


def _check_parameters(op: OpDef, method: str, *keywords: str) -> None:
    """VerifyError unless a method takes the operands by position, and these keywords."""
    try:
        parameters = list(inspect.signature(getattr(op, method)).parameters.values())[1:]
    except (TypeError, ValueError):
        raise _wrong(op, f"{method} of {op.name} is no method", expected=f"{method}({_spelled(op)})") from None
    plain = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.name not in keywords]
    many = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    any_keyword = any(p.kind is p.VAR_KEYWORD for p in parameters)
    named = {p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    needed = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is _EMPTY}
    fixed = sum(not spec.variadic for spec in op.operands)
    variadic = len(op.operands) != fixed
    required = sum(p.default is _EMPTY for p in plain)
    fits = required <= fixed and (many or (fixed <= len(plain) and not variadic))
    if not fits or not (any_keyword or set(keywords) <= named) or not needed <= set(keywords):
        more = "".join(f", *, {keyword}" for keyword in keywords)
        raise _wrong(
            op,
            f"{method} of {op.name} has other parameters than the op has operands",
            expected=f"{method}({_spelled(op)}{more})",
            got=f"{method}({', '.join(['self', *map(str, parameters)])})",
        )


def _spelled(op: OpDef) -> str:
    return ", ".join(["self", *(f"*{spec.name}" if spec.variadic else spec.name for spec in op.operands)])


def _wrong(op: OpDef, message: str, **details: Any) -> VerifyError:
    return VerifyError(message, where=f"{op.__module__}.{op.__qualname__}", **details)


def check_inferred(op: OpDef, types: Sequence[object]) -> None:
    """VerifyError unless these are types, one for each result of the op."""
    if len(types) != len(op.results) or not all(isinstance(type, TensorType) for type in types):
        raise _wrong(
            op,
            f"infer of {op.name} gives no types",
            expected="a TensorType" if len(op.results) == 1 else f"a tuple of {len(op.results)} TensorTypes",
            got=repr(types if len(types) != 1 else types[0])[:120],
        )


def check_results(op: OpDef, method: str, arrays: object, types: Sequence[TensorType]) -> None:
    """VerifyError unless what `reference` or `integer` gave are arrays of the types that `infer` said."""
    found = arrays if isinstance(arrays, tuple) else (arrays,)
    given = [np.asarray(array) for array in found]
    same = len(given) == len(types) and all(
        array.shape == type.sizes and array.dtype == type.dtype.numpy for array, type in zip(given, types)
    )
    if not same:
        raise _wrong(
            op,
            f"{method} of {op.name} gives another result than its infer says",
            expected=", ".join(f"{type.dtype}{list(type.sizes)}" for type in types),
            got=", ".join(str(type_of(array)) if array.dtype != object else "no array" for array in given),
        )
    for array, type in zip(given, types):
        if type.is_quantized and array.size:
            quant = type.params
            if array.min() < quant.qmin or array.max() > quant.qmax:
                raise _wrong(
                    op,
                    f"{method} of {op.name} gives codes outside of the range of its result",
                    expected=f"[{quant.qmin}, {quant.qmax}]",
                    got=f"[{array.min()}, {array.max()}]",
                )


def apply(op: OpDef, operands: Sequence[Any], attrs: dict[str, Any]) -> Any:
    """Call an op in a model: `GatedAdd.apply(x, r, gate=0.5)`.

    On traced values the op is recorded. Arrays and numbers among the operands become constants. Outside of a trace the
    operands are arrays, and the op's reference computes the result.

    Args:
        operands: by position; None for an optional one that is absent.
        attrs: the op's attributes.

    Raises:
        VerifyError: other operands or attributes than the op has. ShapeError: types that do not fit.
    """
    from qcompiler.frontend.array_ops import lift, trace_of
    from qcompiler.frontend.functional.calling import traceable

    @traceable
    def call(*given: Any) -> Any:
        trace = trace_of(*given)
        lifted = [None if item is None else lift(item, trace) for item in given]
        results = trace.emit_results(op.name, lifted, attrs)
        return results[0] if len(results) == 1 else results

    return call(*operands)


def unregister_op(name: str) -> None:
    """Forget an op of your own, with its lowering rules and exporters: a notebook may then declare it again.

    Graphs that hold the op cannot be used any more.

    Raises:
        VerifyError: there is no such op, or it is one of qcompiler's.
    """
    check_text("name", name, "the name of an op")
    own = [known.name for known in declared._REGISTRY.values() if known.is_own]
    if name not in own:
        what = f"{name!r} is an op of qcompiler" if name in declared._REGISTRY else f"there is no op {name!r}"
        raise VerifyError(what, hint=nearest(name, own) if own else "no op of your own is registered")
    from qcompiler.backends.lowering.rule import forget_rules
    from qcompiler.export.own import forget_exporters

    forget_rules(name)
    forget_exporters(name)
    del declared._REGISTRY[name]
