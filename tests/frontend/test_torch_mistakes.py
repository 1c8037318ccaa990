"""What people give in place of a torch module in eval mode with arrays, and modules that read something that has no
meaning here: it works, or one error says what to do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as TF

import qcompiler as qc
from qcompiler.errors import TraceError
from qcompiler.frontend.torch_import import import_torch

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 2, 4, 4)).astype(np.float32)
LINEAR = torch.nn.Linear(4, 3).eval()


class Calls(torch.nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Any) -> Any:
        return self.function(x)


def pooled(name: str, *args: int) -> Callable[..., Any]:
    return lambda x: getattr(TF, name)(x, *args, return_indices=True)


REFUSED = {
    "scripted": (lambda: torch.jit.script(LINEAR), "torch.jit"),
    "traced": (lambda: torch.jit.trace(LINEAR, torch.tensor(X)), "torch.jit"),
    "a scripted function": (lambda: torch.jit.script(TF.relu), "torch.jit"),
    "no weights": (lambda: torch.nn.Linear(4, 3, device="meta").eval(), "weight on device meta"),
    "training mode": (lambda: torch.nn.Linear(4, 3), r"module\.eval\(\)"),
    "a tensor": (lambda: torch.ones(3), "torch.nn.Module"),
    "a class": (lambda: torch.nn.Linear, "an instance"),
    "dropout that stays": (lambda: Calls(lambda x: TF.dropout(x, 0.5, True)).eval(), "training mode"),
    "rrelu that stays": (lambda: Calls(lambda x: TF.rrelu(x, training=True)).eval(), "training mode"),
    "statistics that are updated": (
        lambda: Calls(lambda x: TF.batch_norm(x, torch.zeros(2), torch.ones(2), training=True)).eval(),
        "training mode",
    ),
    "attention with dropout": (
        lambda: Calls(lambda x: TF.scaled_dot_product_attention(x, x, x, dropout_p=0.5)).eval(),
        "training",
    ),
    "indices": (lambda: Calls(lambda x: pooled("adaptive_max_pool2d", 2)(x)[1]).eval(), "the indices of an adaptive"),
    "computed indices": (lambda: Calls(lambda x: pooled("adaptive_max_pool2d", 2)(x)[1] + 1).eval(), "the indices"),
    "both results": (lambda: Calls(pooled("adaptive_max_pool2d", 2)).eval(), "the indices of an adaptive max pool"),
    "no op of a near name": (lambda: Calls(torch.matrix_exp).eval(), r"linalg_matrix_exp(?![\s\S]*did you mean)"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    make, message = REFUSED[name]
    with pytest.raises(TraceError, match=message):
        qc.compile(make(), None, (X,))


def test_no_example() -> None:
    with pytest.raises(TraceError, match="needs example inputs"):
        qc.compile(LINEAR, None)


@pytest.mark.parametrize("name,args", [("max_pool1d", (2,)), ("max_pool2d", (2,)), ("adaptive_max_pool2d", (2,))])
def test_a_pool_whose_indices_nobody_reads(name: str, args: tuple[int, ...]) -> None:
    x = X[0] if name.endswith("1d") else X
    module = Calls(lambda x: pooled(name, *args)(x)[0]).eval()
    assert np.array_equal(qc.compile(module, None, (x,))(x), module(torch.from_numpy(x)).numpy())


@pytest.mark.parametrize("qconfig", [None, "int8"])
@pytest.mark.parametrize(
    "more", [{}, {"padding": 1, "stride": 1}, {"ceil_mode": True, "stride": 2}, {"dilation": 2}], ids=str
)
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_indices_of_a_pool_are_torchs(rank: int, more: dict[str, Any], qconfig: str | None) -> None:
    """The first of equal elements, with an open batch; and qc.nn gives the same. In int8 the pool, too, runs on
    codes, which keep the order of the elements."""
    x = np.random.default_rng(rank).integers(-3, 4, (2, 3, 7, 8, 6)[: rank + 2]).astype(np.float32)
    theirs = getattr(torch.nn, f"MaxPool{rank}d")(3, return_indices=True, **more).eval()
    want = [tensor.numpy() for tensor in theirs(torch.from_numpy(x))]
    for module in (theirs, getattr(qc.nn, f"MaxPool{rank}d")(3, return_indices=True, **more).eval()):
        options = {} if qconfig is None else {"calibration_data": [x]}
        model = qc.compile(module, qconfig, (x[:1],), dynamic={0: {0: "B"}}, **options)
        largest, indices = model(x)
        assert indices.dtype == np.int64 and np.array_equal(indices, want[1])
        assert np.allclose(largest, want[0], atol=0 if qconfig is None else 0.02)


def test_indices_of_a_pool_with_nan_and_infinities() -> None:
    x = np.random.default_rng(0).integers(-2, 2, (2, 3, 8, 9)).astype(np.float32)
    x[0, :, 2, 2], x[0, 1, 2, 3], x[1, 1, 3:7], x[1, 2] = np.nan, np.nan, -np.inf, np.inf
    module = Calls(pooled("max_pool2d", 3, 2, 1)).eval()
    got, want = qc.compile(module, None, (x,))(x), module(torch.from_numpy(x))
    assert all(np.array_equal(one, other.numpy(), equal_nan=True) for one, other in zip(got, want))


def test_tensors_of_every_kind_are_taken() -> None:
    """Tensors with a gradient, of bfloat16, or not contiguous are taken as examples, as calibration data and in
    calls."""
    x = torch.from_numpy(X)
    tensors = [x, x.clone().requires_grad_(), x.bfloat16(), x.transpose(2, 3)]
    compiled = qc.compile(LINEAR, "int8", (x.bfloat16(),), calibration_data=tensors)
    assert "bfloat16 became f32" in str(compiled.graph)
    for each in tensors:
        assert np.array_equal(compiled(each), compiled(each.detach().float().contiguous().numpy()))


@pytest.mark.parametrize("target", ["native", "reference"])
@pytest.mark.parametrize("seed", range(6))
def test_batch_norm_without_statistics_normalizes_by_the_batch(seed: int, target: str) -> None:
    rng = np.random.default_rng(seed)
    spatial = seed % 4
    shape = (int(rng.integers(2, 5)), int(rng.integers(1, 5)), *(int(size) for size in rng.integers(1, 6, spatial)))
    kind = [torch.nn.BatchNorm1d, torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d][spatial]
    theirs = kind(shape[1], eps=1e-3, affine=bool(seed % 2), track_running_stats=False).eval()
    ours = getattr(qc.nn, kind.__name__)(shape[1], eps=1e-3, affine=bool(seed % 2), track_running_stats=False).eval()
    if seed % 2:
        values = {name: rng.normal(size=shape[1]).astype(np.float32) for name in ("weight", "bias")}
        theirs.load_state_dict({name: torch.from_numpy(value) for name, value in values.items()})
        ours.load_state_dict(values)
    x = rng.normal(3, 2, shape).astype(np.float32)
    want = theirs(torch.from_numpy(x)).detach().numpy()
    for module in (theirs, ours):
        for dynamic in (None, {0: {0: "B"}}):
            compiled = qc.compile(module, None, (x,), dynamic=dynamic, target=target)
            # x is rounded to 2^-24 of about 10, and divided by a deviation of at least sqrt(1e-3)
            np.testing.assert_allclose(compiled(x), want, rtol=1e-5, atol=4 * 10 * 2.0**-24 / np.sqrt(1e-3))


def test_one_value_has_no_variance() -> None:
    with pytest.raises(TraceError, match="one value per channel"):
        qc.compile(qc.nn.BatchNorm1d(3, track_running_stats=False), None, (np.ones((1, 3), np.float32),))
    for missing in ((None, np.ones(2)), (np.ones(2), None)):
        with pytest.raises(TraceError, match="both running statistics"):
            qc.trace(lambda x, m=missing: qc.nn.functional.batch_norm(x, *m), (X,))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_inputs_and_weights_of_different_float_types(dtype: torch.dtype) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval()
    x = torch.ones(1, 3, 8, 8)
    with pytest.raises(TraceError, match=rf"convert the example inputs \({dtype}\) to .*\(torch.float32\)"):
        qc.trace(module, (x.to(dtype),))
    with pytest.raises(TraceError, match=rf"\(torch.float32\) to .*\({dtype}\)"):
        qc.trace(module.to(dtype), (x,))


def test_control_flow_on_data_names_the_line() -> None:
    class Model(torch.nn.Module):
        def forward(self, x):
            if x.sum() > 0:  # the condition
                return x
            return -x

    with pytest.raises(TraceError, match=r"torch.export refuses Model[\s\S]*test_torch_mistakes\.py:\d+") as caught:
        import_torch(Model().eval(), torch.ones(2, 2))
    text = str(caught.value)
    assert ": if x.sum() > 0:" in text and "torch.where" in text
    assert "qcompiler/" not in text and "TORCH_LOGS" not in text


def test_a_module_that_leaves_torch_is_told_what_to_try() -> None:
    class Model(torch.nn.Module):
        def forward(self, x):
            return torch.from_numpy(x.numpy() * 2)

    with pytest.raises(TraceError, match=r"torch.export refuses Model: RuntimeError: .numpy\(\)") as caught:
        import_torch(Model().eval(), torch.ones(2, 2))
    assert "torch.from_numpy(x.numpy() * 2)" in str(caught.value) and "on tensors alone" in str(caught.value)


def test_packed_sequences_name_the_users_line() -> None:
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.LSTM(4, 5)

        def forward(self, x, lengths):
            return self.layer(torch.nn.utils.rnn.pack_padded_sequence(x, lengths))[1][0]

    with pytest.raises(TraceError, match=r"packed sequences[\s\S]*pack_padded_sequence\(x, lengths\)"):
        import_torch(Model().eval(), (torch.ones(3, 2, 4), torch.tensor([3, 2])))
