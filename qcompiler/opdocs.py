"""docs/ops.md, written from the registry: `python -m qcompiler.opdocs > docs/ops.md`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.errors import QCompilerError
from qcompiler.ir import Graph, Value
from qcompiler.opdef import REQUIRED, OpDef, QuantKind, Role, Sample, Trait, all_ops
from qcompiler.ops.interfaces import RangeConversion
from qcompiler.ops.recurrent import Recurrent
from qcompiler.types import DType, QuantParams, TensorType, type_of

if TYPE_CHECKING:
    from qcompiler.backends.target import Target

_ARCHITECTURES = {"x86": "x86-64-linux", "ARM": "aarch64-linux"}
"""Column -> the target's name without its level."""
_RULES = {
    QuantKind.WEIGHTED: "i32 accumulator, requantized to a range of its own; bias i32",
    QuantKind.SHARES_INPUT: "the parameters of its operands",
    QuantKind.OWN_RANGE: "an observed range",
    QuantKind.FIXED: "a known range",
    QuantKind.FLOAT_ONLY: "stays float",
}

_OF_RECURRENT = "weights of i8; codes of u8 of x and of the states, by calibrated ranges or by those of each call"


def _quantizable(op: OpDef) -> bool:
    chain = Trait.UNARY in op.traits
    return (
        op.family == "quantized"
        or chain
        or (op.quant.kind is not QuantKind.FLOAT_ONLY and (op.integer is not None or Trait.MOVES_DATA in op.traits))
    )


Widths = tuple[DType, DType]
"""The element types of codes that an op reads, and of those that it gives."""
_WIDTHS: dict[str, Widths] = {
    "u8 to u8": (DType.U8, DType.U8),
    "u8 to i16": (DType.U8, DType.I16),
    "i16 to u8": (DType.I16, DType.U8),
    "i16 to i16": (DType.I16, DType.I16),
}


def _codes(dtype: DType) -> QuantParams:
    return QuantParams.per_tensor(0.05, 128, dtype)


def _operand(graph: Graph, op: OpDef, position: int, sample: TensorType | np.ndarray, widths: Widths | None) -> Value:
    type = sample if isinstance(sample, TensorType) else type_of(sample)
    role = op.spec(position).role
    if widths is not None and type.dtype.is_float and role is Role.ACTIVATION:
        type = type.quantized(widths[0], _codes(widths[0]))
    elif widths is not None and type.dtype.is_float and role in (Role.WEIGHT, Role.BIAS):
        dtype = DType.I8 if role is Role.WEIGHT else DType.I32
        type = type.quantized(dtype, QuantParams.per_tensor(0.01 if role is Role.WEIGHT else 0.0005, 0, dtype))
    if role in (Role.ACTIVATION, Role.INDEX):
        return graph.add_input(f"x{position}", type)
    data = sample if isinstance(sample, np.ndarray) and not type.is_quantized else np.ones(type.sizes, type.dtype.numpy)
    return graph.add_const(f"c{position}", data, type)


def _one_node(op: OpDef, sample: Sample, widths: Widths | None) -> Graph:
    graph = Graph("probe", "integer")
    operands = [None if o is None else _operand(graph, op, i, o, widths) for i, o in enumerate(sample.operands)]
    attrs = op.complete_attrs(sample.attrs)
    types = op.infer_types([None if v is None else v.type for v in operands], attrs)
    if widths is not None:
        types = tuple(t.quantized(widths[1], _codes(widths[1])) for t in types)
    graph.set_outputs(graph.create(op.name, operands, attrs, types=types).results)
    return graph


@cache
def _targets(architecture: str) -> tuple[Target, ...]:
    """The targets of all levels."""
    from qcompiler.backends.target import known_targets, parse_target

    system = _ARCHITECTURES[architecture]
    names = [name for name in known_targets() if name.startswith(system.rpartition("-")[0] + "+")]
    return tuple(parse_target(f"{system}+{name.rpartition('+')[2]}", exact=True) for name in names)


def _served(op: OpDef, widths: Widths | None, architecture: str) -> str:
    """For how many samples every level has kernels: yes (all), no (none), or the number. widths: None: f32."""
    from qcompiler.backends.lowering.rule import find_rule
    from qcompiler.passes.assign_layout import AssignLayout

    samples = op.samples()
    served = 0
    for sample in samples:
        try:
            graph = AssignLayout().run(_one_node(op, sample, widths))
        except QCompilerError:
            continue
        served += not any(isinstance(find_rule(graph.node_list[0], target), str) for target in _targets(architecture))
    return "yes" if served == len(samples) else "no" if served == 0 else f"{served} of {len(samples)} samples"


def _row(op: OpDef) -> str:
    if op.family == "quantized":
        columns = ["erased before" if op.name == "observe" else _served(op, None, each) for each in _ARCHITECTURES]
        cells = ["yes", "made by passes", "no", "no", *columns]
    else:
        quantizable = _quantizable(op)
        columns = [
            ", ".join(
                [f"f32 {_served(op, None, each)}"]
                + ([f"int8 {_served(op, _WIDTHS['u8 to u8'], each)}"] if quantizable else [])
            )
            for each in _ARCHITECTURES
        ]
        is_static = quantizable or issubclass(op, Recurrent)
        cells = ["yes", "yes" if is_static else "no", "yes" if _is_dynamic(op) else "no", "no", *columns]
    return f"| [{op.name}](#{op.name}) | {' | '.join(cells)} |"


def _is_dynamic(op: OpDef) -> bool:
    """Whether an op is quantized dynamically, or what that makes."""
    from qcompiler.passes.quantize_dynamic import QUANTIZED

    return issubclass(op, (*QUANTIZED, RangeConversion)) or bool(op.always_codes)


def _section(op: OpDef) -> str:
    operands = ", ".join(
        ("*" if s.variadic else "") + s.name + ("?" if s.optional else "") + f" ({s.role.value})" for s in op.operands
    )
    lines = [
        f"### {op.name}",
        "",
        op.doc,
        "",
        f"Operands: {operands}.",
        f"Quantization: {_OF_RECURRENT if issubclass(op, Recurrent) else _RULES[op.quant.kind]}"
        + (", by a table of 256 entries." if Trait.UNARY in op.traits else ".")
        + (" It wants real numbers: see [numerics.md](numerics.md#what-stays-real)." if op.wants_real else ""),
    ]
    for attr in op.attrs:
        default = "required" if attr.default is REQUIRED else f"default {attr.default!r}"
        choices = f", one of {', '.join(attr.choices)}" if attr.choices else ""
        lines.append(f"- `{attr.name}`: {attr.kind}, {default}{choices}" + (f". {attr.doc}" if attr.doc else ""))
    return "\n".join(lines)


def _width_table() -> list[str]:
    """The section on the widths of codes: for each op, which of them every level of both architectures serves."""
    rows = []
    for op in all_ops():
        if op.family == "quantized" or not _quantizable(op):
            continue
        cells = []
        for reads, gives in _WIDTHS.values():
            if _why_not_widths(op, reads, gives):
                cells.append("refused")
                continue
            served = {_served(op, (reads, gives), each) for each in _ARCHITECTURES}
            cells.append(served.pop() if len(served) == 1 else "not on all")
        rows.append(f"| {op.name} | {' | '.join(cells)} |")
    return [
        "",
        "## Widths of codes",
        "",
        "What kernels serve if all activations that an op reads have one width. quantize, dequantize and requantize "
        "serve both widths, and so does lookup: integerize makes one of a function of i16 too, which interpolates. "
        "Elementwise ops may mix the widths of their operands. refused: the verifier allows no such node, "
        "since codes that are moved or picked keep their type, a table has 256 entries, and a sum must be proven to "
        "fit 32 bits. no: the node runs as a numpy step, and the report names it.",
        "",
        f"| op | {' | '.join(_WIDTHS)} |",
        "|---" * (1 + len(_WIDTHS)) + "|",
        *rows,
    ]


def _why_not_widths(op: OpDef, reads: DType, gives: DType) -> bool:
    """Whether the verifier, or the proof that sums fit, refuses every sample of an op on codes of these types."""
    from qcompiler.passes.verify_integer_safety import VerifyIntegerSafety
    from qcompiler.verify import verify

    for sample in op.samples():
        try:
            graph = _one_node(op, sample, (reads, gives))
            verify(graph)
            VerifyIntegerSafety().run(graph)
        except QCompilerError:
            continue
        return False
    return True


def _refusals() -> list[str]:
    """The section on calls that the frontends refuse for their element types."""
    from qcompiler.frontend.refusals import REFUSED

    rows = [
        f"| {frontend} | {dtype} | {' '.join(f'`{name}`' for name in names.split())} |"
        for frontend, by_dtype in REFUSED.items()
        for dtype, names in by_dtype.items()
    ]
    return [
        "",
        "## Refused element types",
        "",
        "A call gives what torch or numpy gives (value, element type and shape), or it is refused when the model is "
        "imported or traced. The error names the call and says what to do, such as a cast to float32. Listed are "
        "functions whose owner allows the element type, and of whose calls some or all are refused. torch's names "
        "are those of its overloads, without `.default`; bfloat16 is refused everywhere.",
        "",
        "A module whose own tensors are float16, bfloat16 or float64 is computed in f32, which a note says. In a "
        "module of float32 a cast to float16 or float64 is honoured: elementwise ops and reductions take these "
        "types, mostly as numpy steps. Where numpy computes integers in float64, a trace rounds them to f32 and "
        "computes in f32.",
        "",
        "An index outside of its axis, known or computed, ends the call in an InputError. A negative index counts from "
        "the end, where some functions of torch (embedding, gather, scatter) refuse it; torch's one_hot of a class "
        "that is not there gives zeros.",
        "",
        "Integers divided by 0 give 0, and the smallest integer over -1 wraps; torch stops there. Conversions of "
        "floats to integers saturate where C and torch leave the result open.",
        "",
        "| frontend | element type | refused |",
        "|---|---|---|",
        *rows,
    ]


def ops_page() -> str:
    """The page, as Markdown."""
    from qcompiler.frontend.onnx_ops import all_ops as all_ops_of_onnx
    from qcompiler.frontend.onnx_ops import refusals
    from qcompiler.frontend.torch_ops import core_ops

    head = [
        "# Ops",
        "",
        "Written from the registry by `python -m qcompiler.opdocs > docs/ops.md`.",
        "",
        "What runs where. Static int8: the op has an integer meaning, so its node runs on codes. x86 and "
        "ARM: kernels for all levels, checked on the op's samples (ARM under emulation); what no kernel "
        "serves (other element types, weights of unusual kinds) runs as a numpy step, and the report names "
        "it. Dynamic: dynamic_linear takes the op's place. Quantization-aware training is not there yet.",
        "",
        "| op | float | static int8 | dynamic | QAT | x86 | ARM |",
        "|---|---|---|---|---|---|---|",
    ]
    ops = all_ops()
    parts = head + [_row(op) for op in ops] + _width_table() + _refusals()
    family = ""
    for op in ops:
        if op.family != family:
            family = op.family
            parts += ["", f"## {family}"]
        parts += ["", _section(op)]
    parts += ["", *all_ops_of_onnx.page(), "", *core_ops.page(), "", *refusals.page()]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(ops_page(), end="")
