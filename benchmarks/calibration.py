"""What calibration costs: its CPU time over that of the float program.

    python benchmarks/calibration.py [MODEL ...]

Each item is one sample, and all differ, since a calibration has less to do with rows that it has seen. Both run on one
thread, once everything is compiled. CPU time, so that a busy machine changes little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from models import build

import qcompiler as qc
from qcompiler.quantization.collect import collector
from qcompiler.quantization.workflow import observe_items

MODELS = ("mobilenet_v2", "resnet18", "squeezenet")
ITEMS = 64


def cpu_ms(call: Callable[[], object], items: int) -> float:
    start = time.process_time()
    call()
    return (time.process_time() - start) / items * 1e3


def measure(name: str) -> None:
    model, shape = build(name)
    rng = np.random.default_rng(0)
    items = [rng.normal(size=(1, *shape)).astype(np.float32) for _ in range(ITEMS)]
    compiled = qc.compile(model, None, (items[0],), threads=1)
    compiled(items[0])
    of_float = cpu_ms(lambda: [compiled(item) for item in items], ITEMS)
    row = f"{name:20} {of_float:9.1f}"
    for qconfig in ("int8", "int8:minmax"):
        prepared = qc.prepare(model, qconfig, (items[0],))
        runner = collector(prepared.graph, prepared.sampled_products())
        observe_items(prepared, runner, [[items[0]]], 1)
        taken = cpu_ms(lambda: observe_items(prepared, runner, ([item] for item in items), 1), ITEMS)  # noqa: B023
        row += f" {taken:9.1f} {taken / of_float:6.2f}"
    print(row, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    print(f"{'CPU ms per item':20} {'float':>9} {'int8':>9} {'ratio':>6} {'minmax':>9} {'ratio':>6}")
    for each in parser.parse_args().models:
        measure(each)
