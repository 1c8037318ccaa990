"""Object export: lowers a graph for a target, and writes one relocatable object file and its C header.

Owns the order of the work and the two files. The program image is the one that would run in process (`backends.lower`);
here it is linked by symbols: calls to the kernels are emitted in the place of a step table.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qcompiler import knobs
from qcompiler.backends.codegen.emit_llvm import emit_module
from qcompiler.backends.codegen.jit import emit_object_of_text, symbols, verified
from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.lower import Program, lower_graph
from qcompiler.backends.object_export.c_entry import Code, KernelCall, emit_entry
from qcompiler.backends.object_export.c_header import emit_header
from qcompiler.backends.object_export.files import replace_together
from qcompiler.backends.object_export.golden import golden_bytes, make_recipes
from qcompiler.backends.object_export.interface import Interface, bound_sizes, choose_prefix, make_ports
from qcompiler.backends.program.image import ProgramImage
from qcompiler.backends.target import Target, native_target
from qcompiler.errors import LoweringError
from qcompiler.ir import Graph, Value
from qcompiler.ops.quantized import Quantize
from qcompiler.passes.pipelines import lower_pipeline
from qcompiler.passmanager import PassManager
from qcompiler.signature import check_guards
from qcompiler.types import QuantParams

SYSTEMS = ("linux", "macos")
"""ELF and Mach-O."""


@dataclass(frozen=True)
class ObjectFile:
    """An exported model: the object's bytes, the header's text, and the interface that they share. golden: the golden
    data of each output, see `golden_bytes`."""

    data: bytes
    header: str
    interface: Interface
    constant_bytes: int
    golden: tuple[bytes, ...]


def build_object(
    graph: Graph, target: Target, *, prefix: str | None = None, sizes: Mapping[str, int] | None = None
) -> ObjectFile:
    """Compile a float or integer graph for `target`, which need not run here.

    Args:
        prefix: the prefix of the C names; by default made from the graph's name.
        sizes: the sizes of the symbolic dimensions; the object has these sizes only.

    Raises:
        LoweringError: a size that is not given, a node without a kernel, a target or system without objects.
    """
    prefix = choose_prefix(prefix, graph.name)
    check_target(target)
    sizes = bound_sizes(graph, sizes)
    check_guards(graph, sizes)
    program = Program(PassManager(lower_pipeline()).run(graph), target, checks_indices=False)
    _refuse_python(program)
    with knobs.GUARD(False):
        image = program.image(sizes)
    if not image.steps:
        raise LoweringError("there is nothing to run: all outputs are empty", where=f"graph {graph.name}")
    interface = Interface(
        prefix, graph.name, f"{target.arch}-{target.os}+{target.level}", _features(target),
        make_ports("input", graph.inputs, [value.name for value in graph.inputs], sizes),
        make_ports("output", graph.outputs, graph.output_names, sizes),
        image.arena.nbytes,
    )  # fmt: skip
    recipes = make_recipes(interface, [_quantized_to(value) for value in graph.inputs])
    outputs = lower_graph(graph, native_target()).run([recipe.generate() for recipe in recipes], sizes)
    golden = tuple(golden_bytes(port, output) for port, output in zip(interface.outputs, outputs))
    functions = [key.build(target) for key in image.kernels]
    verified(functions)
    names = [f"{prefix}.kernel.{name}" for name in symbols(functions)]
    code = link_calls(image, dict(zip(image.kernels, names)), program.constants.block().data)
    text = emit_module(functions, names, internal=True) + "\n"
    text += emit_entry(interface, code, recipes, golden, target.dialect)
    return ObjectFile(
        emit_object_of_text(text, target), emit_header(interface), interface, code.constants.nbytes, golden
    )


def export_object(
    graph: Graph,
    path: str | os.PathLike[str],
    target: Target,
    *,
    prefix: str | None = None,
    sizes: Mapping[str, int] | None = None,
) -> ObjectFile:
    """Write `build_object` to `path` (.o), and the header (.h) beside it. Both files are written, or none.

    Raises:
        LoweringError: as build_object. ArtifactError: the files cannot be written.
    """
    place = pathlib.Path(path)
    if place.suffix != ".o":
        raise LoweringError(
            "the output's name has the wrong suffix", where=f"file {place}", expected=".o; the header gets .h"
        )
    made = build_object(graph, target, prefix=prefix, sizes=sizes)
    replace_together({place: made.data, place.with_suffix(".h"): made.header.encode()})
    return made


def check_target(target: Target) -> None:
    """LoweringError for a system without objects."""
    if target.os not in SYSTEMS:
        raise LoweringError(
            f"no object export for {target.os}", where=f"target {target.name}", expected=" or ".join(SYSTEMS)
        )


def _refuse_python(program: Program) -> None:
    found = program.python_nodes
    if not found:
        return
    first, *others = found
    node = next(node for node in program.graph.nodes if node.name == first)
    raise LoweringError(
        f"an object holds no Python, and no kernel serves node {first}"
        + (f", nor {', '.join(others)}" if others else ""),
        where=node.describe(),
        got=found[first],
        hint="leave that part of the model out of the export",
    )


def _features(target: Target) -> str:
    return (
        ", ".join(name.removeprefix("+") for name in target.llvm_features.split(",") if name.startswith("+"))
        or target.cpu
    )


def _quantized_to(value: Value) -> QuantParams | None:
    """The parameters that a float input is quantized with, or None if no node quantizes it."""
    if not value.type.dtype.is_float:
        return None
    return next((node.result.type.quant for node in value.users if node.op == Quantize.name), None)


def link_calls(image: ProgramImage, symbols: Mapping[KernelKey[Any], str], constants: np.ndarray) -> Code:
    """Link a program image by symbols."""
    if image.own_constant_bytes:
        raise LoweringError("a binding has constants of its own", where=image.name)
    words, starts = image.argument_words()
    calls = tuple(KernelCall(symbols[step.key], 8 * start) for step, start in zip(image.kernel_steps, starts))
    return Code(calls, words, constants)
