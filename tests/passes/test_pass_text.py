"""Passes as text: printed and parsed, and errors with the nearest name."""

from __future__ import annotations

import dataclasses

import pytest

from qcompiler.errors import PassError
from qcompiler.passes.choose_precision import ChoosePrecision
from qcompiler.passes.constant_fold import ConstantFold
from qcompiler.passes.equalize import Equalize
from qcompiler.passes.fuse import Fuse
from qcompiler.passes.insert_observers import InsertObservers
from qcompiler.passes.insert_qdq import InsertQdq
from qcompiler.passes.integerize import Integerize
from qcompiler.passes.pipelines import convert_pipeline, dynamic_pipeline, float_pipeline, observe_pipeline
from qcompiler.passes.registry import format_pass, format_pipeline, parse_pass, parse_pipeline, passes_by_name
from qcompiler.passmanager import describe
from qcompiler.quantization.qconfig import QConfig, get_qconfig
from qcompiler.types import DType, QuantParams

PARAMS = {
    "x": QuantParams.per_tensor(0.1, 3, DType.U8),
    'odd "name", {1}': QuantParams.per_channel([0.5, 1e-7], [0, -1], 0, DType.I8, -127),
}
CONFIGS = {
    "a": get_qconfig("int8"),
    "p": get_qconfig("int8:plain"),
    "b": None,
    "c": QConfig(None, get_qconfig("torch:default").weight),
    "d": get_qconfig("torch:x86"),
    "e": get_qconfig("dynamic"),
    "f": get_qconfig("dynamic:float16"),
    "g": get_qconfig("w4a8:gptq"),
}

TEXTS = [
    (InsertQdq(), "insert-qdq"),
    (InsertQdq(per_channel=False), "insert-qdq{per-channel=false}"),
    (ChoosePrecision(code_outputs=True), "choose-precision{code-outputs=true}"),
    (Equalize(iterations=2), "equalize{iterations=2}"),
    (Fuse(residual=False), "fuse{residual=false}"),
    (Fuse({"a": None}, residual=False), 'fuse{configs=["a":none],residual=false}'),
    (ConstantFold(max_bytes=0), "constant-fold{max-bytes=0}"),
    (Integerize(), "integerize"),
]


@pytest.mark.parametrize("step, text", TEXTS, ids=[text for _, text in TEXTS])
def test_there_and_back(step: object, text: str) -> None:
    assert format_pass(step) == text and parse_pass(text) == step
    assert parse_pass(text.replace(",", " ,\n ").replace("{", " { ").replace("=", " = ").replace("}", " } ")) == step


@pytest.mark.parametrize("step", [InsertQdq(PARAMS, CONFIGS), InsertObservers(CONFIGS)], ids=lambda step: step.name)
def test_decisions_are_text_too(step: object) -> None:
    assert parse_pass(format_pass(step)) == step


def test_pipelines() -> None:
    for pipeline in (
        float_pipeline(),
        float_pipeline(CONFIGS, equalize=True),
        observe_pipeline(CONFIGS),
        convert_pipeline(PARAMS, CONFIGS),
        dynamic_pipeline(CONFIGS),
        convert_pipeline(PARAMS, CONFIGS, {"x": (0.5, 1e-7, 3.0)}),
        [],
    ):
        assert parse_pipeline(format_pipeline(pipeline)) == pipeline
    assert format_pipeline(convert_pipeline({}, {})).startswith(
        "choose-precision,insert-qdq,unsigned-codes,propagate-qparams,integerize{configs=[]},"
    )


def test_every_pass_is_complete() -> None:
    """Each is a frozen dataclass with a name in kebab-case and a docstring that shows IR before and after."""
    for name, step in passes_by_name().items():
        assert name == step.name == name.lower() and "_" not in name
        assert dataclasses.is_dataclass(step) and step.__dataclass_params__.frozen
        assert "Before:" in step.__doc__ and "After:" in step.__doc__, name
        assert parse_pass(name) == step()
    used = {
        step.name
        for pipeline in (
            float_pipeline(equalize=True),
            observe_pipeline({}),
            convert_pipeline({}, {}),
            dynamic_pipeline({}),
        )
        for step in pipeline
    }
    assert used <= set(passes_by_name())


def test_short_text_leaves_mappings_out() -> None:
    assert describe(InsertQdq(PARAMS, CONFIGS, per_channel=False)) == "insert-qdq{per-channel=false}"


COMPLAINTS = [
    ("fuze", "unknown pass 'fuze'", "did you mean 'fuse'?"),
    ("insert-qdq{per_channel=true}", "insert-qdq has no option 'per_channel'", "did you mean 'per-channel'?"),
    ("dce{x=1}", "dce has no option 'x'", "it has none"),
    ("insert-qdq{per-channel=1}", "an option of another kind", "true or false"),
    ("equalize{iterations=many}", "malformed text of a pass", "many"),
    ("equalize{iterations=2.5}", "an option of another kind", "an integer"),
    ("equalize{iterations=true}", "an option of another kind", "an integer"),
    ("equalize{iterations=2", "malformed text of a pass", "','"),
    ("equalize{iterations", "malformed text of a pass", "'='"),
    ("fuse fuse", "malformed text of a pass", "a comma or the end"),
    ("fuse,", "unknown pass ''", "known"),
    ("fuse;dce", "malformed text of a pass", "column 5"),
    ('insert-qdq{params=["x":"0.1 3"]}', "malformed quantization parameters", "insert-qdq: params"),
    ('insert-qdq{params=["x":"-1.0 3 None 0 255"]}', "malformed quantization parameters", "insert-qdq: params"),
    ('insert-qdq{params=["x":3]}', "malformed quantization parameters", "insert-qdq: params"),
    ('scale-channels{scales=["x":"1.0/wide"]}', "malformed numbers", "scale-channels: scales"),
    ('insert-observers{configs=["x":"u8"]}', "malformed qconfig", "insert-observers: configs"),
    ('choose-precision{configs=["x":"None; None; simple"]}', "malformed qconfig", "[; plain][; unequalized]"),
    ('insert-observers{configs="x"}', "an option of another kind", "insert-observers: configs"),
]


@pytest.mark.parametrize("text, message, detail", COMPLAINTS, ids=[text for text, _, _ in COMPLAINTS])
def test_complaints(text: str, message: str, detail: str) -> None:
    with pytest.raises(PassError) as caught:
        parse_pipeline(text)
    assert caught.value.message == message and detail in str(caught.value)


def test_one_pass_is_one_pass() -> None:
    with pytest.raises(PassError, match="not one pass"):
        parse_pass("fuse,dce")
