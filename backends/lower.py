"""From an integer or float graph to a program: layouts, kernels, memory.

`lower_graph` is what compile() calls. Each node becomes steps by the first rule that fits it (backends/rules); what no
rule fits runs as a Python step and is named in `python_nodes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.artifact.mapped_file import forget_pages
from qcompiler.backends.cache import programs as program_cache
from qcompiler.backends.cache.kernels import KernelKey, kernels
from qcompiler.backends.lowering.context import Call, Lowering, PythonCall
from qcompiler.backends.lowering.node import NodeLowering
from qcompiler.backends.lowering.rule import LoweringRule, find_rule
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.program.builder import ArraySpec, BoundProgram, Constants, Program, ProgramBuilder
from qcompiler.backends.runtime.execution import runner
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError, QCompilerError
from qcompiler.ir import Graph, Node, Value
from qcompiler.passes.pipelines import lower_pipeline
from qcompiler.passmanager import PassManager
from qcompiler.signature import Signature

if TYPE_CHECKING:
    from qcompiler.artifact import SavedModel

SMALL_PROGRAM_WORK = 4_000_000
"""A thread more for each so much `BoundProgram.work`: below, waking and waiting cost more than they save."""


Keep = Callable[[Mapping[str, int], BoundProgram, Constants], None]


def lower_graph(graph: Graph, target: Target, kept: Keep | None = None) -> LoweredModel:
    """A program for `target`. Kernels are emitted now if every size is known, else at the first call. kept: as of
    `LoweredModel`.

    Raises:
        LoweringError: this machine can't run the target.
    """
    check_runs(target)
    lowered = LoweredModel(PassManager(lower_pipeline()).run(graph), target, kept=kept)
    if not lowered.graph.dim_names:
        lowered.program.bind({})
    return lowered


def lower_saved(saved: SavedModel, target: Target) -> tuple[Graph | Callable[[], Graph], Signature, LoweredModel]:
    """A saved model's graph, or what reads it; how it is called; its program: what an earlier process kept, or as
    `lower_graph` makes it.

    Raises:
        ArtifactError: damaged data, or no legal graph. LoweringError: as lower_graph.
    """
    check_runs(target)
    stored = program_cache.find(saved.digest, target)
    if stored is None:
        graph = saved.graph()
        signature = Signature.of(graph)
        return (
            graph,
            signature,
            lower_graph(graph, target, partial(program_cache.keep, saved.digest, target, signature)),
        )
    saved.check()
    # Both digests are in the program's key: these very sources verified this very graph, before and after lowering.
    source = partial(saved.graph, is_legal=True)
    lowered = LoweredModel(lambda: _lowered(source()), target)
    lowered.program.adopt(stored.sizes, stored.bound, stored.constants)
    return source, stored.signature, lowered


def _lowered(graph: Graph) -> Graph:
    """What the passes make of a graph; nothing is verified."""
    for step in lower_pipeline():
        graph = step.run(graph)
    return graph


def check_runs(target: Target) -> None:
    """LoweringError unless this machine can run the target."""
    if not target.can_run():
        raise LoweringError(
            f"this machine can't run {target.name}",
            hint=target.why_not() or 'target="native", or "reference" for the interpreter',
        )


def link_here(lowering: Lowering) -> BoundProgram:
    """Calls become steps that this machine runs, as it is or emulated: their kernels are compiled."""
    add_steps(lowering, kernels([call.key for call in lowering.calls if isinstance(call, Call)], lowering.target))
    return lowering.builder.finish()


def add_steps(lowering: Lowering, linked: Mapping[KernelKey, Any]) -> None:
    """Append a step for each call. linked: what `ProgramBuilder.step` takes as a kernel."""
    for call in lowering.calls:
        if isinstance(call, PythonCall):
            lowering.builder.python_step(
                call.function, reads=call.reads, writes=call.writes, name=call.node.op, node=call.node.name
            )
        else:
            lowering.builder.step(
                linked[call.key],
                call.args,
                reads=call.reads,
                writes=call.writes,
                node=call.node,
                macs=call.macs,
                bytes=call.bytes,
                disjoint=call.disjoint,
            )


@dataclass(eq=False)
class LoweredModel:
    """A graph of stage lowered, and the program of each binding of its sizes.

    Attributes:
        source: the graph, with physical layouts, or what makes it when it is first needed.
        target: what its kernels were emitted for.
        link: makes a program of the calls of one binding; by default with kernels compiled in this process.
        kept: called with the sizes, the program and the constants of the first binding.
    """

    source: Graph | Callable[[], Graph]
    target: Target
    link: Callable[[Lowering], BoundProgram] = link_here
    kept: Keep | None = None
    program: Program = field(init=False)

    def __post_init__(self) -> None:
        self._packed: dict[tuple[str, str], np.ndarray] = {}
        self.program = Program(self._lower)

    @cached_property
    def graph(self) -> Graph:
        """With physical layouts."""
        return self.source if isinstance(self.source, Graph) else self.source()

    @cached_property
    def _rules(self) -> dict[Node, LoweringRule | str]:
        return {node: find_rule(node, self.target) for node in self.graph.node_list}

    @property
    def python_nodes(self) -> dict[str, str]:
        """Node name -> why no kernel serves it."""
        return {node.name: rule for node, rule in self._rules.items() if isinstance(rule, str)}

    def run(self, arrays: Sequence[np.ndarray], sizes: Mapping[str, int], threads: int = 1) -> list[np.ndarray]:
        """Outputs for inputs in signature order; sizes as the inputs bind them."""
        bound = self.program.bind(sizes)
        useful = min(threads, 1 + bound.work // SMALL_PROGRAM_WORK)
        return bound.run([np.asarray(array, order="C") for array in arrays], threads=useful)

    def _lower(self, constants: Constants, sizes: Mapping[str, int]) -> BoundProgram:
        graph, sizes = self.graph, dict(sizes)

        def spec(value: Value) -> ArraySpec:
            bound = value.type.bind(sizes)
            return ArraySpec(bound.dtype.numpy, bound.shape, value.name)

        builder = ProgramBuilder(
            [spec(v) for v in graph.inputs],
            [spec(v) for v in graph.outputs],
            constants,
            graph.name,
            runner(self.target),
        )
        lowering = Lowering(builder, self.target, sizes, self._packed)
        for index, value in enumerate(graph.inputs):
            array = spec(value)
            lowering.places[value] = TensorView(
                builder.input(index), array.dtype, array.shape, row_major_strides(array.shape, array.dtype.itemsize)
            )
        direct = self._place_outputs(lowering)
        self._place_operands(lowering)
        for node in graph.node_list:
            steps, rule = NodeLowering(lowering, node), self._rules[node]
            try:
                if all(0 in lowering.shape(value.type) for value in node.results):
                    for index in range(len(node.results)):
                        steps.result(index)
                    continue
                steps.python() if isinstance(rule, str) else rule.function(steps)
            except QCompilerError as error:
                raise error.located(node.describe()) from None
        self._copy_outputs(lowering, direct)
        first = not constants.sealed
        bound = self.link(lowering)
        if first and self.kept is not None:
            self.kept(sizes, bound, constants)
        for const in graph.consts.values():  # what was read of a saved model is packed now
            forget_pages(const.data)
        return bound

    def _place_outputs(self, lowering: Lowering) -> set[int]:
        """Outputs that a node can write where the caller gets them; the numbers of those."""
        direct: set[int] = set()
        for index, value in enumerate(self.graph.outputs):
            if value.producer is None or value in lowering.places or value.type.layout is not None:
                continue
            if any(user.op in VIEWS for user in (value.producer,)) or any(use.node.op in VIEWS for use in value.uses):
                continue
            array = value.type.bind(lowering.sizes)
            lowering.places[value] = TensorView(
                lowering.builder.output(index),
                array.dtype.numpy,
                array.shape,
                row_major_strides(array.shape, array.dtype.numpy.itemsize),
            )
            direct.add(index)
        return direct

    def _place_operands(self, lowering: Lowering) -> None:
        """Operands of concatenations get their place within the result, where their producers can write them there."""
        for node in self.graph.node_list:
            if node.op != "concat" or not any(self._is_written_within(value, node) for value in node.operands):
                continue
            y, offset = NodeLowering(lowering, node).result(), 0
            for value in node.operands:
                shape = lowering.shape(value.type)
                if self._is_written_within(value, node):
                    lowering.places[value] = y.moved(offset, shape, y.strides)
                offset += shape[1] * y.dtype.itemsize

    def _is_written_within(self, value: Value, concat: Node) -> bool:
        """Whether the producer of a concat's operand can write it within the result, so that nothing is copied.

        The result must lie channels last and be joined along the channels: then an operand is the result's pixels from
        some channel on, and a `LoweringRule.strided` can write it there. Nobody else may read it, neither a caller nor this
        concat once more: other readers want pixels without gaps, and a value lies in one place. Dtypes and quantization
        parameters agree, or the graph would not be legal.
        """
        own, whole, producer = value.type.layout, concat.result.type.layout, value.producer
        if whole is None or whole.order != "channels_last" or whole.halo or concat.attrs["axis"] != 1:
            return False
        if producer is None or own is None or own.halo or len(value.uses) != 1 or self.graph.is_output(value):
            return False
        rule = self._rules[producer]
        return isinstance(rule, LoweringRule) and rule.strided(producer)

    def _copy_outputs(self, lowering: Lowering, direct: set[int]) -> None:
        for index, value in enumerate(self.graph.outputs):
            if index in direct:
                continue
            place = lowering.place(value)
            node = value.producer or (self.graph.node_list[0] if len(self.graph) else None)
            if node is None:
                raise LoweringError(
                    "a graph without nodes is not lowered", where=self.graph.name, hint='target="reference"'
                )
            out = TensorView(
                lowering.builder.output(index),
                place.dtype,
                place.shape,
                row_major_strides(place.shape, place.dtype.itemsize),
            )
            NodeLowering(lowering, node).copy(place, out)


VIEWS = frozenset({"reshape", "dropout"})
"""Ops whose result may share its operand's memory: such values are not placed in a caller's array."""
