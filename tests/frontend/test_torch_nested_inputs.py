"""Torch modules whose inputs are dicts, lists and tuples of tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import qcompiler as qc
from qcompiler.errors import InputError, TraceError
from qcompiler.frontend.torch_import import import_torch


class Nested(nn.Module):
    """A sum of the parts of its inputs, each scaled by another number."""

    def forward(self, batch, rest=None):
        y = batch["ids"] * 2 + batch["pair"][0] * 3 - batch["pair"][1]
        return {"y": y if rest is None else y + rest[0] * 5}


def batch(rows: int) -> dict:
    generator = torch.Generator().manual_seed(rows)
    made = [torch.randn(rows, 3, generator=generator) for _ in range(3)]
    return {"ids": made[0], "pair": [made[1], made[2]]}


def arrays(item):
    if isinstance(item, dict):
        return {key: arrays(part) for key, part in item.items()}
    return [arrays(part) for part in item] if isinstance(item, (list, tuple)) else item.numpy()


DYNAMIC = {name: {0: "B"} for name in ("batch_ids", "batch_pair_0", "batch_pair_1", "rest_0")}


def test_by_name() -> None:
    module = Nested().eval()
    compiled = qc.compile(module, None, {"batch": batch(2), "rest": (torch.ones(2, 3),)}, dynamic=DYNAMIC)
    assert [value.name for value in compiled.graph.inputs] == list(DYNAMIC)
    for rows in (2, 5):
        given = batch(rows)
        want = module(given, (torch.full((rows, 3), 2.0),))["y"].numpy()
        twos = np.full((rows, 3), 2, np.float32)
        for got in (
            compiled(batch=arrays(given), rest=[twos]),
            compiled(arrays(given), (twos,)),
            compiled(batch=arrays(given), rest_0=twos),
        ):
            np.testing.assert_allclose(got["y"], want, rtol=1e-6)


def test_by_position_and_quantized() -> None:
    module = Nested().eval()
    data = [(arrays(batch(rows)),) for rows in (2, 3, 4)]
    dynamic = {name: {0: "B"} for name in list(DYNAMIC)[:3]}
    compiled = qc.compile(module, "int8", (batch(2),), calibration_data=data, dynamic=dynamic)
    want = module(batch(3))["y"].numpy()
    assert np.abs(compiled(arrays(batch(3)))["y"] - want).max() <= 0.05 * np.abs(want).max()


def test_what_does_not_fit_is_refused() -> None:
    compiled = qc.compile(Nested().eval(), None, (batch(2),))
    with pytest.raises(InputError, match=r"batch_pair_1[\s\S]*batch_ids, batch_pair"):
        compiled(batch={"ids": np.zeros((2, 3), np.float32), "pair": [np.zeros((2, 3), np.float32)]})
    with pytest.raises(TraceError, match="two parts of the example inputs would have the name 'x_0'"):
        import_torch(nn.Identity(), {"x": {"0": torch.ones(1)}, "x_0": torch.ones(1)})
