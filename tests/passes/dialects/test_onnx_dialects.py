"""Graphs as tf2onnx, paddle2onnx and hand-written exporters spell functions give the integer graph of the op itself."""

from __future__ import annotations

from ast import literal_eval
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from qcompiler.frontend import functional as F
from tests.passes.dialects.checks import WEIGHT, assert_same, between_layers, example, integer_graph
from tests.passes.dialects.patterns import GAIN, IMAGE, SHAPE, SHIFT


class Spelling:
    """Nodes that make "y" of "x" between two layers, and constants by name.

    Each line is `result = Op(operands)`, with attributes behind a semicolon: "m = ReduceMean(x); axes=[-1] keepdims=1".
    """

    def __init__(self, text: str, opset: int = 13, shape: tuple[int, ...] = SHAPE, **constants: Any) -> None:
        self.text, self.opset, self.shape, self.constants = text, opset, shape, constants

    def model(self) -> onnx.ModelProto:
        nodes = [helper.make_node("MatMul", ["input", "W"], ["x"])]
        if len(self.shape) == 4:
            nodes = [helper.make_node("Conv", ["input", "W"], ["x"])]
        for line in filter(None, map(str.strip, self.text.splitlines())):
            call, _, attributes = line.partition(";")
            result, _, right = call.partition(" = ")
            op, _, operands = right.strip().rstrip(")").partition("(")
            attrs = {key: literal_eval(value) for key, value in (item.split("=") for item in attributes.split())}
            nodes.append(
                helper.make_node(op, [name.strip() for name in operands.split(",")], [result.strip()], **attrs)
            )
        nodes.append(helper.make_node(nodes[0].op_type, ["y", "W"], ["output"]))
        weight = WEIGHT if len(self.shape) < 4 else WEIGHT[:, :, None, None]
        initializers = [
            numpy_helper.from_array(np.asarray(value, None if hasattr(value, "dtype") else np.float32), name)
            for name, value in {"W": weight, **self.constants}.items()
        ]
        graph = helper.make_graph(
            nodes,
            "spelled",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, self.shape)],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
            initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])


AXIS = np.array([-1], np.int64)


def layer_norm(x: Any) -> Any:
    return F.layer_norm(x, (24,), GAIN, SHIFT, 1e-6)


def rms_norm(x: Any) -> Any:
    return F.rms_norm(x, (24,), GAIN, 1e-6)


SPELLINGS: dict[str, tuple[Any, Spelling]] = {
    # keras.layers.LayerNormalization: tf.nn.moments, then tf.nn.batch_normalization
    "tf2onnx layer norm": (
        layer_norm,
        Spelling(
            """
            mean = ReduceMean(x); axes=[2] keepdims=1
            d = Sub(x, mean)
            square = Mul(d, d)
            var = ReduceMean(square); axes=[2] keepdims=1
            shifted = Add(var, eps)
            root = Sqrt(shifted)
            inv = Reciprocal(root)
            factor = Mul(inv, gain)
            scaled = Mul(x, factor)
            moved = Mul(mean, factor)
            rest = Sub(shift, moved)
            y = Add(scaled, rest)
            """,
            eps=1e-6,
            gain=GAIN,
            shift=SHIFT,
        ),
    ),
    "tf2onnx gelu": (
        F.gelu,
        Spelling(
            """
            scaled = Mul(x, r)
            e = Erf(scaled)
            grown = Add(e, one)
            half = Mul(x, h)
            y = Mul(half, grown)
            """,
            r=0.70710678,
            one=1.0,
            h=0.5,
        ),
    ),
    "tf2onnx gelu, tanh": (
        lambda x: F.gelu(x, approximate="tanh"),
        Spelling(
            """
            cube = Pow(x, three)
            c = Mul(cube, k)
            inner = Add(x, c)
            s = Mul(inner, r)
            t = Tanh(s)
            grown = Add(t, one)
            half = Mul(grown, h)
            y = Mul(x, half)
            """,
            three=3.0,
            k=0.044715,
            r=0.7978846,
            one=1.0,
            h=0.5,
        ),
    ),
    "tf2onnx l2_normalize": (
        lambda x: F.normalize(x, dim=-1, eps=1e-6),
        Spelling(
            """
            square = Mul(x, x)
            sum = ReduceSum(square, axis); keepdims=1
            least = Max(sum, eps)
            root = Sqrt(least)
            inv = Reciprocal(root)
            y = Mul(x, inv)
            """,
            axis=AXIS,
            eps=1e-12,
        ),
    ),
    "tf2onnx swish": (F.silu, Spelling("s = Sigmoid(x)\ny = Mul(x, s)")),
    "tf2onnx hard swish": (
        F.hardswish,
        Spelling(
            """
            moved = Add(x, three)
            low = Max(moved, zero)
            clipped = Min(low, six)
            part = Mul(clipped, sixth)
            y = Mul(x, part)
            """,
            three=3.0,
            zero=0.0,
            six=6.0,
            sixth=0.16666667,
        ),
    ),
    "paddle2onnx layer norm": (
        layer_norm,
        Spelling(
            """
            mean = ReduceMean(x); axes=[-1] keepdims=1
            d = Sub(x, mean)
            square = Pow(d, two)
            var = ReduceMean(square); axes=[-1] keepdims=1
            shifted = Add(var, eps)
            root = Sqrt(shifted)
            normal = Div(d, root)
            scaled = Mul(normal, gain)
            y = Add(scaled, shift)
            """,
            opset=11,
            two=2.0,
            eps=[1e-6],
            gain=GAIN,
            shift=SHIFT,
        ),
    ),
    "paddle2onnx gelu": (
        F.gelu,
        Spelling(
            """
            scaled = Div(x, r)
            e = Erf(scaled)
            grown = Add(e, one)
            product = Mul(x, grown)
            y = Mul(product, h)
            """,
            opset=11,
            r=[1.4142135],
            one=[1.0],
            h=[0.5],
        ),
    ),
    "paddle2onnx hard swish": (
        F.hardswish,
        Spelling(
            """
            moved = Add(x, three)
            clipped = Clip(moved, zero, six)
            product = Mul(x, clipped)
            y = Div(product, six)
            """,
            opset=11,
            three=[3.0],
            zero=0.0,
            six=6.0,
        ),
    ),
    "paddle2onnx hard sigmoid": (F.hardsigmoid, Spelling("y = HardSigmoid(x); alpha=0.1666667 beta=0.5", opset=11)),
    "paddle2onnx mish": (F.mish, Spelling("s = Softplus(x)\nt = Tanh(s)\ny = Mul(x, t)", opset=11)),
    "paddle2onnx group norm": (
        lambda x: F.group_norm(x, 3, GAIN, SHIFT),
        Spelling(
            """
            rows = Reshape(x, split)
            normal = InstanceNormalization(rows, ones, zeros); epsilon=1e-5
            whole = Reshape(normal, joined)
            scaled = Mul(whole, gain)
            y = Add(scaled, shift)
            """,
            shape=IMAGE,
            opset=11,
            split=np.array([0, 3, -1], np.int64),
            joined=np.array(IMAGE, np.int64),
            ones=np.ones(3, np.float32),
            zeros=np.zeros(3, np.float32),
            gain=GAIN.reshape(24, 1, 1),
            shift=SHIFT.reshape(24, 1, 1),
        ),
    ),
    "rms norm, mean of Mul": (
        rms_norm,
        Spelling(
            """
            square = Mul(x, x)
            mean = ReduceMean(square, axis); keepdims=1
            shifted = Add(mean, eps)
            root = Sqrt(shifted)
            normal = Div(x, root)
            y = Mul(gain, normal)
            """,
            opset=18,
            axis=AXIS,
            eps=1e-6,
            gain=GAIN,
        ),
    ),
    "softmax, ReduceMax and ReduceSum": (
        lambda x: F.softmax(x * 0.125, -1),
        Spelling(
            """
            s = Mul(x, scale)
            top = ReduceMax(s); axes=[-1] keepdims=1
            d = Sub(s, top)
            e = Exp(d)
            sum = ReduceSum(e, axis); keepdims=1
            y = Div(e, sum)
            """,
            scale=0.125,
            axis=AXIS,
        ),
    ),
    "LayerNormalization": (
        layer_norm,
        Spelling("y = LayerNormalization(x, g, b); axis=-1 epsilon=1e-6", 17, g=GAIN, b=SHIFT),
    ),
    "RMSNormalization": (rms_norm, Spelling("y = RMSNormalization(x, g); axis=-1 epsilon=1e-6", 23, g=GAIN)),
    "Gelu": (F.gelu, Spelling("y = Gelu(x)", 20)),
    "Mish": (F.mish, Spelling("y = Mish(x)", 18)),
    "HardSwish": (F.hardswish, Spelling("y = HardSwish(x)", 14)),
    "LpNormalization": (
        lambda x: F.normalize(x, dim=-1, eps=float(np.finfo(np.float32).smallest_subnormal)),
        Spelling("y = LpNormalization(x); axis=-1 p=2"),
    ),
    "skip layer norm": (
        lambda x: F.layer_norm(x + F.gelu(x), (24,), GAIN, SHIFT, 1e-6),
        Spelling(
            "g = Gelu(x)\ns = Add(x, g)\ny = LayerNormalization(s, gain, shift); axis=-1 epsilon=1e-6",
            20,
            gain=GAIN,
            shift=SHIFT,
        ),
    ),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_spelling_gives_the_integer_graph_of_the_op(name: str) -> None:
    direct, spelling = SPELLINGS[name]
    x = example(spelling.shape)
    assert_same(integer_graph(spelling.model(), x), integer_graph(between_layers(direct), x))
