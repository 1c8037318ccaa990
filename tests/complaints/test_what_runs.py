"""Complaints about what runs: silent fallbacks, dispatch errors, leftover conversions, unsupported activations."""

from __future__ import annotations

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import nn
from qcompiler.errors import QCompilerError, VerifyError
from qcompiler.report import count_nodes
from qcompiler.types import DType, TensorType
from tests.complaints.conftest import sqnr


def test_01_slower_than_float_because_ops_fall_back(small_net, batches, x) -> None:
    """Every int8 node runs an emitted kernel, and the report says what each costs."""
    compiled = qc.compile(small_net(), "int8", (x,), calibration_data=batches)
    assert compiled.program.python_nodes == {}
    bound = compiled.program.bind({})
    assert all(step.kernel != "python" for step in bound.image.steps)
    nanoseconds = bound.profile([x])
    assert (
        len(nanoseconds) == len(bound.image.steps)
        and sum(step.macs for step in bound.image.steps) >= 4 * 8 * 8 * 8 * 8 * 9
    )


def test_02_could_not_run_quantized_op(small_net, batches, x) -> None:
    """int8 and float never meet without a conversion: an int8 add of a float operand does not verify, and the message
    names the node and its line."""
    graph = qc.compile(small_net(), "int8", (x,), calibration_data=batches, target="reference").graph
    node = next(n for n in graph.nodes if n.op == "conv")
    graph.set_operand(node, 0, graph.inputs[0])
    with pytest.raises(VerifyError) as caught:
        qc.compile(graph)
    message = str(caught.value)
    assert node.name in message and "quantized" in message and ".py" in message and "f32" in message


def test_09_unsupported_activations_kill_int8(batches, x, every_target) -> None:
    """SiLU, GELU, Mish, Hardswish, PReLU, Softplus, ELU, softmax and layer norm run on codes."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            kinds = (nn.SiLU, nn.GELU, nn.Mish, nn.Hardswish, nn.PReLU, nn.Softplus, nn.ELU)
            self.layers = nn.Sequential(*(layer for kind in kinds for layer in (nn.Conv2d(3, 3, 1), kind())))
            self.flatten = nn.Flatten(1)
            self.norm = nn.LayerNorm(192)
            self.softmax = nn.Softmax(-1)

        def forward(self, x):
            return self.softmax(self.norm(self.flatten(self.layers(x))))

    compiled = qc.compile(Net(), "int8:plain", (x,), calibration_data=batches)
    assert count_nodes(compiled.graph)[1] == 0
    every_target(compiled.graph, x)


def test_14_conversions_left_around_ops(small_net, batches, x) -> None:
    """There is one quantize at the input, and none behind it. The last product gives real numbers itself; only a
    plain qconfig has a dequantize there."""
    for qconfig, expected in (("int8", ["quantize"]), ("int8:plain", ["quantize", "dequantize"])):
        graph = qc.compile(small_net(), qconfig, (x,), calibration_data=batches, target="reference").graph
        assert [n.op for n in graph.nodes if n.op in ("quantize", "dequantize", "requantize")] == expected


def test_26_nodes_that_silently_run_in_float(batches, x) -> None:
    """What stays float is counted, and each node says why."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return np.prod(self.conv(x), axis=(2, 3))

    compiled = qc.compile(Net(), "int8", (x,), calibration_data=batches)
    text = str(compiled.report())
    assert count_nodes(compiled.graph)[1] == 1
    assert "prod" in text and "no integer" in text


def test_31_a_quantized_model_cannot_be_traced(small_net, batches, x) -> None:
    """A compiled model inside a traced function is inlined, and gives the same bits."""
    compiled = qc.compile(small_net(), "int8", (x,), calibration_data=batches)
    graph = qc.trace(lambda image: compiled(image) * np.float32(2), (x,))
    assert any(node.op == "conv" and node.result.type.is_quantized for node in graph.nodes)
    assert np.array_equal(qc.compile(graph, None)(x), compiled(x) * np.float32(2))


def test_22_one_wide_activation_destroys_the_net(batches, x) -> None:
    """The channels have widely different ranges. "int8" balances them; with "int8:plain" one line leaves a node float,
    and the table says which rule won."""

    class Wide(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 8, 3, padding=1)
            self.head = nn.Conv2d(8, 4, 1)

        def forward(self, x):
            return self.head(self.stem(x))

    model = Wide()
    state = model.state_dict()
    gains = np.float32(10.0) ** np.linspace(-2.5, 2.5, 8, dtype=np.float32)
    state["stem.weight"] = state["stem.weight"] * gains[:, None, None, None]
    state["stem.bias"] = state["stem.bias"] * gains
    state["head.weight"] = state["head.weight"] / gains[None, :, None, None]
    model.load_state_dict(state)
    reference = qc.compile(model, None, (x,), target="reference")(x)
    plain, balanced = (
        sqnr(reference, qc.compile(model, qconfig, (x,), calibration_data=batches)(x))
        for qconfig in ("int8:plain", "int8")
    )
    assert balanced > 30
    mapping = qc.QConfigMapping().set_global("int8").set_module_name("head", None)
    kept = qc.compile(model, mapping, (x,), calibration_data=batches)
    assert (
        plain
        < 15
        < 30
        < sqnr(
            reference,
            qc.compile(
                model,
                qc.QConfigMapping().set_global("int8").set_module_name("head", None).set_module_name("stem", None),
                (x,),
                calibration_data=batches,
            )(x),
        )
    )
    assert "head" in str(kept.report())


def test_07_silent_saturation_without_vnni(every_target) -> None:
    """Twice 255 * 127 is more than an i16 holds: the AVX2 kernels stay exact."""
    weight = np.full((16, 64), 127, np.int8)
    graph = qc.Graph("main")
    graph.stage = "integer"
    x_type = TensorType(DType.U8, (3, 64), qc.QuantParams.per_tensor(1.0, 0, DType.U8))
    w_type = TensorType(DType.I8, (16, 64), qc.QuantParams.per_channel([1.0] * 16, 0, 0, DType.I8))
    value = graph.add_input("x", x_type)
    const = graph.add_const("w", weight, w_type)
    node = graph.create(
        "linear",
        [value, const],
        {},
        types=TensorType(DType.U8, (3, 16), qc.QuantParams.per_tensor(2.0**14, 0, DType.U8)),
    )
    graph.set_outputs(node.results)
    data = np.full((3, 64), 255, np.uint8)
    assert every_target(graph, data).tolist() == [[round(255 * 127 * 64 / 2**14)] * 16] * 3


def test_error_classes_are_ours(x) -> None:
    """Every mistake of a user raises a QCompilerError."""
    with pytest.raises(QCompilerError):
        qc.compile(object(), None, (x,))
