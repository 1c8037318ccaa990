"""`register_importer`: what a node of a foreign model means, from a user's own file."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from qcompiler.arguments import check_text, described
from qcompiler.errors import ArgumentError, TraceError, nearest
from qcompiler.frontend.recorder import Traced
from qcompiler.opdef import Op, OpDef
from qcompiler.opfields import REQUIRED

SOURCES = ("onnx", "torch")
_NAME = re.compile(r"[\w.-]+::\w+(\.\w+)?")
_own: dict[tuple[str, str], Callable[..., Any]] = {}
"""(source, key in the source's table) -> a user's function."""


def register_importer(source: Literal["onnx", "torch"], name: str, meaning: Callable[..., Any] | OpDef) -> None:
    """Say what an op of a foreign model means.

    Args:
        source: "onnx" or "torch".
        name: "namespace::op". For ONNX the namespace is the domain, "ai.onnx" for ONNX's own ops; for torch that of the
            library, with an overload if it is not the default one: "mylib::op.out".
        meaning: a function that gives the traced result, or a tuple of them. For "onnx" it takes an `OnnxNode`
            (`qcompiler.frontend.onnx_ops.node`), for "torch" the arguments of the call, with traced values in place of
            tensors. Or the class of an op of your own that has the same operands, and attributes of the same names.

    For ONNX it takes the place of a function of this name that the model defines. A meaning that exists already is not
    replaced.

    Raises:
        ArgumentError: an argument of another type. TraceError: an unknown source, a name of another form, a name that
            has a meaning, or a function that cannot take what it is called with.
    """
    check_text("source", source, '"onnx" or "torch"')
    check_text("name", name, '"namespace::op"')
    if source not in SOURCES:
        raise TraceError(f"unknown source {source!r} of foreign models", hint=nearest(source, SOURCES))
    if not _NAME.fullmatch(name):
        raise TraceError("the name of a foreign op", expected='"namespace::op"', got=repr(name)[:80])
    function = _function(source, meaning)
    key, table = _table(source, name)
    if key in table:
        whose = "you have registered" if (source, key) in _own else "qcompiler has"
        raise TraceError(f"{whose} a meaning of {name} already")
    table[key] = _own[source, key] = _checked(source, name, function)


def is_own(key: str) -> bool:
    """Whether a user gave the meaning of an ONNX op."""
    return ("onnx", key) in _own


def unregister_importer(source: Literal["onnx", "torch"], name: str) -> None:
    """Forget a meaning that `register_importer` was given.

    Raises:
        TraceError: there is none.
    """
    check_text("source", source, '"onnx" or "torch"')
    check_text("name", name, '"namespace::op"')
    key, table = _table(source, name) if source in SOURCES else ("", {})
    if (source, key) not in _own:
        raise TraceError(f"no meaning of {name!r} of {source!r} was registered")
    del _own[source, key], table[key]


def _table(source: str, name: str) -> tuple[str, dict[str, Any]]:
    """The key of an op, and the table of the source."""
    space, _, op = name.partition("::")
    if source == "onnx":
        from qcompiler.frontend.onnx_ops import table

        return (op if space == "ai.onnx" else f"{space}.{op}"), table()
    from qcompiler.frontend.torch_ops import TABLE

    return f"{space}.{op}" + ("" if "." in op else ".default"), TABLE


def _function(source: str, meaning: object) -> Callable[..., Any]:
    if isinstance(meaning, type) and issubclass(meaning, Op) and meaning.name:
        return _onnx_op(meaning) if source == "onnx" else _torch_op(meaning)
    if not callable(meaning) or isinstance(meaning, type):
        raise ArgumentError("argument 'meaning'", expected="a function, or the class of an op", got=described(meaning))
    if source == "onnx":
        try:
            inspect.signature(meaning).bind(None)
        except (TypeError, ValueError):
            raise TraceError(
                "the meaning of an ONNX op takes one argument, the node",
                expected="meaning(node)",
                got=f"{getattr(meaning, '__name__', 'meaning')}{inspect.signature(meaning)}",
            ) from None
    return meaning


def _checked(source: str, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A meaning whose results are checked: traced values or arrays, as many as the node has outputs."""

    @functools.wraps(function)
    def meaning(*args: Any, **kwargs: Any) -> Any:
        found = function(*args, **kwargs)
        results = found if isinstance(found, tuple) else (found,)
        wanted = sum(map(bool, args[0].outputs)) if source == "onnx" else 1
        if len(results) < wanted or not all(isinstance(each, (Traced, np.ndarray)) for each in results):
            raise TraceError(
                f"the meaning that was registered of {name} gives no traced value",
                expected="a traced value" if wanted == 1 else f"a tuple of {wanted} traced values",
                got=described(found),
            )
        return found

    return meaning


def _onnx_op(op: OpDef) -> Callable[[Any], Any]:
    """The node as an op with the same operands and attributes."""

    def meaning(node: Any) -> Any:
        operands = [node.optional(index) for index in range(len(node.values))]
        return op.apply(*operands, **{spec.name: _onnx_attr(node, spec) for spec in op.attrs})

    return meaning


def _onnx_attr(node: Any, spec: Any) -> Any:
    if spec.default is not REQUIRED and spec.name not in node.attrs:
        return spec.default
    value = node.attr(spec.name)
    if spec.kind == "float":  # the shortest decimal, which the attribute in f32 stands for
        return node.number(spec.name, 0.0)
    if spec.kind == "bool" and value in (0, 1):
        return bool(value)
    return value.decode() if isinstance(value, bytes) else value


def _torch_op(op: OpDef) -> Callable[..., Any]:
    """The call as an op with the same operands, followed by its attributes."""
    names = [spec.name for spec in op.operands] + [spec.name for spec in op.attrs]
    count = len(op.operands)

    def meaning(*args: Any, **kwargs: Any) -> Any:
        given: Mapping[str, Any] = {**dict(zip(names, args)), **kwargs}
        if len(args) > len(names):
            raise TraceError(f"{op.name} takes {len(names)} arguments", got=len(args))
        operands = [given.get(name) for name in names[:count]]
        return op.apply(*operands, **{name: given[name] for name in names[count:] if name in given})

    return meaning
