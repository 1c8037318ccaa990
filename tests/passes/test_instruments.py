"""Instruments on the hook of the pass manager, reproducers, and bisection."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from qcompiler import compiler, knobs
from qcompiler.bisection import bisect, reproducer, run_reproducer
from qcompiler.errors import PassError, QuantizationError
from qcompiler.instruments import Diff, Reasons, Record
from qcompiler.ir import Graph
from qcompiler.metrics import sqnr
from qcompiler.numerics import Numerics
from qcompiler.passes.canonicalize import Canonicalize
from qcompiler.passes.dce import Dce
from qcompiler.passes.fuse import Fuse
from qcompiler.passes.insert_qdq import InsertQdq
from qcompiler.passes.integerize import Integerize
from qcompiler.passes.pipelines import convert_pipeline, float_pipeline, lower_pipeline, observe_pipeline
from qcompiler.passmanager import PassManager
from qcompiler.quantization.qconfig import get_qconfig
from qcompiler.text.printer import graph_data
from qcompiler.types import DType, QuantParams, tensor
from tests.passes.pass_texts import check_text, load

SPEC = str(get_qconfig("int8").activation)


def model() -> Graph:
    return load(
        "%x: f32[2,8]",
        """
        const @w : f32[8,8]
        %d = dropout(%x) : f32[2,8]
        %a = linear(%d, @w) : f32[2,8]
        %b = relu(%a) : f32[2,8]
        %y = linear(%b, @w) : f32[2,8]
        %z = relu(%y) : f32[2,8]
        return %y, %z""",
    )


def observed() -> Graph:
    return load(
        "%x: f32[2,8]",
        f"""
        const @w : f32[4,8]
        %x.obs = observe(%x) {{spec="{SPEC}", group="x"}} : f32[2,8]
        %y = linear(%x.obs, @w) : f32[2,4]
        %y.obs = observe(%y) {{spec="{SPEC}", group="y"}} : f32[2,4]
        return %y.obs as "y"
        """,
        "observed",
    )


@dataclass(frozen=True)
class Break:
    """A pass that leaves a graph which does not verify."""

    name: ClassVar[str] = "break"

    def run(self, graph: Graph) -> Graph:
        graph.set_type(graph.node_list[-1].results[0], tensor("f32", 99))
        return graph


@dataclass(frozen=True)
class Crash:
    name: ClassVar[str] = "crash"

    def run(self, graph: Graph) -> Graph:
        raise KeyError("oops")


@dataclass(frozen=True)
class Negate:
    """A wrong pass, which exchanges relu and abs."""

    name: ClassVar[str] = "negate"

    def run(self, graph: Graph) -> Graph:
        for node in graph.nodes:
            if node.op == "relu":
                graph.replace(node, "abs", node.operands)
        return graph


def test_record_and_diff() -> None:
    record, diff = Record(), Diff()
    PassManager([Canonicalize(), Dce(), Fuse()], [record, diff]).run(model())
    assert [(name, nodes) for name, nodes, _, _ in record.rows] == [("canonicalize", 4), ("dce", 4), ("fuse", 3)]
    assert all(seconds >= 0 for _, _, seconds, _ in record.rows) and "fuse" in str(record)
    assert [name for name, _ in diff.rows] == ["canonicalize", "fuse"]
    assert "-  %d = dropout(%x) : f32[2,8]" in diff.rows[0][1] and '+  %b = linear(%x, @w) {activation="relu"}' in str(
        diff
    )


def test_reasons() -> None:
    reasons = Reasons()
    PassManager([Dce(), Fuse()], [reasons]).run(model())
    assert ("fuse", "%z = relu: no fusion of an activation: %y is an output of the graph") in reasons.rows
    assert str(reasons).startswith("fuse: ")


def test_sqnr() -> None:
    x = np.array([3.0, 4.0])
    assert sqnr(x, x) == math.inf and sqnr(x, x + [0.3, 0.4]) == pytest.approx(20.0)
    assert sqnr(np.zeros(2), x) == -math.inf and sqnr(np.array([np.inf, 1]), np.array([np.inf, 1])) == math.inf
    assert sqnr(np.array([np.inf, 1]), np.array([-np.inf, 1])) == -math.inf


def test_numerics_finds_the_step_that_costs() -> None:
    x = np.random.default_rng(0).uniform(-4, 4, (2, 8)).astype(np.float32)
    params = {"x": QuantParams.per_tensor(8 / 255, 128, DType.U8), "y": QuantParams.per_tensor(1.0, 128, DType.U8)}
    numerics = Numerics([x])
    PassManager(convert_pipeline(params, {"y": get_qconfig("int8:plain")}), [numerics]).run(observed())
    after = dict((name, decibels) for name, decibels, _ in numerics.worst("insert-qdq"))
    assert after["x"] == math.inf and after["x.obs"] > 25 if "x.obs" in after else after["x"] == math.inf
    assert after["y"] > 30, "the linear layer itself is fine"
    final = numerics.worst("integerize")
    assert final[0][0] in ("y", "output:y") and 10 < final[0][1] < after["y"], "its output's coarse scale is not"
    assert "output:y" in str(numerics)


def test_numerics_of_float_passes_are_exact() -> None:
    numerics = Numerics([np.ones((2, 8), np.float32)])
    PassManager(float_pipeline(), [numerics]).run(model())
    assert {decibels for _, _, decibels, _ in numerics.rows} == {math.inf}


# -- reproducers


@pytest.mark.parametrize(
    "broken, message", [(Break(), "the graph is broken after pass 1 break"), (Crash(), "pass 1 crash failed: KeyError")]
)
def test_a_failing_pass_leaves_a_reproducer(broken: object, message: str, tmp_path) -> None:
    with pytest.raises(PassError) as caught, knobs.DUMP(tmp_path):
        PassManager([Canonicalize(), broken, Fuse()]).run(model())
    assert caught.value.message.startswith(message)
    first, _, text = caught.value.reproducer.partition("\n")
    assert first == f"// pipeline: {broken.name},fuse" and "dropout" not in text and "%b = relu(%a)" in text
    assert (tmp_path / "reproducer.qir").read_text() == caught.value.reproducer


def test_a_reproducer_runs() -> None:
    graph = model()
    text = reproducer(graph, [Canonicalize(), Fuse(residual=False)])
    again = run_reproducer(text, graph_data(graph))
    check_text(
        again,
        "%x: f32[2,8]",
        str(PassManager([Canonicalize(), Fuse()]).run(graph)).split("{\n", 1)[1].rsplit("}", 1)[0],
    )
    assert len(run_reproducer(text)) == 3
    with pytest.raises(PassError, match="not a reproducer"):
        run_reproducer(str(graph))


def test_a_reproducer_holds_the_decisions() -> None:
    params = {"x": QuantParams.per_tensor(0.1, 3, DType.U8), "y": QuantParams.per_tensor(0.3, 0, DType.U8)}
    graph = observed()
    passes = [InsertQdq(params, {"y": get_qconfig("int8")}, per_channel=False), Integerize()]
    again = run_reproducer(reproducer(graph, passes), graph_data(graph))
    assert str(again) == str(PassManager(passes).run(graph))


def test_what_is_wrong_with_the_model_passes_through() -> None:
    with pytest.raises(QuantizationError, match="no range was calibrated"):
        PassManager([InsertQdq({}, {})]).run(observed())


# -- bisection


def has_abs(graph: Graph) -> bool:
    return any(node.op == "abs" for node in graph.nodes)


@pytest.mark.parametrize("place", range(6))
def test_bisect(place: int) -> None:
    passes = [Dce() for _ in range(5)]
    passes.insert(place, Negate())
    found = bisect(model(), passes, has_abs)
    assert found is not None and found.index == place and str(found) == f"pass {place} negate"
    assert not has_abs(found.before) and has_abs(found.after)


def test_bisect_by_numbers() -> None:
    from qcompiler.interpreter import run

    graph = model()
    x = [np.random.default_rng(1).uniform(-1, 1, (2, 8)).astype(np.float32)]
    wanted = run(graph, x)[1]
    found = bisect(graph, [Canonicalize(), Negate(), Fuse(), Dce()], lambda g: not np.array_equal(run(g, x)[1], wanted))
    assert str(found) == "pass 1 negate"


def test_bisect_a_crash_and_nothing() -> None:
    found = bisect(model(), [Dce(), Fuse(), Crash()], has_abs)
    assert str(found) == "pass 2 crash" and str(found.after) == str(found.before)
    assert bisect(model(), [Dce(), Fuse()], has_abs) is None
    with pytest.raises(PassError, match="bad before the first pass"):
        bisect(model(), [Dce()], lambda graph: True)


@pytest.mark.parametrize("qconfig", [None, "int8"])
@pytest.mark.parametrize("target", ["reference", "native"])
@pytest.mark.parametrize("dynamic", [None, {"x": {0: "B"}}], ids=["static", "dynamic"])
def test_instruments_of_compile_see_every_pass(
    qconfig: str | None, target: str, dynamic: dict[str, dict[int, str]] | None
) -> None:
    data = np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)
    graph = compiler.trace(lambda x: np.maximum(x * 2, 0), {"x": data}, dynamic=dynamic)
    seen = Record()
    compiler.compile(graph, qconfig, calibration_data=[data] if qconfig else None, target=target, instruments=[seen])
    quantized = [*observe_pipeline({}), *convert_pipeline({}, {})] if qconfig else []
    passes = [*float_pipeline(), *quantized, *(lower_pipeline() if target == "native" else [])]
    assert [name.split("{")[0] for name, _, _, _ in seen.rows] == [each.name for each in passes]


def test_instruments_of_compile_see_the_lowering_of_an_integer_graph() -> None:
    params = {"x": QuantParams.per_tensor(8 / 255, 128, DType.U8), "y": QuantParams.per_tensor(1.0, 128, DType.U8)}
    seen = Record()
    compiler.compile(PassManager(convert_pipeline(params, {})).run(observed()), instruments=[seen])
    assert [name.split("{")[0] for name, _, _, _ in seen.rows] == [each.name for each in lower_pipeline()]
