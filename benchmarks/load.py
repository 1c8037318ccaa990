"""Measure what comes before a model's first call: cold compile, warm load, peak memory, and a new batch size.

Each figure is the median of several fresh processes. A child imports every module first (`IMPORTS`, all ops and all
lowering rules), and fails if the code that it times imports another one. The figures:

- cold ms: from the quantized graph to a program that can be called, including the native runtime, with nothing cached.
- warm ms: from a saved file to the same, with kernels and program from a cache that another process filled.
- graph ms: reading the graph of a model loaded that way, which happens when the graph is first used.
- loaded MB, peak MB: VmHWM after a warm load, and after three calls more, minus VmRSS after the imports.
- rebind ms: binding a new batch size to a program that has already run, which must emit no kernel. With "and graph",
  the graph must first be read from the file.

    python benchmarks/load.py resnet50
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

IMPORTS = (
    "numpy",
    "numpy.random",
    "llvmlite.binding",
    "mmap",
    "traceback",
    "qcompiler",
    "qcompiler.compiler",
    "qcompiler.artifact.saved_model",
    "qcompiler.instruments",
    "qcompiler.signature",
    "qcompiler.text.parser",
    "qcompiler.text.printer",
    "qcompiler.verify",
    "qcompiler.backends.lower",
    "qcompiler.backends.rules",
    "qcompiler.backends.rules.copy",
    "qcompiler.backends.runtime.native",
    "qcompiler.backends.runtime.threads",
    "qcompiler.backends.x86.target",
)
BUILD = pathlib.Path(__file__).resolve().parents[1] / "build" / "load"
MODES = ("cold", "warm", "memory", "rebind")
FILL_CACHE = """
import sys
import numpy as np
import qcompiler as qc

for path in sys.argv[1:]:
    model = qc.load(path)
    shape = [size if isinstance(size, int) else 1 for size in model.graph.inputs[0].type.shape]
    model(np.zeros(shape, np.float32))
"""


# -- the child measures one group of figures


def import_all() -> None:
    """Import everything that loading and compiling import: IMPORTS, all ops, all lowering rules."""
    for name in IMPORTS:
        importlib.import_module(name)
    from qcompiler.backends import rules
    from qcompiler.opdef import all_ops

    all_ops()
    rules.load()


def status_kib(field: str) -> int:
    """A size in /proc/self/status."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(field + ":"))


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    """The milliseconds that an action takes, and its result. RuntimeError if it imported a module of ours."""
    before = set(sys.modules)
    start = time.perf_counter()
    result = action()
    elapsed = (time.perf_counter() - start) * 1e3
    late = [name for name in set(sys.modules) - before if name.startswith("qcompiler")]
    if late:
        raise RuntimeError(f"imported while the clock ran: {', '.join(sorted(late))}")
    return elapsed, result


def measure(mode: str, path: str) -> dict[str, float]:
    import_all()
    resident = status_kib("VmRSS")
    import numpy as np

    import qcompiler as qc
    from qcompiler.artifact import load_graph
    from qcompiler.backends.codegen import jit
    from qcompiler.backends.runtime import threads as runtime

    def ready(make: Callable[[], Any]) -> Callable[[], Any]:
        def action() -> Any:
            compiled = make()
            runtime.native()
            return compiled

        return action

    if mode == "cold":
        graph = load_graph(path)
        elapsed, _ = timed(ready(lambda: qc.compile(graph)))
        return {"cold ms": elapsed, "kernels": jit.emitted_kernels.total()}
    elapsed, compiled = timed(ready(lambda: qc.load(path)))
    if jit.emitted_kernels:
        raise RuntimeError("the cache of kernels was not warm")
    if not callable(compiled.source):
        raise RuntimeError("the cache has no program")
    if mode == "warm":
        return {"warm ms": elapsed, "graph ms": timed(lambda: compiled.graph)[0]}
    loaded = status_kib("VmHWM")
    shape = [size if isinstance(size, int) else 1 for size in compiled.signature.inputs[0].type.shape]
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    for _ in range(3):
        compiled(x)
    if mode == "memory":
        return {
            "loaded MB": (loaded - resident) / 1024,
            "peak MB": (status_kib("VmHWM") - resident) / 1024,
            "imports MB": resident / 1024,
        }
    if jit.emitted_kernels:
        raise RuntimeError("the first batch size emitted kernels")
    first, _ = timed(lambda: compiled.program.bind({"B": 2}))
    again, _ = timed(lambda: compiled.program.bind({"B": 3}))
    if jit.emitted_kernels:
        raise RuntimeError("a new batch size emitted kernels")
    return {"rebind ms": again, "rebind and graph ms": first}


# -- the parent makes files, starts processes and prints the table


def _environment(cache: str) -> dict[str, str]:
    """The environment of a child whose cache is the folder `cache`; "" means no cache."""
    from qcompiler import knobs

    return {**os.environ, knobs.CACHE.name: cache}


def saved(name: str) -> tuple[pathlib.Path, pathlib.Path]:
    """The int8 artifacts of a model, for batch 1 and for any batch. They are made the first time."""
    paths = BUILD / f"{name}.static.qc.safetensors", BUILD / f"{name}.dynamic.qc.safetensors"
    if all(path.exists() for path in paths):
        return paths
    import numpy as np
    from models import build

    import qcompiler as qc
    from qcompiler.compiler import calibrate, prepare, trace

    BUILD.mkdir(parents=True, exist_ok=True)
    model, shape = build(name)
    x = np.random.default_rng(1).normal(size=(1, *shape)).astype(np.float32)
    calibration = calibrate(prepare(trace(model, (x,))), [x])
    for path, dynamic in zip(paths, (None, {0: {0: "B"}})):
        qc.compile(model, "int8", (x,), calibration=calibration, dynamic=dynamic, target="reference").save(path)
    return paths


def child(mode: str, path: pathlib.Path, cache: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--mode", mode, str(path)]
    done = subprocess.run(command, env=_environment(cache), capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{mode} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a name of models.py, or with --mode a saved model")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--mode", choices=MODES, help="one figure, in this process")
    options = parser.parse_args()
    if options.mode:
        print(json.dumps(measure(options.mode, options.model)))
        return
    static, dynamic = saved(options.model)
    cache = BUILD / "cache"
    environment = _environment(str(cache))
    subprocess.run([sys.executable, "-c", FILL_CACHE, str(static), str(dynamic)], env=environment, check=True)
    found: dict[str, list[float]] = {}
    for _ in range(options.repeats):
        for mode in MODES:
            folder = "" if mode == "cold" else str(cache)
            for name, value in child(mode, dynamic if mode == "rebind" else static, folder).items():
                found.setdefault(name, []).append(value)
    print(f"{options.model}, int8, {os.path.getsize(static) / 1e6:.1f} MB, medians of {options.repeats} processes")
    for name, values in found.items():
        print(f"{name:20} {statistics.median(values):8.1f}   ({min(values):.1f} to {max(values):.1f})")


if __name__ == "__main__":
    main()
