"""Runs an integer graph on every target of this machine, and compares it with the interpreter."""

from __future__ import annotations

import numpy as np

import qcompiler as qc
from qcompiler.backends.target import known_targets, parse_target


def run_everywhere(graph: qc.Graph, x: np.ndarray) -> None:
    """Print for each target how it ran: natively or emulated. An error if a bit differs, or a node has no kernel."""
    [reference] = qc.interpret(graph, [x])
    for name in known_targets():
        how = parse_target(name).execution()
        if how == "none":
            print(f"  {name:18} not run here: this CPU lacks it")
            continue
        compiled = qc.compile(graph, target=name)
        assert not compiled.program.python_nodes, compiled.report()
        found = compiled(x)
        [y] = found.values() if isinstance(found, dict) else [found]  # models from ONNX give names
        assert y.tobytes() == reference.tobytes(), name
        print(f"  {name:18} {how:9} bits equal to the reference")
