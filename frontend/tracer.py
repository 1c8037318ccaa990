"""`trace`: run a Python model on proxies and get its float graph.

The model is a qcompiler.nn module, or any Python function on arrays, which may use numpy functions and operators,
qcompiler.frontend.functional, other modules and compiled models. Control flow on shapes and Python values runs as is.
Owns the calling convention: inputs and their names, dynamic sizes, outputs and their structure. Recording is in
`recorder.py`.
"""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from qcompiler.arguments import plain_array
from qcompiler.dims import Dim, DimLike, Dynamic, parse_dim
from qcompiler.errors import TraceError, nearest
from qcompiler.frontend.array_ops import lift
from qcompiler.frontend.recorder import Trace, Traced, current_trace, required_trace
from qcompiler.ir import Graph
from qcompiler.notes import Guard
from qcompiler.quantization.quantized_tensor import QuantizedTensor
from qcompiler.signature import record_structure, structure_of
from qcompiler.structure import flatten_outputs, restore_outputs
from qcompiler.types import DType, TensorType


def trace(
    model: Any,
    example_inputs: Any = None,
    *,
    dynamic: Dynamic | None = None,
    input_names: Sequence[str] | None = None,
    name: str | None = None,
) -> Graph:
    """The float graph of a model.

    Args:
        model: a qcompiler.nn module or a Python function. A Graph gives a copy of itself.
        example_inputs: an array, a tuple by position, or a dict by parameter name; arrays or TensorTypes. Only shapes
            and element types are read. float64 arrays stand for f32.
        dynamic: {input name or position: {axis: size name}}.
        input_names: names of the graph's inputs; the function's parameter names by default.
        name: the graph's name; the function's or class's by default.

    Raises:
        TraceError: control flow depends on data, a function is not supported, or inputs don't fit the signature.
        ShapeError: operands don't fit an op; the message has the user's source line.
    """
    if isinstance(model, Graph):
        return model.clone(name=name)
    if not callable(model):
        raise TraceError(
            "the model cannot be called", expected="a qcompiler.nn module or a function", got=type(model).__name__
        )
    if isinstance(model, type):
        raise TraceError(
            "the model is a class", expected="an instance of it", got=model.__name__, hint=f"{model.__name__}(...)"
        )
    if example_inputs is None:
        raise TraceError(
            "tracing needs example inputs", expected="a tuple of arrays or TensorTypes", hint="trace(model, (x,))"
        )
    by_position, by_name = _arguments(example_inputs)
    signature = _parameter_names(model, len(by_position), list(by_name))
    names = _graph_names(input_names, signature)
    recorder = Trace(name or _model_name(model))
    examples = dict(zip(names, [*by_position, *by_name.values()]))
    types = input_types(examples, dynamic, recorder)
    _name_constants(recorder, model)
    with recorder.recording():
        proxies = [recorder.wrap(recorder.graph.add_input(n, t)) for n, t in types.items()]
        kwargs = dict(zip(by_name, proxies[len(by_position) :]))
        returned = model(*proxies[: len(by_position)], **kwargs)
        set_outputs(recorder, returned)
    return recorder.graph


def inline(callee: Any, *args: Any, **kwargs: Any) -> Any:
    """Record the ops of a Graph or compiled model applied to `args`, inside a trace."""
    return required_trace("inline").inline(callee, args, kwargs)


def run_eagerly(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Call a function of the frontend on arrays outside of a trace: record it on constants and interpret the graph.

    Quantized tensors stand for values of a quantized type, also among the results.
    """
    from qcompiler.interpreter import run

    recorder = Trace("eager")
    with recorder.recording():
        returned = function(
            *[_constant(item, recorder) for item in args],
            **{key: _constant(item, recorder) for key, item in kwargs.items()},
        )
        set_outputs(recorder, returned)
    outputs = [
        QuantizedTensor(array, value.type.params, value.type.dtype) if value.type.is_quantized else array
        for array, value in zip(run(recorder.graph, []), recorder.graph.outputs)
    ]
    return restore_outputs(structure_of(recorder.graph), outputs)


def set_outputs(recorder: Trace, returned: Any) -> None:
    """End a recording: set the outputs, their names and structure, and drop constants that nothing reads."""
    leaves, paths, structure = flatten_outputs(returned, lambda item: isinstance(item, (Traced, np.ndarray)))
    if not leaves:
        raise TraceError("the model returns no array", got=repr(returned)[:200])
    values = []
    for leaf in leaves:
        if isinstance(leaf, Traced) and leaf.trace is not recorder:
            raise TraceError(
                "the model returns a value of another trace", hint="don't keep traced values between calls"
            )
        values.append(lift(leaf, recorder).value)
    names: list[str] = []
    for value, path in zip(values, paths):
        base = path if path and not path.isdigit() else value.name
        unique, count = base, 0
        while unique in names:
            count += 1
            unique = f"{base}_{count}"
        names.append(unique)
    recorder.graph.set_outputs(values, names)
    record_structure(recorder.graph, structure)
    recorder.graph.erase_unused_consts()


# -- inputs


def _arguments(example_inputs: Any) -> tuple[list[Any], dict[str, Any]]:
    if isinstance(example_inputs, Mapping):
        return [], dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return list(example_inputs), {}
    return [example_inputs], {}


def _parameter_names(model: Any, positional: int, named: list[str]) -> list[str]:
    """The parameter names that the example inputs fill, checked against the signature."""
    function = getattr(model, "forward", model)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return [f"x{i}" for i in range(positional)] + named
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    known = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if positional > len(plain) and variadic is None:
        raise TraceError(
            "more example inputs than parameters", expected=f"({', '.join(plain)})", got=f"{positional} inputs"
        )
    for key in named:
        if key not in known and not any_name:
            raise TraceError(f"the model has no parameter {key!r}", hint=nearest(key, known) if known else None)
    filled = plain[:positional] + [f"{variadic}_{i}" for i in range(positional - len(plain))] + named
    missing = [
        p.name
        for p in parameters
        if p.default is p.empty and p.name not in filled and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if missing:
        raise TraceError(
            "example inputs are missing",
            expected=f"({', '.join(filled + missing)})",
            got=f"nothing for {', '.join(missing)}",
        )
    return filled


def _graph_names(given: Sequence[str] | None, signature: list[str]) -> list[str]:
    if given is None:
        return signature
    if len(given) != len(signature) or len(set(given)) != len(given):
        raise TraceError(
            "input_names must be one different name for each input", expected=f"{len(signature)} names", got=list(given)
        )
    return list(given)


def input_types(examples: Mapping[str, Any], dynamic: Dynamic | None, recorder: Trace) -> dict[str, TensorType]:
    """The types of the inputs. The example's sizes of dynamic axes go to `recorder.sizes`.

    Raises:
        TraceError: an example is not an array, `dynamic` has an unknown input or axis, or gives two sizes one name.
    """
    types = {name: _input_type(name, example, recorder) for name, example in examples.items()}
    declared = declared_axes(list(types), {} if dynamic is None else dynamic)
    expressions: list[tuple[str, int, Dim, DimLike]] = []
    for name, axes in declared.items():
        shape = list(types[name].shape)
        for axis, wanted in axes.items():
            if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
                raise TraceError(f"dynamic: input {name!r} has no axis {axis}", got=str(_shape_text(types[name])))
            dim = dynamic_dim(name, axis, wanted, recorder)
            size, shape[axis] = shape[axis], dim
            if isinstance(size, Dim):
                continue
            if str(dim) in dim.names():
                if recorder.sizes.setdefault(str(dim), size) != size:
                    raise TraceError(
                        f"dynamic: the size {dim} stands for two sizes in the example inputs",
                        expected=recorder.sizes[str(dim)],
                        got=f"{size} on axis {axis} of {name!r}",
                    )
            else:
                expressions.append((name, axis, dim, size))
        types[name] = TensorType(types[name].dtype, tuple(shape), types[name].quant)
    for name, axis, dim, size in expressions:
        unknown = dim.names() - recorder.sizes.keys()
        if unknown or dim.evaluate(recorder.sizes) != size:
            raise TraceError(
                f"dynamic: {dim} does not fit axis {axis} of {name!r}",
                got=size,
                expected=f"{sorted(unknown)} declared as plain sizes" if unknown else dim.evaluate(recorder.sizes),
            )
    return types


def _input_type(name: str, example: Any, recorder: Trace) -> TensorType:
    if isinstance(example, TensorType):
        return example
    if isinstance(example, Traced):
        raise TraceError(f"example input {name!r} is a traced value", hint="give a TensorType")
    if str(getattr(example, "dtype", "")) == "torch.bfloat16":
        recorder.note(f"input {name}: bfloat16 became f32")
        return TensorType(DType.F32, tuple(example.shape))
    example = plain_array(example)
    if example is None or isinstance(example, (str, bytes, dict, list, tuple)):
        raise TraceError(
            f"example input {name!r} is no array",
            expected="an array or a TensorType",
            got=type(example).__name__,
            hint="bind other arguments with functools.partial",
        )
    array = np.asarray(example)
    if array.dtype.kind == "f" and array.dtype != np.float32:
        recorder.note(f"input {name}: {array.dtype} became f32")
        return TensorType(DType.F32, array.shape)
    if array.dtype.kind not in "fiub":
        raise TraceError(f"example input {name!r} is no array of numbers", got=str(array.dtype))
    return TensorType(DType.from_numpy(array.dtype), array.shape)


def declared_axes(names: list[str], dynamic: Dynamic) -> dict[str, Mapping[int, Any]]:
    """The axes that `dynamic` names, by the input's name; TraceError for an input that does not exist."""
    found: dict[str, Mapping[int, Any]] = {}
    if not isinstance(dynamic, Mapping):
        raise TraceError("dynamic is a dict", expected='{"x": {0: "B"}}', got=repr(dynamic))
    for key, axes in dynamic.items():
        name = names[key] if isinstance(key, int) and 0 <= key < len(names) else key
        if name not in names:
            raise TraceError(f"dynamic: there is no input {key!r}", hint=nearest(str(key), names))
        if not isinstance(axes, Mapping):
            raise TraceError(f"dynamic: axes of {key!r}", expected='{0: "B"}', got=repr(axes))
        found[name] = axes
    return found


def dynamic_dim(name: str, axis: int, wanted: Any, recorder: Trace) -> Dim:
    """The size that `dynamic` names for an axis: a text, a Dim, or a torch.export.Dim, whose bounds become guards."""
    if (type(wanted).__module__, type(wanted).__name__) == ("torch.export.dynamic_shapes", "Dim"):
        dim = Dim.name(wanted.__name__)
        for sign, bound in ((">=", wanted.min), ("<=", wanted.max)):
            if isinstance(bound, int) and bound > 1:  # torch's infinity is no int
                recorder.guard(Guard(dim, sign, bound))
        return dim
    parsed = wanted if isinstance(wanted, Dim) else parse_dim(wanted) if isinstance(wanted, str) else None
    if not isinstance(parsed, Dim):
        raise TraceError(
            f"dynamic: axis {axis} of {name!r} needs a size name", expected='a name such as "B"', got=repr(wanted)
        )
    return parsed


def _shape_text(type: TensorType) -> str:
    return f"{type.dtype}[{','.join(map(str, type.shape))}]"


# -- names and constants


def _model_name(model: Any) -> str:
    name = getattr(model, "__name__", None) or type(model).__name__
    cleaned = "".join(c if c.isascii() and (c.isalnum() or c == "_") else "_" for c in name).strip("_")
    return cleaned if cleaned.isidentifier() and not keyword.iskeyword(cleaned) else "main"


def _name_constants(recorder: Trace, model: Any) -> None:
    """Name arrays that a function reads from its closure or module after their variables."""
    function = inspect.unwrap(model) if callable(model) else model
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if code is None:
        return
    cells = dict(zip(code.co_freevars, function.__closure__ or ()))
    for name in (*code.co_freevars, *code.co_names):
        try:
            item = cells[name].cell_contents if name in cells else function.__globals__.get(name)
        except ValueError:  # an empty cell
            continue
        if isinstance(item, np.ndarray):
            recorder.names.setdefault(id(item), name)


def _constant(item: Any, recorder: Trace) -> Any:
    if isinstance(item, QuantizedTensor):
        return recorder.codes(item, item.int_repr(), item.dtype, item.params, "x")
    if isinstance(item, np.ndarray) or (hasattr(item, "detach") and hasattr(item, "numpy")):
        return recorder.constant(item)
    if isinstance(item, (tuple, list)) and any(isinstance(part, np.ndarray) for part in item):
        return type(item)([_constant(part, recorder) for part in item])
    return item


__all__ = ["current_trace", "inline", "run_eagerly", "trace"]
