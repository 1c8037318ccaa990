"""The loop that measures the peak multiplies in every round, on every level, and its figure is possible."""

from __future__ import annotations

import pytest

from qcompiler.backends.codegen.jit import disassemble
from qcompiler.backends.runtime.peak import accumulators_of, peak, peak_kernel, products_per_sum
from qcompiler.backends.target import parse_target
from tests.backends.inner_loops import hottest_loop
from tests.backends.levels import LEVELS

FIVE_GHZ = 5.0
PRODUCTS = {
    "vpmaddwd": 2, "vpdpbusd": 4, "smull": 1, "smull2": 1, "sdot": 4, "usdot": 4, "fmla": 1, "vfmadd": 1,
}  # fmt: skip
"""Instruction -> the products of one i32 or f32 lane. smull has eight products of bytes, each in half a lane."""


@pytest.mark.parametrize("floats", [False, True])
@pytest.mark.parametrize("level", LEVELS)
def test_every_round_multiplies(level: str, floats: bool) -> None:
    target = parse_target(level, exact=True)
    loop = hottest_loop(target.arch, disassemble(peak_kernel(target, floats=floats)))
    names = {name: loop.multiplies.count(name) for name in loop.multiplies}
    per_lane = {name: next(n for key, n in PRODUCTS.items() if name.startswith(key)) for name in names}
    narrow = 2 if any(name.startswith("smull") for name in names) else 1  # eight products of bytes in four lanes
    found = sum(count * per_lane[name] * narrow for name, count in names.items()) * target.i32_lanes
    assert found == accumulators_of(target) * products_per_sum(target, floats=floats), names
    assert not loop.stack


def test_peak_is_possible() -> None:
    """Two full registers of multiplying instructions a cycle are the most of any CPU so far."""
    target = parse_target("native")
    for floats in (False, True):
        most = 2 * products_per_sum(target, floats=floats) * FIVE_GHZ
        assert 0.01 * most < peak(target, floats=floats, seconds=0.05) < most
