"""The commands that run models: run, bench, compare; and targets. `arguments.py` owns the arguments."""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from qcompiler import compiler, knobs
from qcompiler.cli.inputs import given_model, load_model, open_data, random_inputs, read_inputs
from qcompiler.cli.output import check_writable, print_json, print_table, progress, write_arrays
from qcompiler.errors import QCompilerError, nearest
from qcompiler.interpreter import run as interpret
from qcompiler.ir import Graph
from qcompiler.opdef import works_on_codes
from qcompiler.report import report
from qcompiler.signature import bind_inputs

_WARM_UP = 3


def _compiled(graph: Graph, options: argparse.Namespace) -> compiler.CompiledModel:
    runs = ("float", "qdq", "integer")
    if graph.stage not in runs and options.target != "reference":
        raise QCompilerError(f"a graph of stage {graph.stage} runs on the interpreter only", hint="--target reference")
    if graph.stage not in runs:
        return compiler.CompiledModel(graph, "reference", 1)
    qconfig = "keep" if graph.stage == "qdq" else None
    return compiler.compile(graph, qconfig, target=options.target, threads=options.threads)


def _flat_outputs(model: compiler.CompiledModel, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs in the graph's order, whatever structure the model returns."""
    bound, sizes = bind_inputs(model.graph, list(arrays))
    return interpret(model.graph, bound) if model.program is None else model.program.run(bound, sizes, model.threads)


def run(options: argparse.Namespace) -> None:
    if options.output is not None:
        check_writable(options.output, [".npz"])
    graph = given_model(options)
    arrays = read_inputs(options.input, graph)
    outputs = _flat_outputs(_compiled(graph, options), arrays)
    if options.output is not None:
        write_arrays(options.output, graph.output_names, outputs)
    rows = [
        {"output": name, "type": f"{array.dtype}{list(array.shape)}", **_summary(array)}
        for name, array in zip(graph.output_names, outputs)
    ]
    if options.json:
        print_json({"outputs": rows, "written": options.output})
        return
    print_table(("output", "type", "min", "max", "mean"), [list(row.values()) for row in rows], left=2)
    if options.output is not None:
        print(f"written to {options.output}")


def _summary(array: np.ndarray) -> dict[str, float | None]:
    if array.size == 0:
        return {"min": None, "max": None, "mean": None}
    wide = array.astype(np.float64)
    return {"min": float(wide.min()), "max": float(wide.max()), "mean": float(wide.mean())}


def bench(options: argparse.Namespace) -> None:
    graph = given_model(options)
    sizes = {name: options.size.get(name, 1) for name in graph.dim_names}
    unknown = [name for name in options.size if name not in sizes]
    if unknown:
        raise QCompilerError(
            f"the model has no size {unknown[0]!r}",
            hint=nearest(unknown[0], sizes) if sizes else "all its sizes are fixed",
        )
    if options.input and options.size:
        raise QCompilerError("--size is for random inputs", got=f"--input {options.input}", hint="leave --size out")
    arrays = read_inputs(options.input, graph) if options.input else random_inputs(graph, sizes, knobs.SEED.get())
    model = _compiled(graph, options)
    call = lambda: _flat_outputs(model, arrays)  # noqa: E731
    times = _timed(call, options.seconds)
    found = {
        "model": options.model,
        "target": model.target,
        "threads": model.threads,
        "rounds": len(times),
        "median_ms": float(np.median(times)),
        "min_ms": min(times),
        "p10_ms": float(np.percentile(times, 10)),
        "p90_ms": float(np.percentile(times, 90)),
    }
    estimate = report(graph).estimate
    if estimate:
        found["estimate"] = estimate
    steps = _profile(model, arrays, options.threads or 1) if options.profile else []
    if options.json:
        print_json({**found, **({"steps": steps} if options.profile else {})})
        return
    print(f"{options.model} on {model.target}, threads: {model.threads}, rounds: {len(times)}")
    print_table(
        ("median ms", "min ms", "p10 ms", "p90 ms"),
        [(found["median_ms"], found["min_ms"], found["p10_ms"], found["p90_ms"])],
        left=0,
    )
    if estimate:
        print(f"the cost model expected, of one thread: {estimate}")
    if options.profile:
        print(f"steps, threads: {options.threads or 1}")
        _print_steps(steps)


def _print_steps(steps: Sequence[dict[str, Any]]) -> None:
    total = sum(step["us"] for step in steps) or 1.0
    rows = []
    for step in steps:
        speed = f"{step['macs'] / step['us'] / 1e3:.1f}" if step["macs"] and step["us"] else None
        peak = None if step["fraction_of_peak"] is None else f"{step['fraction_of_peak']:.2f}"
        times = (f"{step['us']:.2f}", f"{100 * step['us'] / total:.1f}")
        rows.append(
            (step["node"], step["op"], step["kernel"], *times, step["macs"] or None, step["bytes"] or None, speed, peak)
        )
    print_table(("node", "op", "kernel", "us", "%", "MACs", "bytes", "GMAC/s", "of peak"), rows, left=3)


def _timed(call: Callable[[], Any], seconds: float) -> list[float]:
    """The milliseconds of each call, for about `seconds` and at least five calls, after a few calls to warm up."""
    for _ in range(_WARM_UP):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return times


def _profile(
    model: compiler.CompiledModel, arrays: Sequence[np.ndarray], threads: int, rounds: int = 11
) -> list[dict[str, Any]]:
    """The median microseconds of each step, or of each node on the interpreter. A step before a barrier includes the
    wait.

    fraction_of_peak: the step's multiply-adds per second, over those of a loop that does nothing else, at the same
    level and precision and measured here.
    """
    if model.program is None:
        return _profile_interpreter(model.graph, arrays, rounds)
    from qcompiler.backends.lower import Program
    from qcompiler.backends.runtime.peak import peak

    assert isinstance(model.program, Program)  # no other backend makes programs
    bound, sizes = bind_inputs(model.graph, list(arrays))
    program = model.program.bind(sizes)
    nodes = {node.name: node for node in model.program.graph.nodes}
    inputs = [np.ascontiguousarray(array) for array in bound]
    times = np.median([program.profile(inputs, threads=threads) for _ in range(rounds)], axis=0) / 1e3
    peaks: dict[bool, float] = {}
    rows = []
    for step, us in zip(program.image.steps, times):
        node = nodes.get(step.node)
        fraction = None
        if step.macs and us and node is not None:
            floats = not works_on_codes(node)
            if floats not in peaks:
                peaks[floats] = peak(model.program.target, floats=floats)
            fraction = step.macs / us / 1e3 / (peaks[floats] * threads)
        op = (step.node or "output") if node is None else node.op
        rows.append(
            {
                "node": step.node,
                "op": op,
                "kernel": step.kernel,
                "us": float(us),
                "macs": step.macs,
                "bytes": step.bytes,
                "fraction_of_peak": fraction,
            }
        )
    return rows


def _profile_interpreter(graph: Graph, arrays: Sequence[np.ndarray], rounds: int) -> list[dict[str, Any]]:
    all_times = []
    marks: list[float] = []
    for _ in range(rounds):
        marks[:] = [time.perf_counter()]
        interpret(graph, list(arrays), hook=lambda node, results: marks.append(time.perf_counter()))
        all_times.append(np.diff(marks))
    return [
        {
            "node": node.name,
            "op": node.op,
            "kernel": "numpy",
            "us": float(us),
            "macs": 0,
            "bytes": 0,
            "fraction_of_peak": None,
        }
        for node, us in zip(graph.node_list, np.median(all_times, axis=0) * 1e6)
    ]


def compare(options: argparse.Namespace) -> None:
    from qcompiler.metrics import OutputError

    one = _compiled(load_model(options.a, python=options.python, types=options.type), options)
    other = _compiled(load_model(options.b, python=options.python, types=options.type), options)
    names = one.graph.output_names
    if len(names) != len(other.graph.output_names) or len(one.graph.inputs) != len(other.graph.inputs):
        raise QCompilerError(
            "the models have different signatures",
            expected=f"{len(one.graph.inputs)} inputs, {len(names)} outputs",
            got=f"{len(other.graph.inputs)} inputs, {len(other.graph.output_names)} outputs",
        )
    errors = [OutputError(name) for name in names]
    data = open_data(options.data, one.graph, options.batch)
    calls = 0
    with progress("compare", data.count()) as advance:
        for arrays in data:
            for error, a, b in zip(errors, _flat_outputs(one, arrays), _flat_outputs(other, arrays)):
                error.add(a, b)
            calls += 1
            advance(calls)
    if calls == 0:
        raise QCompilerError("there is no data to compare on", where=options.data)
    rows = [
        {
            "output": e.name,
            "sqnr_db": e.sqnr_db,
            "top1_agreement": e.agreement,
            "max_abs": e.max_abs,
            "identical": e.noise == 0.0,
        }
        for e in errors
    ]
    if options.json:
        print_json({"a": options.a, "b": options.b, "calls": calls, "outputs": rows})
        return
    print_table(
        ("output", "SQNR dB", "top-1 agreement", "largest error", "identical"), [list(row.values()) for row in rows]
    )


def targets(options: argparse.Namespace) -> None:
    from qcompiler.backends.availability import availability
    from qcompiler.backends.target import known_targets, native_target, parse_target

    native: str | None = None
    note: str | None = None
    try:
        native = native_target().name
    except QCompilerError as error:
        note = error.message
    rows = [
        {
            "target": "reference",
            "runs_here": True,
            "native": False,
            "execution": "interpreter",
            "emulator": "",
            "hint": "",
        }
    ]
    words = [("reference", "yes", "the interpreter")]
    for name in known_targets():
        target = parse_target(name)
        found, chosen = availability(target), target.name == native
        rows.append({"target": name, "runs_here": target.can_run(), "native": chosen, **dataclasses.asdict(found)})
        said = found.hint or str(found)
        words.append((name, "yes" if target.can_run() else "no", f"{said}, the default" if chosen else said))
    if options.json:
        print_json({"targets": rows, "native": native, "note": note})
        return
    print_table(("target", "runs here", "how"), words, left=3)
    if note:
        print(f"no native target: {note}")
