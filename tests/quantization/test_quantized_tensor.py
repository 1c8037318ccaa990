"""QuantizedTensor: each method against torch's quantized tensors, and what is refused.

The rounding differs from torch's at exact ties alone (docs/quantized-tensor.md), so random data keeps a distance from
them: results of f32 with few operations lie within 2^-12 of a code from the exact number.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import QCompilerError
from qcompiler.quantization import qmath
from qcompiler.types import QuantParams

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*quantiz.*"),
    pytest.mark.filterwarnings("ignore:TypedStorage is deprecated"),
]
PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "quantized-tensor.md"
TORCH_TYPES = {"u8": torch.quint8, "i8": torch.qint8}
CLEAR = 2.0**-12
TENSOR, CHANNEL = "per_tensor", "per_channel"
SHAPE = (3, 4, 5)
SCALES, POINTS = [0.05, 0.125, 0.07], [0, 3, 5]


def clear_reals(rng: np.random.Generator, scale: float) -> np.ndarray:
    """f32 numbers of which none is near half way between two codes of this scale."""
    x = rng.normal(0, 3, SHAPE).astype(np.float32)
    parts = x.astype(np.float64) / scale % 1
    return np.where(abs(parts - 0.5) < CLEAR, x + np.float32(0.25 * scale), x).astype(np.float32)


def pair(scheme: str, dtype: str, seed: int = 0) -> tuple[qc.QuantizedTensor, Any]:
    """The same tensor here and in torch."""
    rng = np.random.default_rng(seed)
    if scheme == TENSOR:
        x = clear_reals(rng, 0.05)
        return qc.quantize_per_tensor(x, 0.05, 7, dtype), torch.quantize_per_tensor(
            torch.tensor(x), 0.05, 7, TORCH_TYPES[dtype]
        )
    x = np.stack([clear_reals(rng, scale)[0] for scale in SCALES])
    theirs = torch.quantize_per_channel(
        torch.tensor(x), torch.tensor(SCALES), torch.tensor(POINTS), 0, TORCH_TYPES[dtype]
    )
    return qc.quantize_per_channel(x, SCALES, POINTS, 0, dtype), theirs


def check(ours: Any, theirs: Any) -> None:
    """The same codes, parameters and numbers."""
    if isinstance(theirs, tuple | list):
        for one, other in zip(ours, theirs, strict=True):
            check(one, other)
    elif isinstance(ours, qc.QuantizedTensor):
        assert ours.shape == tuple(theirs.shape)
        assert np.array_equal(ours.int_repr(), theirs.int_repr().numpy())
        assert np.array_equal(ours.dequantize(), theirs.dequantize().numpy())
        per_tensor = theirs.qscheme() == torch.per_tensor_affine
        assert ours.qscheme() == (TENSOR if per_tensor else CHANNEL)
        if per_tensor:
            assert (ours.q_scale(), ours.q_zero_point()) == (np.float32(theirs.q_scale()), theirs.q_zero_point())
        else:
            assert np.array_equal(ours.q_per_channel_scales(), theirs.q_per_channel_scales().numpy().astype(np.float32))
            assert np.array_equal(ours.q_per_channel_zero_points(), theirs.q_per_channel_zero_points().numpy())
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.numpy().dtype and np.array_equal(ours, theirs.numpy())
    else:
        assert ours == theirs


Method = Callable[[Any], Any]
BOTH: dict[str, tuple[Method, Method]] = {
    "int_repr": (lambda q: q.int_repr(), lambda t: t.int_repr()),
    "dequantize": (lambda q: q.dequantize(), lambda t: t.dequantize()),
    "clone": (lambda q: q.clone(), lambda t: t.clone()),
    "view": (lambda q: q.view(3, -1), lambda t: t.view(3, -1)),
    "reshape": (lambda q: q.reshape(3, 2, 10), lambda t: t.reshape(3, 2, 10)),
    "flatten": (lambda q: q.flatten(1), lambda t: t.flatten(1)),
    "unsqueeze": (lambda q: q.unsqueeze(-1), lambda t: t.unsqueeze(-1)),
    "squeeze": (lambda q: q[:, :1].squeeze(1), lambda t: t[:, :1].squeeze(1)),
    "item": (lambda q: q[1, 2, 3].item(), lambda t: t[1, 2, 3].item()),
    "select": (lambda q: q.select(0, 1), lambda t: t.select(0, 1)),
    "iteration": (lambda q: list(q), list),
    "slices": (lambda q: q[1:, ..., 0:4:2], lambda t: t[1:, ..., 0:4:2]),
    "assignment": (lambda q: (q.__setitem__(1, 0.5), q)[1], lambda t: (t.__setitem__(1, 0.5), t)[1]),
    "copy_": (
        lambda q: q.copy_(clear_reals(np.random.default_rng(9), 0.035)),
        lambda t: t.copy_(torch.tensor(clear_reals(np.random.default_rng(9), 0.035))),
    ),
    **{
        f"{name} number": (lambda q, name=name: getattr(q, name)(0.5), lambda t, name=name: getattr(t, name)(0.5))
        for name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
    },
    "comparison": (lambda q: q <= q.clone(), lambda t: t <= t.clone()),
    "equal": (lambda q: q.equal(q.clone()), lambda t: torch.equal(t, t.clone())),
    "len": (len, len),
}
ONE_SCALE: dict[str, tuple[Method, Method]] = {
    "expand": (lambda q: q.unsqueeze(1).expand(-1, 2, 4, 5), lambda t: t.unsqueeze(1).expand(-1, 2, 4, 5)),
    "as_strided": (lambda q: q.as_strided((2, 3), (5, 1), 4), lambda t: t.as_strided((2, 3), (5, 1), 4)),
    "transpose": (lambda q: q.transpose(0, -1), lambda t: t.transpose(0, -1)),
    "permute": (lambda q: q.permute(2, 0, 1), lambda t: t.permute(2, 0, 1)),
    "flatten all": (lambda q: q.flatten(), lambda t: t.flatten()),
    "resize_": (lambda q: q.resize_(2, 5), lambda t: t.resize_(2, 5)),
    "array index": (lambda q: q[np.array([2, 0])], lambda t: t[torch.tensor([2, 0])]),
    "mask": (lambda q: q[q > 0], lambda t: t[t > 0]),
    "max": (lambda q: q.max(), lambda t: t.max()),
    "min": (lambda q: q.min(), lambda t: t.min()),
    "max axis": (lambda q: q.max(1)[0], lambda t: t.max(1)[0]),
    "min axis": (lambda q: q.min(-1, keepdims=True)[0], lambda t: t.min(-1, keepdim=True)[0]),
    "sort": (lambda q: q.sort(1)[0], lambda t: t.sort(1)[0]),
    "sort down": (lambda q: q.sort(0, descending=True)[0], lambda t: t.sort(0, descending=True)[0]),
    "topk": (lambda q: q.topk(2, 1)[0], lambda t: t.topk(2, 1)[0]),
    "topk smallest": (lambda q: q.topk(2, largest=False)[0], lambda t: t.topk(2, largest=False)[0]),
    "relu": (lambda q: q.relu(), lambda t: t.relu()),
    "clamp": (lambda q: q.clamp(-1.01, 2.01), lambda t: t.clamp(-1.01, 2.01)),
}


@pytest.mark.parametrize("dtype", ["u8", "i8"])
@pytest.mark.parametrize("scheme", [TENSOR, CHANNEL])
def test_methods_against_torch(scheme: str, dtype: str) -> None:
    for name, (ours, theirs) in {**BOTH, **(ONE_SCALE if scheme == TENSOR else {})}.items():
        q, t = pair(scheme, dtype)
        try:
            check(ours(q), theirs(t))
        except AssertionError as error:
            raise AssertionError(f"{name} of {q}") from error


@pytest.mark.parametrize("dtype", ["u8", "i8"])
def test_arithmetic_and_means_against_torch(dtype: str) -> None:
    """Where the exact result is not near half way between two codes, the codes are equal."""
    (a, ta), (b, tb) = pair(TENSOR, dtype, 1), pair(TENSOR, dtype, 2)
    x, y = a.dequantize().astype(np.float64), b.dequantize().astype(np.float64)
    for ours, theirs, exact in (
        (a.add(b, 0.11, 3), torch.ops.quantized.add(ta, tb, 0.11, 3), (x + y) / np.float32(0.11)),
        (a.mul(b, 0.23, 3), torch.ops.quantized.mul(ta, tb, 0.23, 3), x * y / np.float32(0.23)),
        (a.mean((0, 2)), ta.mean((0, 2)), x.mean((0, 2)) / np.float32(0.05)),
        (a.mean(1, keepdims=True), ta.mean(1, keepdim=True), x.mean(1, keepdims=True) / np.float32(0.05)),
        (a.mean(), ta.mean(), x.mean() / np.float32(0.05)),
    ):
        clear = abs(exact % 1 - 0.5) > CLEAR
        assert np.mean(clear) > 0.6
        assert np.array_equal(ours.int_repr()[clear], theirs.int_repr().numpy()[clear])
        assert (ours.q_scale(), ours.q_zero_point()) == (np.float32(theirs.q_scale()), theirs.q_zero_point())


def test_indices_lead_to_the_elements() -> None:
    """Torch does not say which of equal elements it finds; here it is the first."""
    q, _ = pair(TENSOR, "u8")
    codes = q.int_repr()
    for values, indices in (q.max(1, keepdims=True), q.min(1, keepdims=True), q.sort(1), q.topk(3, 1)):
        assert indices.dtype == np.int64
        assert np.array_equal(np.take_along_axis(codes, indices, 1), values.int_repr())
    assert np.array_equal(q.max(2)[1], codes.argmax(2))
    _, order = qc.quantize_per_tensor(np.zeros(9), 1.0, 0, "i8").sort(descending=True)
    assert np.array_equal(order, np.arange(9))


def test_ties_follow_the_rule_of_graphs() -> None:
    """At an exact tie with an odd zero point torch rounds x / scale + zero_point, graphs x / scale."""
    x = np.array([0.5, 1.5, 2.5, -0.5], np.float32)
    ours = qc.quantize_per_tensor(x, 1.0, 1, "u8")
    assert ours.int_repr().tolist() == [1, 3, 3, 1]
    assert np.array_equal(ours.int_repr(), qmath.quantize(x, ours.params, ours.dtype))
    assert torch.quantize_per_tensor(torch.tensor(x), 1.0, 1, torch.quint8).int_repr().tolist() == [2, 2, 4, 0]


def test_views_share_codes_and_copies_do_not() -> None:
    q, _ = pair(CHANNEL, "i8")
    q.view(3, 20)[1, :2] = 0.5
    q.transpose(0, 1)[0, 0] = -0.25
    assert q[1, 0, :2].dequantize().tolist() == [0.5, 0.5] and q[0, 0, 0].int_repr() == -5
    before = q.int_repr()
    q.clone()[...] = 0
    q.int_repr()[...] = 0
    assert np.array_equal(q.int_repr(), before)
    other = qc.quantize_per_channel(np.ones(SHAPE), [1, 2, 4], 0, 0, "i8")
    assert q.copy_(other) is q and q.equal(other)
    assert not q.equal(q[:, :1]) and not q.equal(qc.quantize_per_tensor(np.ones(SHAPE), 1, 0, "i8"))


@pytest.mark.parametrize("index", [1, -1, slice(1, 3), slice(None, None, -1), (..., 1), (None, slice(2)), (0, None, 2)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_channels_follow_an_index(index: Any, axis: int) -> None:
    q = qc.quantize_per_channel(
        np.random.default_rng(3).normal(size=(4, 4, 4)), [0.1, 0.2, 0.4, 0.8], [1, 2, 3, 4], axis, "i8"
    )
    assert np.array_equal(q[index].dequantize(), q.dequantize()[index])
    for order in ((2, 0, 1), (1, 0, 2)):
        assert np.array_equal(q.permute(*order)[index].dequantize(), q.dequantize().transpose(order)[index])


def test_numpy_takes_the_real_numbers() -> None:
    q, _ = pair(TENSOR, "u8")
    real = q.dequantize()
    assert np.array_equal(np.asarray(q), real) and np.asarray(q, np.float64).dtype == np.float64
    assert np.array_equal(np.concatenate([q, real]), np.concatenate([real, real]))
    assert np.array_equal(real > q, real > real) and np.array_equal(np.less(q, 1), real < 1)
    assert repr(q).startswith("QuantizedTensor(array(") and "u8 3x4x5, scale=0.05, zero_point=7" in repr(q)
    with pytest.raises(ValueError, match="copy=False"):
        q.__array__(copy=False)


REFUSED: dict[str, tuple[Method, str]] = {
    "operators": (lambda q: q + q, "add and mul take the result's scale"),
    "reflected operators": (lambda q: 2.0 - q, "add and mul take the result's scale"),
    "operators with arrays": (lambda q: np.ones(SHAPE) * q, "np.multiply"),
    "ufuncs": (np.sqrt, "np.sqrt"),
    "truth": (bool, "operators"),
    "q_per_channel_scales": (lambda q: q.q_per_channel_scales(), "q_scale"),
    "q_per_channel_axis": (lambda q: q.q_per_channel_axis(), "qscheme"),
    "view": (lambda q: q.transpose(0, 1).view(-1), "reshape"),
    "reshape": (lambda q: q.reshape(7, -1), "60 elements"),
    "resize_": (lambda q: q.resize_(100), "at most 60"),
    "as_strided": (lambda q: q.as_strided((2,), (60,)), "positions below 60"),
    "item": (lambda q: q.item(), "one element"),
    "axis": (lambda q: q.sort(3), "axis < 3"),
    "topk": (lambda q: q.topk(9), "k <= 5"),
    "requantizing": (lambda q: qc.quantize_per_tensor(q, 1.0, 0, "u8"), "dequantize"),
    "text": (lambda q: qc.quantize_per_tensor("x", 1.0, 0, "u8"), "real numbers"),
    "scale": (lambda q: qc.quantize_per_tensor([1.0], 0.0, 0, "u8"), "scale out of range"),
    "i32": (lambda q: qc.quantize_per_tensor([1.0], 1.0, 0, "i32"), "codes of i32"),
    "channels": (lambda q: qc.quantize_per_channel(np.ones((2, 3)), [1, 1], 0, 1, "i8"), "number of scales"),
    "copy_": (lambda q: q.copy_(qc.quantize_per_tensor(np.ones(SHAPE), 1, 0, "i8")), "u8 per_tensor"),
    "assignment": (lambda q: q.__setitem__(0, q[0, 0]) or q.__setitem__(0, np.ones(9)), "broadcasts"),
    "read-only": (lambda q: q[:1].expand(2, 4, 5).__setitem__(0, 1.0), "writable"),
    "codes": (
        lambda q: qc.QuantizedTensor(np.array([9], np.int8), QuantParams((1.0,), (0,), None, -8, 7), "i8"),
        "8, 7",
    ),
}
REFUSED_PER_CHANNEL: dict[str, Method] = {
    **{name: ours for name, (ours, _) in ONE_SCALE.items() if name not in ("transpose", "permute", "expand")},
    "q_scale": lambda q: q.q_scale(),
    "q_zero_point": lambda q: q.q_zero_point(),
    "mean": lambda q: q.mean(1),
    "add": lambda q: q.add(q, 1.0, 0),
    "mul": lambda q: q.mul(q, 1.0, 0),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    ours, text = REFUSED[name]
    with pytest.raises(QCompilerError, match=re.escape(text)):
        ours(pair(TENSOR, "u8")[0])


def test_refused_where_each_channel_has_a_scale() -> None:
    """Torch refuses these too, but for `flatten all`, whose scales it leaves along an axis of another size."""
    for name, ours in REFUSED_PER_CHANNEL.items():
        with pytest.raises(qc.QuantizationError):
            ours(pair(CHANNEL, "i8")[0])
            raise AssertionError(name)
        if name in ONE_SCALE and name != "flatten all":
            with pytest.raises(RuntimeError):
                ONE_SCALE[name][1](pair(CHANNEL, "i8")[1])


def test_the_page_lists_every_method() -> None:
    listed = set(re.findall(r"`(\w+)", PAGE.read_text()))
    public = {name for name in vars(qc.QuantizedTensor) if not name.startswith("_")}
    assert public <= listed
