"""Compares systems on models: a child process for each, in rounds, one at a time, the others blocked on their pipes.

Writes build/peers.json: rows {model, batch, threads, system, median_ms, min_ms, rounds, ratio_to_best_peer, max_difference}, and prints
a table. ratio_to_best_peer: the best peer's median over this system's; above 1 is faster than every peer of the same precision.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import platform
import statistics
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from models import MODELS

HERE = pathlib.Path(__file__).resolve().parent
DEFAULT_SYSTEMS = ("ours int8", "onnxruntime int8", "openvino int8", "openvino nncf", "ours float", "onnxruntime float", "openvino float")


@dataclass
class Child:
    """A running system."""

    system: str
    process: subprocess.Popen[str]
    medians: list[float] = field(default_factory=list)
    minima: list[float] = field(default_factory=list)
    seconds_to_build: float = 0.0

    def ask(self, line: str) -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.system} ended with code {self.process.wait()}; its log is in build/bench")
        return json.loads(line)

    def wait_ready(self) -> None:
        self.seconds_to_build = self._answer()["ready"]


def start(system: str, model: str, batch: int, threads: int, folder: pathlib.Path) -> Child:
    log = open(folder / f"{model}.{system.replace(' ', '-')}.log", "w")  # noqa: SIM115  lives as long as the child
    command = [sys.executable, str(HERE / "child.py"), system, model, "--batch", str(batch), "--threads", str(threads),
               "--folder", str(folder)]
    child = Child(system, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, cwd=HERE))
    child.wait_ready()
    return child


def compare(model: str, batch: int, threads: int, systems: list[str], rounds: int, seconds: float, folder: pathlib.Path) -> list[dict[str, Any]]:
    """Rows of one model."""
    children = [start(system, model, batch, threads, folder) for system in systems]
    try:
        outputs = {}
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
            child.process.stdin.close()
            child.process.wait(timeout=60)
    reference = next((outputs[s] for s in systems if s.endswith("float")), None)
    return [_row(model, batch, threads, child, children, reference, outputs[child.system]) for child in children]


def _row(model: str, batch: int, threads: int, child: Child, children: list[Child], reference: Any, output: Any) -> dict[str, Any]:
    median = statistics.median(child.medians)
    is_float = "float" in child.system
    peers = [statistics.median(c.medians) for c in children if not c.system.startswith("ours") and ("float" in c.system) == is_float]
    difference = None if reference is None else float(np.abs(output - reference).max() / np.abs(reference).max())
    return {"model": model, "batch": batch, "threads": threads, "system": child.system, "median_ms": median, "min_ms": min(child.minima),
            "rounds": len(child.medians), "ratio_to_best_peer": min(peers) / median if peers else None, "max_difference": difference,
            "build_seconds": child.seconds_to_build}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--systems", nargs="*", default=list(DEFAULT_SYSTEMS))
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--batch", type=int, nargs="*", default=[1])
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each system in each round")
    parser.add_argument("--out", type=pathlib.Path, default=HERE.parent / "build" / "peers.json")
    options = parser.parse_args()
    folder = options.out.parent / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    print(f"{'model':<20}{'batch':>6}{'thr':>4}  {'system':<20}{'median ms':>10}{'min ms':>9}{'vs peer':>9}{'diff':>9}")
    for model in options.models:
        for batch in options.batch:
            for threads in options.threads:
                for row in compare(model, batch, threads, options.systems, options.rounds, options.seconds, folder):
                    rows.append(row)
                    ratio = "-" if row["ratio_to_best_peer"] is None else f"{row['ratio_to_best_peer']:.2f}"
                    difference = "-" if row["max_difference"] is None else f"{row['max_difference']:.4f}"
                    print(f"{model:<20}{batch:>6}{threads:>4}  {row['system']:<20}{row['median_ms']:>10.3f}{row['min_ms']:>9.3f}{ratio:>9}"
                          f"{difference:>9}", flush=True)
    options.out.write_text(json.dumps({"cpu": _cpu(), "rows": rows}, indent=1) + "\n")


def _cpu() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
