"""Resolution: which qconfig rule wins for a node, what the table says, and rules that match nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from qcompiler.errors import QuantizationError
from qcompiler.ir import Graph, Origin
from qcompiler.quantization.qconfig import QConfig, QConfigMapping, as_mapping, get_qconfig
from qcompiler.quantization.resolution import resolve
from qcompiler.types import tensor

INT8, MINMAX, MSE, KL = map(get_qconfig, ("int8", "int8:minmax", "int8:mse", "int8:kl"))
TORCH = get_qconfig("torch:x86")


@pytest.mark.parametrize(
    "name, activation, weight",
    [
        ("int8", (0, 255), (-127, 127)),
        ("int8:minmax", (0, 255), (-127, 127)),
        ("int8:plain", (0, 255), (-127, 127)),
        ("torch:default", (0, 127), (-128, 127)),
        ("torch:x86", (0, 127), (-128, 127)),
        ("torch:qnnpack", (0, 255), (-128, 127)),
    ],
)
def test_the_codes_of_named_qconfigs(name: str, activation: tuple[int, int], weight: tuple[int, int]) -> None:
    qconfig = get_qconfig(name)
    for spec, (qmin, qmax) in ((qconfig.activation, activation), (qconfig.weight, weight)):
        assert spec is not None and (spec.qmin, spec.qmax) == (qmin, qmax)
    improved = name in ("int8", "int8:minmax")
    assert qconfig.mixed_precision == qconfig.equalize == improved


def graph() -> Graph:
    """A chain of unary nodes with the origins of the modules stem, block.0, block.1 and block.1.inner."""
    made = Graph()
    value = made.add_input("x", tensor("f32", 2))
    for name, op, path, kind in (
        ("a", "relu", "stem", "ReLU"),
        ("b", "sigmoid", "block.0", "my.net.Gate"),
        ("c", "relu", "block.1", "ReLU"),
        ("d", "relu", "block.1.inner", "Custom"),
    ):
        value = made.create(op, [value], names=name, origin=[Origin(path, kind)]).result
    made.set_outputs([value])
    return made


def resolved(mapping: QConfigMapping | QConfig | str) -> dict[str, QConfig | None]:
    return {row.node: row.qconfig for row in resolve(graph(), mapping).rows}


def mapping() -> QConfigMapping:
    return QConfigMapping(INT8)


def test_the_global_qconfig_reaches_every_node() -> None:
    for given in (INT8, "int8", mapping()):
        assert resolved(given) == dict.fromkeys("abcd", INT8)
    assert resolved(QConfigMapping()) == dict.fromkeys("abcd", None)


PRIORITY: list[tuple[str, Callable[[QConfigMapping], QConfigMapping], str]] = [
    ("an op", lambda m: m.set_object_type("relu", MINMAX), "acd"),
    ("a class by name", lambda m: m.set_object_type("ReLU", MINMAX), "ac"),
    ("the end of a dotted class", lambda m: m.set_object_type("Gate", MINMAX), "b"),
    ("a dotted class", lambda m: m.set_object_type("my.net.Gate", MINMAX), "b"),
    ("a class", lambda m: m.set_object_type(type("Custom", (), {}), MINMAX), "d"),
    ("a regex, matched at the start", lambda m: m.set_module_name_regex("block", MINMAX), "bcd"),
    ("a regex for inner modules", lambda m: m.set_module_name_regex(r"block\.1\..*", MINMAX), "d"),
    ("a module and what lies in it", lambda m: m.set_module_name("block.1", MINMAX), "cd"),
    ("a node's own name", lambda m: m.set_module_name("a", MINMAX), "a"),
    ("the second relu of a module", lambda m: m.set_module_name_object_type_order("block", "relu", 1, MINMAX), "d"),
]


@pytest.mark.parametrize("name, rule, nodes", PRIORITY, ids=[name for name, _, _ in PRIORITY])
def test_what_a_rule_matches(name: str, rule: Callable[[QConfigMapping], QConfigMapping], nodes: str) -> None:
    found = resolved(rule(mapping()))
    assert "".join(node for node, qconfig in found.items() if qconfig is MINMAX) == nodes
    assert all(qconfig in (INT8, MINMAX) for qconfig in found.values())


def test_priority_from_the_global_rule_to_the_order() -> None:
    """Each rule is added to those below it, and wins for node c in whatever order the calls were made."""
    made = mapping()
    made.builtin["relu"] = KL
    assert resolved(made)["c"] is KL
    made.set_module_name_object_type_order("block.1", "relu", 0, TORCH)
    assert resolved(made)["c"] is TORCH
    made.orders.clear()
    made.set_module_name("block.1", MSE)
    assert resolved(made)["c"] is MSE
    made.names.clear()
    made.set_module_name_regex("block.*", MINMAX)
    assert resolved(made)["c"] is MINMAX
    made.regexes.clear()
    made.set_object_type("relu", None)
    assert resolved(made)["c"] is None and resolved(made)["b"] is INT8


def test_the_first_regex_and_the_innermost_module_win() -> None:
    made = mapping().set_module_name_regex("block.*", MSE).set_module_name_regex(".*", MINMAX)
    assert resolved(made) == {"a": MINMAX, "b": MSE, "c": MSE, "d": MSE}
    made = mapping().set_module_name("block.1.inner", MSE).set_module_name("block.1", MINMAX)
    assert resolved(made)["d"] is MSE and resolved(made)["c"] is MINMAX


def test_the_table_names_the_rule() -> None:
    made = mapping().set_object_type("Gate", None).set_module_name("stem", MINMAX)
    table = resolve(graph(), made)
    assert [row.rule for row in table.rows] == ["name stem", "object type Gate", "global", "global"]
    assert str(table).splitlines()[1].split() == ["b", "sigmoid", "float", "object", "type", "Gate"]
    assert resolve(graph(), "int8").rows[0].rule == "global int8" and table["b"] is None
    float_table = table.kept_float({"c": "too slow"})
    assert (float_table["c"], float_table.rows[2].rule) == (None, "too slow") and table["c"] is INT8


@pytest.mark.parametrize(
    "rule, message",
    [
        (lambda m: m.set_object_type("Relu", None), "object type 'Relu'.*"),
        (lambda m: m.set_module_name("blocks", None), "name 'blocks'"),
        (lambda m: m.set_module_name_regex("lock", None), "regex 'lock'"),
        (lambda m: m.set_module_name_object_type_order("block", "relu", 2, None), "relu number 2 in module 'block'"),
        (lambda m: m.set_module_name_object_type_order("block", "relu", -1, None), "number -1"),
        (lambda m: m.set_module_name_object_type_order("stem", "sigmoid", 0, None), "sigmoid number 0"),
    ],
)
def test_a_rule_that_matches_nothing_is_named(rule: Callable[[QConfigMapping], QConfigMapping], message: str) -> None:
    with pytest.raises(QuantizationError, match=message) as caught:
        resolve(graph(), rule(mapping()))
    assert "matches no node" in str(caught.value) and "try:" in str(caught.value)


def test_builtin_rules_may_match_nothing() -> None:
    made = mapping()
    made.builtin["conv_transpose"] = None
    assert resolved(made) == dict.fromkeys("abcd", INT8)


def test_names_stand_for_mappings() -> None:
    found, label = as_mapping("torch:x86")
    assert found.default == TORCH and "conv_transpose" in found.builtin and label == "global torch:x86"
    assert as_mapping("int8:mse")[0] == QConfigMapping(MSE)
    assert as_mapping(INT8) == (QConfigMapping(INT8), "global")


@pytest.mark.parametrize("given, message", [("int9", "int8"), ("torch:none", "torch:"), (3, "not a qconfig")])
def test_what_is_no_qconfig(given: str, message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        resolve(graph(), given)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda m: m.set_object_type("relu", "int9"), "int8"),
        (lambda m: m.set_object_type("relu", "auto"), "weighs a whole model"),
        (lambda m: m.set_object_type("relu", 3), "not a qconfig"),
        (lambda m: m.set_module_name_regex("(", None), "malformed regex"),
    ],
)
def test_a_mapping_checks_what_it_is_given(call: Callable[[QConfigMapping], object], message: str) -> None:
    with pytest.raises(QuantizationError, match=message):
        call(mapping())
