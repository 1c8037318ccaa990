"""Observers of one's own: the range of activations by their spread, and scales of weights that are powers of two."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from levels import run_everywhere

import qcompiler as qc
from qcompiler.quantization.choose_qparams import choose_qparams


class Spread:
    """mean - k * std to mean + k * std, within the smallest and the largest number. In a spec: spread(4)."""

    def __init__(self, spec: qc.QuantSpec, k: float = 4.0) -> None:
        self.spec, self.k = spec, k
        self.sums = np.zeros(3)  # how many, sum, sum of squares
        self.range = np.array([np.inf, -np.inf])

    def observe(self, array: np.ndarray, name: str = "") -> None:
        wide = array.astype(np.float64)
        self.sums += [wide.size, wide.sum(), (wide * wide).sum()]
        self.range = np.array([min(self.range[0], wide.min()), max(self.range[1], wide.max())])

    def qparams(self) -> qc.QuantParams:
        count, total, squares = self.sums
        if not count:
            raise qc.QuantizationError("no data was seen")
        mean = total / count
        reach = self.k * np.sqrt(max(squares / count - mean * mean, 0.0))
        return choose_qparams(max(self.range[0], mean - reach), min(self.range[1], mean + reach), self.spec)

    def merge(self, other: Spread) -> None:  # two calibrations are added
        self.sums = self.sums + other.sums
        self.range = np.array([min(self.range[0], other.range[0]), max(self.range[1], other.range[1])])

    def state(self) -> dict[str, np.ndarray]:  # a calibration is saved; without state and restore it is not
        return {"sums": self.sums, "range": self.range}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        self.sums, self.range = np.array(state["sums"]), np.array(state["range"])


class PowerOfTwo:
    """The least power of two that no weight of the channel exceeds 127 times. A spec per channel makes one for each."""

    def __init__(self, spec: qc.QuantSpec) -> None:
        self.spec, self.most = spec, 0.0

    def observe(self, array: np.ndarray, name: str = "") -> None:
        self.most = max(self.most, float(np.abs(array).max()))

    def qparams(self) -> qc.QuantParams:
        scale = 2.0 ** np.ceil(np.log2(max(self.most, 2.0**-20) / self.spec.qmax))
        return qc.QuantParams((float(scale),), (0,), None, self.spec.qmin, self.spec.qmax)

    def merge(self, other: PowerOfTwo) -> None:
        self.most = max(self.most, other.most)


qc.register_observer("spread", Spread)
qc.register_observer("power_of_two", PowerOfTwo)
qconfig = qc.QConfig(
    activation=qc.QuantSpec(observer="spread(4)"),
    weight=qc.QuantSpec(qc.DType.I8, -127, 127, symmetric=True, per_channel=True, observer="power_of_two"),
)


def main() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    model = qc.nn.Sequential(qc.nn.Conv2d(3, 8, 3), qc.nn.ReLU(), qc.nn.Conv2d(8, 4, 3))
    compiled = qc.compile(model, qconfig, (x,), calibration_data=[x])
    for const in compiled.graph.consts.values():
        if const.type.dtype is qc.DType.I8:
            print(f"scales of {const.name}: 2 to the", *np.log2(const.type.params.scales).astype(int))
    run_everywhere(compiled.graph, x)


if __name__ == "__main__":
    main()
