"""qcompiler.nn against torch.nn: names, shapes, state dicts and numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import qcompiler as qc
from qcompiler.errors import QCompilerError, TraceError
from qcompiler.frontend import functional as F
from qcompiler.frontend import nn
from qcompiler.frontend.tracer import trace
from qcompiler.interpreter import run
from tests.frontend import recurrent_cases

RNG = np.random.default_rng(11)

LAYERS = [
    ("Linear", (5, 3), {}, (2, 4, 5)),
    ("Linear", (5, 3), {"bias": False}, (2, 5)),
    ("Identity", (), {}, (2, 3)),
    ("Flatten", (), {}, (2, 3, 4)),
    ("Flatten", (0, 1), {}, (2, 3, 4)),
    ("Unflatten", (1, (2, 3)), {}, (2, 6, 4)),
    ("Dropout", (0.3,), {}, (2, 3)),
    ("Dropout2d", (), {}, (2, 3, 4, 4)),
    ("Conv1d", (4, 6, 3), {"padding": 1}, (2, 4, 9)),
    ("Conv2d", (3, 6, 3), {"stride": 2, "padding": 1}, (2, 3, 8, 9)),
    ("Conv2d", (4, 8, (3, 5)), {"padding": "same", "groups": 2, "dilation": 2, "bias": False}, (1, 4, 9, 9)),
    ("Conv2d", (4, 4, 3), {"padding": "valid", "groups": 4}, (1, 4, 6, 6)),
    ("Conv2d", (3, 4, 3), {"padding": 1, "padding_mode": "reflect"}, (1, 3, 6, 5)),
    ("Conv2d", (3, 4, 3), {"padding": (2, 1), "padding_mode": "replicate"}, (1, 3, 6, 5)),
    ("Conv2d", (3, 4, 3), {"padding": 1, "padding_mode": "circular"}, (1, 3, 6, 5)),
    ("Conv2d", (3, 4, 3), {}, (3, 6, 5)),
    ("Conv3d", (2, 3, 2), {}, (1, 2, 4, 4, 4)),
    ("ConvTranspose1d", (4, 2, 3), {"stride": 2}, (2, 4, 5)),
    ("ConvTranspose2d", (4, 6, 3), {"stride": 2, "padding": 1, "output_padding": 1, "groups": 2}, (1, 4, 5, 4)),
    ("ConvTranspose3d", (2, 2, 2), {}, (1, 2, 3, 3, 3)),
    ("BatchNorm1d", (3,), {}, (4, 3)),
    ("BatchNorm1d", (3,), {"affine": False}, (4, 3, 5)),
    ("BatchNorm2d", (3,), {"eps": 1e-3}, (2, 3, 4, 5)),
    ("BatchNorm3d", (3,), {}, (2, 3, 4, 2, 2)),
    ("LayerNorm", (6,), {}, (2, 3, 6)),
    ("LayerNorm", ((3, 6),), {"bias": False}, (2, 3, 6)),
    ("LayerNorm", (6,), {"elementwise_affine": False}, (2, 6)),
    ("RMSNorm", (6,), {}, (2, 3, 6)),
    ("GroupNorm", (2, 6), {}, (2, 6, 4, 4)),
    ("InstanceNorm1d", (3,), {"affine": True}, (2, 3, 8)),
    ("InstanceNorm2d", (3,), {}, (2, 3, 5, 4)),
    ("InstanceNorm2d", (3,), {"track_running_stats": True}, (2, 3, 5, 4)),
    ("InstanceNorm3d", (3,), {}, (2, 3, 3, 3, 3)),
    ("ReLU", (), {"inplace": False}, (2, 3)),
    ("ReLU6", (), {}, (2, 3)),
    ("Hardtanh", (-0.5, 0.75), {}, (2, 3)),
    ("Sigmoid", (), {}, (2, 3)),
    ("Hardsigmoid", (), {}, (2, 9)),
    ("Tanh", (), {}, (2, 3)),
    ("Hardswish", (), {}, (2, 9)),
    ("SiLU", (), {}, (2, 3)),
    ("GELU", (), {}, (2, 3)),
    ("GELU", ("tanh",), {}, (2, 3)),
    ("Mish", (), {}, (2, 3)),
    ("ELU", (0.7,), {}, (2, 3)),
    ("SELU", (), {}, (2, 3)),
    ("CELU", (1.3,), {}, (2, 3)),
    ("Softplus", (2.0, 3.0), {}, (2, 9)),
    ("Softsign", (), {}, (2, 3)),
    ("Softshrink", (0.4,), {}, (2, 9)),
    ("Hardshrink", (0.6,), {}, (2, 9)),
    ("Tanhshrink", (), {}, (2, 3)),
    ("LogSigmoid", (), {}, (2, 3)),
    ("LeakyReLU", (0.2,), {}, (2, 3)),
    ("RReLU", (), {}, (2, 3)),
    ("Threshold", (0.3, -1.0), {}, (2, 9)),
    ("PReLU", (), {}, (2, 3)),
    ("PReLU", (3,), {}, (2, 3, 4)),
    ("GLU", (1,), {}, (2, 6, 4)),
    ("Softmax", (1,), {}, (2, 3, 4)),
    ("Softmin", (1,), {}, (2, 3, 4)),
    ("LogSoftmax", (-1,), {}, (2, 3)),
    ("Softmax2d", (), {}, (2, 3, 4, 4)),
    ("MaxPool1d", (3,), {"stride": 2}, (2, 3, 9)),
    ("MaxPool2d", (3, 2, 1), {}, (2, 3, 9, 8)),
    ("MaxPool2d", (2,), {"ceil_mode": True, "dilation": 2}, (1, 3, 9, 8)),
    ("MaxPool3d", (2,), {}, (1, 2, 4, 4, 4)),
    ("AvgPool1d", (3,), {"padding": 1}, (2, 3, 9)),
    ("AvgPool2d", (3, 2, 1), {"count_include_pad": False}, (2, 3, 9, 8)),
    ("AvgPool2d", (3,), {"ceil_mode": True, "divisor_override": 5}, (2, 3, 8, 8)),
    ("AvgPool3d", (2,), {}, (1, 2, 4, 4, 4)),
    ("AdaptiveAvgPool1d", (3,), {}, (2, 3, 7)),
    ("AdaptiveAvgPool2d", (1,), {}, (2, 3, 7, 5)),
    ("AdaptiveAvgPool2d", ((None, 3),), {}, (2, 3, 7, 5)),
    ("AdaptiveAvgPool3d", (2,), {}, (1, 2, 3, 4, 5)),
    ("AdaptiveMaxPool1d", (3,), {}, (2, 3, 7)),
    ("AdaptiveMaxPool2d", ((2, 3),), {}, (2, 3, 7, 5)),
    ("AdaptiveMaxPool3d", (2,), {}, (1, 2, 3, 4, 5)),
    ("Upsample", (), {"scale_factor": 2}, (1, 2, 3, 4)),
    ("Upsample", (), {"size": (5, 7), "mode": "bilinear"}, (1, 2, 3, 4)),
    ("Upsample", (), {"size": (5, 7), "mode": "bilinear", "align_corners": True}, (1, 2, 3, 4)),
    ("Upsample", (), {"scale_factor": 2.0, "mode": "linear"}, (1, 2, 5)),
    ("Upsample", (), {"size": (5, 7), "mode": "nearest-exact"}, (1, 2, 3, 4)),
    ("UpsamplingBilinear2d", (), {"scale_factor": 2}, (1, 2, 3, 4)),
    ("PixelShuffle", (2,), {}, (1, 8, 3, 4)),
    ("PixelUnshuffle", (2,), {}, (1, 2, 4, 6)),
    ("ChannelShuffle", (2,), {}, (1, 6, 2, 2)),
    ("ZeroPad2d", ((1, 2, 0, 3),), {}, (1, 2, 3, 4)),
    ("ZeroPad2d", ((-1, 2, 0, -1),), {}, (1, 2, 3, 4)),
    ("ConstantPad1d", (2, 1.5), {}, (1, 2, 3)),
    ("ConstantPad3d", (1, -1.0), {}, (1, 2, 3, 3, 3)),
    ("ReflectionPad1d", (2,), {}, (1, 2, 5)),
    ("ReflectionPad2d", ((1, 2, 0, 1),), {}, (1, 2, 3, 4)),
    ("ReplicationPad2d", (2,), {}, (1, 2, 3, 4)),
    ("ReplicationPad3d", (1,), {}, (1, 2, 3, 3, 3)),
    ("CircularPad2d", ((1, 0, 2, 1),), {}, (1, 2, 3, 4)),
]


def randomize(module: torch.nn.Module) -> torch.nn.Module:
    """Draw parameters and statistics that hide no mistake, as zeros and ones would."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, tensor in module.state_dict().items():
            if tensor.is_floating_point():
                low = 0.3 if name.endswith(("var", "weight")) and tensor.ndim == 1 else -0.6
                tensor.copy_(torch.rand(tensor.shape, generator=generator) * (1 - low) + low)
    return module.eval()


@pytest.mark.parametrize(
    ("name", "args", "kwargs", "shape"), LAYERS, ids=[f"{i}-{case[0]}" for i, case in enumerate(LAYERS)]
)
def test_layer_equals_torch(name: str, args: tuple, kwargs: dict, shape: tuple) -> None:
    theirs = randomize(getattr(torch.nn, name)(*args, **kwargs))
    ours = getattr(nn, name)(*args, **kwargs)
    assert {k: tuple(v.shape) for k, v in ours.state_dict().items()} == {
        k: tuple(v.shape) for k, v in theirs.state_dict().items()
    }
    ours.load_state_dict(theirs.state_dict())
    x = RNG.uniform(-2, 2, shape).astype(np.float32)
    expected = theirs(torch.from_numpy(x)).detach().numpy()
    graph = trace(ours, (x,))
    (got,) = run(graph, [x])
    assert got.shape == expected.shape and got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-6)
    np.testing.assert_array_equal(ours(x), got)
    for node in graph.nodes:
        assert node.origin[0].kind == f"qcompiler.nn.{name}"


def test_bilinear() -> None:
    theirs = torch.nn.Bilinear(3, 4, 5)
    ours = nn.Bilinear(3, 4, 5)
    ours.load_state_dict(theirs.state_dict())
    x, y = RNG.standard_normal((2, 3)).astype(np.float32), RNG.standard_normal((2, 4)).astype(np.float32)
    expected = theirs(torch.from_numpy(x), torch.from_numpy(y)).detach().numpy()
    np.testing.assert_allclose(ours(x, y), expected, rtol=1e-5, atol=1e-6)


def test_every_public_layer_is_compared_with_torch() -> None:
    """A layer added without a case above fails here."""
    layers = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)}
    containers = {"Module", "Sequential", "ModuleList", "ModuleDict", "Parameter"}
    tested = {case[0] for case in LAYERS} | {"Bilinear"} | containers
    tested |= {"Embedding", "EmbeddingBag", "MultiheadAttention", "TransformerEncoder", "TransformerEncoderLayer"}
    tested |= {case.name for case in recurrent_cases.CASES} | {name for name, _ in recurrent_cases.CELLS}
    related = {
        "Dropout1d",
        "Dropout3d",
        "AlphaDropout",
        "FeatureAlphaDropout",
        "UpsamplingNearest2d",
        "ConstantPad2d",
        "ZeroPad1d",
        "ZeroPad3d",
        "ReflectionPad3d",
        "ReplicationPad1d",
        "CircularPad1d",
        "CircularPad3d",
    }
    assert layers - tested == related


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.bn1(self.conv1(x)) + x)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2, 1)
        self.stage1 = nn.Sequential(Block(4), Block(4))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4, 10)
        self.shift = np.full(10, 0.5)

    def forward(self, x):
        x = self.stage1(self.stem(x))
        return self.fc(F.flatten(self.pool(x), 1)) + self.shift


def test_names_and_origins_follow_the_modules() -> None:
    graph = trace(Net(), (np.zeros((1, 3, 8, 8), np.float32),))
    names = [node.name for node in graph.nodes]
    assert names == [
        "stem",
        "stage1.0.conv1",
        "stage1.0.bn1",
        "stage1.0.add",
        "stage1.0.relu",
        "stage1.1.conv1",
        "stage1.1.bn1",
        "stage1.1.add",
        "stage1.1.relu",
        "pool",
        "reshape",
        "fc",
        "add",
    ]
    assert {"stem.weight", "stage1.0.conv1.weight", "stage1.1.bn1.running_var", "fc.bias", "shift"} <= set(graph.consts)
    add = next(node for node in graph.nodes if node.name == "stage1.0.add")
    assert add.origin[0].path == "stage1.0" and add.origin[0].kind.endswith("test_nn.Block")
    assert add.loc.file.endswith("test_nn.py") and "+ x" in Path(__file__).read_text().splitlines()[add.loc.line - 1]
    assert any("float64" in note.text for note in graph.notes)


def test_shared_module_keeps_one_set_of_weights() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = self.a

        def forward(self, x):
            return self.b(self.a(x))

    model = Twice()
    graph = trace(model, (np.zeros((2, 3), np.float32),))
    assert [node.name for node in graph.nodes] == ["a", "a_1"]
    assert list(graph.consts) == ["a.weight", "a.bias"]
    assert list(model.state_dict()) == ["a.weight", "a.bias", "b.weight", "b.bias"]
    assert len(list(model.parameters())) == 2


def test_weights_are_snapshotted() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.copy()
    graph = trace(model, (np.zeros((1, 2), np.float32),))
    model.weight[...] = 7
    np.testing.assert_array_equal(graph.consts["weight"].data, before)


def test_load_state_dict_reports_everything_and_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = model[0].weight.copy()
    state = {"0.weight": np.ones((3, 2)), "0.bais": np.ones(3), "1.weight": np.ones((2, 3)), "1.bias": np.ones(1)}
    with pytest.raises(TraceError) as caught:
        model.load_state_dict(state)
    text = str(caught.value)
    assert "missing: 0.bias" in text and "unexpected: 0.bais" in text
    assert "1.weight: expected shape [1, 3], got [2, 3]" in text
    assert "did you mean '0.bias'" in text
    np.testing.assert_array_equal(model[0].weight, before)
    model.load_state_dict({"0.weight": np.ones((3, 2))}, strict=False)
    assert (model[0].weight == 1).all()


def test_torch_state_dict_loads_into_a_model() -> None:
    class TorchBlock(torch.nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.conv1 = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            self.bn1 = torch.nn.BatchNorm2d(channels)

        def forward(self, x):
            return torch.relu(self.bn1(self.conv1(x)) + x)

    theirs, ours = randomize(TorchBlock(4)), Block(4)
    ours.load_state_dict(theirs.state_dict())
    x = RNG.standard_normal((2, 4, 5, 5)).astype(np.float32)
    np.testing.assert_allclose(ours(x), theirs(torch.from_numpy(x)).detach().numpy(), rtol=1e-5, atol=1e-5)


def test_initial_weights_are_seeded_and_of_torchs_distribution() -> None:
    nn.manual_seed(4)
    first = nn.Conv2d(16, 64, 3)
    nn.manual_seed(4)
    second = nn.Conv2d(16, 64, 3)
    np.testing.assert_array_equal(first.weight, second.weight)
    bound = 1 / np.sqrt(16 * 9)
    assert abs(first.weight).max() <= bound and abs(first.bias).max() <= bound
    assert abs(first.weight.std() - bound / np.sqrt(3)) < 0.02 * bound
    theirs = torch.nn.Conv2d(16, 64, 3).weight.detach()
    assert abs(float(theirs.std()) - float(first.weight.std())) < 0.05 * bound


def test_training_mode_is_an_error_where_it_matters() -> None:
    x = np.zeros((2, 3), np.float32)
    for layer in (nn.Dropout(), nn.BatchNorm1d(3), nn.Sequential(nn.Linear(3, 3), nn.Dropout())):
        layer.train()
        with pytest.raises(TraceError, match=r"training mode[\s\S]*eval\(\)"):
            trace(layer, (x,))
        layer.eval()
        trace(layer, (x,))


def test_errors_name_the_users_line() -> None:
    class Wrong(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, x):
            return self.fc(x)  # the wrong width

    with pytest.raises(QCompilerError, match=r"test_nn\.py:\d+: return self\.fc\(x\)  # the wrong width \(module fc:"):
        trace(Wrong(), (np.zeros((1, 5), np.float32),))
    with pytest.raises(TraceError, match="super"):

        class Early(nn.Module):
            def __init__(self) -> None:
                self.fc = nn.Linear(1, 1)

        Early()


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Conv2d(3, 4, 3, groups=2),
        lambda: nn.Conv2d(3, 4, (3, 3, 3)),
        lambda: nn.Conv2d(3, 4, 3, padding_mode="x"),
        lambda: nn.GroupNorm(2, 3),
        lambda: nn.Sequential(3),
        lambda: nn.Conv2d(1, 1, 3, stride=2, padding="same")(np.zeros((1, 1, 4, 4), np.float32)),
        lambda: nn.Upsample(scale_factor=2, mode="bicubic")(np.zeros((1, 1, 4, 4), np.float32)),
        lambda: nn.BatchNorm2d(3)(np.zeros((2, 3), np.float32)),
    ],
)
def test_bad_arguments(build) -> None:
    with pytest.raises(TraceError):
        build()


def test_containers_and_text() -> None:
    blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(3))
    named = nn.ModuleDict({"a": nn.ReLU(), "b": blocks})
    assert [name for name, _ in named.named_modules()] == ["", "a", "b", "b.0", "b.1", "b.2"]
    assert len(blocks) == 3 and blocks[-1] is list(blocks)[2] and "a" in named and list(named.keys()) == ["a", "b"]
    assert "(b): ModuleList(" in repr(named) and "in_features=2" in repr(named)
    assert named.get_submodule("b.1") is blocks[1]
    with pytest.raises(TraceError, match="b.1"):
        named.get_submodule("b.11")


def test_attention_equals_torch() -> None:
    q, k, v = (RNG.standard_normal((2, 3, 5, 8)).astype(np.float32) for _ in range(3))
    mask = RNG.random((5, 5)) > 0.3
    mask[:, 0] = True
    for extra in (
        {},
        {"is_causal": True},
        {"attn_mask": mask},
        {"attn_mask": np.where(mask, 0, -3).astype(np.float32)},
        {"scale": 0.5},
    ):
        theirs = {key: torch.from_numpy(item) if isinstance(item, np.ndarray) else item for key, item in extra.items()}
        expected = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v)), **theirs)
        got = F.scaled_dot_product_attention(q, k, v, **extra)
        np.testing.assert_allclose(got, expected.numpy(), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("target", ["native", "reference"])
@pytest.mark.parametrize("seed", range(6))
def test_attention_with_masked_rows_equals_torch(seed: int, target: str) -> None:
    """Bool and float masks of any leading shape, constant and given in the call. Rows that are all masked give 0, where
    the same softmax spelt out gives NaN."""
    rng = np.random.default_rng(seed)
    q, k, v = (rng.standard_normal((2, 3, size, 8)).astype(np.float32) for size in (5, 6, 6))
    shape = [(5, 6), (1, 6), (2, 1, 5, 6), (2, 1, 1, 6), (3, 1, 6), (2, 3, 5, 6)][seed]
    keep = rng.random(shape) > 0.3
    keep[..., : 1 if seed % 2 else 6] = keep[..., :1]
    additive = np.where(keep, rng.normal(size=shape), -np.inf).astype(np.float32)
    for mask in (keep, additive):
        want = torch.nn.functional.scaled_dot_product_attention(*map(torch.from_numpy, (q, k, v, mask))).numpy()
        given = qc.compile(F.scaled_dot_product_attention, None, (q, k, v, mask), target=target)(q, k, v, mask)
        constant = qc.compile(
            lambda q, k, v, m=mask: F.scaled_dot_product_attention(q, k, v, m), None, (q, k, v), target=target
        )(q, k, v)
        for got in (given, constant):
            np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)
    scores = np.full((2, 3), -np.inf, np.float32)
    assert np.isnan(qc.compile(lambda x: F.softmax(x, 1), None, (scores,), target=target)(scores)).all()


def test_functionals_equal_torch_on_arrays() -> None:
    x = RNG.standard_normal((2, 6)).astype(np.float32)
    for name, kwargs in (
        ("normalize", {}),
        ("normalize", {"p": 1.0}),
        ("glu", {}),
        ("softmin", {"dim": 1}),
        ("pad", {"pad": [1, 2]}),
    ):
        expected = getattr(torch.nn.functional, name)(torch.from_numpy(x), **kwargs).numpy()
        np.testing.assert_allclose(getattr(F, name)(x, **kwargs), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(F.cat([x, x], 1), np.concatenate([x, x], 1))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_row_of_zeros_normalizes_to_zeros_in_int8_too(axis: int) -> None:
    """As small ops, 8 bits made a bound of 1e-12 a bound of 0, and the row NaN."""
    x = RNG.standard_normal((16, 16)).astype(np.float32)
    x[3] = x[:, 3] = 0
    compiled = qc.compile(lambda x: F.normalize(x, dim=axis), "int8:plain", (x,), calibration_data=[x])
    assert [node.op for node in compiled.graph.nodes] == ["quantize", "l2_normalize", "dequantize"]
    got, wanted = compiled(x), torch.nn.functional.normalize(torch.from_numpy(x), dim=axis).numpy()
    assert not got[3].any() and not got[:, 3].any()
    # Half a code of the operand moves a unit vector by sqrt(16) / 2 * scale / length at most, then half a code more.
    source, result = (compiled.graph.node_list[i].result.type.params.scale[0] for i in (0, 1))
    lengths = np.linalg.norm(x, axis=axis)
    shortest = lengths[lengths > 0].min()
    assert np.abs(got - wanted).max() <= 2 * source * 2 / (shortest - 2 * source) + result / 2


def test_normalize_of_several_axes_and_shapes_that_do_not_fit() -> None:
    x = RNG.standard_normal((2, 3, 4)).astype(np.float32)
    expected = torch.nn.functional.normalize(torch.from_numpy(x), dim=(1, 2)).numpy()
    np.testing.assert_allclose(F.normalize(x, dim=(1, 2)), expected, rtol=1e-6)
    for norm in (F.layer_norm, F.rms_norm):
        with pytest.raises(qc.TraceError, match="the last axes don't fit normalized_shape"):
            norm(x, (3,))
