"""Checks of the arguments of public functions: they say what was expected and what was given, in place of Python's own
error from somewhere inside."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from qcompiler.errors import ArgumentError, QuantizationError

if TYPE_CHECKING:
    from qcompiler.passmanager import Instrument


def described(value: object) -> str:
    """A short text for an argument: its type, and its value if that is short."""
    name = type(value).__name__
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{name} {value.dtype}{list(value.shape)}"
    text = repr(value)
    return f"{name} {text}" if len(text) <= 40 and "\n" not in text and " at 0x" not in text else name


def check_type(
    name: str, value: object, kinds: type | tuple[type, ...], expected: str, hint: str | None = None
) -> None:
    """Raise ArgumentError unless `value` is of one of the kinds. A bool is no int."""
    if not isinstance(value, kinds) or (isinstance(value, bool) and kinds is int):
        raise ArgumentError(f"argument {name!r}", expected=expected, got=described(value), hint=hint)


def check_text(name: str, value: object, expected: str = "a text") -> None:
    check_type(name, value, str, expected)


def check_path(name: str, value: object) -> None:
    """Raise ArgumentError unless `value` is a path. Numbers are none, though open() takes them for open files."""
    check_type(name, value, (str, os.PathLike), "a path")
    if not isinstance(os.fspath(value), str) or "\0" in os.fspath(value):  # type: ignore[call-overload]
        raise ArgumentError(f"argument {name!r}", expected="a path", got=described(value))


def check_callable(name: str, value: object, of: str) -> None:
    """Raise ArgumentError unless `value` is a function or None."""
    if value is not None and (not callable(value) or isinstance(value, type)):
        raise ArgumentError(f"argument {name!r}", expected=f"a function of {of}, or None", got=described(value))


def check_threads(threads: object) -> None:
    if threads is not None:
        check_type("threads", threads, int, "a number of threads of at least 1, or None")


def check_io(io: object) -> None:
    """Raise an error unless `io` is "float" or "quantized"."""
    check_text("io", io, '"float" or "quantized"')
    if io not in ("float", "quantized"):
        raise QuantizationError("io", expected="float | quantized", got=repr(io))


def check_instruments(instruments: object) -> Sequence[Instrument]:
    """The instruments as a list; ArgumentError for anything else."""
    if isinstance(instruments, (list, tuple)) and all(callable(getattr(each, "after", None)) for each in instruments):
        return list(instruments)
    raise ArgumentError(
        "argument 'instruments'",
        expected="a list of objects with a method after(index, pass, before, graph, seconds)",
        got=described(instruments),
    )


def check_data(name: str, data: object) -> None:
    """Raise ArgumentError unless `data` can be an iterable of calibration items."""
    hint = None
    if isinstance(data, Mapping):
        hint = f"{name}=[data]: a dict is the inputs of one call"
    elif isinstance(data, Iterable) and not isinstance(data, (str, bytes, type)):
        return
    elif callable(data) and not isinstance(data, type):
        hint = f"{name}=data(): call the function that makes the data"
    raise ArgumentError(
        f"argument {name!r}",
        expected="an iterable, whose items are the inputs of one call each",
        got=described(data),
        hint=hint,
    )


def plain_array(value: Any) -> Any:
    """A torch tensor as an array that numpy can hold, which needs no copy in most cases; anything else as it is."""
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        value = value.detach().cpu()
        if str(value.dtype) == "torch.bfloat16":
            value = value.float()
        return value.numpy()
    return value
