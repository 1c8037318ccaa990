"""The answers of random QDQ graphs, compared with ONNX Runtime, all of whose optimisations are off.

It then computes in float between the conversions. The two evaluations round differently: the integer form rounds the
exact sum once, ONNX Runtime rounds every product and partial sum to float32. `Real.error` bounds the difference, so
their codes may differ by one where the number to be quantized lies within it of the middle between two codes, and
nowhere else. Such a tie is a coincidence of the data: with other data the same graph must give equal codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx

import qcompiler as qc
from qcompiler.errors import QCompilerError
from qcompiler.notes import KeptFloat
from qcompiler.opdef import opdef
from qcompiler.ops.interfaces import Conversion
from tests.frontend.onnx.qdq_graphs import UNIT, Coded, QdqGraph, Real

TRIES = 4
"""How often data are drawn until a draw has no tie that changes a code."""


def exact(model: onnx.ModelProto, data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of ONNX Runtime with all optimisations off."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip([out.name for out in session.get_outputs()], session.run(None, data)))


def one(seed: int, target: str = "reference") -> str:
    """Compile one graph and compare its answers.

    Returns what it ended in: "integer", "mixed", "tie", "refused" or "unsupported" (by ONNX Runtime).

    Raises: AssertionError: a wrong answer, a missing note, or an error that no documented refusal explains.
    """
    graph = QdqGraph(seed)
    model = graph.model()
    try:
        compiled = qc.compile(model, "keep", target=target)
    except QCompilerError as error:
        assert is_refusal(graph, error), f"seed {seed}: {type(error).__name__}: {error}"
        return "refused"
    is_float = _check_notes(compiled, seed)
    for draw in range(TRIES):
        data = graph.data(draw)
        try:
            want = exact(model, data)
        except Exception as error:
            assert "NOT_IMPLEMENTED" in str(error), f"seed {seed}: ONNX Runtime: {error}"
            return "unsupported"
        got = compiled(**data)
        different = [out for out in graph.outputs if not _equal(out, got[out.name], want[out.name])]
        if not different:
            return "tie" if draw else "mixed" if is_float else "integer"
        assert _has_tie(graph, data), f"seed {seed}, draw {draw}: {_difference(different[0], got, want)}"
    raise AssertionError(f"seed {seed}: differs with any data: {_difference(different[0], got, want)}")


def is_refusal(graph: QdqGraph, error: QCompilerError) -> bool:
    """Whether a graph holds something that the importer refuses, and the error says so."""
    if graph.opset < 11:
        return "the opset is too old" in str(error)
    foreign = [out.type for out in graph.outputs if isinstance(out, Coded) and out.type in ("uint16", "uint4", "int4")]
    return bool(foreign) and f"has {foreign[0]} codes" in str(error)


def _check_notes(compiled: Any, seed: int) -> bool:
    """Whether a node computes in float. Each one that does must have a note."""
    noted = {note.node for note in compiled.graph.notes if isinstance(note, KeptFloat)}
    real = [
        node
        for node in compiled.graph.nodes
        if not issubclass(opdef(node.op), Conversion) and any(v.type.dtype.is_float for v in node.results)
    ]
    silent = [node.describe() for node in real if node.name not in noted]
    assert not silent, f"seed {seed}: float without a reason: {silent[0]}"
    return bool(real)


def _equal(out: Real | Coded, got: np.ndarray, want: np.ndarray) -> bool:
    assert got.dtype == want.dtype and got.shape == want.shape, f"{out.name}: {got.dtype}{got.shape}"
    if isinstance(out, Coded) or out.on_grid:
        return bool(np.array_equal(got, want))
    return bool((np.abs(got - want) <= out.error + UNIT).all())


def _has_tie(graph: QdqGraph, data: dict[str, np.ndarray]) -> bool:
    """Whether a quantized number lies so near the middle of two codes that the two evaluations may differ."""
    sources = tuple(dict.fromkeys(r.source for r in graph.roundings if r.source not in graph.inputs))
    names = {out.name for out in graph.outputs}
    values = {**exact(graph.model(tuple(s for s in sources if s not in names)), data), **data}
    for rounding in graph.roundings:
        if rounding.source in graph.inputs:
            continue
        codes = values[rounding.source].astype(np.float64) / rounding.scale
        if (np.abs(codes - np.floor(codes) - 0.5) <= rounding.band).any():
            return True
    return False


def _difference(out: Real | Coded, got: Any, want: Any) -> str:
    return f"{out}\n got {got[out.name].ravel()[:12]}\nwant {want[out.name].ravel()[:12]}"
