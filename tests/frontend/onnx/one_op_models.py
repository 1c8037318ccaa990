"""Random ONNX models of one node each, and the check that an import gives what the op means.

For every op that the importer maps: a model at a random opset, of random element types that the op's schema allows,
with random legal attributes, on data full of extremes. Types, flags, float attributes and the outputs' types come from
the schemas (`onnx.defs`); `recipes.py` says which operands and attributes an op wants, and how near its floats must be.

The truth is ONNX Runtime's answer without graph optimisations, or that of onnx's reference evaluator where ONNX Runtime
has no kernel. Ops that round are asked in double, so the bound is on our roundings alone. The answer must be equal in
value, element type and shape, or a QCompilerError. All floats are f32 here; where a file says another type, the graph
has a note.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import qcompiler as qc
from qcompiler.errors import PassError, QCompilerError, VerifyError
from qcompiler.frontend.onnx_import import import_onnx
from qcompiler.frontend.onnx_ops import table
from tests.frontend.onnx import layer_recipes, pick_recipes, shape_recipes  # noqa: F401  (they fill the table)
from tests.frontend.onnx.recipes import RECIPES, Draw
from tests.frontend.onnx.truths import TRUTHS

OLDEST = 7
EIGHT_BIT_FLOATS = (
    TensorProto.FLOAT8E4M3FN,
    TensorProto.FLOAT8E4M3FNUZ,
    TensorProto.FLOAT8E5M2,
    TensorProto.FLOAT8E5M2FNUZ,
)
WIDE = {TensorProto.FLOAT: TensorProto.DOUBLE, TensorProto.FLOAT16: TensorProto.DOUBLE}
F32 = {TensorProto.DOUBLE: TensorProto.FLOAT, TensorProto.FLOAT16: TensorProto.FLOAT}
UNIT = 2.0**-23
TINY = 2.0**-149
"""A unit in the last place of 1, and the smallest f32."""


@dataclass(frozen=True)
class Case:
    """A node, its operands (None where absent), which of them are initializers, and the types of its outputs.

    free: the operands whose element type is a parameter of the schema.
    """

    op: str
    opset: int
    operands: Sequence[np.ndarray | None]
    attrs: dict[str, Any]
    known: frozenset[int]
    free: frozenset[int]
    types: Sequence[int]
    outputs: Sequence[int]

    def __str__(self) -> str:
        listed = [
            "none" if x is None else f"{'const ' if i in self.known else ''}{x.dtype}{list(x.shape)} {x.tolist()}"
            for i, x in enumerate(self.operands)
        ]
        return f"{self.op}-{self.opset}({'; '.join(listed)[:1500]}) {self.attrs} -> {len(self.outputs)}"

    def model(self) -> onnx.ModelProto:
        names = [f"x{i}" if x is not None else "" for i, x in enumerate(self.operands)]
        while names and not names[-1]:
            names.pop()
        results = [f"y{i}" for i in range(len(self.outputs))]
        attrs = {k: numpy_helper.from_array(v) if isinstance(v, np.ndarray) else v for k, v in self.attrs.items()}
        node = helper.make_node(self.op, names, results, **attrs)
        inputs, held = [], []
        for i, (x, type) in enumerate(zip(self.operands, self.types)):
            if x is not None and i in self.known:
                held.append(numpy_helper.from_array(x, f"x{i}"))
            elif x is not None:
                inputs.append(helper.make_tensor_value_info(f"x{i}", type, x.shape))
        outputs = [helper.make_tensor_value_info(name, type, None) for name, type in zip(results, self.outputs)]
        graph = helper.make_graph([node], "one", inputs, outputs, held)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
        model.ir_version = 10
        return model

    def feeds(self) -> dict[str, np.ndarray]:
        return {f"x{i}": x for i, x in enumerate(self.operands) if x is not None and i not in self.known}

    def retyped(self, types: dict[int, int]) -> Case:
        """The same with other element types of floats. Their values are f32, or f16, so a wider type has them too."""

        def other(i: int) -> int:
            return types.get(self.types[i], self.types[i]) if i in self.free else self.types[i]

        wider = helper.tensor_dtype_to_np_dtype(types[TensorProto.FLOAT]) if TensorProto.FLOAT in types else np.float32
        return replace(
            self,
            operands=[
                None if x is None else x.astype(helper.tensor_dtype_to_np_dtype(other(i)))
                for i, x in enumerate(self.operands)
            ],
            types=[other(i) for i in range(len(self.types))],
            outputs=[types.get(type, type) for type in self.outputs],
            attrs={
                k: v.astype(wider) if isinstance(v, np.ndarray) and v.dtype.kind == "f" else v
                for k, v in self.attrs.items()
            },
        )


# -- drawing


@cache
def _schemas(op: str) -> list[Any]:
    """The schemas that an op may have in a model of OLDEST or newer, the oldest first."""
    found = [s for s in onnx.defs.get_all_schemas_with_history() if s.domain == "" and s.name == op]
    found.sort(key=lambda schema: schema.since_version)
    newer = [i for i, schema in enumerate(found) if schema.since_version > OLDEST]
    return found[max((newer[0] if newer else len(found)) - 1, 0) :]


def _type_number(name: str) -> int:
    """The number of a type, such as TensorProto.FLOAT for tensor(float); 0 for sequences, optionals and types that
    numpy can't represent."""
    if not name.startswith("tensor("):
        return 0
    spelt = name[len("tensor(") : -1].upper()
    number = int(getattr(TensorProto, spelt, 0))
    kind = helper.tensor_dtype_to_np_dtype(number).kind if number else ""
    return number if kind and kind in "fiubO" and number not in EIGHT_BIT_FLOATS else 0


def _types(schema: Any, rng: np.random.Generator) -> dict[str, int]:
    found = {}
    for constraint in schema.type_constraints:
        legal = [n for n in map(_type_number, sorted(constraint.allowed_type_strs)) if n]
        first = [n for n in legal if n == TensorProto.FLOAT]
        held = [n for n in legal if helper.tensor_dtype_to_np_dtype(n) in _HELD]
        pool = first if first and rng.random() < 0.35 else held if held and rng.random() < 0.8 else legal
        found[constraint.type_param_str] = int(rng.choice(pool or [TensorProto.FLOAT]))
    return found


_HELD = [np.dtype(t) for t in (np.float32, np.uint8, np.int8, np.int16, np.int32, np.int64, bool)]


def _plain_attrs(schema: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Draw flags and float attributes for which the schema has a default: 0, 1, or any float."""
    found: dict[str, Any] = {}
    for name, attr in schema.attributes.items():
        if not attr.default_value.name or rng.random() < 0.5:
            continue
        default = helper.get_attribute_value(attr.default_value)
        if attr.type == onnx.defs.OpSchema.AttrType.FLOAT:
            least = [1e-5, 1e-3] if name == "epsilon" else [0.5, 2.0, 0.1] if name in ("momentum", "gamma") else None
            found[name] = float(rng.choice(least or [default, 0.25, 1.0, 1.5, 0.5]))
        elif name in _FLAGS:
            found[name] = int(rng.integers(2))
    return found


_FLAGS = {
    "detect_negative",
    "detect_positive",
    "keepdims",
    "select_last_index",
    "exclusive",
    "reverse",
    "upper",
    "saturate",
}


def _type_of_output(schema: Any, index: int, types: dict[str, int]) -> int:
    text = schema.outputs[min(index, len(schema.outputs) - 1)].type_str
    return types[text] if text in types else _type_number(text)


def draw(seed: int, op: str | None = None) -> Case:
    """Draw the case of a seed, of any op or of a given one."""
    rng = np.random.default_rng(seed)
    op = op or str(rng.choice(sorted(RECIPES)))
    schemas = _schemas(op)
    index = int(rng.choice([i for i, schema in enumerate(schemas) if not schema.deprecated]))
    newest = schemas[index + 1].since_version - 1 if index + 1 < len(schemas) else onnx.defs.onnx_opset_version()
    opset = int(rng.choice([max(schemas[index].since_version, OLDEST), newest]))
    d = Draw(rng, op, opset, _types(schemas[index], rng))
    operands, own = RECIPES[op].make(d)
    own = {name: value for name, value in own.items() if name in schemas[index].attributes}
    attrs = {**_plain_attrs(schemas[index], rng), **own}
    inputs = schemas[index].inputs
    texts = [inputs[min(i, len(inputs) - 1)].type_str for i in range(len(operands))]
    types = [d.types[text] if text in d.types else _type_number(text) for text in texts]
    free = frozenset(i for i, text in enumerate(texts) if text in d.types)
    all_known = bool(rng.random() < 0.15)
    known = d.known | {i for i in range(1, len(operands)) if rng.random() < 0.25}
    outputs = [_type_of_output(schemas[index], i, d.types) for i in range(d.wanted)]
    held = frozenset(range(len(operands)) if all_known else known)
    return Case(op, opset, operands, attrs, held, free, types, outputs)


# -- what is right

Oracle = Callable[[Case], list[np.ndarray]]


def _onnxruntime(case: Case) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(case.model().SerializeToString(), options)
    return [np.asarray(y) for y in session.run(None, case.feeds())]


def _evaluator(case: Case) -> list[np.ndarray]:
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        return [np.asarray(y) for y in ReferenceEvaluator(case.model()).run(None, case.feeds())]


def truth(case: Case) -> list[np.ndarray] | None:
    """The right outputs, or None if no oracle has an answer."""
    if case.op in TRUTHS:
        own = TRUTHS[case.op](case)
        if own is not None:
            return own
    if (
        case.op in ("Resize", "Upsample")
        and case.attrs.get("mode", "nearest") == "nearest"
        and case.operands[0].dtype.kind != "f"
    ):
        return _moved(case)
    bound = RECIPES[case.op].bound
    wide, plain = case.retyped(WIDE), case.retyped(F32)
    order: list[tuple[Oracle, Case]] = [(_onnxruntime, wide), (_onnxruntime, plain), (_evaluator, wide)]
    if bound == "exact":
        order = order[1:]
    elif isinstance(bound, int) and bound:  # of functions ONNX Runtime's f32 is not near enough
        order = [order[0], order[2], order[1]]
    for oracle, candidate in (*order, (_evaluator, plain)):
        try:
            return oracle(candidate)
        except Exception:  # noqa: BLE001, S112 -- each oracle has errors of its own; the next one is asked
            continue
    return None


def _moved(case: Case) -> list[np.ndarray] | None:
    """Elements of any type, moved as f32 indices would be: ONNX Runtime resizes few types."""
    x = case.operands[0]
    assert x is not None
    places = np.arange(x.size, dtype=np.float32).reshape(x.shape)
    found = truth(
        replace(
            case,
            operands=[places, *case.operands[1:]],
            types=[TensorProto.FLOAT, *case.types[1:]],
            outputs=[TensorProto.FLOAT],
        )
    )
    return None if found is None else [x.ravel()[found[0].astype(np.int64)]]


def _magnitude(case: Case) -> list[np.ndarray] | None:
    """The result for the magnitudes of the operands, to which the error of a sum of products is relative."""
    whole = {k: abs(v) if k in ("alpha", "beta") else v for k, v in case.attrs.items()}
    positive = [np.abs(x) if x is not None and x.dtype.kind == "f" else x for x in case.operands]
    return truth(replace(case, operands=positive, attrs=whole))


def _tolerance(case: Case, index: int, want: np.ndarray) -> np.ndarray | float:
    bound = RECIPES[case.op].bound
    if isinstance(bound, int):
        return bound * UNIT * np.abs(want) + bound * TINY
    largest = float(np.max(np.abs(want[np.isfinite(want)]), initial=0.0))
    if bound == "sum":
        terms = 4 + 2 * max((x.size for x in case.operands if x is not None), default=1)
        sizes = _magnitude(case)
        return terms * UNIT * (np.abs(sizes[index]) if sizes else largest) + TINY
    return 64 * UNIT * max(largest, 1.0)


def _compare(case: Case, index: int, got: np.ndarray, want: np.ndarray) -> None:
    got, exact = np.asarray(got), RECIPES[case.op].bound == "exact"
    wanted = np.float32 if want.dtype.kind == "f" else want.dtype
    assert got.dtype == wanted, f"output {index} is {got.dtype}, not {wanted}"
    assert got.shape == want.shape, f"output {index} has shape {got.shape}, not {want.shape}"
    if want.dtype.kind != "f":
        np.testing.assert_array_equal(got, want)
        return
    with np.errstate(all="ignore"):
        rounded = want.astype(np.float32)
        if case.outputs[index] == TensorProto.FLOAT16 and case.op in ("Cast", "CastLike"):
            # held as f32, of which the half is the rounding
            got, rounded = (x.astype(np.float16).astype(np.float32) for x in (got, rounded))
        if exact:
            np.testing.assert_array_equal(got, rounded)
            numbers = ~np.isnan(rounded)
            np.testing.assert_array_equal(np.signbit(got)[numbers], np.signbit(rounded)[numbers], "signs of zeros")
            return
        tolerance = np.asarray(_tolerance(case, index, want.astype(np.float64)), np.float64)
        error = np.abs(got.astype(np.float64) - want.astype(np.float64))
        near = error <= np.where(np.isnan(tolerance), 0, tolerance)
        fine = near | (got == rounded) | (np.isnan(got) & np.isnan(rounded))
    if not fine.all():
        raise AssertionError(
            f"output {index}: {got[~fine][:5]}, not {want[~fine][:5]} ({(~fine).sum()} of {fine.size})"
        )


def ours(case: Case, target: str) -> list[np.ndarray]:
    graph = import_onnx(case.model(), case.feeds())  # in a file a size of 0 is an open one
    held = [type for x, type in zip(case.operands, case.types) if x is not None]
    odd = {type for type in (*held, *case.outputs) if type in (TensorProto.FLOAT16, TensorProto.DOUBLE)}
    if odd:
        assert any("f32" in str(note) for note in graph.notes), "no note says that floats became f32"
    fed = {k: x.astype(np.float32) if x.dtype.kind == "f" else x for k, x in case.feeds().items()}
    with np.errstate(all="ignore"):
        found = qc.compile(graph, None, target=target)(**fed)
    return list(found.values())


def check(case: Case, target: str = "reference") -> str:
    """ "" if the answer is right, else why the case was refused; AssertionError if the answer is wrong."""
    try:
        got = ours(case, target)
    except QCompilerError as error:
        ours_alone = isinstance(error, PassError) or type(error) is VerifyError
        assert not ours_alone and error.message.strip(), f"no error for a user: {type(error).__name__}: {error}"
        return error.message
    want = truth(case)
    assert want is not None, "accepted, but nobody says what it means"
    assert len(got) == len(want)
    for index, pair in enumerate(zip(got, want)):
        _compare(case, index, *pair)
    return ""


def one(seed: int) -> None:
    """Check the case of a seed on the interpreter, and every fourth one on this machine's level too."""
    case = draw(seed)
    for target in ("reference", "native") if seed % 4 == 0 else ("reference",):
        try:
            check(case, target)
        except Exception as error:
            raise AssertionError(f"seed {seed}, {target}: {case}\n{type(error).__name__}: {error}") from error


SEQUENCES = {
    "ConcatFromSequence", "Optional", "OptionalGetElement", "OptionalHasElement", "SequenceAt", "SequenceConstruct",
    "SequenceEmpty", "SequenceErase", "SequenceInsert", "SequenceLength", "SplitToSequence",
}  # fmt: skip
"""Ops that no model of one node has; test_sequences.py draws chains of them."""
RECURRENT = {"LSTM", "GRU", "RNN"}
"""Ops that test_recurrent.py compares with ONNX Runtime."""


def unchecked() -> set[str]:
    """The ops of ONNX itself that the importer maps and no recipe draws."""
    return {op for op in table() if "." not in op} - set(RECIPES)
