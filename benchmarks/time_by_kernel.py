"""Print where the time of the benchmarks' networks goes: the steps of each family of kernels, on one thread.

    python benchmarks/time_by_kernel.py mobilenet_v2 efficientnet_lite0

A step counts with the least time of many runs. *Of peak* is the share of the multiply-adds a second that dot products
alone reach on this CPU, measured here.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
from models import MODELS, build
from systems import calibration, sample

import qcompiler as qc
from qcompiler.backends.lower import Program
from qcompiler.backends.runtime.peak import peak


def family(kernel: str) -> str:
    """The kernel's name without its static arguments."""
    return kernel.split("_u8")[0].split("_f32")[0].split("_channels")[0].split("_lanes")[0]


def measure(name: str, batch: int, rounds: int, every_step: bool) -> None:
    """Print the table of one network."""
    model, shape = build(name)
    x = sample(shape, batch)
    data = [np.repeat(item, batch, axis=0) for item in calibration(shape)]
    program = qc.compile(model, "int8", (x,), calibration_data=data, threads=1).program
    assert isinstance(program, Program)  # of a native target
    bound, most = program.bind({}), peak(program.target, floats=False)
    times = np.min([bound.profile([x]) for _ in range(rounds)], axis=0) / 1e3
    found: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for step, microseconds in zip(bound.image.steps, times):
        found[family(step.kernel)].append((float(microseconds), step.macs))
        if every_step:
            print(f"{microseconds:8.2f} us {step.macs / microseconds / 1e3 / most:6.1%} {step.node}: {step.kernel}")
    print(f"{name}, batch {batch}: {times.sum():.0f} us, peak {most:.0f} multiply-adds a nanosecond")
    for kernels, steps in sorted(found.items(), key=lambda item: -sum(us for us, _ in item[1])):
        total, macs = sum(us for us, _ in steps), sum(macs for _, macs in steps)
        share = f"{macs / total / 1e3 / most:.0%} of peak" if macs else ""
        print(f"  {kernels:24s} {len(steps):3d} steps {total:8.1f} us {total / times.sum():6.1%}  {share}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=sorted(MODELS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=500, help="runs of which each step's least time counts")
    parser.add_argument("--steps", action="store_true", help="print each step too")
    options = parser.parse_args()
    for each in options.models:
        measure(each, options.batch, options.rounds, options.steps)
