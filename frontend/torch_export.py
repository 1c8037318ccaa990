"""The program that torch.export gives for a module: example tensors, dynamic sizes, and which ops are decomposed.

A refusal of torch becomes a TraceError here. `torch_import.py` reads the program.
"""

from __future__ import annotations

import contextlib
import inspect
import linecache
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

from qcompiler.dims import Dim
from qcompiler.errors import TraceError
from qcompiler.frontend.recorder import Trace
from qcompiler.frontend.source import display_path
from qcompiler.frontend.torch_ops import CHECKS, SIZE_FUNCTIONS, SIZE_NAMES, TABLE
from qcompiler.frontend.torch_ops.recurrent import kept_whole
from qcompiler.types import TensorType

# -- inputs


def examples_by_name(module: Any, example_inputs: Any) -> dict[str, Any]:
    """Example inputs by the parameter names of `forward`."""
    if isinstance(example_inputs, Mapping):
        return dict(example_inputs)
    listed = list(example_inputs) if isinstance(example_inputs, (tuple, list)) else [example_inputs]
    parameters = list(inspect.signature(module.forward).parameters.values())
    plain = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    if len(listed) > len(plain) and variadic is None:
        raise TraceError(
            "more example inputs than parameters", expected=f"({', '.join(plain)})", got=f"{len(listed)} inputs"
        )
    names = plain[: len(listed)] + [f"{variadic}_{i}" for i in range(len(listed) - len(plain))]
    return dict(zip(names, listed))


def by_path(examples: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the parts of nested examples by their paths, the nesting with paths in place of parts). Dicts, lists and tuples
    nest: `{"x": [a, b]}` has the parts `x_0` and `x_1`."""
    parts: dict[str, Any] = {}

    def visit(item: Any, path: str) -> Any:
        if isinstance(item, Mapping):
            return {key: visit(part, f"{path}_{key}") for key, part in item.items()}
        if isinstance(item, (list, tuple)) and not all(isinstance(part, (bool, int, float)) for part in item):
            return type(item)([visit(part, f"{path}_{i}") for i, part in enumerate(item)])
        if path in parts:
            raise TraceError(f"two parts of the example inputs would have the name {path!r}")
        parts[path] = item
        return path

    nesting = {name: visit(item, name) for name, item in examples.items()}
    return parts, nesting


def nested(nesting: Any, parts: Mapping[str, Any]) -> Any:
    """The nesting that `by_path` gave, with these parts in place of their paths."""
    if isinstance(nesting, str):
        return parts[nesting]
    if isinstance(nesting, dict):
        return {key: nested(item, parts) for key, item in nesting.items()}
    return type(nesting)([nested(item, parts) for item in nesting])


def example_tensors(
    torch: Any, examples: Mapping[str, Any], types: Mapping[str, TensorType], recorder: Trace
) -> dict[str, Any]:
    """Zero tensors of the inputs' types.

    A dynamic size of 0 or 1 becomes 2, because torch.export takes 0 and 1 for constants. Sizes without an example
    become 4, 6, 8, ..., all different, so that torch does not take two sizes for one.
    """
    sizes = {name: max(size, 2) for name, size in recorder.sizes.items()}
    for type in types.values():
        for dim_name in sorted(type.dim_names):
            sizes.setdefault(dim_name, 4 + 2 * len(sizes))
    kinds = {
        "f32": torch.float32,
        "i64": torch.int64,
        "i32": torch.int32,
        "i16": torch.int16,
        "i8": torch.int8,
        "u8": torch.uint8,
        "bool": torch.bool,
    }
    made = {}
    for name, type in types.items():
        example = examples[name]
        dtype = example.dtype if isinstance(example, torch.Tensor) else kinds.get(str(type.dtype))
        if dtype is None or type.is_quantized:
            raise TraceError(f"input {name!r} has a type that torch models don't take", got=str(type.dtype))
        made[name] = torch.zeros(type.bind(sizes).shape, dtype=dtype)
    return made


def export(
    torch: Any,
    module: Any,
    tensors: Mapping[str, Any],
    types: Mapping[str, TensorType],
    nesting: Mapping[str, Any],
    by_name: bool,
) -> Any:
    """The exported program of a module called with `tensors`, nested as `by_path` says."""
    by_part = {name: _dynamic_shape(torch, type) for name, type in types.items()}
    shapes, given = (nested(dict(nesting), parts) for parts in (by_part, tensors))
    args = () if by_name else tuple(given.values())
    kwargs = given if by_name else None
    parameters = inspect.signature(module.forward).parameters.values()
    variadic = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
    dynamic_shapes: Any = None
    if any(by_part.values()):
        dynamic_shapes = shapes if by_name or variadic else tuple(shapes.values())
        if variadic and not by_name:
            fixed = {name: shape for name, shape in shapes.items() if not name.startswith(f"{variadic}_")}
            dynamic_shapes = {**fixed, variadic: tuple(s for n, s in shapes.items() if n not in fixed)}
    try:
        with warnings.catch_warnings(), torch.no_grad(), _quiet(), kept_whole(torch), _masks_unread():
            warnings.simplefilter("ignore")
            return torch.export.export(module, args, kwargs, dynamic_shapes=dynamic_shapes, strict=False)
    except TraceError:  # a refusal of the stand-ins for quantized tensors
        raise
    except Exception as error:  # torch.export raises many classes; all of them mean that it refuses the model
        raise TraceError(
            f"torch.export refuses {type(module).__name__}: {_first_lines(error)}",
            where=_place_of(error),
            hint=_other_floats(module, tensors) or _advice(error),
        ) from error


def _advice(error: BaseException) -> str:
    """What to do about a module that torch.export refuses."""
    text = f"{type(error).__name__} {error}"
    if "data-dependent" in text or "DataDependent" in text:
        return "write conditions on data as torch.where, and take counts that data decides out of forward()"
    if "ynamic" in text or "onstraint" in text:
        return "see that dynamic sizes are really free"
    return "use torch's functions on tensors alone in forward(); an ONNX file of the model is another way in"


@contextlib.contextmanager
def _masks_unread() -> Iterator[None]:
    """Don't let torch.nn.TransformerEncoder and TransformerDecoder look whether the numbers of a mask are causal, to
    choose a faster kernel: torch.export refuses control flow on data. Without that hint they read the mask."""
    from torch.nn.modules import transformer

    detect = transformer._detect_is_causal_mask
    transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: bool(is_causal)
    try:
        yield
    finally:
        transformer._detect_is_causal_mask = detect


def _other_floats(module: Any, tensors: Mapping[str, Any]) -> str | None:
    """What to do if example inputs and weights have different float types, None if they have not."""
    weights = sorted({str(each.dtype) for each in module.parameters() if each.is_floating_point()})
    given = sorted({str(each.dtype) for each in tensors.values() if each.is_floating_point()})
    if not weights or set(given) <= set(weights):
        return None
    return f"convert the example inputs ({', '.join(given)}) to the type of the weights ({', '.join(weights)})"


def _dynamic_shape(torch: Any, type: TensorType) -> dict[int, Any] | None:
    """The axes that are symbolic for torch. Its names and bounds don't matter: sizes are matched by axis."""
    for size in type.dim_names:
        if any(isinstance(dim, Dim) and size in dim.names() and str(dim) != size for dim in type.shape):
            raise TraceError(
                f"a size of an input must be a plain name for a torch module, not an expression of {size}",
                hint="name it, and let the model's own arithmetic relate it to others",
            )
    return {
        axis: torch.export.Dim.DYNAMIC(min=1) for axis, size in enumerate(type.shape) if isinstance(size, Dim)
    } or None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's logger: torch.export logs failures before it raises them."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _first_lines(error: BaseException) -> str:
    """What torch says, without its own places in our files and its advice on logs."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = re.sub(r"\s*(Caused by: \(.*?\)|For (more information|extended logs).*)", "", " ".join(lines[:4]))
    return f"{type(error).__name__}: {text}"[:600]


def _place_of(error: BaseException) -> str | None:
    """The user's line in an exception's traceback: `file:line: source`."""
    trace = error.__traceback__
    place = None
    while trace is not None:
        filename = trace.tb_frame.f_code.co_filename
        if not is_library(filename):
            source = linecache.getline(filename, trace.tb_lineno, trace.tb_frame.f_globals).strip()
            place = f"{display_path(filename)}:{trace.tb_lineno}" + (f": {source}" if source else "")
        trace = trace.tb_next
    return place


def is_library(filename: str) -> bool:
    normal = filename.replace(os.sep, "/")
    return (
        filename.startswith("<")
        or "/torch/" in normal
        or "/contextlib.py" in normal
        or normal.startswith(os.path.dirname(os.path.abspath(__file__)).replace(os.sep, "/"))
    )


# -- decomposition


_MAY_ALIAS = frozenset(
    (  # ops that may return their operand's memory although their schema does not say so
        "reshape",
        "contiguous",
        "flatten",
        "unflatten",
        "to",
        "dropout",
        "feature_dropout",
        "alpha_dropout",
        "feature_alpha_dropout",
        "type_as",
        "expand_as",
        "view_as",
        "chunk",
        "split",
        "tensor_split",
        "unbind",
        "narrow",
        "movedim",
        "moveaxis",
        "swapaxes",
        "squeeze",
        "detach",
        "alias",
        "positive",
        "lift_fresh",
        "numpy_T",
        "broadcast_to",
    )
)


CORE_BUT_DECOMPOSED = ("grid_sampler_2d", "native_group_norm")
"""Core ATen ops that have no meaning of their own here, but a decomposition in torch that others don't ask for."""


def decompose(torch: Any, program: Any) -> Any:
    """Make the graph functional, and decompose ops outside of the table into core ATen ops.

    torch's pass forgets which modules some views belong to, so it runs only when it must: for unknown ops, and if an
    in-place op could change another value.
    """
    unknown = any(
        not is_known(node.target) for node in _calls(program) if isinstance(node.target, torch._ops.OpOverload)
    )
    if not unknown and _inplace_is_private(program):
        return program
    table: dict[Any, Any] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if unknown:
            more = torch._decomp.get_decompositions([getattr(torch.ops.aten, name) for name in CORE_BUT_DECOMPOSED])
            rules = {**torch.export.default_decompositions(), **more}
            table = {op: rule for op, rule in rules.items() if str(op) not in TABLE}
        return program.run_decompositions(table)


def _calls(program: Any) -> list[Any]:
    return [node for node in program.graph.nodes if node.op == "call_function"]


def functional_name(target: Any) -> str:
    """The op's printed name; for an in-place op (`aten.relu_.default`) that of the functional op."""
    name = str(target)
    head, dot, overload = name.rpartition(".")
    return f"{head[:-1]}.{overload}" if dot and head.endswith("_") and not head.endswith("__") else name


def _is_inplace(target: Any) -> bool:
    return str(target) != functional_name(target)


def is_known(target: Any) -> bool:
    name = getattr(target, "__name__", "")
    return functional_name(target) in TABLE or target in SIZE_FUNCTIONS or name in SIZE_NAMES


def is_of_sizes(target: Any) -> bool:
    """Whether a function works on Python numbers: sizes, and what torch checks them for."""
    name = getattr(target, "__name__", "")
    return target in SIZE_FUNCTIONS or name in SIZE_NAMES or functional_name(target) in CHECKS


def _may_alias(node: Any) -> bool:
    """Whether a node's result could share memory with its operand."""
    if node.op != "call_function":
        return True
    schema = getattr(node.target, "_schema", None)
    if schema is None or schema.name.removeprefix("aten::") in _MAY_ALIAS:
        return True
    return any(result.alias_info is not None for result in schema.returns) and not _is_inplace(node.target)


def _inplace_is_private(program: Any) -> bool:
    """Whether no in-place op changes a value that anything else reads afterwards, itself or through an alias."""
    order = {node: position for position, node in enumerate(program.graph.nodes)}
    for node in _calls(program):
        if _is_inplace(node.target):
            changed = node.args[0]
            others = [user for user in changed.users if user is not node]
            if _may_alias(changed) or any(order[user] > order[node] or _may_alias(user) for user in others):
                return False
    return True
