"""Ops that a user declares: what a wrong declaration, or a wrong result, is told."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Generic

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.backends.cache import entries
from qcompiler.backends.kernel_ir.builder import KernelBuilder, kernel
from qcompiler.backends.kernel_ir.definition import Arguments, E, P, Written
from qcompiler.backends.kernel_ir.types import F32, vector
from qcompiler.backends.lowering.rule import _RULES, lowers
from qcompiler.backends.rules import load as load_rules
from qcompiler.errors import ArtifactError, LoweringError, ShapeError, VerifyError
from qcompiler.ir import Graph
from qcompiler.opdef import (
    _REGISTRY,
    OWN_RANGE,
    SHARES_INPUT,
    LayoutRule,
    Op,
    Sample,
    all_ops,
    float_attr,
    no_accumulator,
    operand,
    variadic_operand,
)
from qcompiler.ops.activations import Unary
from qcompiler.ops.interfaces import Mover
from qcompiler.ops.linear import Linear
from qcompiler.types import TensorType, tensor

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 12)


@pytest.fixture(autouse=True)
def only_here() -> Iterator[None]:
    """The ops and rules that a test declares are gone after it."""
    all_ops()  # loads them all
    load_rules()
    ops, rules = dict(_REGISTRY), {op: list(found) for op, found in _RULES.items()}
    yield
    for registry, before in ((_REGISTRY, ops), (_RULES, rules)):
        registry.clear()
        registry.update(before)  # type: ignore[arg-type]


def declare(**members: Any) -> type[Op]:
    """An op of two operands that adds them, with other members."""
    given: dict[str, Any] = {
        "name": "plus",
        "x": operand(),
        "y": operand(),
        "infer": lambda self, x, y: x,
        "reference": lambda self, x, y: x + y,
        "samples": staticmethod(lambda: [Sample((tensor("f32", 2, 5),) * 2)]),
        "__doc__": "x + y",
        "__module__": "of_a_user",
    }
    return type("Plus", (Op,), given | members)


def model_of(op: type[Op]) -> Callable[[Any], Any]:
    return lambda x: op.apply(x * 2, x)


# -- declarations


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "two words": ({"name": "two words"}, "the name of an op"),
    "not a text": ({"name": 5}, "the name of an op"),
    "taken": ({"name": "relu"}, "'relu' is declared twice"),
    "no infer": ({"infer": Op.infer}, "has no infer"),
    "no reference": ({"reference": Op.reference}, "has no reference"),
    "one operand": ({"reference": lambda self, x: x}, r"(?s)reference of plus.*expected: reference\(self, x, y\)"),
    "three operands": ({"infer": lambda self, x, y, z: x}, "infer of plus has other parameters"),
    "a keyword": ({"infer": lambda self, x, y, *, z: x}, "infer of plus has other parameters"),
    "no method": ({"infer": 5}, "infer of plus is no method"),
    "no terms": ({"integer": lambda self, x, y, *, out: x}, "does not say how much it sums"),
    "integer without out": (
        {"integer": lambda self, x, y: x, "terms": no_accumulator},
        r"(?s)integer of plus.*expected: integer\(self, x, y, \*, out\)",
    ),
    "a rule without codes": ({"quant": OWN_RANGE}, "no meaning on codes"),
    "variadic": (
        {"y": variadic_operand()},
        r"(?s)infer of plus.*infer\(self, x, \*y\)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_declaration_is_refused(name: str) -> None:
    members, message = WRONG[name]
    before = dict(_REGISTRY)
    with pytest.raises(VerifyError, match=message):
        declare(**members)
    assert before == _REGISTRY


def test_an_op_does_not_derive_from_another() -> None:
    plus = declare()
    for parent in (plus, Linear):
        with pytest.raises(VerifyError, match=r"(?s)minus derives from another op, (plus|linear).*base class"):
            type("Minus", (parent,), {"name": "minus", "__module__": "of_a_user"})


def test_a_second_declaration_is_refused_until_the_first_is_forgotten() -> None:
    declare()
    with pytest.raises(VerifyError, match=r"(?s)'plus' is declared twice.*of_a_user.*unregister_op\('plus'\)"):
        declare()
    qc.unregister_op("plus")
    declare()
    for name, message in (("relu", "is an op of qcompiler"), ("minus", "there is no op 'minus'")):
        with pytest.raises(VerifyError, match=message):
            qc.unregister_op(name)


def test_a_name_of_an_op_that_is_not_loaded_yet_is_taken() -> None:
    program = """
from qcompiler.opdef import Op, operand
try:
    class Softmax(Op):
        name = "softmax"
        x = operand()
        def infer(self, x): return x
        def reference(self, x): return x
except Exception as error:
    print(error)
import qcompiler as qc, numpy as np
print(qc.compile(lambda x: np.maximum(x, 0), None, (np.ones(3, np.float32),), target="reference")(np.ones(3, "f")))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "'softmax' is declared twice" in done.stdout and "[1. 1. 1.]" in done.stdout


def test_an_op_called_in_a_model_or_on_arrays() -> None:
    plus = declare()
    np.testing.assert_array_equal(plus.apply(X, X), 2 * X)
    np.testing.assert_array_equal(plus.apply(X, 1.0), X + 1)
    graph = qc.trace(model_of(plus), (X,))
    assert [node.op for node in graph.nodes] == ["mul", "plus"]
    with pytest.raises(VerifyError, match="wrong number of operands"):
        plus.apply(X)
    with pytest.raises(VerifyError, match="has no attr 'z'"):
        plus.apply(X, X, z=5)


# -- results


def infer_more(self: Op, x: TensorType, y: TensorType) -> TensorType:
    return x.with_shape((*x.shape, 3))


LIES: dict[str, dict[str, Any]] = {
    "another shape": {"infer": infer_more},
    "a shape that broadcasts": {"reference": lambda self, x, y: (x + y)[:1]},
    "another type": {"reference": lambda self, x, y: (x + y).astype(np.float64)},
    "two results": {"reference": lambda self, x, y: (x, y)},
    "no array": {"reference": lambda self, x, y: None},
}


@pytest.mark.parametrize("name", LIES)
@pytest.mark.parametrize("target", ["reference", "native"])
def test_a_result_that_infer_did_not_say_is_an_error(name: str, target: str) -> None:
    plus = declare(**LIES[name])
    compiled = qc.compile(model_of(plus), None, (X,), target=target)
    with pytest.raises(VerifyError, match="reference of plus gives another result than its infer says"):
        compiled(X)
    with pytest.raises(VerifyError, match="reference of plus gives another result than its infer says"):
        qc.check_op(plus)


def test_infer_gives_types() -> None:
    for given in (None, (2, 12), (tensor("f32", 2),) * 2):
        plus = declare(infer=lambda self, x, y, given=given: given, name=f"plus{len(_REGISTRY)}")
        with pytest.raises(VerifyError, match="gives no types"):
            qc.trace(model_of(plus), (X,))


def test_an_exception_of_an_op_says_in_which_node() -> None:
    plus = declare(reference=lambda self, x, y: 1 // 0)
    with pytest.raises(ZeroDivisionError) as caught:
        qc.compile(model_of(plus), None, (X,), target="reference")(X)
    assert "plus" in caught.value.__notes__[0]


def test_codes_outside_of_the_range_are_an_error() -> None:
    plus = declare(
        quant=OWN_RANGE,
        terms=no_accumulator,
        chooses_params=True,
        integer=lambda self, x, y, *, out: np.full(x.array.shape, 300),
    )
    compiled = qc.compile(model_of(plus), "int8:plain", (X,), calibration_data=[X], target="reference")
    with pytest.raises(VerifyError, match="integer of plus gives another result"):
        compiled(X)


def test_a_meaning_on_codes_that_is_not_the_real_one_is_found() -> None:
    plus = declare(
        quant=OWN_RANGE,
        terms=no_accumulator,
        chooses_params=True,
        integer=lambda self, x, y, *, out: np.maximum(x.array, y.array),
    )
    with pytest.raises(VerifyError, match="plus on codes is not its real function"):
        qc.check_op(plus)


# -- kernels


def test_without_a_kernel_it_runs_in_numpy_and_the_report_says_so() -> None:
    plus = declare()
    compiled = qc.compile(model_of(plus), None, (X,))
    np.testing.assert_array_equal(compiled(X), 3 * X)
    assert "no kernel for plus" in str(compiled.report())
    checked = qc.check_op(plus)
    assert not checked.has_kernels and set(checked.ran.values()) == {"numpy: no kernel for plus"}
    with pytest.raises(LoweringError, match="plus"):
        compiled.export_object("never.o", target="x86-64-linux+avx2")


def test_a_kernel_on_one_target_alone() -> None:
    class Back(Mover):
        """x reversed."""

        name = "back"
        quant = SHARES_INPUT
        x = operand()

        def infer(self, x: TensorType) -> TensorType:
            return x

        def reference(self, x: np.ndarray) -> np.ndarray:
            return x[..., ::-1]

        @staticmethod
        def samples() -> list[Sample]:
            return [Sample((tensor("f32", 5),))]

    @lowers("back", unless=lambda node, target: None if target.arch == "x86-64" else f"not written for {target.arch}")
    def back(s: Any) -> None:
        from qcompiler.backends.lowering.geometry import Geometry

        x = s.view(Back(s.node).x)
        s.copy(Geometry.of(x).flipped([len(x.shape) - 1]).part_of(x), s.result())

    checked = qc.check_op(Back)
    assert checked.ran["aarch64+neon", "codes"] == "numpy: back: not written for aarch64"
    assert checked.ran["x86-64+avx2", "f32"] in ("native", "interpreted")
    compiled = qc.compile(lambda x: Back.apply(x), None, (X,), target="aarch64+neon")
    np.testing.assert_array_equal(compiled(X), X[:, ::-1])
    assert "not written for aarch64" in str(compiled.report())


def test_what_cannot_be_checked_is_said() -> None:
    with pytest.raises(VerifyError, match="dynamic_linear takes codes alone"):
        qc.check_op("dynamic_linear")
    with pytest.raises(VerifyError, match="plus has no samples"):
        qc.check_op(declare(samples=staticmethod(lambda: [])))


def test_a_kernel_that_is_wrong_is_found() -> None:
    plus = declare()

    @lowers("plus")
    def wrong(s: Any) -> None:
        s.copy(s.view(s.node.operands[0]), s.result())

    with pytest.raises(VerifyError, match=r"(?s)a compiled program and the meaning of the op differ.*plus"):
        qc.check_op(plus)


class Copied(Arguments["Copied"], Generic[P, E]):
    x: P
    y: Written[P]
    count: E


@kernel
def copy_past_the_end(b: KernelBuilder, a: Copied) -> None:
    """Copies whole registers, and so past the end."""
    lanes = b.target.f32_lanes
    begin, end = b.share(a.count, lanes)
    with b.loop(begin, end, lanes) as loop:
        b.store(b.load(vector(F32, lanes), a.x, loop.index * 4), a.y, loop.index * 4)


def test_a_kernel_that_leaves_its_buffer_is_found_before_machine_code_runs() -> None:
    plus = declare(reference=lambda self, x, y: x.copy())

    @lowers("plus")
    def rule(s: Any) -> None:
        x, y = s.view(s.node.operands[0]), s.result()
        s.call(copy_past_the_end(), Copied(x=x, y=y, count=y.elements))

    for target in ("x86-64+avx512vnni", "aarch64+neon"):
        with pytest.raises(LoweringError, match=r"(?s)outside its buffer.*copy_past_the_end.*bytes 0 to 40 of x"):
            qc.check_op(plus, targets=[target])


def test_a_kernel_that_takes_no_notice_of_the_layout_is_found() -> None:
    """By default a result lies channels last where an operand does."""

    @kernel
    def copied(b: KernelBuilder, a: Copied) -> None:
        begin, end = b.share(a.count)
        with b.loop(begin, end) as loop:
            b.store(b.load(F32, a.x, loop.index * 4), a.y, loop.index * 4)

    samples = staticmethod(lambda: [Sample((tensor("f32", 2, 3, 4, 5),) * 2)])
    for layout, is_right in ((LayoutRule.KEEPS, False), (LayoutRule.ROW_MAJOR, True)):
        plus = declare(reference=lambda self, x, y: x.copy(), samples=samples, layout=layout)

        @lowers("plus")
        def rule(s: Any) -> None:
            x, y = s.row_major(s.node.operands[0]), s.result()
            s.call(copied(), Copied(x=x, y=y, count=y.elements))

        if is_right:
            assert qc.check_op(plus, targets=["native"]).has_kernels
        else:
            with pytest.raises(VerifyError, match="(?s)differ.*behind a pool, which lie channels last"):
                qc.check_op(plus, targets=["native"])
        qc.unregister_op("plus")


def test_a_rule_that_gives_no_reason() -> None:
    plus = declare()

    @lowers("plus", unless=lambda node, target: False)  # type: ignore[arg-type,return-value]
    def wrong(s: Any) -> None:
        raise AssertionError

    with pytest.raises(LoweringError, match="`unless` of the rule wrong of plus gives no reason"):
        qc.compile(model_of(plus), None, (X,))
    with pytest.raises(VerifyError, match="unknown op 'minus'"):
        lowers("minus")(wrong)
    with pytest.raises(VerifyError, match="takes the names of ops"):
        lowers(plus)  # type: ignore[arg-type]


# -- what else sees it


class Wave(Unary):
    """x * sigmoid(x), as an op of a user."""

    def function(self, x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))


def test_declaring_an_op_changes_no_other_model() -> None:
    def silu(x: Any) -> Any:
        return x / (1 + np.exp(-x))

    before = str(qc.fuse(qc.trace(silu, (X,))))
    type("Own", (Wave,), {"name": "a_wave", "__module__": "of_a_user"})
    from qcompiler.passes import recognize

    recognize._known.cache_clear()
    recognize._known_at_probes.cache_clear()
    assert str(qc.fuse(qc.trace(silu, (X,)))) == before and "silu" in before


def test_a_function_of_one_element_becomes_a_table() -> None:
    wave = type("Own", (Wave,), {"name": "wave", "__module__": "of_a_user"})
    compiled = qc.compile(lambda x: wave.apply(x[:, ::2] + x[:, 1::2]), "int8:plain", (X,), calibration_data=[X])
    assert "lookup" in str(compiled.graph) and "wave" not in {node.op for node in compiled.graph.nodes}
    pairs = X[:, ::2] + X[:, 1::2]
    np.testing.assert_allclose(compiled(X), pairs / (1 + np.exp(-pairs)), atol=0.05)


def test_a_saved_model_names_the_op_that_is_not_declared(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if a process that had the op has stored its program."""
    monkeypatch.setenv("QC_CACHE", str(tmp_path / "cache"))
    plus = declare(alpha=float_attr(default=1.0))
    compiled = qc.compile(model_of(plus), None, (X,))
    path = tmp_path / "m.qc.safetensors"
    compiled.save(path)
    np.testing.assert_array_equal(qc.load(path)(X), 3 * X)
    qc.unregister_op("plus")
    for load in (lambda: qc.load(path), lambda: qc.load(path, target="reference")):
        with pytest.raises(ArtifactError, match=r"(?s)unknown op 'plus'.*import the file that declares it"):
            load()


def test_programs_with_own_ops_are_not_stored(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing in the key of a stored program knows the user's source, which may change."""

    def back(sign: int) -> type[Op]:
        members = {
            "name": "back",
            "quant": SHARES_INPUT,
            "x": operand(),
            "infer": lambda self, x: x,
            "reference": lambda self, x: x[..., ::sign],
            "__module__": "of_a_user",
        }
        made = type("Back", (Mover,), members)

        @lowers("back")
        def rule(s: Any) -> None:
            from qcompiler.backends.lowering.geometry import Geometry

            x = s.view(s.node.operands[0])
            s.copy(Geometry.of(x).flipped([1] if sign < 0 else []).part_of(x), s.result())

        rule.__module__ = "of_a_user"
        return made

    stored: list[str] = []
    monkeypatch.setattr(entries, "store", lambda objects: stored.extend(objects))
    made = back(-1)
    qc.compile(lambda x: made.apply(x), None, (X,)).save(tmp_path / "m.qc.safetensors")
    np.testing.assert_array_equal(qc.load(tmp_path / "m.qc.safetensors")(X), X[:, ::-1])
    qc.unregister_op("back")
    back(1)
    np.testing.assert_array_equal(qc.load(tmp_path / "m.qc.safetensors")(X), X)
    assert not any("program of" in key for key in stored)


def test_text_drawing_and_shapes(tmp_path: pathlib.Path) -> None:
    plus = declare(infer=lambda self, x, y: x if x == y else _raise())
    graph = qc.trace(model_of(plus), (X,), dynamic={"x": {0: "B"}})
    again = qc.parse(str(graph), {"c": np.float32(2)})
    assert isinstance(again, Graph) and str(again) == str(graph)
    qc.compile(graph, None, target="reference").draw(tmp_path / "g.dot")
    assert "plus" in (tmp_path / "g.dot").read_text()
    with pytest.raises(ShapeError, match="plus"):
        plus.apply(X, X[:1])


def _raise() -> TensorType:
    raise ShapeError("operands of plus", expected="equal types")
