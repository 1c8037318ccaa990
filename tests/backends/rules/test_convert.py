"""quantize on every level: results at and beside exact ties, for scales over the whole exponent range."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.types import DType, QuantParams
from tests.backends.rules.harness import check_op

SCALES = [2.0**-59, 1e-12, 0.017, 1 / 3, 1 / 255, 0.1, 1.0, 1.1, 7.3, 1e15, 2.0**59]


@pytest.mark.parametrize("behind_a_pool", [False, True])
def test_quantize_divides_at_ties(behind_a_pool: bool) -> None:
    """The quotients x / scale at the numbers nearest to each tie, and the next ones on both sides.

    A product with 1 / scale rounds twice, so some of these quotients land on the other side of the tie.
    """
    ties = np.arange(-130, 130, dtype=np.float64) + 0.5
    for scale, zero_point in zip(map(np.float32, SCALES), [0, 128, 255, 3] * 3):
        nearest = (ties * np.float64(scale)).astype(np.float32)
        x = np.stack([np.nextafter(nearest, np.float32(-np.inf)), nearest, np.nextafter(nearest, np.float32(np.inf))])
        assert (x / scale != x * (np.float32(1) / scale)).any() or np.log2(scale) % 1 == 0
        params = QuantParams.per_tensor(float(scale), zero_point, DType.U8)
        check_op("quantize", (x.reshape(3, 5, 52),), quantized=True, out=params, behind_a_pool=behind_a_pool)
