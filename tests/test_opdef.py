"""How an op is declared: fields and their order, typed views of nodes, attributes, operand counts, the registry."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from qcompiler import opdef as module
from qcompiler.errors import ShapeError, VerifyError
from qcompiler.ir import Graph, Node
from qcompiler.opdef import (
    REQUIRED,
    Op,
    Role,
    all_ops,
    bias_operand,
    bool_attr,
    dtype_attr,
    find_opdef,
    float_attr,
    fused_activation,
    int_attr,
    ints_attr,
    op_of,
    opdef,
    operand,
    optional_floats_attr,
    optional_int_attr,
    optional_operand,
    pairs_attr,
    shape_attr,
    str_attr,
    variadic_operand,
    weight_operand,
)
from qcompiler.types import DType, QuantParams, TensorType, tensor

F = tensor("f32", 2, 3)


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Removes the ops that a test declares."""
    all_ops()
    monkeypatch.setattr(module, "_REGISTRY", dict(module._REGISTRY))
    yield


class _Layer(Op):
    """What two ops share. It has no name, so it is no op."""

    x = operand()
    weight = weight_operand()
    activation = fused_activation()


def declare() -> type[Op]:
    class Probe(_Layer):
        """Scale x, then clamp it."""

        name = "probe"
        bias = bias_operand()
        factor = float_attr(1.0, "by how much")
        axes = ints_attr((0,))
        optional = optional_int_attr()
        mode = str_attr("up", choices=("up", "down"), name="direction")

        def infer(self, x: TensorType, weight: TensorType, bias: TensorType | None) -> TensorType:
            if x.rank != 2:
                raise ShapeError("rank", expected=2, got=x.rank)
            return x

        def reference(self, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
            return x * self.factor if bias is None else x * self.factor + bias

    return Probe


def node_of(op: str, attrs: dict | None = None, *, bias: bool = False) -> Node:
    graph = Graph()
    values = [graph.add_input("x", F), graph.add_const("w", np.ones(3, np.float32))]
    if bias:
        values.append(graph.add_const("b", np.ones(3, np.float32)))
    return graph.create(op, values, attrs)


# -- declaring


def test_fields_stand_in_order_base_classes_first() -> None:
    probe = declare()
    assert [(spec.name, spec.index, spec.role) for spec in probe.operands] == [
        ("x", 0, Role.ACTIVATION),
        ("weight", 1, Role.WEIGHT),
        ("bias", 2, Role.BIAS),
    ]
    assert [spec.name for spec in probe.attrs] == ["activation", "factor", "axes", "optional", "direction"]
    assert (probe.name, probe.doc, probe.family) == ("probe", "Scale x, then clamp it.", "test_opdef")
    assert [probe.operand_index(name) for name in ("x", "weight", "bias")] == [0, 1, 2]
    assert not _Layer.name and find_opdef("") is None


def test_declaring_registers_once() -> None:
    assert find_opdef("probe") is None
    probe = declare()
    assert opdef("probe") is probe is find_opdef("probe") and probe in all_ops() and all_ops()[-1] is probe
    with pytest.raises(VerifyError, match="'probe' is declared twice"):
        declare()
    with pytest.raises(VerifyError, match="did you mean 'probe'"):
        opdef("prob")


def test_a_field_that_is_declared_again_moves() -> None:
    declare()

    class Other(_Layer):
        """An op whose weight comes last."""

        name = "other"
        extra = optional_operand()
        activation = str_attr("gelu")

        def infer(self, x: TensorType, weight: TensorType, extra: TensorType | None) -> TensorType:
            return x

        def reference(self, x: np.ndarray, weight: np.ndarray, extra: np.ndarray | None) -> np.ndarray:
            return x

    assert [spec.name for spec in Other.operands] == ["x", "weight", "extra"]
    assert [spec.default for spec in Other.attrs] == ["gelu"] and _Layer.attrs[0].default == "none"


def test_the_variadic_operand_is_last() -> None:
    with pytest.raises(VerifyError, match="stands at two positions"):

        class Wrong(Op):
            """An op with operands after a variable number of others."""

            name = "wrong"
            items = variadic_operand()
            x = operand()

    assert find_opdef("wrong") is None


# -- views


def test_a_view_reads_a_node_by_name() -> None:
    probe = declare()
    node = node_of("probe", {"factor": 2, "direction": "down"})
    view = probe(node)
    assert view.x is node.operands[0] and view.weight is node.operands[1] and view.bias is None
    assert (view.factor, view.axes, view.mode, view.activation) == (2.0, (0,), "down", "none")
    assert type(view.factor) is float and view.node is node and type(op_of(node)) is probe
    assert probe(node_of("probe", bias=True)).bias.name == "b"


def test_views_of_other_nodes() -> None:
    probe, node = declare(), node_of("probe")
    relu = node.graph.create("relu", [node.result])
    assert _Layer.of(node).weight.name == "w" and isinstance(_Layer.of(node), probe)
    assert probe.of(relu) is None and probe.of(None) is None
    with pytest.raises(VerifyError, match="a view of probe reads relu"):
        probe(relu)


def test_a_view_of_attributes_alone_has_no_operands() -> None:
    probe = declare()
    view = probe.from_attrs(probe.complete_attrs({"factor": 3}))
    assert view.factor == 3.0
    for read in (lambda: view.node, lambda: view.x):
        with pytest.raises(VerifyError, match="has no node"):
            read()
    bound = probe(node_of("probe"), probe.complete_attrs({"factor": 5}))
    assert bound.factor == 5.0 and bound.x.name == "x", "given attributes take the place of the node's"


def test_variadic_operands_are_a_tuple() -> None:
    graph = Graph()
    values = [graph.add_input(name, F) for name in "abc"]
    concat = opdef("concat")
    view = concat(graph.create("concat", values, {"axis": 0}))
    ((name, items),) = [(spec.name, getattr(view, spec.name)) for spec in concat.operands]
    assert items == tuple(values) and concat.spec(0) is concat.spec(7) is getattr(concat, name)


# -- attributes


def test_attributes_are_completed_in_order_and_frozen() -> None:
    probe = declare()
    complete = probe.complete_attrs({"axes": [np.int64(1), 2], "factor": np.float32(0.5)})
    assert list(complete) == ["activation", "factor", "axes", "optional", "direction"]
    assert complete["axes"] == (1, 2) and type(complete["axes"][0]) is int and complete["optional"] is None
    assert complete["factor"] == 0.5 and type(complete["factor"]) is float


@pytest.mark.parametrize(
    "given, message",
    [
        ({"factr": 1.0}, "did you mean 'factor'"),
        ({"factor": "x"}, "'factor' of probe is of another kind"),
        ({"factor": True}, "'factor' of probe is of another kind"),
        ({"axes": (1.5,)}, "'axes' of probe is of another kind"),
        ({"axes": 1}, "'axes' of probe is of another kind"),
        ({"factor": None}, "'factor' of probe is of another kind"),
        ({"direction": "left"}, "up | down"),
        ({"activation": "gelu"}, "none | relu | relu6"),
    ],
)
def test_attributes_that_are_refused(given: dict, message: str) -> None:
    with pytest.raises(VerifyError) as caught:
        declare().complete_attrs(given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "spec, good, bad",
    [
        (int_attr(), [0, -(2**40), 2**63 - 1], [True, 1.0, "1", None, 2**63]),
        (float_attr(), [0, 2.5, float("inf")], [False, "1", None, 10**400]),
        (bool_attr(), [True, False], [0, "true", None]),
        (str_attr(), ["", "x"], [1, None, ("x",)]),
        (ints_attr(), [(), (1, -2)], [(1.0,), (True,), 1, None, (-(2**63) - 1,), ((1,),)]),
        (optional_floats_attr(), [None, (), (1, 2.5)], [("x",), 1.0, (True,), (10**400,), (None,)]),
        (pairs_attr(), [(), ((1, 2), (0, 0))], [((1,),), (1, 2), None, ((1, 2.5),), ((1, "a"),), ((True, 0),)]),
        (dtype_attr(), [DType.U8], ["u8", None]),
        (shape_attr(), [(), (1, -1, "2*B")], [(1.5,), "B", None, (True,), (2**63,)]),
    ],
)
def test_kinds(spec: object, good: list, bad: list) -> None:
    for value in good:
        assert spec.checked("op", value) == value  # type: ignore[attr-defined]
    for value in bad:
        with pytest.raises(VerifyError, match="another kind"):
            spec.checked("op", value)  # type: ignore[attr-defined]


def test_a_required_attribute() -> None:
    class Needs(Op):
        """An op with a required attribute."""

        name = "needs"
        x = operand()
        size = int_attr()

        def infer(self, x: TensorType) -> TensorType:
            return x

        def reference(self, x: np.ndarray) -> np.ndarray:
            return x

    assert Needs.attrs[0].default is REQUIRED
    with pytest.raises(VerifyError, match="needs needs the attr 'size'"):
        Needs.complete_attrs({})


# -- operands and meaning


@pytest.mark.parametrize("op, legal, illegal", [("relu", {1}, {0, 2}), ("linear", {2, 3, 4}, {1, 5})])
def test_operand_counts(op: str, legal: set[int], illegal: set[int]) -> None:
    for count in legal:
        opdef(op).check_operands(["x"] * count)
    for count in illegal:
        with pytest.raises(VerifyError, match="wrong number of operands"):
            opdef(op).check_operands(["x"] * count)


def test_unknown_operands() -> None:
    with pytest.raises(VerifyError):
        opdef("relu").operand_index("weight")
    with pytest.raises(VerifyError, match="takes 1 operands"):
        opdef("relu").spec(1)


def test_inference_sees_real_types_and_says_which_op_refuses() -> None:
    probe = declare()
    attrs = probe.complete_attrs({})
    quantized = F.quantized(DType.U8, QuantParams.per_tensor(0.5, 3, DType.U8))
    assert probe.infer_types([quantized, F], attrs) == (F,)
    with pytest.raises(ShapeError) as caught:
        probe.infer_types([tensor("f32", 4), F], attrs)
    assert "where:    probe" in str(caught.value)
    with pytest.raises(VerifyError, match="operand 'weight' is missing"):
        probe.infer_types([F, None], attrs)


def test_reference_takes_absent_operands_as_none() -> None:
    probe = declare()
    x = np.array([[1.0, 2.0]], np.float32)
    attrs = probe.complete_attrs({"factor": 3})
    assert probe.run_reference([x, x], attrs)[0].tolist() == [[3, 6]]
    assert probe.run_reference([x, x, x], attrs)[0].tolist() == [[4, 8]]
    with pytest.raises(VerifyError, match="no integer meaning"):
        probe.run_integer([x, x], [F, F], F, attrs)


def test_all_ops_do_not_depend_on_what_was_imported_first() -> None:
    names = [op.name for op in all_ops()]
    assert len(names) == len(set(names)) and sorted(names) != names
    families = [op.family for op in all_ops()]
    assert len([family for i, family in enumerate(families) if i == 0 or families[i - 1] != family]) == len(
        set(families)
    )
