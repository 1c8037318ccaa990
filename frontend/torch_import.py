"""Import a torch.nn.Module through torch.export into the float graph that the tracer would give.

Owns parameter names (those of the state dict), origins, source lines and guards. The export call and which ATen ops are
decomposed are in `torch_export.py`, what each op means in `torch_ops/`. torch is an optional extra and loads on the
first import of a module.
"""

from __future__ import annotations

import collections
import contextlib
import operator
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np

from qcompiler.dims import Dim, DimLike, Dynamic
from qcompiler.errors import QCompilerError, ShapeError, TraceError, near_name
from qcompiler.frontend.recorder import Trace, Traced
from qcompiler.frontend.sizes import Size
from qcompiler.frontend.source import display_path
from qcompiler.frontend.stepped_sizes import with_numbers
from qcompiler.frontend.torch_eager_quantized import has_mode, is_eager_quantized, readable
from qcompiler.frontend.torch_export import (
    by_path,
    decompose,
    example_tensors,
    examples_by_name,
    export,
    functional_name,
    is_known,
    is_library,
    is_of_sizes,
)
from qcompiler.frontend.torch_ops import SIZE_FUNCTIONS, SIZE_NAMES, TABLE
from qcompiler.frontend.torch_ops.complex import Complex, meaning_of
from qcompiler.frontend.torch_ops.table import Later, Missing, dtype_of
from qcompiler.frontend.torch_program import (
    is_exported_module,
    load_program,
    program_inputs,
    size_expression,
    user_inputs,
)
from qcompiler.frontend.tracer import input_types, set_outputs
from qcompiler.ir import Graph, Loc
from qcompiler.notes import Guard
from qcompiler.types import TensorType

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in ')


def is_torch_module(model: Any) -> bool:
    """Whether `model` is a torch.nn.Module; does not import torch."""
    return any(
        (base.__module__, base.__qualname__) == ("torch.nn.modules.module", "Module") for base in type(model).__mro__
    )


def import_torch(module: Any, example_inputs: Any, *, dynamic: Dynamic | None = None, name: str | None = None) -> Graph:
    """The float graph of a torch module in eval mode.

    Args:
        module: a torch.nn.Module; every part of it must be in eval mode.
        example_inputs: a tensor or array, a tuple by position, or a dict by parameter name (TensorTypes too). An input
            may be a dict, list or tuple of these; its parts become inputs of the graph: `x_0`, `x_1` for a list `x`.
        dynamic: {input name or position: {axis: size name}}.
        name: the graph's name; the module's class by default.

    Raises:
        TraceError: torch is missing, the module is in training mode, torch.export refuses it, or it has ATen ops that
            are not in the table (all of them listed, with counts and a source line each).
    """
    torch = _torch()
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        raise TraceError(
            "a scripted or traced module (torch.jit) cannot be imported",
            got=type(module).__name__,
            hint="give the torch.nn.Module that it was made from, or its ONNX file",
        )
    if not isinstance(module, torch.nn.Module):
        raise TraceError("a torch model is a torch.nn.Module", got=type(module).__name__)
    if example_inputs is None:
        raise TraceError(
            "importing a torch module needs example inputs",
            expected="an array, a tuple by position, or a dict by name",
            hint="compile(module, qconfig, (x,)), where x is the input of one call",
        )
    if not is_exported_module(torch, module):
        _check_mode(module)
    for path, tensor in (*module.named_parameters(), *module.named_buffers()):
        if tensor.device.type == "meta":
            raise TraceError("the torch module has no weights", got=f"{path} on device meta", hint="load its weights")
    recorder = Trace(name or type(module).__name__)
    recorder.scalars_yield = True
    examples, nesting = by_path(examples_by_name(module, example_inputs))
    types = input_types(examples, dynamic, recorder)
    by_name = isinstance(example_inputs, Mapping)
    tensors = example_tensors(torch, examples, types, recorder)
    if is_eager_quantized(torch, module):
        module = readable(torch, module)
    program = export(torch, module, tensors, types, nesting, by_name)
    return _record(torch, program, recorder, types)


def import_program(program: Any, example_inputs: Any = None, *, dynamic: Dynamic | None = None) -> Graph:
    """The graph of a torch.export.ExportedProgram, or of its .pt2 file. It has stage qdq if the program quantizes.

    Args:
        program: an ExportedProgram, or the path of what torch.export.save wrote. Such a file may hold pickled objects,
            which torch.export.load reads: load files of people that you trust.
        example_inputs: not needed; they are checked against the program.
        dynamic: names for the sizes that the program leaves open: {input: {axis: name}}.

    Raises:
        TraceError: torch is missing, the file is none, or as `import_torch`.
    """
    torch = _torch()
    if isinstance(program, (str, os.PathLike)):
        program = load_program(torch, program)
    recorder = Trace("exported")
    recorder.scalars_yield = True
    types = program_inputs(torch, program, example_inputs, dynamic, recorder)
    return _record(torch, program, recorder, types)


def _check_mode(module: Any) -> None:
    parts = [(path, part) for path, part in module.named_modules() if has_mode(part)]
    training = [path or "the module itself" for path, part in parts if part.training]
    if training:
        raise TraceError(
            "the torch module is in training mode",
            got=", ".join(training[:5]) + (f" and {len(training) - 5} more" if len(training) > 5 else ""),
            hint="module.eval()",
        )


def _record(torch: Any, program: Any, recorder: Trace, types: Mapping[str, TensorType]) -> Graph:
    program = decompose(torch, program)
    with recorder.recording():
        _Importer(torch, program, recorder, types).run()
    return recorder.graph


def _torch() -> Any:
    try:
        import torch
        import torch.export  # noqa: F401
    except ImportError as error:
        raise TraceError(
            "importing a torch module needs torch", got=str(error), hint="pip install 'qcompiler-ir[torch]'"
        ) from None
    return torch


# -- where nodes come from


def _check_supported(program: Any) -> None:
    """Raise a TraceError that lists every op without a meaning, with its count and first source line."""
    unknown: collections.Counter[str] = collections.Counter()
    first: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op == "call_function" and not is_known(node.target):
            name = str(node.target)
            unknown[name] += 1
            loc = _loc(node)
            first.setdefault(name, f" (first at {loc.file}:{loc.line})" if loc else "")
    if unknown:
        listed = "\n            ".join(f"{count} x {op}{first[op]}" for op, count in unknown.most_common())
        near = near_name(_plain_name(unknown.most_common(1)[0][0]), {_plain_name(name) for name in TABLE})
        raise TraceError(
            f"{len(unknown)} kinds of torch ops are not supported",
            got=listed,
            hint=f"did you mean {near!r}?" if near else _HINT,
        )


_HINT = 'qc.register_importer("torch", "namespace::op", meaning) says what an op means'


def _plain_name(name: str) -> str:
    """A function's name without its namespace and overload: all names of a table share these."""
    return name.removeprefix("aten.").partition(".")[0]


def _loc(node: Any) -> Loc | None:
    """The innermost line of an fx node's stack trace that is the user's, or None."""
    frames = _FRAME.findall(node.meta.get("stack_trace") or "")
    for filename, line in reversed(frames):
        if not is_library(filename):
            return Loc(display_path(filename), int(line))
    return None


def _module(node: Any) -> tuple[str, str, str]:
    """The path, the class and the key of this call of the innermost module that an fx node belongs to."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return "", "", ""
    key, (path, kind) = list(stack.items())[-1]
    kind = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    return re.sub(r"@\d+$", "", path), kind, key


# -- recording


class _Importer:
    """Records an exported program on a Trace."""

    def __init__(self, torch: Any, program: Any, recorder: Trace, types: Mapping[str, TensorType]) -> None:
        self.torch = torch
        self.program = program
        self.recorder = recorder
        self.types = types
        self.environment: dict[Any, Any] = {}
        self.symbols: dict[str, DimLike] = {}
        self.environments: set[Any] = set()
        self._arrays: dict[tuple[Any, ...], np.ndarray] = {}

    def run(self) -> None:
        _check_supported(self.program)
        self._note_widened()
        self._inputs()
        calls = [node for node in self.program.graph.nodes if node.op == "call_function"]
        following = None
        nexts: dict[Any, Any] = {}
        for node in reversed(calls):  # the next real op: parts of a tuple belong to the op that made it
            nexts[node] = following
            following = following if node.target is operator.getitem else node
        for node in calls:
            self._call(node, nexts[node])
        self.recorder.loc = None
        self._outputs()
        self._guards()

    def _note_widened(self) -> None:
        """Find the float types, other than float32, of the module's inputs, parameters and constants. The graph holds
        these tensors as f32, so it computes in f32 where torch computes in their type."""
        for node in self.program.graph.nodes:
            value = node.meta.get("val")
            if node.op != "placeholder" or not isinstance(value, self.torch.Tensor):
                continue
            if value.dtype.is_floating_point and value.dtype is not self.torch.float32:
                self.recorder.widened.add(str(value.dtype))
                self.recorder.note(f"{str(value.dtype).removeprefix('torch.')} is computed as f32")

    def _check_type(self, node: Any, result: Any) -> None:
        """TraceError unless a result has the element type and the sizes that torch gives it."""
        expected = node.meta.get("val")
        if isinstance(result, (tuple, list)) and isinstance(expected, (tuple, list)):
            pairs = list(zip(result, expected))
        else:
            pairs = [(result, expected)]
        for found, want in pairs:
            if not isinstance(found, Traced) or not isinstance(want, self.torch.Tensor):
                continue
            type = found.value.type
            sizes = [
                size for size in zip(type.shape, want.shape) if isinstance(size[0], int) and isinstance(size[1], int)
            ]
            same = dtype_of(want.dtype) is type.dtype
            if not same or type.rank != want.dim() or any(own != given for own, given in sizes):
                raise TraceError(
                    "this call would not give what torch gives",
                    expected=f"{str(want.dtype).removeprefix('torch.')}{list(want.shape)}",
                    got=str(type),
                    hint="cast the operands to float32, or to int64, first",
                )

    def _inputs(self) -> None:
        """Graph inputs and constants for the placeholders."""
        kinds = self.torch.export.graph_signature.InputKind
        placeholders = {node.name: node for node in self.program.graph.nodes if node.op == "placeholder"}
        types = iter(self.types.items())
        for node, argument in user_inputs(self.program):
            if not isinstance(node.meta.get("val"), self.torch.Tensor):
                self.environment[node] = getattr(argument, "value", None)
                continue
            name, type = next(types)
            type = type.substitute(self._read_symbols(node, type))
            self.environment[node] = self.recorder.wrap(self.recorder.graph.add_input(name, type))
        for spec in self.program.graph_signature.input_specs:
            if spec.kind is not kinds.USER_INPUT:
                self.environment[placeholders[spec.arg.name]] = self._constant(spec.target)

    def _read_symbols(self, node: Any, type: TensorType) -> dict[str, DimLike]:
        """Learn which of torch's symbols stands for which size, and return the sizes to replace.

        Two of our sizes that share a symbol must be equal for the module's code. The second is replaced by the first,
        so inputs are checked for it.
        """
        replaced: dict[str, DimLike] = {}
        value = node.meta.get("val")
        for actual, dim in zip(value.shape if isinstance(value, self.torch.Tensor) else (), type.shape):
            if isinstance(dim, Dim) and not isinstance(actual, int):
                self.environments.add(actual.node.shape_env)
                known = self.symbols.setdefault(str(actual.node.expr), dim)
                if known != dim:
                    replaced[str(dim)] = known
                    self.recorder.note(f"size {dim} is {known}")
        return replaced

    def _constant(self, target: str) -> Any:
        """The parameter, buffer or lifted tensor `target`. Tied tensors share one constant, with the first name."""
        for source in (self.program.state_dict, self.program.constants):
            if target in source:
                tensor = source[target]
                break
        else:
            raise TraceError(f"the exported program lacks the tensor {target!r}")
        if not isinstance(tensor, self.torch.Tensor):
            raise TraceError(f"{target!r} is no tensor", got=type(tensor).__name__)
        tensor = tensor.detach().cpu()
        if tensor.dtype in (self.torch.bfloat16, self.torch.float16):
            tensor = tensor.float()
        if tensor.is_complex():
            parts = ((name, getattr(tensor, name).contiguous().numpy()) for name in ("real", "imag"))
            return Complex(*(self.recorder.constant(part, name=f"{target}.{name}") for name, part in parts))
        key = (tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), str(tensor.dtype))
        array = self._arrays.setdefault(key, tensor.numpy()) if tensor.numel() else tensor.numpy()
        return self.recorder.constant(array, name=target)

    def _call(self, node: Any, following: Any) -> None:
        path, kind, call = _module(node)
        self.recorder.loc = _loc(node)
        args = self.torch.fx.map_arg(node.args, self._value)
        kwargs = self.torch.fx.map_arg(dict(node.kwargs), self._value)
        if node.target is not operator.getitem:
            unknown = self._missing((args, kwargs))
            if unknown is not None and is_of_sizes(node.target):  # a number that only torch's checks may read
                self.environment[node] = unknown
                return
            self._check_missing((args, kwargs))
        name = getattr(node.target, "__name__", "")
        meaning = TABLE.get(functional_name(node.target)) or SIZE_FUNCTIONS.get(node.target) or SIZE_NAMES[name]
        with self.recorder.scope(path, kind) if kind else contextlib.nullcontext():
            try:
                leaves = self.torch.utils._pytree.tree_leaves((args, kwargs))
                if any(isinstance(leaf, (Complex, self.torch.dtype)) for leaf in leaves):
                    meaning = meaning_of(functional_name(node.target), meaning, leaves)
                result = self._meaning_of_call(meaning, args, kwargs)
                if isinstance(result, Later):  # a getitem reads it
                    result = result.compute()
                self._check_type(node, result)
            except QCompilerError as error:
                raise error.located(f"{node.target} at {self.recorder.place()}") from None
            except TypeError as error:
                raise TraceError(
                    f"{node.target} with these arguments is not supported: {error}", where=self.recorder.place()
                ) from error
        self.environment[node] = result
        ends = following is None or _module(following)[2] != call
        if ends and kind.startswith("torch.nn.") and not kind.startswith("torch.nn.modules.container."):
            produced = result[0] if isinstance(result, tuple) and result else result
            if isinstance(produced, Traced):
                self.recorder.adopt_name(produced, path)

    def _meaning_of_call(self, meaning: Any, args: Any, kwargs: Any) -> Any:
        """What an op gives. If its sizes do not fit, those that the example decides become numbers."""
        try:
            return meaning(*args, **kwargs)
        except (ShapeError, TraceError):
            pytree = self.torch.utils._pytree
            leaves, structure = pytree.tree_flatten((args, kwargs))
            numbers = [with_numbers(leaf, self.recorder) for leaf in leaves]
            if all(number is leaf for number, leaf in zip(numbers, leaves)):
                raise
            args, kwargs = pytree.tree_unflatten(numbers, structure)
            return meaning(*args, **kwargs)

    def _missing(self, values: Any) -> Missing | None:
        """The first of the values that has no meaning here."""
        leaves = self.torch.utils._pytree.tree_leaves(values)
        return next((leaf for leaf in leaves if isinstance(leaf, Missing)), None)

    def _check_missing(self, values: Any) -> None:
        """TraceError if one of the values is a result that has no meaning here."""
        found = self._missing(values)
        if found is not None:
            raise TraceError(
                f"not supported: {found.what}",
                where=self.recorder.place(),
                hint="the op itself is: leave out what reads this result",
            )

    def _value(self, node: Any) -> Any:
        return self.environment[node]

    def _outputs(self) -> None:
        """The module's results, nested as it returned them."""
        output = next(node for node in self.program.graph.nodes if node.op == "output")
        specs = self.program.graph_signature.output_specs
        kinds = self.torch.export.graph_signature.OutputKind
        leaves = []
        for spec, value in zip(specs, output.args[0]):
            if spec.kind is not kinds.USER_OUTPUT:
                raise TraceError(
                    "the module changes its own state in forward()",
                    got=f"{spec.kind.name}: {spec.target}",
                    hint="module.eval(), and no assignment to buffers",
                )
            found = self.environment[value] if isinstance(value, self.torch.fx.Node) else value
            leaves.append(int(found) if isinstance(found, Size) else found)
        self._check_missing(leaves)
        places = [_Place(index) for index in range(len(leaves))]  # a class of results may look into what it is given
        returned = self.torch.utils._pytree.tree_unflatten(places, self.program.call_spec.out_spec)
        set_outputs(self.recorder, _filled(returned, leaves))

    def _guards(self) -> None:
        """Turn decisions on sizes by the user's code into guards. Those by torch's own code concern only strides."""
        for environment in self.environments:
            for asked in environment.guards:
                frame = getattr(getattr(asked, "sloc", None), "framework_loc", None)
                if frame is not None and is_library(frame.filename):
                    continue
                guard = self._guard(asked.expr.xreplace(environment.replacements))
                if guard is not None and not guard.is_static:
                    self.recorder.guard(guard)

    def _guard(self, relation: Any) -> Guard | None:
        """torch's relation of symbols as a Guard, or None if it is always true."""
        sign = _RELATIONS.get(type(relation).__name__)
        if sign is None:
            if not relation.free_symbols:
                return None
            raise TraceError(
                "the module decides by sizes in a way that can't be noted",
                got=str(relation),
                hint="leave those sizes static",
            )
        left, right = (size_expression(side, self.symbols) for side in (relation.lhs, relation.rhs))
        return Guard(left, sign, right)


@dataclass(frozen=True)
class _Place:
    """Stands for a result while the structure of all results is made."""

    index: int


def _filled(item: Any, leaves: Sequence[Any]) -> Any:
    """Nested results with leaves in place of places."""
    if isinstance(item, _Place):
        return leaves[item.index]
    if isinstance(item, Mapping):
        return {key: _filled(part, leaves) for key, part in item.items()}
    if isinstance(item, (tuple, list)):
        parts = [_filled(part, leaves) for part in item]
        return parts if isinstance(item, list) else tuple(parts)
    if is_dataclass(item) and not isinstance(item, type):
        return {field.name: _filled(getattr(item, field.name), leaves) for field in fields(item)}
    return item


_RELATIONS = {
    "Equality": "==",
    "Unequality": "!=",
    "StrictGreaterThan": ">",
    "GreaterThan": ">=",
    "StrictLessThan": "<",
    "LessThan": "<=",
}
