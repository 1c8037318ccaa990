"""Say how far exported models lie from the interpreter, on models of others and on random networks.

    pip install -e '.[bench,accuracy]'
    python benchmarks/exports.py [--case NAME ...] [--qconfig NAME] [--form NAME ...] [--items N]
    python benchmarks/exports.py --random 200

Each model is compiled, written in each form, and run in a process that cannot import qcompiler. A row says whether the
outputs are equal to the bit, else their distance, and how often the first choice is the same. The form `openvino` is
the file of the form `onnx`, run by OpenVINO. A row `FORM, each node` runs each node with integer results alone, on what
the interpreter gave it for the first item: in ONNX Runtime, graph optimizations off, or in torch. It has how many
integers differ, and by how much at most. `--random N` compares every node of N random networks in the same way, and
every value of their scripts.

The command exits with 1 if integers of a node differ by more than one in ONNX or at all in torch, if a script has other
outputs than the interpreter, if the first choice is the same in less than 99.5 % of at least 200 items, or if a form or
a case could not be run.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import pathlib
import runpy
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from accuracy_cases import CASES, trained
from accuracy_cases.case import MissingPackage

import qcompiler as qc
from qcompiler.errors import QCompilerError
from qcompiler.export.check import check_export, check_packages
from qcompiler.export.forms import FORMS, Form
from qcompiler.interpreter import run as interpret
from qcompiler.ir import Graph

sys.path.append(str(pathlib.Path(__file__).resolve().parents[1]))  # for tests/export
EXPORTED = {**CASES, "LSTM as a layer": trained.lstm_layer}
_OPENVINO = """
sys.path.append({folder!r})
import openvino
model = openvino.Core().compile_model(PATH, "CPU", {{"INFERENCE_PRECISION_HINT": "f32"}})
call = lambda arrays: [array.copy() for array in model(dict(zip(NAMES, arrays))).values()]
"""


def _openvino() -> Form:
    """OpenVINO on the file of the form "onnx". The process finds it in the folder where it is installed here."""
    spec = importlib.util.find_spec("openvino")
    folder = "" if spec is None or spec.origin is None else str(pathlib.Path(spec.origin).parents[1])
    return replace(FORMS["onnx"], runner=_OPENVINO.format(folder=folder), needs=("openvino",))


RUN = {**{name: FORMS[name] for name in ("onnx", "qoperator", "python", "torch")}, "openvino": _openvino()}
FORM_NAMES = ["onnx, each node", "torch, each node", *RUN]
LEAST_AGREEMENT, ENOUGH_ITEMS = 0.995, 200
"""How often the first choice must be the same, and of how many items on it is judged."""


def _in_onnx(alone: Graph, read: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    from tests.export.onnx.sessions import run_exported

    return run_exported(alone, read)


def _in_torch(alone: Graph, read: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    import torch

    found = qc.to_torch(alone)(*(torch.from_numpy(np.array(array)) for array in read))
    return [tensor.numpy() for tensor in (found if isinstance(found, (tuple, list)) else [found])]


NODES = {"onnx": (_in_onnx, 1), "torch": (_in_torch, 0)}
"""What runs a graph of one node, and by how much its integers may differ."""


@dataclass
class Count:
    """How far integers lie apart, of all nodes so far."""

    nodes: int = 0
    integers: int = 0
    differ: int = 0
    largest: int = 0

    def add(self, graph: Graph, form: str, inputs: Sequence[np.ndarray]) -> None:
        """Add what a form makes of each node of a graph with integer results, on the interpreter's operands."""
        from tests.export.single import each_node as alone_each

        call, _ = NODES[form]
        for _, alone, read, made in alone_each(graph, inputs):
            if not any(array.dtype.kind in "iu" for array in made):
                continue
            self.nodes += 1
            for a, b in zip(made, call(alone, read)):
                if a.dtype.kind in "iu":
                    apart = np.abs(a.astype(np.int64) - b.astype(np.int64))
                    self.integers, self.differ = self.integers + apart.size, self.differ + int(np.count_nonzero(apart))
                    self.largest = max(self.largest, int(apart.max(initial=0)))

    def __str__(self) -> str:
        return f"{self.nodes} nodes: {self.differ} of {self.integers} integers differ, by at most {self.largest}"


def random_networks(count: int) -> bool:
    """Print how far the forms of random networks lie from the interpreter. False if they are not near enough."""
    from tests.export.networks import network, with_all_values

    found, values, unequal = {form: Count() for form in NODES}, 0, 0
    for seed in range(count):
        graph, inputs = network(seed)
        for form in NODES:
            found[form].add(graph, form, inputs)
        whole = with_all_values(graph)
        with tempfile.TemporaryDirectory() as folder:
            qc.export_python(whole, os.path.join(folder, "model.py"))
            script = runpy.run_path(os.path.join(folder, "model.py"))
            made = list(script["run"]({value.name: array for value, array in zip(whole.inputs, inputs)}).values())
        wanted = interpret(whole, inputs)
        values += len(wanted)
        unequal += sum(a.tobytes() != np.asarray(b).tobytes() for a, b in zip(wanted, made))
    for form in NODES:
        print(f"{count} random networks | {form}, each node | {found[form]}")
    print(f"{count} random networks | python, all values | {unequal} of {values} arrays differ", flush=True)
    return not unequal and all(found[form].largest <= allowed for form, (_, allowed) in NODES.items())


def form_row(
    graph: Graph, form: str, items: Sequence[list[np.ndarray]], wanted: Sequence[Sequence[np.ndarray]]
) -> tuple[str, bool]:
    """How far the outputs of a form lie from the interpreter's, and whether they are as near as they must be."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model" + RUN[form].suffixes[0])
        check_packages(RUN[form])
        RUN[form].write(graph, path)
        errors = check_export(RUN[form], path, graph, items, wanted)
    parts = []
    for error in errors:
        agreement = "" if error.agreement is None else f", top-1 {100 * error.agreement:.2f} %"
        same = "identical" if error.noise == 0 else f"SQNR {error.sqnr_db:.1f} dB, at most {error.max_abs:.3g} apart"
        parts.append(f"{error.name}: {same}{agreement}")
    judged = [error.agreement for error in errors if error.agreement is not None and error.samples >= ENOUGH_ITEMS]
    exact = form != "python" or all(error.noise == 0 for error in errors)
    return "; ".join(parts), exact and all(agreement >= LEAST_AGREEMENT for agreement in judged)


def rows(name: str, qconfig: str, forms: Sequence[str], count: int) -> bool:
    """Print the rows of a model. False if one of them is not as near as it must be."""
    good = True
    with tempfile.TemporaryDirectory() as folder:
        try:
            case = EXPORTED[name](pathlib.Path(folder), count)
        except MissingPackage as missing:
            print(f"{name} | not run: {missing}", flush=True)
            return False
        data = None if qconfig.startswith("dynamic") else list(case.calibration)
        graph = qc.compile(case.onnx, qconfig, calibration_data=data).graph
        tests = list(case.test)[:count]
    items = [[np.asarray(item[value.name]) for value in graph.inputs] for item in tests]
    wanted = [interpret(graph, item) for item in items] if set(forms) & set(RUN) else []
    for form in forms:
        started = time.process_time()
        try:
            kind, _, rest = form.partition(", ")
            if rest:
                count_of_nodes = Count()
                count_of_nodes.add(graph, kind, items[0])
                text, near = str(count_of_nodes), count_of_nodes.largest <= NODES[kind][1]
            else:
                text, near = form_row(graph, form, items, wanted)
        except QCompilerError as error:
            text, near = f"no: {error.message}. {str(error.where or error.got)[:300]}", False
        good &= near
        print(f"{name} | {qconfig} | {form} | {len(items)} items | {text}", flush=True)
        print(f"    {time.process_time() - started:.0f} s", file=sys.stderr)
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=list(EXPORTED), help="by default all")
    parser.add_argument("--qconfig", default="int8")
    parser.add_argument("--form", action="append", choices=FORM_NAMES, help="by default all")
    parser.add_argument("--items", type=int, default=8)
    parser.add_argument("--random", type=int, metavar="N", help="compare N random networks instead of cases")
    options = parser.parse_args()
    if options.random:
        return 0 if random_networks(options.random) else 1
    forms = options.form or FORM_NAMES
    return 0 if all([rows(name, options.qconfig, forms, options.items) for name in options.case or EXPORTED]) else 1


if __name__ == "__main__":
    sys.exit(main())
