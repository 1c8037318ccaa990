"""The time budget of dynamic int8, kernel by kernel: what each takes, and the least that this CPU could take for it.

The limit of a step is the larger of two times: its multiply-adds over the peak of a loop that does nothing else, of
bytes or of f32 as the kernel's, and its bytes over the speed at which this CPU reads a block of that size (of at most
4 MiB for products: weights come from a cache at best). Measured is the least of all rounds, of each step by itself.
Models and inputs are those of `dynamic.py`; one thread.

    python benchmarks/dynamic_budget.py --model bert-base --lengths 128 16
    python benchmarks/dynamic_budget.py --model lstm --lengths 100
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from functools import cache

import numpy as np
from dynamic import MODELS, model_and_sample

import qcompiler as qc
from qcompiler.backends.runtime.peak import peak
from qcompiler.ops.recurrent import has_coded_weights
from qcompiler.report import constant_bytes


@cache
def read_speed(power: int, seconds: float = 0.3) -> float:
    """Bytes per millisecond that the largest of 2^power bytes takes to be found."""
    block = np.ones(1 << power, np.uint8)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        begin = time.perf_counter()
        block.max()
        best = min(best, time.perf_counter() - begin)
    return block.nbytes / best / 1e3


def _power(nbytes: int) -> int:
    """The power of two of the block whose reading stands for reading this many bytes."""
    return min(max(nbytes - 1, 1).bit_length(), 27) if nbytes > 1 << 16 else 16


def budget(name: str, length: int, layers: int | None, rounds: int) -> list[tuple[str, int, float, float]]:
    """(kernel, calls, limit, measured) for each kernel, in milliseconds, the largest first."""
    module, x = model_and_sample(name, length, layers)
    compiled = qc.compile(module, "dynamic", (x,), threads=1)
    program = compiled.program.bind({})
    coded = {node.name for node in compiled.program.graph.nodes if has_coded_weights(node)}
    for _ in range(3):
        program.run([x])
    times = np.min([program.profile([x]) for _ in range(rounds)], axis=0) / 1e6
    peaks = {floats: peak(compiled.program.target, floats=floats, seconds=2.0) * 1e6 for floats in (False, True)}
    of_weights = min(_power(constant_bytes(compiled.graph)), 22)
    found: dict[str, list[float]] = defaultdict(lambda: [0, 0.0, 0.0])
    for step, took in zip(program.image.steps, times):
        floats = "u8" not in step.kernel and step.node not in coded
        speed = read_speed(of_weights if step.macs and not floats else _power(step.bytes))
        limit = max(step.macs / peaks[floats], step.bytes / speed)
        kernel = str(step.kernel).partition("(")[0]
        row = found[kernel]
        found[kernel] = [row[0] + 1, row[1] + limit, row[2] + took]
    rows = [(kernel, int(calls), limit, took) for kernel, (calls, limit, took) in found.items()]
    return sorted(rows, key=lambda row: -row[3])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default="bert-base")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 16])
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    for length in options.lengths:
        rows = budget(options.model, length, options.layers, options.rounds)
        print(f"\n{options.model}, {length} steps, 1 thread\n")
        print("| kernel | calls | limit, ms | measured, ms | measured / limit |\n|---|---|---|---|---|")
        total = ("all", sum(row[1] for row in rows), sum(row[2] for row in rows), sum(row[3] for row in rows))
        shown = [row for row in rows if row[3] >= 0.005 * total[3]]
        for kernel, calls, limit, took in (*shown, total):
            ratio = f"{took / limit:.2f}" if limit else ""
            print(f"| {kernel} | {calls} | {limit:.3f} | {took:.3f} | {ratio} |")


if __name__ == "__main__":
    main()
