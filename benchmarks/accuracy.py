"""Say what int8 costs in accuracy: float, our int8, and ONNX Runtime's, on models with a metric.

    pip install -e '.[bench,accuracy]'
    python benchmarks/accuracy.py [--case NAME ...] [--system NAME ...] [--items N]

Every case runs in a process of its own. The command prints a table and writes build/accuracy.json. A case whose package
is missing is named with the command that installs it, and the command then fails. Calibration items are never test
items. ONNX Runtime is at its best setting: QDQ, weights per channel, activations u8, its own preprocessing, min and
max; its dynamic quantization with weights per channel. torch's dynamic quantization is measured where a case has a
torch module.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from accuracy_cases import CASES
from accuracy_cases.case import Case, Item, MissingPackage, Outputs

SYSTEMS = (
    "ours float",
    "ours int8",
    "ours int8:plain",
    "ours dynamic",
    "ours dynamic:per_tensor",
    "onnxruntime static",
    "onnxruntime dynamic",
    "torch dynamic",
)
FEW_BITS = tuple(f"ours {bits}{rounding}" for bits in ("w4a8", "w4a4") for rounding in ("", ":gptq", ":adaround"))
"""Systems that are measured only where --system names them."""
Run = Callable[[Item], Sequence[np.ndarray]]


def ours(case: Case, qconfig: str | None) -> tuple[Run, dict[str, float]]:
    import qcompiler as qc

    started = time.perf_counter()
    data = None if qconfig is None or qconfig.startswith("dynamic") else list(case.calibration)
    if case.open is None:
        compiled = qc.compile(case.onnx, qconfig, calibration_data=data)
    else:
        model = case.open
        compiled = qc.compile(model.model, qconfig, model.example, calibration_data=data, dynamic=model.dynamic)

    def run(item: Item) -> list[np.ndarray]:
        result = compiled(**item)
        return list(result.values()) if isinstance(result, Mapping) else [result]

    return run, {"compile, s": time.perf_counter() - started}


def _session(path: pathlib.Path) -> Run:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda item: session.run(None, dict(item))


def onnxruntime_static(case: Case, folder: pathlib.Path) -> tuple[Run, dict[str, float]]:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = iter(case.calibration)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.items, None)

    started = time.perf_counter()
    quantize_static(
        str(_prepared(case, folder)),
        str(folder / "static.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return _session(folder / "static.onnx"), {"compile, s": time.perf_counter() - started}


def onnxruntime_dynamic(case: Case, folder: pathlib.Path) -> tuple[Run, dict[str, float]]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    started = time.perf_counter()
    prepared, path = str(_prepared(case, folder)), folder / "dynamic.onnx"
    quantize_dynamic(prepared, str(path), per_channel=True, weight_type=QuantType.QInt8)
    return _session(path), {"compile, s": time.perf_counter() - started}


def torch_dynamic(case: Case) -> tuple[Run, dict[str, float]]:
    """torch's own dynamic quantization of linear and recurrent layers, at its defaults."""
    import torch
    from torch.ao.quantization import quantize_dynamic

    assert case.open is not None
    started = time.perf_counter()
    kinds = {torch.nn.Linear, torch.nn.LSTM, torch.nn.GRU}
    quantized = quantize_dynamic(case.open.model, kinds, torch.qint8)

    def run(item: Item) -> list[np.ndarray]:
        with torch.no_grad():
            return [quantized(*(torch.from_numpy(each) for each in item.values())).numpy()]

    return run, {"compile, s": time.perf_counter() - started}


def _prepared(case: Case, folder: pathlib.Path) -> pathlib.Path:
    """The model at opset 13 or later, which per-channel QDQ needs, after ONNX Runtime's own preprocessing."""
    import onnx
    from onnx import version_converter
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(case.onnx)
    if next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx")) < 13:
        model = version_converter.convert_version(model, 13)
    onnx.save(model, folder / "float.onnx")
    source, target = str((folder / "float.onnx").resolve()), str((folder / "prepared.onnx").resolve())
    try:
        with contextlib.chdir(folder):  # a failed inference of symbolic shapes leaves files, with weights, behind
            quant_pre_process(source, target)
    except Exception as error:  # it raises no other class where its symbolic shapes are incomplete
        print(f"{case.onnx.name}: {error}: prepared without symbolic shapes", file=sys.stderr)
        quant_pre_process(source, target, skip_symbolic_shape=True)
    return folder / "prepared.onnx"


def build(system: str, case: Case, folder: pathlib.Path) -> tuple[Run, dict[str, float]]:
    match system:
        case "onnxruntime static":
            return onnxruntime_static(case, folder)
        case "onnxruntime dynamic":
            return onnxruntime_dynamic(case, folder)
        case "torch dynamic":
            return torch_dynamic(case)
        case "ours float":
            return ours(case, None)
        case _:
            return ours(case, system.removeprefix("ours "))


def measure(name: str, systems: Sequence[str], items: int | None, folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """Figures of each system: the case's metric, seconds to compile, milliseconds a call (the median)."""
    case = CASES[name](folder, items)
    real: Outputs | None = None
    figures: dict[str, dict[str, float]] = {}
    for system in ("ours float", *(each for each in systems if each != "ours float")):
        if system == "torch dynamic" and (case.open is None or isinstance(case.open.model, pathlib.Path)):
            continue  # it takes torch modules only
        try:
            run, built = build(system, case, folder)
            outputs, seconds = [], []
            for item in case.test:
                started = time.perf_counter()
                outputs.append([np.array(each) for each in run(item)])
                seconds.append(time.perf_counter() - started)
        except Exception as error:
            if system.startswith("ours"):
                raise
            print(f"{name}, {system}: {type(error).__name__}: {error}", file=sys.stderr)
            continue
        real = outputs if real is None else real
        figures[system] = {**case.judge(real, outputs), "ms": 1000 * float(np.median(seconds)), **built}
        print(f"{name}, {system}: {figures[system]}", file=sys.stderr, flush=True)
    return figures


def table(name: str, figures: dict[str, dict[str, float]]) -> str:
    """One markdown table of a case: a row for each system."""
    columns = list(next(iter(figures.values())))
    lines = [f"| {name} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for system, row in figures.items():
        lines.append(f"| {system} | " + " | ".join(f"{row[each]:.4g}" for each in columns) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--system", nargs="+", choices=SYSTEMS + FEW_BITS, default=list(SYSTEMS))
    parser.add_argument("--items", type=int, help="the most test items (all by default)")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = options.out / "accuracy"
    folder.mkdir(parents=True, exist_ok=True)
    if options.child:
        try:
            print(json.dumps(measure(options.case[0], options.system, options.items, folder)))
        except MissingPackage as missing:
            print(f"{options.case[0]}: {missing}", file=sys.stderr)
            return 2
        return 0
    results, failed = {}, 0
    for name in options.case:
        command = [sys.executable, __file__, "--child", "--case", name, "--out", str(options.out), "--system"]
        command += [*options.system, *(["--items", str(options.items)] if options.items else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            failed += 1
            continue
        results[name] = json.loads(done.stdout.splitlines()[-1])
        print(table(name, results[name]) + "\n", flush=True)
    (options.out / "accuracy.json").write_text(json.dumps(results, indent=1) + "\n")
    if failed:
        print(f"{failed} of {len(options.case)} cases did not run", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
