"""CompiledModel: a graph ready to be called, by the interpreter or by the program that a backend made of it.

Does not own how a model becomes one (`compiler.py`).
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.arguments import check_path, check_text, check_type
from qcompiler.errors import InputError, LoweringError
from qcompiler.fork_safety import cached_property
from qcompiler.ir import Graph
from qcompiler.signature import Signature, bind_inputs, flat_inputs
from qcompiler.structure import restore_outputs

if TYPE_CHECKING:
    from qcompiler.backends.lower import Program
    from qcompiler.report import Report


@dataclass(repr=False)
class CompiledModel:
    """A graph ready to be called. Pickling, and copying, goes through the bytes of a saved model: the other process
    lowers it again for the same target, or takes the program from the cache.

    Attributes:
        source: the graph, or a function that reads it from a file when it is first needed.
        target: "reference" (the interpreter), or a level such as "x86-64+avx512vnni".
        threads: how many threads a call may use.
        program: what runs; None for the interpreter.
        signature: how the model is called; by default the graph's own.
    """

    source: Graph | Callable[[], Graph]
    target: str
    threads: int
    program: Program | None = None
    signature: Signature | None = None

    @cached_property
    def graph(self) -> Graph:
        """The float or integer graph that runs."""
        return self.source if isinstance(self.source, Graph) else self.source()

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """The outputs, in the model's own structure.

        Raises:
            InputError: inputs that do not fit the signature.
        """
        for argument in (*inputs, *named.values()):
            if hasattr(argument, "__qc_inline__"):  # a value of a trace
                return argument.__qc_inline__(self, inputs, named)
        if self.signature is None:
            self.signature = Signature.of(self.graph)
        names = [value.name for value in self.signature.inputs]
        inputs = tuple(flat_inputs(names, inputs))
        if len(inputs) > len(names) or any(name in names[: len(inputs)] for name in named):
            raise InputError(
                "wrong inputs", expected=", ".join(names), got=f"{len(inputs)} by position, {', '.join(named)}"
            )
        given: dict[str, np.ndarray] = {**dict(zip(names, inputs)), **named}
        arrays, sizes = bind_inputs(self.signature, given)
        if self.program is None:
            from qcompiler.interpreter import run

            outputs = run(self.graph, arrays)
        else:
            outputs = self.program.run(arrays, sizes, self.threads)
        return restore_outputs(self.signature.structure, outputs)

    def __repr__(self) -> str:
        """The target and the signature. The graph is not read for it; `print(model.graph)` and `model.report()` tell
        more."""
        if self.signature is None:
            self.signature = Signature.of(self.graph)
        inputs = ", ".join(f"{value.name}: {value.type}" for value in self.signature.inputs)
        return f"<CompiledModel {self.signature.name}({inputs}) for {self.target}, {self.threads} threads>"

    def __reduce__(self) -> tuple[Callable[..., CompiledModel], tuple[bytes, str, int]]:
        from qcompiler.artifact import graph_bytes
        from qcompiler.compiler import unpickled

        return unpickled, (graph_bytes(self.graph), self.target, self.threads)

    @property
    def __qc_graph__(self) -> Graph:
        return self.graph

    def report(self) -> Report:
        """How many nodes run in int8, what stayed float and why, and the bytes of the constants; prints as text."""
        from qcompiler.report import report

        return report(self)

    def draw(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Draw the graph as SVG, PNG, PDF or .dot, by the suffix of `path`; the file that was written."""
        from qcompiler.draw import draw

        check_path("path", path)
        return draw(self.graph, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the graph to one safetensors file; the old file stays if anything fails."""
        from qcompiler.artifact import save_graph

        check_path("path", path)
        save_graph(self.graph, path)

    def export_object(
        self,
        path: str | os.PathLike[str],
        *,
        target: str = "native",
        prefix: str | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        """Write an object file (.o) for any target, and a C header (.h) next to it: docs/object-export.md.

        Args:
            prefix: the prefix of the C names; the model's name by default.
            sizes: the symbolic dimensions' sizes, which the object fixes.

        Raises:
            LoweringError: a size not given, a node that no kernel serves, an unknown target.
        """
        check_path("path", path)
        check_text("target", target, 'a text such as "native"')
        if prefix is not None:
            check_text("prefix", prefix, "the prefix of the C names, or None")
        if sizes is not None:
            check_type("sizes", sizes, Mapping, '{"B": 1}: sizes by name')
        if target == "reference":
            raise LoweringError("the interpreter has no object code", hint='target="native", or a level')
        from qcompiler.backends.object_export.export import export_object
        from qcompiler.backends.target import parse_target

        export_object(self.graph, path, parse_target(target, exact=True), prefix=prefix, sizes=sizes)
