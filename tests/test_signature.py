"""Signatures: what they read off a graph, how inputs bind to them, guards, and the nesting of outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcompiler.dims import Dim
from qcompiler.errors import InputError, ParseError, TraceError
from qcompiler.ir import Graph
from qcompiler.notes import Guard, KeptFloat, OutputStructure
from qcompiler.signature import Input, Signature, bind_inputs, check_guards, guards, record_structure, structure_of
from qcompiler.structure import check_structure, default_structure, flatten_outputs, parse_structure, restore_outputs
from qcompiler.types import DType, QuantParams, tensor

B, S = Dim.name("B"), Dim.name("S")
F32 = np.float32


def graph(outputs: int = 1) -> Graph:
    """A graph of x: f32[B,2*S], y: f32[S], z: i64[3]."""
    made = Graph("g")
    x = made.add_input("x", tensor("f32", "B", "S").with_shape((B, 2 * S)))
    made.add_input("y", tensor("f32", "S"))
    made.add_input("z", tensor("i64", 3))
    made.set_outputs([x] * outputs)
    return made


def arrays(b: int = 2, s: int = 3) -> list[np.ndarray]:
    return [np.zeros((b, 2 * s), F32), np.zeros(s, F32), np.zeros(3, np.int64)]


def test_a_signature_says_what_a_call_needs() -> None:
    made = graph(2)
    made.notes += [KeptFloat("n", "relu", "r"), Guard(B, ">=", 2), OutputStructure({"list": [1, 0]})]
    found = Signature.of(made)
    assert found.name == "g" and found.structure == {"list": [1, 0]} and found.guards == (Guard(B, ">=", 2),)
    assert found.inputs[1] == Input("y", tensor("f32", "S")) and [i.name for i in found.inputs] == ["x", "y", "z"]


@pytest.mark.parametrize("use_signature", [False, True])
def test_sizes_are_bound_and_evaluated(use_signature: bool) -> None:
    made = graph()
    called = Signature.of(made) if use_signature else made
    given = arrays(4, 5)
    bound, sizes = bind_inputs(called, {"z": given[2], "y": given[1], "x": given[0]})
    assert sizes == {"B": 4, "S": 5} and all(a is b for a, b in zip(bound, given))


x, y, z = arrays()


@pytest.mark.parametrize(
    "inputs, message, detail",
    [
        ([x, y], "wrong number", "3 (x, y, z)"),
        ({"x": x, "y": y}, "names do not fit", "x, y, z"),
        ({"x": x, "y": y, "z": z, "w": z}, "names do not fit", "w"),
        ([x, y, z.astype(np.int32)], "another dtype", "z.astype(np.int64)"),
        ([x, y[None], z], "another rank", "f32[S]"),
        ([x, y, np.zeros(4, np.int64)], "another shape", 'dynamic={"z": {0: "B"}}'),
        ([np.zeros((2, 7), F32), y, z], "another shape", "'S': 3"),
    ],
)
def test_binding_errors(inputs: Any, message: str, detail: str) -> None:
    with pytest.raises(InputError) as caught:
        bind_inputs(Signature.of(graph()), inputs)
    assert message in str(caught.value) and detail in str(caught.value)


def test_a_size_given_twice() -> None:
    made = Graph("g")
    made.set_outputs([made.add_input("p", tensor("f32", "B")), made.add_input("q", tensor("f32", 2, "B"))])
    with pytest.raises(InputError, match="given twice") as caught:
        bind_inputs(made, [np.zeros(3, F32), np.zeros((2, 4), F32)])
    assert "input 'q', axis 1" in str(caught.value) and "B = 3" in str(caught.value)


def test_quantized_inputs_take_codes() -> None:
    made = Graph("g", "integer")
    type = tensor("f32", 2).quantized(DType.U8, QuantParams.per_tensor(0.5, 3, DType.U8))
    made.set_outputs([made.add_input("x", type)])
    assert bind_inputs(made, [np.zeros(2, np.uint8)])[0][0].dtype == np.uint8
    with pytest.raises(InputError, match="another dtype"):
        bind_inputs(made, [np.zeros(2, F32)])


# -- guards


def test_guards_are_checked_last_and_name_the_sizes() -> None:
    made = graph()
    made.notes += [Guard(B, ">=", 2), Guard(2 * S, "!=", B)]
    assert guards(made) == (Guard(B, ">=", 2), Guard(2 * S, "!=", B))
    bind_inputs(made, arrays(2, 3))
    with pytest.raises(InputError, match="another path") as caught:
        bind_inputs(made, arrays(1, 3))
    assert "B >= 2" in str(caught.value) and "B=1, S=3" in str(caught.value)
    for called in (made, Signature.of(made)):
        with pytest.raises(InputError, match="!="):
            check_guards(called, {"B": 6, "S": 3})


@pytest.mark.parametrize("relation", ["==", "!=", "<", "<=", ">", ">="])
def test_a_guard_and_its_negation_differ_everywhere(relation: str) -> None:
    guard = Guard(B, relation, 3)
    assert guard.negated().negated() == guard
    for size in (2, 3, 4):
        wanted = {"==": size == 3, "!=": size != 3, "<": size < 3, "<=": size <= 3, ">": size > 3, ">=": size >= 3}
        assert guard.holds({"B": size}) == wanted[relation] != guard.negated().holds({"B": size})
    bound = guard.substitute({"B": 4})
    assert bound.is_static and not guard.is_static and bound.holds({}) == guard.holds({"B": 4})


# -- structure


@pytest.mark.parametrize(
    "returned",
    [
        "leaf",
        ("leaf",),
        ["leaf", ("leaf", {"k": "leaf"})],
        {"a": "leaf", "n": None, "f": 2.5, "b": True, "s": "text"},
        {"empty": [], "nothing": {}},
    ],
)
def test_outputs_nest_as_they_were(returned: Any) -> None:
    leaves, paths, structure = flatten_outputs(returned, lambda item: item == "leaf")
    assert len(leaves) == len(paths) and parse_structure(str(OutputStructure(structure))) == structure
    restored = restore_outputs(structure, leaves)
    assert restored == returned and type(restored) is type(returned)


def test_paths_name_the_outputs() -> None:
    _, paths, structure = flatten_outputs({"a": [0, (1,)], "b": 2}, lambda item: isinstance(item, int))
    assert paths == ["a.0", "a.1.0", "b"]
    assert structure == {"dict": {"a": {"list": [0, {"tuple": [1]}]}, "b": 2}}


def test_a_plain_output_needs_no_note() -> None:
    made = graph(2)
    record_structure(made, 0)
    assert made.notes == [] and structure_of(made) == {"tuple": [0, 1]} == default_structure(2)
    assert default_structure(1) == 0 and structure_of(graph()) == 0
    record_structure(made, {"list": [0]})
    assert structure_of(made) == {"list": [0]}


@pytest.mark.parametrize("structure", [2, {"tuple": [0, 2]}, {"dict": {"k": {"list": [5]}}}])
def test_a_structure_of_other_outputs_is_refused(structure: Any) -> None:
    made = graph(2)
    record_structure(made, structure)
    with pytest.raises(ParseError, match="positions below 2"):
        Signature.of(made)
    check_structure(structure, 6)


@pytest.mark.parametrize("returned", [{1: "leaf"}, object(), {"a": {2}}])
def test_results_without_a_structure(returned: Any) -> None:
    with pytest.raises(TraceError):
        flatten_outputs(returned, lambda item: item == "leaf")
