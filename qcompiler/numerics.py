"""An instrument that compares the numbers before and after each pass."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from qcompiler.interpreter import run
from qcompiler.ir import Graph, Value
from qcompiler.metrics import sqnr
from qcompiler.passmanager import Pass, describe
from qcompiler.signature import bind_inputs

Inputs = Sequence[np.ndarray] | Mapping[str, np.ndarray]


def real_values(graph: Graph, inputs: Inputs) -> dict[str, np.ndarray]:
    """Name -> value of inputs, results and outputs (as `output:<public name>`); quantized values are dequantized."""
    from qcompiler.quantization.qmath import dequantize

    values: dict[str, np.ndarray] = {}
    outputs = run(graph, inputs, keep=values)
    arrays, _ = bind_inputs(graph, inputs)
    values.update((value.name, array) for value, array in zip(graph.inputs, arrays))

    def real(value: Value, array: np.ndarray) -> np.ndarray:
        return array if value.type.quant is None else dequantize(array, value.type.quant)

    found = {value.name: real(value, values[value.name]) for value in graph.values() if value.name in values}
    for name, value, array in zip(graph.output_names, graph.outputs, outputs):
        found[f"output:{name}"] = real(value, array)
    return found


@dataclasses.dataclass
class Numerics:
    """Compares every value, by name, with the graph before the first pass, on given inputs.

    Values have the same names through all passes, so the first pass after which a value's SQNR falls made the
    difference.

    Attributes:
        inputs: the inputs to run the graphs on.
        reference: name -> value before the first pass; set at the first pass.
        rows: (pass, value, SQNR in dB, largest difference) for the float values that both graphs have.
    """

    inputs: Inputs
    reference: dict[str, np.ndarray] | None = None
    rows: list[tuple[str, str, float, float]] = dataclasses.field(default_factory=list)

    def after(self, index: int, done: Pass, before: Graph, graph: Graph, seconds: float) -> None:
        if self.reference is None:
            self.reference = real_values(before, self.inputs)
        for name, got in real_values(graph, self.inputs).items():
            wanted = self.reference.get(name)
            if wanted is None or wanted.dtype.kind != "f" or wanted.shape != got.shape:
                continue
            with np.errstate(all="ignore"):
                worst = np.nan_to_num(np.abs(wanted.astype(np.float64) - got), nan=0.0).max(initial=0.0)
            self.rows.append((describe(done), name, sqnr(wanted, got), float(worst)))

    def worst(self, name: str) -> list[tuple[str, float, float]]:
        """(value, SQNR, largest difference) after the last pass of that name, the worst SQNR first."""
        rows = {value: (decibels, worst) for done, value, decibels, worst in self.rows if done.split("{")[0] == name}
        return sorted(((value, *row) for value, row in rows.items()), key=lambda row: row[1])

    def __str__(self) -> str:
        width = max((len(row[1]) for row in self.rows), default=0)
        return "\n".join(
            f"{done:<20}  {value:<{width}}  {decibels:8.2f} dB  {worst:.3g}"
            for done, value, decibels, worst in self.rows
        )
