"""Notes print as one line and parse back into the same typed value; a malformed note is refused when it is parsed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.dims import Dim
from qcompiler.errors import ParseError, VerifyError
from qcompiler.ir import Graph
from qcompiler.notes import (
    BiasCorrected,
    Equalized,
    Estimate,
    Guard,
    KeptFloat,
    Note,
    NotRounded,
    Outliers,
    OutputStructure,
    PartsJudged,
    RealResult,
    Remark,
    Rounded,
    Unclipped,
    Unjudged,
    parse_note,
)
from qcompiler.text.parser import parse
from qcompiler.text.printer import print_graph
from qcompiler.types import tensor

B = Dim.name("B")
NOTES: dict[str, Note] = {
    "guard: B >= 2": Guard(B, ">=", 2),
    "guard: 2*B <= 100": Guard(2 * B, "<=", 100),
    'structure: {"dict": {"y": 0, "k": {"value": null}}}': OutputStructure({"dict": {"y": 0, "k": {"value": None}}}),
    "float: %s = softmax: kept float by a rule: mine": KeptFloat("s", "softmax", "kept float by a rule: mine"),
    "real: %y = linear: %s = softmax reads real numbers": RealResult("y", "linear", "%s = softmax reads real numbers"),
    "real: numbers": Remark("real: numbers"),
    "float: %a = b = relu: its qconfig is None": KeptFloat("a = b", "relu", "its qconfig is None"),
    "estimate: zen5: 12.5 us as quantized, 20.0 us in float": Estimate("zen5", 12.5, 20.0),
    "equalized: %x for %q, %k by %n: a = 0.5, error 2.50e-03 -> 1.21e-04": Equalized(
        "x", ("q", "k"), "n", 0.5, 2.5e-3, 1.21e-4
    ),
    "equalized: %x for %q: a = 1, error 2.50e-03 -> 0.00e+00": Equalized("x", ("q",), "", 1.0, 2.5e-3, 0.0),
    "equalized: %x for %q by %n: a = 0.25, shifted, error 2.50e-03 -> 1.21e-04": Equalized(
        "x", ("q",), "n", 0.25, 2.5e-3, 1.21e-4, True
    ),
    "equalized: %x for %q: a = 1, error low": Remark("equalized: %x for %q: a = 1, error low"),
    "not equalized: %x: its rows: none": Unjudged("x", "its rows: none"),
    "not clipped: %x: %y = max takes one of 900 elements": Unclipped("x", "%y = max takes one of 900 elements"),
    "not equalized: nothing": Remark("not equalized: nothing"),
    "bias: %y: 3 of 16 channels take up the mean error of rounded weights": BiasCorrected("y", 3, 16),
    "rounded: %y by adaround: error 2.50e-03 -> 1.21e-04": Rounded("y", "adaround", 2.5e-3, 1.21e-4),
    "rounded: %y by hand": Remark("rounded: %y by hand"),
    "rounded: %y by gptq: error small -> 0": Remark("rounded: %y by gptq: error small -> 0"),
    "not rounded by data: %y: its corrected bias needs a larger scale": NotRounded(
        "y", "its corrected bias needs a larger scale"
    ),
    "outliers: 6 of 384 channels of %x for %q, %k: error 2.50e-03 -> 1.21e-04": Outliers(
        6, 384, "x", ("q", "k"), 2.5e-3, 1.21e-4
    ),
    "outliers: 6 of 384 channels of %x for %q: error low": Remark(
        "outliers: 6 of 384 channels of %x for %q: error low"
    ),
    "parts between products: 3 stay real: with codes the outputs lose 2.50e-02 of their energy": PartsJudged(
        3, True, 2.5e-2
    ),
    "parts between products: 11 are codes: with codes the outputs lose 2.00e-05 of their energy": PartsJudged(
        11, False, 2e-5
    ),
    "parts between products: 3 stay real: the calibration kept no items to judge the outputs by": PartsJudged(
        3, True, None
    ),
    "parts between products: some": Remark("parts between products: some"),
    "bias: %y: some channels": Remark("bias: %y: some channels"),
    "input x: float64 became f32": Remark("input x: float64 became f32"),
    "float: nothing stayed float": Remark("float: nothing stayed float"),
    "estimate: about the same": Remark("estimate: about the same"),
    "structure": Remark("structure"),
    "": Remark(""),
}


@pytest.mark.parametrize("text", NOTES)
def test_text_and_value(text: str) -> None:
    assert parse_note(text) == NOTES[text] and NOTES[text].text == text


def test_notes_travel_in_the_graphs_text() -> None:
    graph = Graph()
    graph.set_outputs([graph.add_input("x", tensor("f32", "B"))], ["y"])
    graph.notes += NOTES.values()
    back = parse(print_graph(graph))
    assert isinstance(back, Graph) and back.notes == graph.notes


@given(st.text(max_size=20), st.sampled_from(["softmax", "conv"]), st.text(min_size=1, max_size=20))
def test_any_name_and_reason_keep_their_text(node: str, op: str, reason: str) -> None:
    note = KeptFloat(node, op, reason)
    assert parse_note(note.text).text == note.text
    if " = " not in node:
        assert parse_note(note.text) == note


@pytest.mark.parametrize("text", ["guard: B >= ", "guard: B = 2", "structure: {", 'structure: {"set": [0]}'])
def test_a_malformed_note_has_a_place(text: str) -> None:
    quoted = text.replace('"', '\\"')
    with pytest.raises(ParseError, match="malformed") as caught:
        parse(f'qcompiler 1\ngraph g(%x: f32[B]) stage=float {{\n  note "{quoted}"\n  return %x\n}}\n')
    assert (caught.value.line, caught.value.column) == (3, 8)


@pytest.mark.parametrize("text", ["guard: B >= 2", "structure: 0"])
def test_a_remark_cannot_pass_for_a_note_that_has_a_meaning(text: str) -> None:
    with pytest.raises(VerifyError, match="another kind"):
        Remark(text)
