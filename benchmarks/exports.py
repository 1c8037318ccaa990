"""Say how far exported models lie from the interpreter, on models of others.

    pip install -e '.[bench,accuracy]'
    python benchmarks/exports.py [--case NAME ...] [--qconfig NAME] [--form NAME ...] [--items N]

Each model is compiled, written in each form, and run in a process that cannot import qcompiler. A row says whether the
outputs are equal to the bit, else their distance, and how often the first choice is the same. A row `FORM, each node`
runs each node with integer results alone, on what the interpreter gave it for the first item: in ONNX Runtime, graph
optimizations off, or in torch. It has how many integers differ, and by how much at most.

The command exits with 1 if integers of a node differ by more than one in ONNX or at all in torch, if a script has other
outputs than the interpreter, or if a form or a case could not be run.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Sequence

import numpy as np
from accuracy_cases import CASES
from accuracy_cases.case import MissingPackage

import qcompiler as qc
from qcompiler.errors import QCompilerError
from qcompiler.export.check import check_export
from qcompiler.export.forms import FORMS
from qcompiler.ir import Graph

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # for tests/export
SUFFIXES = {"onnx": ".onnx", "qoperator": ".onnx", "python": ".py", "torch": ".pt"}
FORM_NAMES = ["onnx, each node", "torch, each node", *SUFFIXES]


def _in_onnx(alone: Graph, read: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    from tests.export.onnx.sessions import run_exported

    return run_exported(alone, read)


def _in_torch(alone: Graph, read: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    import torch

    found = qc.to_torch(alone)(*(torch.from_numpy(np.array(array)) for array in read))
    return [tensor.numpy() for tensor in (found if isinstance(found, (tuple, list)) else [found])]


NODES = {"onnx": (_in_onnx, 1), "torch": (_in_torch, 0)}
"""What runs a graph of one node, and by how much its integers may differ."""


def each_node(graph: Graph, form: str, inputs: Sequence[np.ndarray]) -> tuple[str, bool]:
    """What a form makes of each node on the interpreter's operands, and whether its integers are as near as allowed."""
    from tests.export.single import each_node as alone_each

    call, allowed = NODES[form]
    nodes = count = differ = largest = 0
    for _, alone, read, made in alone_each(graph, inputs):
        if not any(array.dtype.kind in "iu" for array in made):
            continue
        nodes += 1
        for a, b in zip(made, call(alone, read)):
            if a.dtype.kind in "iu":
                apart = np.abs(a.astype(np.int64) - b.astype(np.int64))
                count, differ = count + apart.size, differ + int(np.count_nonzero(apart))
                largest = max(largest, int(apart.max(initial=0)))
    return f"{nodes} nodes: {differ} of {count} integers differ, by at most {largest}", largest <= allowed


def form_row(graph: Graph, form: str, items: Sequence[list[np.ndarray]]) -> tuple[str, bool]:
    """How far the outputs of a form lie from the interpreter's, and whether they are as near as they must be."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model" + SUFFIXES[form])
        FORMS[form].write(graph, path)
        errors = check_export(FORMS[form], path, graph, items)
    parts = []
    for error in errors:
        agreement = "" if error.agreement is None else f", top-1 {100 * error.agreement:.2f} %"
        same = "identical" if error.noise == 0 else f"SQNR {error.sqnr_db:.1f} dB, at most {error.max_abs:.3g} apart"
        parts.append(f"{error.name}: {same}{agreement}")
    exact = form != "python" or all(error.noise == 0 for error in errors)
    return "; ".join(parts), exact


def rows(name: str, qconfig: str, forms: Sequence[str], count: int) -> bool:
    """Print the rows of a model. False if one of them is not as near as it must be."""
    good = True
    with tempfile.TemporaryDirectory() as folder:
        try:
            case = CASES[name](pathlib.Path(folder), count)
        except MissingPackage as missing:
            print(f"{name} | not run: {missing}", flush=True)
            return False
        data = None if qconfig.startswith("dynamic") else list(case.calibration)
        graph = qc.compile(case.onnx, qconfig, calibration_data=data).graph
        tests = list(case.test)[:count]
    items = [[np.asarray(item[value.name]) for value in graph.inputs] for item in tests]
    for form in forms:
        started = time.process_time()
        try:
            kind, _, rest = form.partition(", ")
            text, near = each_node(graph, kind, items[0]) if rest else form_row(graph, form, items)
        except QCompilerError as error:
            text, near = f"no: {error.message}. {str(error.where or error.got)[:300]}", False
        good &= near
        print(f"{name} | {qconfig} | {form} | {len(items)} items | {text}", flush=True)
        print(f"    {time.process_time() - started:.0f} s", file=sys.stderr)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(CASES), help="by default all")
    parser.add_argument("--qconfig", default="int8")
    parser.add_argument("--form", action="append", choices=FORM_NAMES, help="by default all")
    parser.add_argument("--items", type=int, default=8)
    options = parser.parse_args()
    forms = options.form or FORM_NAMES
    return 0 if all([rows(name, options.qconfig, forms, options.items) for name in options.case or CASES]) else 1


if __name__ == "__main__":
    sys.exit(main())
