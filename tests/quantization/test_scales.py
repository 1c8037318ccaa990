"""Files of scales: written from a calibration, edited by hand, diffed, and applied to retrained weights."""

from __future__ import annotations

import pathlib
import re
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import ArtifactError, ParseError, QuantizationError
from qcompiler.ops.interfaces import Weighted
from qcompiler.quantization import qmath

RNG = np.random.default_rng(5)
DATA = [RNG.normal(size=(4, 6)).astype(np.float32) for _ in range(4)]


class Net(nn.Module):
    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)
        self.gate = nn.Sigmoid()
        rng = np.random.default_rng(seed)
        for layer in (self.first, self.second):
            layer.weight = rng.normal(size=np.shape(layer.weight)).astype(np.float32)
            layer.bias = rng.normal(size=np.shape(layer.bias)).astype(np.float32)

    def forward(self, x: Any) -> Any:
        return self.gate(self.second(self.act(self.first(x))))


def prepared(seed: int = 0) -> qc.Prepared:
    return qc.prepare(Net(seed), "int8:plain", (DATA[0],))


@pytest.fixture(scope="module")
def locked() -> qc.Scales:
    model = prepared()
    return qc.Scales.of(model, qc.calibrate(model, DATA))


def activations(graph: qc.Graph) -> dict[float, int]:
    """Scale -> zero point of all codes that are no constants."""
    found = [value.type.quant for value in graph.values() if not value.is_const]
    return {params.scale[0]: params.zero_point[0] for params in found if params is not None}


def check_biases(graph: qc.Graph) -> int:
    """Each bias has the scale scale(x) * scale(weight), and there are so many."""
    layers = [layer for node in graph.nodes if (layer := Weighted.of(node)) is not None]
    for layer in layers:
        bias = layer.bias
        assert bias is not None
        x, weight = layer.x.type.params, layer.weight.type.params
        assert np.array_equal(bias.type.params.scales, qmath.multiplier(x.scales, weight.scales))
    return len(layers)


def test_the_text_is_sorted_and_comes_back(locked: qc.Scales, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "net.scales"
    locked.save(path)
    header, *lines = path.read_text().splitlines()
    assert header == "qcompiler scales 1" and lines == sorted(lines) and len(lines) == len(locked) > 2
    assert all(re.fullmatch(r'"\S+" u8 \[0,255\] scale=\S+ zero_point=\d+', line) for line in lines)
    again = qc.Scales.load(path)
    assert again == locked and str(again) == path.read_text() and locked.diff(again) == []


def test_the_scales_are_those_of_the_calibration(locked: qc.Scales) -> None:
    model = prepared()
    graph = qc.convert(model, locked)
    used = {scale.params.scale[0]: scale.params.zero_point[0] for scale in locked.lines.values()}
    assert graph.stage == "integer" and activations(graph).items() <= used.items()
    assert activations(graph) == activations(qc.convert(model, qc.calibrate(model, DATA)))
    compiled = qc.compile(Net(), "int8:plain", (DATA[0],), calibration=locked, target="reference")
    assert str(compiled.graph) == str(graph)


def test_one_scale_edited_by_hand(locked: qc.Scales, tmp_path: pathlib.Path) -> None:
    """The codes have the new scale, and the bias of the product that reads them follows."""
    path = tmp_path / "net.scales"
    before = qc.convert(prepared(), locked)
    locked.save(path)
    layer = [layer for node in before.nodes if (layer := Weighted.of(node)) is not None][1]
    old = layer.x.type.params
    line = next(line for line in path.read_text().splitlines() if qc_scale(line) == old.scale[0])
    path.write_text(path.read_text().replace(line, re.sub("scale=[^ ]+", "scale=0.0625", line) + "\n# by hand"))
    edited = qc.Scales.load(path)
    (change,) = locked.diff(edited)
    assert change.startswith(line + " -> ") and f"({0.0625 / old.scale[0]:.4g} times)" in change
    after = qc.convert(prepared(), edited)
    assert set(activations(after)) == set(activations(before)) - {old.scale[0]} | {0.0625}
    assert check_biases(before) == check_biases(after) == 2
    assert str(before) != str(after) and qc.interpret(after, DATA[:1])[0].shape == (4, 5)


def qc_scale(line: str) -> float:
    found = re.search("scale=([^ ]+)", line)
    return -1.0 if found is None else float(np.float32(found[1]))


def test_retrained_weights_take_the_scales(locked: qc.Scales) -> None:
    old, new = qc.convert(prepared(), locked), qc.convert(prepared(7), locked)
    assert activations(old) == activations(new) and check_biases(new) == 2
    x = DATA[0]
    real = qc.interpret(qc.trace(Net(7), (x,)), [x])[0]
    assert not np.array_equal(qc.interpret(old, [x])[0], qc.interpret(new, [x])[0])
    assert np.mean((qc.interpret(new, [x])[0] - real) ** 2) < np.mean((qc.interpret(old, [x])[0] - real) ** 2)


def test_hostile_names(locked: qc.Scales, tmp_path: pathlib.Path) -> None:
    scale = next(iter(locked.lines.values()))
    names = ['"', "a\nb", "# x", "é\u2028", "../x", "\\", "x" * 65536, "\ud800", ""]
    scales = qc.Scales(dict.fromkeys(names, scale))
    scales.save(tmp_path / "hostile.scales")
    assert qc.Scales.load(tmp_path / "hostile.scales") == scales
    assert len((tmp_path / "hostile.scales").read_text().splitlines()) == 1 + len(names)
    with pytest.raises(QuantizationError, match="not observed") as caught:
        changed(locked, f'"{next(iter(locked))}"', '"\\ud800"', tmp_path).for_prepared(prepared())
    assert str(caught.value).encode()  # it can be printed


def test_a_mark_of_the_byte_order_is_no_text(locked: qc.Scales, tmp_path: pathlib.Path) -> None:
    (tmp_path / "marked.scales").write_text(str(locked), encoding="utf-8-sig")
    assert qc.Scales.load(tmp_path / "marked.scales") == locked


GOOD = '"x" u8 [0,255] scale=0.5 zero_point=3'
BAD = {
    "x u8 [0,255] scale=0.5 zero_point=3": (ParseError, "line 2"),
    '"x" u8 [0,255] scale=half zero_point=3': (ParseError, "line 2"),
    '"x" u9 [0,255] scale=0.5 zero_point=3': (ParseError, "line 2"),
    '"x" u8 [0,255] scale=0.5 zero_point=3 more': (ParseError, "line 2"),
    '"x" u8 [0,255] scale=0.5 zero_point=\u0663': (ParseError, "line 2"),
    "[" * 100_000: (ParseError, "line 2"),
    '"x" u8 [0,255] scale=0.0 zero_point=3': (QuantizationError, "scale out of range"),
    '"x" u8 [0,255] scale=1e99 zero_point=3': (QuantizationError, "scale out of range"),
    '"x" u8 [0,255] scale=0.5 zero_point=256': (QuantizationError, "line 2"),
    f"{GOOD}\n{GOOD}": (QuantizationError, "line 3"),
}


@pytest.mark.parametrize("text", BAD, ids=range(len(BAD)))
def test_bad_lines(text: str, tmp_path: pathlib.Path) -> None:
    kind, said = BAD[text]
    path = tmp_path / "bad.scales"
    path.write_text(f"qcompiler scales 1\n{text}\n")
    with pytest.raises(kind, match=said):
        qc.Scales.load(path)


def test_bad_files(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "bad.scales"
    with pytest.raises(ArtifactError, match="cannot be read"):
        qc.Scales.load(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ArtifactError, match="UTF-8"):
        qc.Scales.load(path)
    path.write_text("{}")
    with pytest.raises(ParseError, match="no file of scales"):
        qc.Scales.load(path)


def changed(locked: qc.Scales, old: str, new: str, tmp_path: pathlib.Path) -> qc.Scales:
    assert old in str(locked)
    (tmp_path / "edited.scales").write_text(str(locked).replace(old, new, 1))
    return qc.Scales.load(tmp_path / "edited.scales")


def test_scales_that_do_not_fit_the_graph(locked: qc.Scales, tmp_path: pathlib.Path) -> None:
    model = prepared()
    first, gate = list(locked)[0], next(group for group in locked if "gate" in group)
    fixed = str(locked.lines[gate])
    assert fixed == "u8 [0,255] scale=0.00390625 zero_point=0"
    for old, new, said in (
        (f'"{first}"', '"other"', "not observed"),
        (f'"{first}" {locked.lines[first]}\n', "", "no line"),
        (f'"{first}" u8 [0,255]', f'"{first}" i8 [-128,127]', "another range|zero_point outside"),
        (f'"{gate}" {fixed}', f'"{gate}" {fixed.replace("0.00390625", "0.5")}', "the op fixes"),
    ):
        with pytest.raises(QuantizationError, match=said):
            qc.convert(model, changed(locked, old, new, tmp_path))
    symmetric = qc.prepare(Net(), "torch:qnnpack", (DATA[0],))
    with pytest.raises(QuantizationError, match="locked scales observe no data"):
        locked[first].observe(DATA[0])
    assert len(qc.Scales.of(symmetric, qc.calibrate(symmetric, DATA))) > 2
