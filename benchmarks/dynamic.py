"""Time, memory and agreement of dynamic quantization, beside ONNX Runtime, torch and OpenVINO.

The models have random weights: the time does not depend on them. `bert-base` and `minilm-l6` are the encoders alone,
without embeddings; `lstm` has 2 layers of 512 units, `gru` one. Each system runs a model from the same torch module:
ours traced, ONNX Runtime from torch's ONNX export, quantized by its `quantize_dynamic`, torch by
`torch.ao.quantization.quantize_dynamic`, and OpenVINO the float export, or the export that ONNX Runtime quantized. ONNX
Runtime does not quantize a GRU but for the products around it. Each system runs in a process of its own. The processes
take turns, so that the machine's state is the same for all, and the least of all times counts. Bytes of weights are
those of the saved graph's constants.

    python benchmarks/dynamic.py --model bert-base --lengths 128 16 --threads 1
    python benchmarks/dynamic.py --model lstm --lengths 100 --markdown
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

ENCODERS = {"bert-base": (12, 768, 12, 3072), "minilm-l6": (6, 384, 12, 1536)}
"""Layers, width, heads, width of the feed forward layers."""
RECURRENT = {"lstm": ("LSTM", 2, 512), "gru": ("GRU", 1, 512)}
"""torch's class, layers, units; inputs are as wide as states."""
MODELS = (*ENCODERS, *RECURRENT)
Call = Callable[[np.ndarray], Any]


def encoder(name: str, layers: int | None = None) -> Any:
    """The torch module of an encoder, which reads f32 [batch, length, width]."""
    import torch
    from torch import nn

    depth, width, heads, inner = ENCODERS[name]

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
            self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
            self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)

        def split(self, x: Any) -> Any:
            return x.reshape(x.shape[0], x.shape[1], heads, width // heads).transpose(1, 2)

        def forward(self, x: Any) -> Any:
            q, k, v = self.split(self.q(x)), self.split(self.k(x)), self.split(self.v(x))
            scores = torch.softmax(q @ k.transpose(-1, -2) * (width // heads) ** -0.5, -1)
            mixed = (scores @ v).transpose(1, 2).reshape(x.shape[0], x.shape[1], width)
            x = self.first(x + self.o(mixed))
            return self.second(x + self.down(nn.functional.gelu(self.up(x))))

    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(layers or depth))).eval()


def recurrent(name: str, layers: int | None = None) -> Any:
    """The torch module of a recurrent net, which reads f32 [length, batch, width] and gives the states of its last
    layer."""
    import torch

    kind, depth, width = RECURRENT[name]

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = getattr(torch.nn, kind)(width, width, layers or depth)

        def forward(self, x: Any) -> Any:
            return self.layers(x)[0]

    torch.manual_seed(0)
    return States().eval()


def model_and_sample(name: str, length: int, layers: int | None) -> tuple[Any, np.ndarray]:
    """(the torch module, an input of one sequence)."""
    module = encoder(name, layers) if name in ENCODERS else recurrent(name, layers)
    shape = (1, length, ENCODERS[name][1]) if name in ENCODERS else (length, 1, RECURRENT[name][2])
    return module, np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)


def our_system(module: Any, x: np.ndarray, qconfig: str | None, threads: int, report: dict[str, Any]) -> Call:
    import qcompiler as qc
    from qcompiler.report import constant_bytes, float_constant_bytes

    compiled = qc.compile(module, qconfig, (x,), threads=threads)
    report["bytes"], report["float bytes"] = constant_bytes(compiled.graph), float_constant_bytes(compiled.graph)
    return compiled


def _exported(module: Any, x: np.ndarray, folder: pathlib.Path, quantized: bool) -> pathlib.Path:
    """torch's ONNX export, quantized dynamically by ONNX Runtime if asked."""
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    path = folder / "model.onnx"
    torch.onnx.export(module, (torch.from_numpy(x),), str(path), dynamo=False, opset_version=17, input_names=["x"])
    if not quantized:
        return path
    quantize_dynamic(path, folder / "int8.onnx", weight_type=QuantType.QInt8)
    return folder / "int8.onnx"


def onnx_runtime(module: Any, x: np.ndarray, quantized: bool, threads: int, report: dict[str, Any]) -> Call:
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        path = _exported(module, x, pathlib.Path(folder), quantized)
        report["bytes"] = path.stat().st_size
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def openvino(module: Any, x: np.ndarray, quantized: bool, threads: int, report: dict[str, Any]) -> Call:
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        path = _exported(module, x, pathlib.Path(folder), quantized)
        report["bytes"] = path.stat().st_size
        hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
        compiled = ov.Core().compile_model(ov.Core().read_model(path), "CPU", hints)
    request = compiled.create_infer_request()
    return lambda x: request.infer([x])[compiled.output(0)]


def torch_system(module: Any, x: np.ndarray, quantized: bool, threads: int, report: dict[str, Any]) -> Call:
    import torch

    torch.set_num_threads(threads)
    if quantized:
        kinds = {torch.nn.Linear, torch.nn.LSTM, torch.nn.GRU}
        module = torch.ao.quantization.quantize_dynamic(module, kinds, dtype=torch.qint8)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = module(torch.from_numpy(x)).numpy()
        return found

    return run


System = Callable[[Any, np.ndarray, int, dict[str, Any]], Call]
SYSTEMS: dict[str, System] = {
    "ours dynamic": lambda m, x, threads, report: our_system(m, x, "dynamic", threads, report),
    "ours per tensor": lambda m, x, threads, report: our_system(m, x, "dynamic:per_tensor", threads, report),
    "ours torch:dynamic": lambda m, x, threads, report: our_system(m, x, "torch:dynamic", threads, report),
    "ours float": lambda m, x, threads, report: our_system(m, x, None, threads, report),
    "ort dynamic": lambda m, x, threads, report: onnx_runtime(m, x, True, threads, report),
    "ort float": lambda m, x, threads, report: onnx_runtime(m, x, False, threads, report),
    "torch dynamic": lambda m, x, threads, report: torch_system(m, x, True, threads, report),
    "torch float": lambda m, x, threads, report: torch_system(m, x, False, threads, report),
    "openvino dynamic": lambda m, x, threads, report: openvino(m, x, True, threads, report),
    "openvino float": lambda m, x, threads, report: openvino(m, x, False, threads, report),
}
"""Functions of (torch module, sample, threads, report), which give a call and fill the report with bytes."""
REFERENCE = "torch float"


def serve(options: argparse.Namespace) -> None:
    """Run one system: write its report, then, for each number of seconds on stdin, the least time of a call in them."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print goes to stderr
    warnings.simplefilter("ignore")
    module, x = model_and_sample(options.model, options.lengths[0], options.layers)
    report: dict[str, Any] = {}
    call = SYSTEMS[options.serve](module, x, options.threads, report)
    want = torch_system(module, x, False, options.threads, {})(x).reshape(-1)
    got = np.asarray(call(x)).reshape(-1)
    report["cosine"] = float(got @ want / (np.linalg.norm(got) * np.linalg.norm(want)))
    print(json.dumps(report), file=out, flush=True)
    for line in sys.stdin:
        least, end = float("inf"), time.perf_counter() + float(line)
        while time.perf_counter() < end:
            begin = time.perf_counter()
            call(x)
            least = min(least, (time.perf_counter() - begin) * 1e3)
        print(json.dumps({"ms": least}), file=out, flush=True)


def _read(name: str, child: subprocess.Popen[str]) -> dict[str, Any]:
    assert child.stdout is not None
    line = child.stdout.readline()
    if not line:
        raise SystemExit(f"the process of {name} ended")
    found: dict[str, Any] = json.loads(line)
    return found


def measure(options: argparse.Namespace, length: int) -> dict[str, Any]:
    """The row of one model and length: for each system its report, and the least milliseconds of all rounds."""
    arguments = ["--model", options.model, "--lengths", str(length), "--threads", str(options.threads)]
    arguments += ["--layers", str(options.layers)] if options.layers else []
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
    children: dict[str, subprocess.Popen[str]] = {}
    try:
        found = {}
        for name in options.systems:
            command = [sys.executable, __file__, "--serve", name, *arguments]
            children[name] = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
            )
            found[name] = {**_read(name, children[name]), "ms": float("inf")}
        for _ in range(options.rounds):
            for name, child in children.items():
                assert child.stdin is not None
                print(options.seconds / options.rounds / len(children), file=child.stdin, flush=True)
                found[name]["ms"] = min(found[name]["ms"], _read(name, child)["ms"])
    finally:
        for child in children.values():
            child.kill()
            child.wait()
    return {"model": options.model, "length": length, "threads": options.threads, "systems": found}


PEERS = ("ort", "torch", "openvino")


def markdown(row: dict[str, Any], head: bool) -> str:
    """The row of a table: milliseconds of each system, and how many times as long the fastest dynamic peer takes. head:
    put the lines of the head before it."""
    systems = row["systems"]
    ours, peers = systems.get("ours dynamic"), [f"{peer} dynamic" for peer in PEERS if f"{peer} dynamic" in systems]
    best = f"{min(systems[peer]['ms'] for peer in peers) / ours['ms']:.2f}x" if ours and peers else ""
    columns = ["model", "steps", "threads", *systems, "best dynamic peer"]
    values = [row["model"], row["length"], row["threads"], *(f"{each['ms']:.2f}" for each in systems.values()), best]
    lines = [columns, ["---"] * len(columns), values] if head else [values]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="bert-base")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long all systems run, for each length")
    parser.add_argument("--rounds", type=int, default=10, help="how often each system has its turn")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, help="default: all that can be imported")
    parser.add_argument("--serve", choices=SYSTEMS, help="run one system in this process, as the parent asks")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true", help="print rows of a table")
    options = parser.parse_args()
    if options.serve:
        serve(options)
        return
    if options.systems is None:
        options.systems = [name for name in SYSTEMS if _is_installed(name)]
    for length in options.lengths:
        row = measure(options, length)
        if options.json:
            print(json.dumps(row), flush=True)
            continue
        if options.markdown:
            print(markdown(row, head=length == options.lengths[0]), flush=True)
            continue
        print(f"{row['model']}, {length} steps, {row['threads']} threads")
        for name, system in row["systems"].items():
            size = f"{system['bytes']:>12,} bytes" if "bytes" in system else ""
            print(f"  {name:<20} {system['ms']:8.2f} ms   cosine to float {system['cosine']:.5f} {size}", flush=True)


def _is_installed(name: str) -> bool:
    import importlib.util

    return not name.startswith("openvino") or importlib.util.find_spec("openvino") is not None


if __name__ == "__main__":
    main()
