"""Outlier channels: the split keeps what products give, errors fall, codes agree on all levels, and what is told."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import PassError
from qcompiler.interpreter import run
from qcompiler.ir import Graph
from qcompiler.notes import Outliers
from qcompiler.passes.split_outliers import SUFFIX, SplitOutliers
from qcompiler.verify import verify
from tests.passes.pass_texts import load

INT8 = qc.get_qconfig("int8")
OBSERVED = '{spec="u8 [0,255] affine per_tensor histogram eps=1e-07", group="%s"}'


class Block(nn.Module):
    """A transformer's feed-forward part, in which a few hidden channels are far wider than the rest."""

    def __init__(self, act: type[nn.Module] = nn.GELU, codes: bool = False, times: float = 16) -> None:
        super().__init__()
        rng = np.random.default_rng(0)
        self.up, self.down, self.act, self.codes = nn.Linear(32, 256), nn.Linear(256, 32), act(), codes
        weight = rng.normal(size=(256, 32)).astype(np.float32) / 4
        weight[[7, 130, 201]] *= times
        self.up.weight = weight
        self.last = nn.Linear(32, 8)
        down = rng.normal(size=(32, 256)).astype(np.float32) / 16
        down[:, [7, 130, 201]] /= times
        self.down.weight = down

    def forward(self, x: np.ndarray) -> np.ndarray:
        y = self.down(self.act(self.up(x)))
        return self.last(np.maximum(y, 0)) if self.codes else nn.functional.layer_norm(x + y, (32,))


def items(count: int = 3, seed: int = 5) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(1, 1024, 32)).astype(np.float32) for _ in range(count)]


def sqnr(net: nn.Module, model: qc.CompiledModel) -> float:
    real, test = qc.compile(net, None, (items()[0],)), items(seed=6)
    a, b = (np.concatenate([each(x) for x in test]).astype(np.float64) for each in (real, model))
    return float(10 * np.log10((a * a).sum() / ((a - b) ** 2).sum()))


def told(graph: Graph) -> list[Outliers]:
    return [note for note in graph.notes if isinstance(note, Outliers)]


NETS = {
    "gelu": Block(),
    "silu": Block(nn.SiLU),
    "the product gives codes": Block(codes=True),
    "a relu, which is fused": Block(nn.ReLU),
}


@pytest.mark.parametrize("case", NETS)
def test_errors_fall_and_nothing_becomes_float(case: str) -> None:
    net = NETS[case]
    models = [
        qc.compile(net, qconfig, (items()[0],), calibration_data=items())
        for qconfig in (INT8, replace(INT8, equalize=False))
    ]
    if case == "a relu, which is fused":  # scales pass a relu, and even out the channels
        assert not told(models[0].graph)
        return
    (note,) = told(models[0].graph)
    assert (note.split, note.channels) == (4, 256) and 2 * note.after <= note.before
    assert sqnr(net, models[0]) > sqnr(net, models[1]) + 3
    kept, before = ({row.node for row in model.report().kept_float} for model in models)
    assert {name for name in kept - before if not name.endswith(SUFFIX)} == set()
    assert f"    {note}" in str(models[0].report())
    assert qc.parse(str(models[0].graph), data="zeros").notes == models[0].graph.notes


@pytest.mark.parametrize("case", ["gelu", "the product gives codes"])
def test_levels_and_the_interpreter_agree(case: str) -> None:
    net, data = NETS[case], items()
    graph = qc.compile(net, "int8", (data[0],), calibration_data=data, target="reference").graph
    assert told(graph)
    outputs = [graph.outputs[0]] if case == "gelu" else []
    reference = qc.compile(graph, target="reference")
    models = [qc.compile(graph, target=f"x86-64+{level}") for level in runnable_levels()]
    for x in (data[0], 100 * data[1], np.zeros_like(data[0])):
        expected = [reference(x), *(model(x) for model in models)]
        for other in expected[2:]:
            assert np.array_equal(expected[1], other)
        if outputs:
            np.testing.assert_allclose(expected[1], expected[0], rtol=1e-4, atol=1e-4)
        else:
            assert np.array_equal(expected[0], expected[1])


def runnable_levels() -> list[str]:
    from qcompiler.backends.target import parse_target

    names = ["avx2", "avx512", "avx512vnni"]
    return [name for name in names if parse_target(f"x86-64+{name}").can_run()]


def test_even_channels_few_channels_and_tables_without_knots_stay() -> None:
    even = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 8))
    steep = Block(times=400)  # 1025 knots do not serve such a range
    few = nn.Sequential(nn.Linear(32, 48), nn.GELU(), nn.Linear(48, 8))
    for net in (even, few, steep):
        assert not told(qc.compile(net, "int8", (items()[0],), calibration_data=items(), target="reference").graph)


def test_it_is_off_where_the_qconfig_says_so() -> None:
    for qconfig in ("int8:plain", "torch:fbgemm", replace(INT8, equalize=False)):
        assert not told(qc.compile(Block(), qconfig, (items()[0],), calibration_data=items(), target="reference").graph)


BODY = """
    const @w : f32[3,4]
    const @b : f32[3]
    %a.obs = observe(%a) {A} : f32[2,4]
    %y = linear(%a.obs, @w, @b, %r) {{activation="relu"}} : f32[2,3]
    return %y
""".replace("{A}", OBSERVED.replace("{", "{").replace("%s", "a"))


def graph_of(body: str) -> Graph:
    return load("%x: f32[2,4], %r: f32[2,3]", body.replace("{{", "{").replace("}}", "}"), "observed")


def test_the_split_keeps_what_a_product_gives() -> None:
    """Sums of sixteenths are exact, so the order of terms does not matter."""
    graph = graph_of(BODY.replace("%a.obs =", "%a = exp(%x) : f32[2,4]\n    %a.obs ="))
    graph = qc.parse(str(graph), {name: np.rint(16 * const.data) / 16 for name, const in graph.consts.items()})
    assert isinstance(graph, Graph)
    split = SplitOutliers({"a": (1.0, 3.0)}).run(graph.clone())
    verify(split)
    assert [node.op for node in split.nodes].count("linear") == 2
    rng = np.random.default_rng(0)
    x, r = np.log(rng.integers(1, 9, (2, 4))).astype(np.float32), np.rint(16 * rng.normal(size=(2, 3))) / 16
    for before, after in zip(run(graph, [x, r.astype(np.float32)]), run(split, [x, r.astype(np.float32)])):
        np.testing.assert_allclose(before, after, rtol=1e-5, atol=1e-5)


WRONG = {
    "no observer": ({"y": (1.0,)}, "cannot split %y: it has no observer"),
    "not ascending": ({"a": (3.0, 1.0)}, "channels to split off"),
    "outside": ({"a": (4.0,)}, "channels to split off"),
    "none": ({"a": ()}, "channels to split off"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_channels_are_refused(case: str) -> None:
    outliers, message = WRONG[case]
    graph = graph_of(BODY.replace("%a.obs =", "%a = exp(%x) : f32[2,4]\n    %a.obs ="))
    with pytest.raises(PassError) as caught:
        SplitOutliers(outliers).run(graph)
    assert message in caught.value.message


NO_SPLIT = {
    "an input": (BODY.replace("observe(%a)", "observe(%x)"), "x", "it is an input of the graph"),
    "another reader": (
        BODY.replace("%a.obs =", "%a = exp(%x) : f32[2,4]\n    %a.obs =").replace(
            "return %y", "%z = relu(%a.obs) : f32[2,4]\n    return %y, %z"
        ),
        "a",
        "%z = relu reads it too",
    ),
    "an output": (
        BODY.replace("%a.obs =", "%a = exp(%x) : f32[2,4]\n    %a.obs =").replace("return %y", "return %y, %a.obs"),
        "a",
        "%a.obs is an output of the graph",
    ),
}


@pytest.mark.parametrize("case", NO_SPLIT)
def test_what_cannot_be_split_is_told(case: str) -> None:
    body, value, reason = NO_SPLIT[case]
    with pytest.raises(PassError) as caught:
        SplitOutliers({value: (1.0,)}).run(graph_of(body))
    assert caught.value.message == f"split-outliers cannot split %{value}: {reason}"
