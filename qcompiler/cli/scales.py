"""The commands of files of scales: scales writes one, diff compares two. `arguments.py` owns the arguments."""

from __future__ import annotations

import argparse

from qcompiler import compiler
from qcompiler.cli.build import float_model
from qcompiler.cli.inputs import open_data
from qcompiler.cli.output import check_writable, print_json, progress
from qcompiler.quantization.scales import Scales


def scales(options: argparse.Namespace) -> None:
    check_writable(options.output, [".scales"])
    graph = float_model(options)
    data = open_data(options.data, graph, options.batch)
    prepared = compiler.prepare(graph, options.qconfig or "int8")
    with progress("calibrate", data.count()) as advance:
        calibration = compiler.calibrate(prepared, data, threads=options.threads, progress=advance)
    found = Scales.of(prepared, calibration)
    found.save(options.output)
    if options.json:
        print_json({"output": options.output, "values": len(found)})
    else:
        print(f"the scales of {len(found)} values are written to {options.output}")


def diff(options: argparse.Namespace) -> None:
    lines = Scales.load(options.a).diff(Scales.load(options.b))
    if options.json:
        print_json({"a": options.a, "b": options.b, "differ": lines})
    else:
        print("\n".join(lines) if lines else "the same scales")
