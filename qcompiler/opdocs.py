"""docs/ops.md, written from the registry: `python -m qcompiler.opdocs > docs/ops.md`."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from qcompiler.errors import QCompilerError
from qcompiler.ir import Graph, Value
from qcompiler.opdef import REQUIRED, OpDef, QuantKind, Role, Sample, Trait, all_ops
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


def _quantizable(op: OpDef) -> bool:
    chain = Trait.UNARY in op.traits
    return (
        op.family == "quantized"
        or chain
        or (op.quant.kind is not QuantKind.FLOAT_ONLY and (op.integer is not None or Trait.MOVES_DATA in op.traits))
    )


def _operand(graph: Graph, op: OpDef, position: int, sample: TensorType | np.ndarray, quantized: bool) -> Value:
    type = sample if isinstance(sample, TensorType) else type_of(sample)
    role = op.spec(position).role
    if quantized and type.dtype.is_float and role is Role.ACTIVATION:
        type = type.quantized(DType.U8, QuantParams.per_tensor(0.05, 128, DType.U8))
    elif quantized and type.dtype.is_float and role in (Role.WEIGHT, Role.BIAS):
        dtype = DType.I8 if role is Role.WEIGHT else DType.I32
        type = type.quantized(dtype, QuantParams.per_tensor(0.01 if role is Role.WEIGHT else 0.0005, 0, dtype))
    if role in (Role.ACTIVATION, Role.INDEX):
        return graph.add_input(f"x{position}", type)
    data = sample if isinstance(sample, np.ndarray) and not type.is_quantized else np.ones(type.sizes, type.dtype.numpy)
    return graph.add_const(f"c{position}", data, type)


def _one_node(op: OpDef, sample: Sample, quantized: bool) -> Graph:
    graph = Graph("probe", "integer")
    operands = [None if o is None else _operand(graph, op, i, o, quantized) for i, o in enumerate(sample.operands)]
    attrs = op.complete_attrs(sample.attrs)
    types = op.infer_types([None if v is None else v.type for v in operands], attrs)
    if quantized:
        types = tuple(t.quantized(DType.U8, QuantParams.per_tensor(0.05, 128, DType.U8)) for t in types)
    graph.set_outputs(graph.create(op.name, operands, attrs, types=types).results)
    return graph


@cache
def _targets(architecture: str) -> tuple[Target, ...]:
    """The targets of all levels."""
    from qcompiler.backends.target import known_targets, parse_target

    system = _ARCHITECTURES[architecture]
    names = [name for name in known_targets() if name.startswith(system.rpartition("-")[0] + "+")]
    return tuple(parse_target(f"{system}+{name.rpartition('+')[2]}", exact=True) for name in names)


def _served(op: OpDef, quantized: bool, architecture: str) -> str:
    """For how many samples every level has kernels: yes (all), no (none), or the number."""
    from qcompiler.backends.lowering.rule import find_rule
    from qcompiler.passes.assign_layout import AssignLayout

    samples = op.samples()
    served = 0
    for sample in samples:
        try:
            graph = AssignLayout().run(_one_node(op, sample, quantized))
        except QCompilerError:
            continue
        served += not any(isinstance(find_rule(graph.node_list[0], target), str) for target in _targets(architecture))
    return "yes" if served == len(samples) else "no" if served == 0 else f"{served} of {len(samples)} samples"


def _row(op: OpDef) -> str:
    if op.family == "quantized":
        columns = ["erased before" if op.name == "observe" else _served(op, False, each) for each in _ARCHITECTURES]
        cells = ["yes", "made by passes", "no", "no", *columns]
    else:
        quantizable = _quantizable(op)
        columns = [
            ", ".join(
                [f"f32 {_served(op, False, each)}"] + ([f"int8 {_served(op, True, each)}"] if quantizable else [])
            )
            for each in _ARCHITECTURES
        ]
        cells = ["yes", "yes" if quantizable else "no", "no", "no", *columns]
    return f"| [{op.name}](#{op.name}) | {' | '.join(cells)} |"


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
        f"Quantization: {_RULES[op.quant.kind]}"
        + (", by a table of 256 entries." if Trait.UNARY in op.traits else "."),
    ]
    for attr in op.attrs:
        default = "required" if attr.default is REQUIRED else f"default {attr.default!r}"
        choices = f", one of {', '.join(attr.choices)}" if attr.choices else ""
        lines.append(f"- `{attr.name}`: {attr.kind}, {default}{choices}" + (f". {attr.doc}" if attr.doc else ""))
    return "\n".join(lines)


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
        "Integers divided by 0 give 0, and the smallest integer over -1 wraps; torch stops there. Conversions of "
        "floats to integers saturate where C and torch leave the result open.",
        "",
        "| frontend | element type | refused |",
        "|---|---|---|",
        *rows,
    ]


def ops_page() -> str:
    """The page, as Markdown."""
    from qcompiler.frontend.onnx_ops import refusals

    head = [
        "# Ops",
        "",
        "Written from the registry by `python -m qcompiler.opdocs > docs/ops.md`.",
        "",
        "What runs where. Static int8: the op has an integer meaning, so its node runs on codes. x86 and "
        "ARM: kernels for all levels, checked on the op's samples (ARM under emulation); what no kernel "
        "serves (other element types, weights of unusual kinds) runs as a numpy step, and the report names "
        "it. Dynamic quantization and quantization-aware training are not there yet.",
        "",
        "| op | float | static int8 | dynamic | QAT | x86 | ARM |",
        "|---|---|---|---|---|---|---|",
    ]
    ops = all_ops()
    parts = head + [_row(op) for op in ops] + _refusals()
    family = ""
    for op in ops:
        if op.family != family:
            family = op.family
            parts += ["", f"## {family}"]
        parts += ["", _section(op)]
    parts += ["", *refusals.page()]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    print(ops_page(), end="")
