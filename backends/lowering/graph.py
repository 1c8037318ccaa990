"""Lowers a whole graph for one binding of its sizes: gives each value its memory, and applies a rule to each node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np

from qcompiler.backends.lowering.context import Lowering
from qcompiler.backends.lowering.index_checks import check_nothing, checked_nodes
from qcompiler.backends.lowering.node import NodeLowering, Steps
from qcompiler.backends.lowering.rule import LoweringRule, find_rule
from qcompiler.backends.lowering.views import TensorView, row_major_strides
from qcompiler.backends.program.builder import ProgramBuilder
from qcompiler.backends.program.constants import Constants
from qcompiler.backends.program.image import CHECK_WORDS, ArraySpec, ProgramImage
from qcompiler.backends.program.template import ImageTemplate
from qcompiler.backends.target import Target
from qcompiler.binding import check_sizes
from qcompiler.errors import QCompilerError
from qcompiler.fork_safety import cached_property
from qcompiler.interpreter import evaluate_node
from qcompiler.ir import Graph, Node, Value
from qcompiler.opdef import opdef
from qcompiler.ops.shape import Concat
from qcompiler.traced_size import Trace, concrete

MOST_TEMPLATES = 8
"""How many templates of images a graph keeps; the oldest is dropped."""


class GraphLowering:
    """Lowers a graph of stage lowered. It holds what all bindings of the graph's sizes share: the rules of its nodes,
    its constants, and arrays made from constants.

    Args:
        why_python: gives the reason why a node must run in Python although a rule may fit it, or None.
        checks_indices: whether programs check indices, for which they have one output more.
    """

    def __init__(
        self,
        graph: Graph,
        target: Target,
        constants: Constants,
        why_python: Callable[[Node], str | None] = lambda node: None,
        checks_indices: bool = True,
    ) -> None:
        self.graph, self.target, self.constants = graph, target, constants
        self._why_python, self._checks_indices = why_python, checks_indices
        self._memo: dict[tuple[str, str], np.ndarray] = {}
        self._templates: list[ImageTemplate] = []

    @cached_property
    def rules(self) -> dict[Node, LoweringRule | str]:
        """The rule that lowers each node, or why none does."""
        return {node: self._why_python(node) or find_rule(node, self.target) for node in self.graph.node_list}

    @property
    def holds_own(self) -> bool:
        """Whether the steps depend on ops or rules from outside of qcompiler, whose sources no key of the cache has."""
        return any(
            opdef(node.op).is_own or (isinstance(rule, LoweringRule) and rule.is_own)
            for node, rule in self.rules.items()
        )

    @cached_property
    def checked(self) -> list[Node]:
        """The nodes whose indices are checked when a program runs."""
        return checked_nodes(self.rules) if self._checks_indices else []

    def image(self, sizes: Mapping[str, int]) -> tuple[ProgramImage, Constants]:
        """The program image of one binding of sizes, and the constants that it alone has.

        Lowering is traced: the sizes of a call are ints that remember how they were computed. So the image of other
        sizes, for which lowering would take the same decisions, is computed from what it recorded.

        Raises:
            InputError: an op does not take these sizes. Other errors name the node at which they happened.
        """
        for template in reversed(self._templates):
            made = template.image(sizes)
            if made is not None:
                return made
        template = self._template(sizes)
        made = template.image(sizes)
        assert made is not None  # the sizes that were traced pass all guards
        if sizes:
            self._templates = [*self._templates[1 - MOST_TEMPLATES :], template]
        return made

    def _template(self, sizes: Mapping[str, int]) -> ImageTemplate:
        try:
            return self.lower(sizes).template()
        except QCompilerError:
            if sizes:
                self._lower(sizes, None)  # raises the same error with plain numbers, and finds out which sizes fit
            raise

    def lower(self, sizes: Mapping[str, int]) -> ProgramBuilder:
        """The steps of one binding of sizes, in a builder that the caller finishes. The sizes are traced.

        Raises:
            InputError: an op does not take these sizes. Other errors name the node at which they happened.
        """
        if not sizes:
            return self._lower({}, None)
        trace = Trace(sizes)
        return self._lower(cast("Mapping[str, int]", trace.sizes), trace)

    def _lower(self, sizes: Mapping[str, int], trace: Trace | None) -> ProgramBuilder:
        check_sizes(self.graph, sizes)
        found = [ArraySpec(np.dtype(np.int64), (len(self.checked), CHECK_WORDS))] if self.checked else []
        builder = ProgramBuilder(
            [_spec(value, sizes) for value in self.graph.inputs],
            [*(_spec(value, sizes) for value in self.graph.outputs), *found],
            self.constants,
            self.graph.name,
            self.target.key,
            {name: concrete(size) for name, size in sizes.items()},
            trace,
        )
        lowering = Lowering(builder, self.target, dict(sizes), self._memo)
        if found:
            lowering.checked, lowering.found = self.checked, builder.output(len(self.graph.outputs))
        for index, value in enumerate(self.graph.inputs):
            array = _spec(value, sizes)
            lowering.views[value] = TensorView(
                builder.input(index), array.dtype, array.shape, row_major_strides(array.shape, array.dtype.itemsize)
            )
        placed = self._place_outputs(lowering)
        self._place_operands(lowering)
        for node in self.graph.node_list:
            try:
                self._lower_node(NodeLowering(lowering, node))
            except QCompilerError as error:
                raise error.located(node.describe()) from None
        self._copy_outputs(lowering, placed)
        if found and not lowering.checks:
            check_nothing(lowering)
        return builder

    def _lower_node(self, steps: NodeLowering) -> None:
        node, rule = steps.node, self.rules[steps.node]
        if all(0 in steps.lowering.shape(value.type) for value in node.results):
            for index in range(len(node.results)):
                steps.result(index)
        elif isinstance(rule, str):
            steps.python()
        else:
            rule.function(steps)

    def _place_outputs(self, lowering: Lowering) -> set[int]:
        """Place the outputs that a node can write directly into the caller's array. Returns their indices."""
        placed: set[int] = set()
        for index, value in enumerate(self.graph.outputs):
            if value.producer is None or value in lowering.views or value.type.layout is not None:
                continue
            if any(opdef(node.op).is_view for node in (value.producer, *value.users)):  # may share other memory
                continue
            array = _spec(value, lowering.sizes)
            lowering.views[value] = TensorView(
                lowering.builder.output(index),
                array.dtype,
                array.shape,
                row_major_strides(array.shape, array.dtype.itemsize),
            )
            placed.add(index)
        return placed

    def _place_operands(self, lowering: Lowering) -> None:
        """Place operands of concatenations within the result, where their producers can write them there."""
        for node in self.graph.node_list:
            concat = Concat.of(node)
            if concat is None or not any(self._is_written_within(value, concat) for value in concat.xs):
                continue
            y, offset = NodeLowering(lowering, node).result(), 0
            for value in concat.xs:
                shape = lowering.shape(value.type)
                if self._is_written_within(value, concat):
                    lowering.views[value] = y.moved(offset, shape, y.strides)
                offset += shape[1] * y.dtype.itemsize

    def _is_written_within(self, value: Value, concat: Concat) -> bool:
        """Whether the producer of a concat's operand can write it within the result, so that nothing is copied.

        The result must lie channels last and be joined along the channels. Then an operand occupies the result's pixels
        from some channel on, and a rule that is `strided` can write it there. The operand must have no other reader,
        neither a caller nor this concat a second time, because other readers want pixels without gaps. Dtypes and
        quantization parameters agree in any legal graph.
        """
        own, whole, producer = value.type.layout, concat.node.result.type.layout, value.producer
        if whole is None or whole.order != "channels_last" or whole.halo or concat.axis != 1:
            return False
        if producer is None or own is None or own.halo or len(value.uses) != 1 or self.graph.is_output(value):
            return False
        rule = self.rules[producer]
        return isinstance(rule, LoweringRule) and rule.strided(producer)

    def _copy_outputs(self, lowering: Lowering, placed: set[int]) -> None:
        """Copy the other outputs into the caller's arrays."""
        for index, value in enumerate(self.graph.outputs):
            if index in placed:
                continue
            view = lowering.view(value)
            strides = row_major_strides(view.shape, view.dtype.itemsize)
            out = TensorView(lowering.builder.output(index), view.dtype, view.shape, strides)
            Steps(lowering, "" if value.producer is None else value.producer.name).copy(view, out)


def python_function(
    node: Node, sizes: Mapping[str, int]
) -> Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], None]:
    """A node's numpy reference, as a Python step calls it: (arrays of its operands, arrays to fill)."""

    def run(reads: Sequence[np.ndarray], writes: Sequence[np.ndarray]) -> None:
        arrays = iter(reads)
        operands = [None if value is None else next(arrays) for value in node.operands]
        try:
            results = evaluate_node(node, operands, sizes)
        except QCompilerError as error:
            raise error.located(node.describe()) from None
        for array, found in zip(writes, results):
            array[...] = found

    return run


def _spec(value: Value, sizes: Mapping[str, int]) -> ArraySpec:
    bound = value.type.bind(sizes)
    return ArraySpec(bound.dtype.numpy, bound.sizes, value.name)
