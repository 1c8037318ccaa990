"""What all functions share: calls on traced values or on arrays, and the forms of their arguments."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from qcompiler.arguments import described
from qcompiler.errors import TraceError
from qcompiler.frontend import array_ops as ops
from qcompiler.frontend.argument_kinds import check_arguments, is_int
from qcompiler.frontend.array_ops import dims, lift, rank, reshape, trace_of
from qcompiler.frontend.recorder import current_trace
from qcompiler.frontend.source import user_place
from qcompiler.opdef import Trait, opdef

_Function = TypeVar("_Function", bound=Callable[..., Any])


def traceable(function: _Function) -> _Function:
    """Outside of a trace, run the function on arrays through the interpreter. Arguments are checked by annotation."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        check_arguments(function, args, kwargs)
        if current_trace() is None:
            from qcompiler.frontend.tracer import run_eagerly

            return run_eagerly(function, args, kwargs)
        return function(*args, **kwargs)

    return call  # type: ignore[return-value]


def ints(value: Any, count: int, what: str) -> tuple[int, ...]:
    """One int for all axes, or one per axis, as a tuple with one per axis."""
    listed = tuple(value) if isinstance(value, (tuple, list)) else (value,) * count
    if len(listed) == 1:
        listed = listed * count
    if len(listed) != count:
        raise TraceError(f"{what}: one int, or one for each of {count} axes", where=user_place(), got=value)
    if not all(map(is_int, listed)):
        raise TraceError(f"{what}: not ints", where=user_place(), expected="ints", got=described(value))
    return tuple(int(item) for item in listed)


def emit(op: str, x: Any, *operands: Any, **attrs: Any) -> Any:
    """Record an op. Operands of an op that computes are f32; an op that moves elements takes any type."""
    trace, moves = trace_of(x, *operands), opdef(op).traits & {Trait.MOVES_DATA, Trait.IDENTITY_AT_INFERENCE}
    lifted = [
        None if item is None else lift(item, trace) if moves else ops.single(item, op, trace) for item in (x, *operands)
    ]
    return trace.emit(op, lifted, attrs)


def batched(x: Any, spatial: int, what: str, apply: Callable[[Any], Any]) -> Any:
    """Apply a function to a batch. An input without a batch axis gets one for the call."""
    x = ops.single(x, what, trace_of(x))
    if rank(x) == spatial + 1:
        return reshape(y := apply(ops.expand_dims(x, 0)), dims(y)[1:])
    if rank(x) != spatial + 2:
        raise TraceError(
            f"{what}: wrong number of axes",
            where=x.trace.place(),
            got=repr(x),
            expected=f"{spatial + 2}: batch, channels and {spatial} spatial axes",
        )
    return apply(x)


def no_training(what: str, training: bool) -> None:
    if training:
        raise TraceError(f"{what} in training mode", where=user_place(), hint="call model.eval() first")
