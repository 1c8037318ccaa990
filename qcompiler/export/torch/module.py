"""Builds a torch module of a graph: `to_torch`.

The module is a torch.fx.GraphModule of functions of torch, so torch.jit.trace, torch.jit.script and torch.export take
it, and what they save holds aten ops and constants alone. Integer nodes give our codes, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from qcompiler.compiled import CompiledModel
from qcompiler.dims import Dim
from qcompiler.export.names import Identifiers
from qcompiler.export.own import find_exporter, why_no_exporter
from qcompiler.export.refusals import check_graph, graph_of
from qcompiler.export.torch import codes, movement, reals, recurrent, scatter
from qcompiler.export.torch.node import CODES, MOVES, REALS, NodeWriter, Refusal, Tensor
from qcompiler.interpreter import unary_function
from qcompiler.ir import Const, Graph, Node, Value
from qcompiler.opdef import Trait, opdef
from qcompiler.quantization.tables import build_table

assert codes and movement and reals and recurrent and scatter  # imported for their writers


def to_torch(model: CompiledModel | Graph) -> torch.nn.Module:
    """A torch module that computes what a model does: docs/export.md.

    Its inputs are tensors in the order of the model's inputs, of the same types; sizes that may vary stay open. It
    returns a tensor, or a tuple of tensors if there are several outputs. torch.jit.trace, torch.jit.script and
    torch.export take it, and what these save loads without qcompiler.

    Args:
        model: a compiled model, or a graph of the stage float, qdq or integer.

    Raises:
        LoweringError: a stage that is not exported, or nodes that have no form in torch (all are named).
    """
    graph = graph_of(model)
    check_graph(graph, "torch", lambda node: None)
    recorder = Recorder(graph)
    refused = recorder.record()
    check_graph(graph, "torch", lambda node: refused.get(id(node)))
    return recorder.module()


class Recorder:
    """Plays a graph on proxies of torch.fx."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made = fx.Graph()
        self.tracer = fx.proxy.GraphAppendingTracer(self.made)
        self.buffers: dict[str, torch.Tensor] = {}
        self._by_content: dict[tuple[str, tuple[int, ...], bytes], Tensor] = {}
        self._tensors: dict[int, Tensor] = {}
        self._sizes: dict[str, Any] = {}
        names = Identifiers(("self", "torch", "inf", "nan", "device", "math"))
        for value in graph.inputs:
            self._tensors[id(value)] = self._proxy(self.made.placeholder(names.make(value.name)))

    def _proxy(self, node: fx.Node) -> Tensor:
        return fx.Proxy(node, self.tracer)

    def tensor(self, value: Value) -> Tensor:
        """The tensor of a value; a constant becomes a buffer when it is first read."""
        if id(value) not in self._tensors:
            if not isinstance(value, Const):
                raise Refusal("reads a node that has no form")
            self._tensors[id(value)] = self.buffer(value.data)
        return self._tensors[id(value)]

    def buffer(self, array: np.ndarray) -> Tensor:
        """A buffer of the module; equal arrays are one."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._by_content:
            name = f"c{len(self.buffers)}"
            self.buffers[name] = torch.from_numpy(np.array(array)).reshape(array.shape)
            self._by_content[key] = self._proxy(self.made.get_attr(name))
        return self._by_content[key]

    def size(self, name: str) -> Any:
        """The value of a named size, which an input binds."""
        if name not in self._sizes:
            for value in self.graph.inputs:
                for axis, size in enumerate(value.type.shape):
                    if isinstance(size, Dim) and str(size) == name and name not in self._sizes:
                        self._sizes[name] = self._tensors[id(value)].size(axis)
        return self._sizes[name]

    def record(self) -> dict[int, str]:
        """Record all nodes; id of a node -> why it has no form."""
        refused: dict[int, str] = {}
        for node in self.graph.nodes:
            before = set(self.made.nodes)
            try:
                results = self._node(node)
            except Refusal as refusal:
                if str(refusal) != "reads a node that has no form":
                    refused[id(node)] = str(refusal)
                continue
            for value, tensor in zip(node.results, results):
                self._tensors[id(value)] = tensor
            origin = " + ".join(origin.path for origin in node.origin)
            for made in self.made.nodes:
                if made not in before:
                    made.meta["qcompiler"] = origin or node.name
        return refused

    def _node(self, node: Node) -> tuple[Tensor, ...]:
        w, definition = NodeWriter(self, node), opdef(node.op)
        on_codes = any(value is not None and value.type.is_quantized for value in node.operands)
        gives_codes = any(value.type.is_quantized for value in node.results)
        if definition.is_own:
            found = self._own(w, on_codes or gives_codes)
        elif gives_codes or (on_codes and (definition.gives_real or node.op in CODES)):
            found = self._on_codes(w)
        else:
            writer = REALS.get(node.op) or MOVES.get(node.op)
            if writer is None:
                raise Refusal("torch has no such op")
            found = writer(w)
        return found if isinstance(found, tuple) else (found,)

    def _own(self, w: NodeWriter, on_codes: bool) -> Tensor:
        """An op of a user. The codes of one that moves elements are moved as numbers are, and a function of one element
        is a table."""
        definition = opdef(w.node.op)
        moves = Trait.MOVES_DATA in definition.traits and definition.integer is None
        exporter = find_exporter("torch", w.node.op, on_codes=on_codes and not moves)
        if exporter is None and on_codes and Trait.UNARY in definition.traits and definition.integer is None:
            return self._on_codes(w)
        if exporter is None or exporter.write is None:
            why = why_no_exporter("torch", definition)
            raise Refusal(f"{why[:-1]}, on_codes=True)" if on_codes and not moves else why)
        return exporter.write(w)

    def _on_codes(self, w: NodeWriter) -> Tensor:
        name, definition = w.node.op, opdef(w.node.op)
        if name in CODES:
            return CODES[name](w)
        if name in MOVES:
            return MOVES[name](w)
        if Trait.UNARY in definition.traits and definition.integer is None:
            table = build_table(unary_function(definition, w.node.attrs), w.type(), w.out)
            return codes.looked_up(w, w.buffer(table))
        raise Refusal("torch has no such op on codes")

    def module(self) -> torch.nn.Module:
        """The module of what was recorded."""
        outputs = [self.tensor(value) for value in self.graph.outputs]
        seen: set[int] = set()
        for index, value in enumerate(self.graph.outputs):  # an output must not be an input, or another output
            if id(value) in seen or value.producer is None:
                outputs[index] = torch.clone(outputs[index])
            seen.add(id(value))
        nodes = tuple(tensor.node for tensor in outputs)
        self.made.output(nodes[0] if len(nodes) == 1 else nodes)
        self.made.eliminate_dead_code()
        self.made.lint()
        root = torch.nn.Module()
        used = {node.target for node in self.made.nodes if node.op == "get_attr"}
        for name, tensor in self.buffers.items():
            if name in used:
                root.register_buffer(name, tensor)
        return fx.GraphModule(root, self.made, "QuantizedModel").eval()
