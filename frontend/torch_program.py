"""Programs that torch.export has made already: an ExportedProgram, its .pt2 file, and the module that one gives."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from typing import Any

from qcompiler.dims import Dim, DimLike, Dynamic
from qcompiler.errors import TraceError, nearest
from qcompiler.frontend.recorder import Trace
from qcompiler.frontend.torch_ops.table import element_type
from qcompiler.frontend.tracer import declared_axes, dynamic_dim, input_types
from qcompiler.notes import Guard
from qcompiler.regular_file import open_regular
from qcompiler.types import DType, TensorType


def is_exported_module(torch: Any, module: Any) -> bool:
    """Whether a module is what `ExportedProgram.module()` gives. It takes no mode: `training` stays True, and `eval`
    refuses. The program that it plays was made in the mode that the exported module had."""
    return isinstance(module, torch.fx.GraphModule) and "eval" in vars(module)


def load_program(torch: Any, path: str | os.PathLike[str]) -> Any:
    """The program of a .pt2 file, as torch.export.load reads it.

    Raises:
        TraceError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            return torch.export.load(file)
    except Exception as error:  # torch raises many classes for a file that it does not understand
        first = str(error).partition("\n")[0][:300]
        raise TraceError(
            "torch.export.load cannot read the file",
            where=os.fspath(path),
            expected="what torch.export.save writes",
            got=f"{type(error).__name__}: {first}",
        ) from error


def user_inputs(program: Any) -> list[tuple[Any, Any]]:
    """(placeholder, argument) of each input of a program, with those that export has fixed to a plain value."""
    signature = program.graph_signature
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    return [(placeholders[spec.arg.name], spec.arg) for spec in signature.input_specs if spec.kind.name == "USER_INPUT"]


def program_inputs(
    torch: Any, program: Any, example_inputs: Any, dynamic: Dynamic | None, recorder: Trace
) -> dict[str, TensorType]:
    """The types of a program's inputs. An open size is named after the first axis that has it (`x_0`), or as `dynamic`
    says.

    Raises:
        TraceError: an input without a type here, a name for an axis that export has fixed, or examples that do not fit.
    """
    tensors = {
        node.name: node.meta["val"]
        for node, _ in user_inputs(program)
        if isinstance(node.meta.get("val"), torch.Tensor)
    }
    symbols = _name_symbols(tensors, dynamic, recorder)
    types = {name: _type(torch, name, value, symbols) for name, value in tensors.items()}
    _note_ranges(program, symbols, recorder)
    if example_inputs is not None:
        _check_examples(types, example_inputs, recorder)
    return types


def _name_symbols(tensors: Mapping[str, Any], dynamic: Dynamic | None, recorder: Trace) -> dict[str, DimLike]:
    """A name for each of torch's symbols."""
    found: dict[str, DimLike] = {}
    for name, axes in declared_axes(list(tensors), {} if dynamic is None else dynamic).items():
        shape = tensors[name].shape
        for axis, wanted in axes.items():
            if not isinstance(axis, int) or not -len(shape) <= axis < len(shape):
                raise TraceError(f"dynamic: input {name!r} has no axis {axis}", got=str(list(shape)))
            if isinstance(shape[axis], int):
                raise TraceError(
                    f"dynamic: the exported program has fixed axis {axis} of {name!r}",
                    got=shape[axis],
                    hint="export it with dynamic_shapes, or give the module itself",
                )
            found.setdefault(str(shape[axis].node.expr), dynamic_dim(name, axis, wanted, recorder))
    for name, value in tensors.items():
        for axis, size in enumerate(value.shape):
            if not isinstance(size, int) and size.node.expr.is_Symbol:
                found.setdefault(str(size.node.expr), Dim.name(f"{name}_{axis}"))
    return found


def _type(torch: Any, name: str, value: Any, symbols: Mapping[str, DimLike]) -> TensorType:
    dtype = DType.F32 if value.dtype.is_floating_point else element_type(value.dtype)
    if dtype is None:
        raise TraceError(f"input {name!r} has a type that is not supported", got=str(value.dtype))
    sizes = (size if isinstance(size, int) else size_expression(size.node.expr, symbols) for size in value.shape)
    return TensorType(dtype, tuple(sizes))


def _note_ranges(program: Any, symbols: Mapping[str, DimLike], recorder: Trace) -> None:
    """Guard the bounds of open sizes that the exporter was given."""
    for symbol, bounds in program.range_constraints.items():
        dim = symbols.get(str(symbol))
        if isinstance(dim, Dim):
            if bounds.lower > 1:
                recorder.guard(Guard(dim, ">=", int(bounds.lower)))
            if bounds.upper.is_Integer:
                recorder.guard(Guard(dim, "<=", int(bounds.upper)))


def _check_examples(types: Mapping[str, TensorType], example_inputs: Any, recorder: Trace) -> None:
    """Raise unless example inputs are inputs of the program. The sizes of open axes are kept."""
    if isinstance(example_inputs, Mapping):
        examples = dict(example_inputs)
    else:
        listed = list(example_inputs) if isinstance(example_inputs, (tuple, list)) else [example_inputs]
        if len(listed) > len(types):
            raise TraceError(
                "more example inputs than the program has", expected=", ".join(types), got=f"{len(listed)} inputs"
            )
        examples = dict(zip(types, listed))
    for name, given in input_types(examples, None, recorder).items():
        if name not in types:
            raise TraceError(f"the program has no input {name!r}", hint=nearest(name, types))
        expected = types[name]
        sizes = list(zip(expected.shape, given.shape))
        fits = expected.rank == given.rank and all(isinstance(want, Dim) or want == size for want, size in sizes)
        if not fits or expected.dtype is not given.dtype:
            raise TraceError(
                f"example input {name!r} does not fit the exported program", expected=str(expected), got=str(given)
            )
        for want, size in sizes:
            if isinstance(want, Dim) and str(want) in want.names() and isinstance(size, int):
                recorder.sizes.setdefault(str(want), size)


def size_expression(expression: Any, symbols: Mapping[str, DimLike]) -> DimLike:
    """A sympy expression of torch's symbols as a Dim."""
    kind = type(expression).__name__
    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol and str(expression) in symbols:
        return symbols[str(expression)]
    parts = [size_expression(part, symbols) for part in expression.args] if kind in _ARITHMETIC else []
    if not parts:
        raise TraceError(
            "the module computes with sizes in a way that can't be noted",
            got=str(expression),
            hint="leave those sizes static",
        )
    result = parts[0]
    for part in parts[1:]:
        result = _ARITHMETIC[kind](result, part)
    return result


_ARITHMETIC = {
    "Add": operator.add,
    "Mul": operator.mul,
    "FloorDiv": operator.floordiv,
    "Mod": operator.mod,
    "PythonMod": operator.mod,
}
