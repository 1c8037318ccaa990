"""Compare systems on models. Each system runs in a child process of its own.

The children take turns in rounds: while one runs, the others are blocked on their pipes. The command prints a table and
writes build/peers.json, which holds the machine, its peaks measured in the same run, and rows {model, batch, threads,
system, median_ms, min_ms, rounds, ratio_to_best_peer, fraction_of_peak, error, build_seconds}:

- ratio_to_best_peer is the best peer's median over this system's, among peers of the same precision; above 1, this
  system is faster than all of them.
- fraction_of_peak is the model's multiply-adds per second over the machine's.
- error is |output - float output| / |float output|, as norms.

If a row is missing, or its output is not the model's, the command writes all others and then fails.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import pathlib
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from models import MODELS
from rich.console import Console
from rich.table import Table

HERE = pathlib.Path(__file__).resolve().parent
DEFAULT_SYSTEMS = (
    "ours int8",
    "onnxruntime int8",
    "openvino int8",
    "openvino nncf",
    "torch int8",
    "ours float",
    "onnxruntime float",
    "openvino float",
    "torch float",
)
WORST_ERROR = 1.0
"""An output with a larger error is further from the model's than zeros are."""


@dataclass
class Child:
    """A running system."""

    system: str
    process: subprocess.Popen[str]
    medians: list[float] = field(default_factory=list)
    minima: list[float] = field(default_factory=list)
    seconds_to_build: float = 0.0

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None  # start() opened a pipe
        print(line, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None  # start() opened a pipe
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.system} ended with code {self.process.wait()}; its log is in build/bench")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def wait_ready(self) -> None:
        """Wait until the child has built its model."""
        self.seconds_to_build = self._answer()["ready"]

    def close(self) -> None:
        assert self.process.stdin is not None  # start() opened a pipe
        self.process.stdin.close()
        self.process.wait(timeout=60)


def start(system: str, model: str, batch: int, threads: int, folder: pathlib.Path) -> Child:
    log = open(folder / f"{model}.{system.replace(' ', '-')}.log", "w")  # noqa: SIM115  lives as long as the child
    command = [
        sys.executable,
        str(HERE / "child.py"),
        system,
        model,
        "--batch",
        str(batch),
        "--threads",
        str(threads),
        "--folder",
        str(folder),
    ]
    child = Child(
        system,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=HERE),
    )
    child.wait_ready()
    return child


def compare(
    model: str, batch: int, threads: int, systems: list[str], rounds: int, seconds: float, folder: pathlib.Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of one model, and what failed."""
    children, failures = [], []
    for system in systems:
        try:
            children.append(start(system, model, batch, threads, folder))
        except RuntimeError as error:
            failures.append(f"{model}, batch {batch}, {threads} threads: {error}")
    outputs = {}
    try:
        for child in children:
            path = folder / f"output.{child.system.replace(' ', '-')}.npy"
            child.ask(f"output {path}")
            outputs[child.system] = np.load(path).astype(np.float64)
        for _ in range(rounds):
            for child in children:
                answer = child.ask(str(seconds))
                child.medians.append(answer["median_ms"])
                child.minima.append(answer["min_ms"])
    finally:
        for child in children:
            child.close()
    reference = next((outputs[s] for s in ("onnxruntime float", "ours float") if s in outputs), None)
    rows = []
    for child in children:
        row = _row(model, batch, threads, child, children, reference, outputs[child.system])
        rows.append(row)
        if row["error"] is not None and not row["error"] < WORST_ERROR:
            where = f"{model}, batch {batch}, {threads} threads"
            failures.append(f"{where}: {child.system} is off by {row['error']:.2f} of its output's norm")
    return rows, failures


def _row(
    model: str, batch: int, threads: int, child: Child, children: list[Child], reference: Any, output: Any
) -> dict[str, Any]:
    median = statistics.median(child.medians)
    is_float = "float" in child.system
    peers = [
        statistics.median(c.medians)
        for c in children
        if not c.system.startswith("ours") and ("float" in c.system) == is_float
    ]
    error = None if reference is None else float(np.linalg.norm(output - reference) / np.linalg.norm(reference))
    return {
        "model": model,
        "batch": batch,
        "threads": threads,
        "system": child.system,
        "median_ms": median,
        "min_ms": min(child.minima),
        "rounds": len(child.medians),
        "ratio_to_best_peer": min(peers) / median if peers else None,
        "error": error,
        "build_seconds": child.seconds_to_build,
    }


def multiply_adds(model: str) -> int:
    """The number of multiply-adds that one sample takes."""
    from models import build

    import qcompiler as qc
    from qcompiler.quantization.cost_profile import products

    made, shape = build(model)
    return sum(products(node) for node in qc.trace(made, (np.zeros((1, *shape), np.float32),)).nodes)


def summary(rows: list[dict[str, Any]]) -> list[str]:
    """The geometric means of our ratios, and the worst ratios."""
    lines = []
    for system in ("ours int8", "ours float"):
        found = [
            (row["ratio_to_best_peer"], row["model"])
            for row in rows
            if row["system"] == system and row["ratio_to_best_peer"]
        ]
        if found:
            mean = math.exp(statistics.fmean(math.log(ratio) for ratio, _ in found))
            lines.append(
                f"{system}: geometric mean {mean:.2f}x the best peer, worst {min(found)[0]:.2f}x ({min(found)[1]})"
            )
    ours = {(r["model"], r["batch"], r["threads"]): r["median_ms"] for r in rows if r["system"] == "ours float"}
    ratios = [
        r["median_ms"] / ours[key]
        for r in rows
        if r["system"] == "onnxruntime float"
        if (key := (r["model"], r["batch"], r["threads"])) in ours
    ]
    if ratios:
        mean = math.exp(statistics.fmean(map(math.log, ratios)))
        lines.append(f"ours float: geometric mean {mean:.2f}x onnxruntime float, worst {min(ratios):.2f}x")
    return lines


def show(rows: list[dict[str, Any]]) -> None:
    """Print the table of one model's rows."""
    table = Table(title="{model}, batch {batch}, threads {threads}".format(**rows[0]), title_justify="left")
    for column in ("system", "median ms", "min ms", "vs best peer", "of peak", "error", "build s"):
        table.add_column(column, justify="left" if column == "system" else "right")
    for row in rows:
        ratio = "-" if row["ratio_to_best_peer"] is None else f"{row['ratio_to_best_peer']:.2f}"
        error = "-" if row["error"] is None else f"{row['error']:.4f}"
        table.add_row(
            row["system"],
            f"{row['median_ms']:.3f}",
            f"{row['min_ms']:.3f}",
            ratio,
            f"{row['fraction_of_peak']:.2f}",
            error,
            f"{row['build_seconds']:.1f}",
        )
    Console(width=110).print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--systems", nargs="*", default=list(DEFAULT_SYSTEMS))
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.1, help="how long each system runs in a round")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "build" / "peers.json")
    options = parser.parse_args()
    folder = options.out.parent / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    machine = _machine()
    rows: list[dict[str, Any]] = []
    failures: list[str] = []
    for model in options.models:
        macs = multiply_adds(model)
        for batch in options.batch:
            for threads in options.threads:
                found, failed = compare(model, batch, threads, options.systems, options.rounds, options.seconds, folder)
                failures += failed
                for row in found:
                    peak = machine["peak_float" if "float" in row["system"] else "peak_int8"]
                    row["fraction_of_peak"] = macs * batch / row["median_ms"] / 1e6 / (peak * threads)
                rows += found
                if found:
                    show(found)
                options.out.write_text(json.dumps({**machine, "rows": rows, "failures": failures}, indent=1) + "\n")
    print("\n".join(summary(rows)))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


def _machine() -> dict[str, Any]:
    """The CPU, the level and the date, and the peaks of one thread in 10^9 multiply-adds per second."""
    from qcompiler.backends.runtime.peak import peak
    from qcompiler.backends.target import parse_target

    native = parse_target("native")
    return {
        "cpu": _cpu(),
        "level": native.level,
        "date": datetime.date.today().isoformat(),
        "peak_int8": peak(native, floats=False),
        "peak_float": peak(native, floats=True),
    }


def _cpu() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )


if __name__ == "__main__":
    sys.exit(main())
