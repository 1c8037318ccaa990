"""qconfigs and their rules, and calibrations that are saved, merged and used again."""

from __future__ import annotations

import itertools
import pathlib

import numpy as np
import pytest
import torch

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import QuantizationError
from qcompiler.opdef import works_on_codes
from qcompiler.quantization.qconfig import TORCH_BACKENDS


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.act = nn.ReLU()
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.flatten(self.pool(self.block(self.act(self.first(x))))))


NET = Net()
RNG = np.random.default_rng(0)
BATCHES = [RNG.normal(size=(2, 3, 6, 6)).astype(np.float32) for _ in range(6)]
X = BATCHES[0]


def graph() -> qc.Graph:
    return qc.trace(NET, (X,))


def scales(model: qc.CompiledModel) -> list[object]:
    return [value.type.quant for value in model.graph.values() if value.type.quant is not None and not value.is_const]


@pytest.mark.parametrize("backend", TORCH_BACKENDS)
def test_default_qconfigs_are_torchs(backend: str) -> None:
    theirs = torch.ao.quantization.get_default_qconfig(backend)
    ours = qc.get_default_qconfig(backend)
    activation, weight = theirs.activation(), theirs.weight()
    assert (activation.quant_min, activation.quant_max) == (ours.activation.qmin, ours.activation.qmax)
    assert type(activation).__name__ == "HistogramObserver" and ours.activation.observer == "torch_histogram"
    assert float(activation.eps) == ours.activation.eps and float(weight.eps) == ours.weight.eps
    assert (weight.quant_min, weight.quant_max) == (ours.weight.qmin, ours.weight.qmax)
    assert ("PerChannel" in type(weight).__name__) == ours.weight.per_channel and ours.weight.symmetric
    assert qc.compile(graph(), f"torch:{backend}", calibration_data=BATCHES, target="reference")(X).shape == (2, 5)


def test_unknown_names_give_the_nearest() -> None:
    for call, nearest in (
        (lambda: qc.get_qconfig("torch:fbgem"), "torch:fbgemm"),
        (lambda: qc.get_default_qconfig("qnpack"), "qnnpack"),
        (lambda: qc.compile(graph(), "int9", calibration_data=BATCHES), "int8"),
    ):
        with pytest.raises(QuantizationError, match=nearest):
            call()


def test_rules_by_priority_and_the_table() -> None:
    int8 = qc.get_qconfig("int8")
    minmax = qc.get_qconfig("int8:minmax")
    mapping = (
        qc.QConfigMapping()
        .set_global(int8)
        .set_object_type(nn.Conv2d, None)
        .set_module_name_regex(r"block\..*", minmax)
        .set_module_name("block.2", None)
        .set_module_name_object_type_order("block", "Conv2d", 1, int8)
    )
    table = qc.prepare(graph(), mapping).table
    assert table["first"] is None and table["fc"] == int8
    assert table["block.0"] == minmax and table["block.2"] == int8
    text = str(table)
    assert (
        "object type Conv2d" in text
        and "regex block" in text
        and "Conv2d number 1 in block" in text
        and "global" in text
    )
    model = qc.compile(
        graph(),
        qc.QConfigMapping().set_global("int8").set_module_name("first", None),
        calibration_data=BATCHES,
        target="reference",
    )
    kinds = {node.name: works_on_codes(node) for node in model.graph.nodes}
    assert not kinds["act"] and kinds["fc"] and "qconfig is None" in str(model.report())
    assert (
        np.array_equal(qc.compile(model.graph)(X), model(X))
        or np.abs(qc.compile(model.graph)(X) - model(X)).max() < 1e-5
    )


@pytest.mark.parametrize(
    "rule",
    [
        lambda m: m.set_object_type("conv3d", None),
        lambda m: m.set_module_name("blok", None),
        lambda m: m.set_module_name_regex("zzz", None),
        lambda m: m.set_module_name_object_type_order("block", "Conv2d", 7, None),
    ],
)
def test_a_rule_that_matches_nothing_is_an_error(rule: object) -> None:
    with pytest.raises(QuantizationError, match="matches no node"):
        qc.prepare(graph(), rule(qc.QConfigMapping().set_global("int8")))


def test_builtin_rules_may_match_nothing() -> None:
    assert qc.get_default_qconfig_mapping("x86").builtin
    qc.prepare(graph(), "torch:x86")


def test_merging_in_any_order_gives_the_same_scales() -> None:
    prepared = qc.prepare(graph())
    parts = [qc.calibrate(prepared, BATCHES[i : i + 2]) for i in (0, 2, 4)]
    whole = qc.compile(graph(), calibration=qc.calibrate(prepared, BATCHES))
    for order in itertools.permutations(parts):
        merged = qc.compile(graph(), calibration=order[0] + order[1] + order[2])
        assert scales(merged) == scales(whole)


@pytest.mark.parametrize("qconfig", ["int8", "int8:minmax", "torch:fbgemm"])
def test_saved_and_loaded_it_gives_the_same_graph(tmp_path: pathlib.Path, qconfig: str) -> None:
    calibration = qc.calibrate(qc.prepare(graph(), qconfig), BATCHES)
    path = tmp_path / "calibration.safetensors"
    calibration.save(path)
    first = path.read_bytes()
    calibration.save(path)
    assert path.read_bytes() == first and [p.name for p in tmp_path.iterdir()] == [path.name]
    loaded = qc.Calibration.load(path)
    assert str(qc.compile(graph(), qconfig, calibration=loaded).graph) == str(
        qc.compile(graph(), qconfig, calibration=calibration).graph
    )


def test_used_again_with_another_qconfig() -> None:
    calibration = qc.calibrate(qc.prepare(graph(), "int8"), BATCHES)
    for qconfig in ("int8:minmax", "int8:percentile", "int8:mse", "int8:kl"):
        again = qc.compile(graph(), qconfig, calibration=calibration)
        assert scales(again) == scales(qc.compile(graph(), qconfig, calibration_data=BATCHES))
    with pytest.raises(QuantizationError, match="did not collect"):
        qc.compile(graph(), "int8", calibration=qc.calibrate(qc.prepare(graph(), "int8:minmax"), BATCHES))


# -- a calibration used again under a mapping that groups the values otherwise


class Joined(nn.Module):
    """Two branches that a concatenation ties to each other, and a mover."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 4, 1)
        self.right = nn.Conv2d(3, 4, 1)
        self.last = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        return self.last(np.concatenate([self.left(x), self.right(x) * 9], axis=1)).reshape(-1)


JOINED = Joined()


def without(kind: str, qconfig: str = "int8") -> qc.QConfigMapping:
    return qc.QConfigMapping().set_global(qconfig).set_object_type(kind, None)


@pytest.mark.parametrize("qconfig", ["int8", "int8:minmax", "int8:kl"])
@pytest.mark.parametrize("kind", ["concat", "reshape", "mul"])
def test_groups_that_become_one_take_over_what_all_saw(qconfig: str, kind: str) -> None:
    whole, apart = (qc.prepare(JOINED, rules, (X,)) for rules in (qconfig, without(kind, qconfig)))
    assert {frozenset(names) for names in whole.members().values()} != set(map(frozenset, apart.members().values()))
    wanted = qc.calibrate(whole, BATCHES)
    observed = {name for names in apart.members().values() for name in names}
    if observed == {name for names in whole.members().values() for name in names}:
        taken = qc.calibrate(apart, BATCHES).for_prepared(whole)
        assert taken.members == wanted.members
        assert {group: o.qparams() for group, o in taken.items()} == {group: o.qparams() for group, o in wanted.items()}
    else:
        with pytest.raises(QuantizationError, match="did not observe a value"):
            qc.calibrate(apart, BATCHES).for_prepared(whole)


def test_one_name_for_two_groups_is_not_enough() -> None:
    """The group of the concatenation is named after its first member, which has a group of its own without it."""
    whole, apart = (qc.prepare(JOINED, rules, (X,)) for rules in ("int8", without("concat")))
    assert "left" in whole.members() and whole.members()["left"] != apart.members()["left"] == ["left"]
    calibration = qc.calibrate(whole, BATCHES)
    with pytest.raises(
        QuantizationError, match="together with %concat, which has parameters of its own here"
    ) as caught:
        calibration.for_prepared(apart)
    assert caught.value.where == "%left"
    for use in (
        lambda: qc.convert(apart, calibration),
        lambda: qc.compile(JOINED, without("concat"), (X,), calibration=calibration),
    ):
        with pytest.raises(QuantizationError, match="together with"):
            use()


def test_observers_that_cannot_merge_do_not_unite_groups() -> None:
    whole, apart = (qc.prepare(JOINED, rules, (X,)) for rules in ("torch:onednn", without("concat", "torch:onednn")))
    with pytest.raises(QuantizationError, match="cannot be merged(.|\n)*%left, which unites %concat, %left, %mul"):
        qc.calibrate(apart, BATCHES).for_prepared(whole)


def test_a_union_of_other_observers() -> None:
    """Where some groups are observed by minmax, a union by minmax takes over both kinds and one by histogram cannot."""
    mixed = without("concat").set_module_name("left", "int8:minmax")
    calibration = qc.calibrate(qc.prepare(JOINED, mixed, (X,)), BATCHES)
    minmax = qc.prepare(JOINED, "int8:minmax", (X,))
    taken = calibration.for_prepared(minmax)
    wanted = qc.calibrate(minmax, BATCHES)
    assert {group: o.qparams() for group, o in taken.items()} == {group: o.qparams() for group, o in wanted.items()}
    with pytest.raises(QuantizationError, match="did not collect what histogram needs"):
        calibration.for_prepared(qc.prepare(JOINED, "int8", (X,)))


def test_taking_over_leaves_the_calibration_as_it_was() -> None:
    apart, whole = qc.prepare(JOINED, without("concat"), (X,)), qc.prepare(JOINED, "int8", (X,))
    calibration = qc.calibrate(apart, BATCHES)
    before = {group: observer.qparams() for group, observer in calibration.items()}
    calibration.for_prepared(whole)
    assert {group: observer.qparams() for group, observer in calibration.items()} == before


def test_calibrations_of_other_groups_do_not_merge() -> None:
    one = qc.calibrate(qc.prepare(JOINED, "int8", (X,)), BATCHES)
    other = qc.Calibration(one.observers, one.specs, {**one.members, "left": ["left", "concat"]})
    with pytest.raises(QuantizationError, match="observed other values together"):
        _ = one + other
    unknown = qc.Calibration(one.observers, one.specs)
    assert (unknown + one).members == (one + unknown).members == one.members


@pytest.mark.parametrize(
    "data,text",
    [
        ([], "empty"),
        ([np.full((2, 3, 6, 6), np.nan, np.float32)], "not finite"),
        ([(X, np.zeros(2))], "label"),
        ([X[:, :2]], "does not fit"),
        (X, "row by row"),
        ([X.astype(np.float64)], "does not fit"),
        ([{"y": X}], "other names"),
    ],
)
def test_bad_calibration_data(data: object, text: str) -> None:
    with pytest.raises(QuantizationError, match=text):
        qc.compile(graph(), calibration_data=data)


def test_data_missing_or_given_twice() -> None:
    with pytest.raises(QuantizationError, match="needs calibration data"):
        qc.compile(graph())
    with pytest.raises(QuantizationError, match="both"):
        qc.compile(graph(), calibration_data=BATCHES, calibration=qc.calibrate(qc.prepare(graph()), BATCHES))
