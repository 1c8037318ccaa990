"""Time and memory of dynamic quantization, beside ONNX Runtime and torch.

The model is an encoder of the size of BERT base or of MiniLM-L6, without embeddings, with random weights: the time does
not depend on them. Each system runs it from the same torch module: ours traced, ONNX Runtime from torch's ONNX export,
quantized by its `quantize_dynamic`, and torch by `torch.ao.quantization.quantize_dynamic`. The systems take turns, so
that the machine's state is the same for all, and the least of all times counts. Bytes of weights are those of the saved
graph's constants, and of the packed constants in memory.

    python benchmarks/dynamic.py --model bert-base --lengths 128 16 --threads 1
"""

from __future__ import annotations

import argparse
import json
import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

MODELS = {"bert-base": (12, 768, 12, 3072), "minilm-l6": (6, 384, 12, 1536)}
"""Layers, width, heads, width of the feed forward layers."""
System = Callable[[np.ndarray], Any]


def encoder(name: str, layers: int | None = None) -> Any:
    """The torch module."""
    import torch
    from torch import nn

    depth, width, heads, inner = MODELS[name]

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


def our_system(module: Any, x: np.ndarray, qconfig: str | None, threads: int, report: dict[str, Any]) -> System:
    import qcompiler as qc
    from qcompiler.report import constant_bytes, float_constant_bytes

    compiled = qc.compile(module, qconfig, (x,), threads=threads)
    compiled(x)
    report["bytes"], report["float bytes"] = constant_bytes(compiled.graph), float_constant_bytes(compiled.graph)
    return compiled


def onnx_runtime(module: Any, x: np.ndarray, quantized: bool, threads: int, report: dict[str, Any]) -> System:
    import onnxruntime as ort
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = pathlib.Path(folder) / "model.onnx"
        torch.onnx.export(module, (torch.from_numpy(x),), str(path), dynamo=False, opset_version=17, input_names=["x"])
        if quantized:
            quantize_dynamic(path, pathlib.Path(folder) / "int8.onnx", weight_type=QuantType.QInt8)
            path = pathlib.Path(folder) / "int8.onnx"
        report["bytes"] = path.stat().st_size
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = threads, 3
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda x: session.run(None, {"x": x})[0]


def torch_system(module: Any, x: np.ndarray, quantized: bool, threads: int) -> System:
    import torch

    torch.set_num_threads(threads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if quantized:
            module = torch.ao.quantization.quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)

    def run(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found: np.ndarray = module(torch.from_numpy(x)).numpy()
        return found

    return run


def least_times(systems: dict[str, System], x: np.ndarray, seconds: float) -> dict[str, float]:
    """The least milliseconds of a call of each system. They take turns."""
    found = dict.fromkeys(systems, float("inf"))
    for system in systems.values():
        system(x)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, system in systems.items():
            begin = time.perf_counter()
            system(x)
            found[name] = min(found[name], (time.perf_counter() - begin) * 1e3)
    return found


def measure(name: str, length: int, threads: int, seconds: float, layers: int | None) -> dict[str, Any]:
    module = encoder(name, layers)
    x = np.random.default_rng(0).normal(0, 1, (1, length, MODELS[name][1])).astype(np.float32)
    reports: dict[str, dict[str, Any]] = {each: {} for each in ("ours dynamic", "ours float", "ort dynamic")}
    systems = {
        "ours dynamic": our_system(module, x, "dynamic", threads, reports["ours dynamic"]),
        "ours torch:dynamic": our_system(module, x, "torch:dynamic", threads, {}),
        "ours float": our_system(module, x, None, threads, reports["ours float"]),
        "ort dynamic": onnx_runtime(module, x, True, threads, reports["ort dynamic"]),
        "torch dynamic": torch_system(module, x, True, threads),
    }
    times = least_times(systems, x, seconds)
    want = torch_system(module, x, False, threads)(x).reshape(-1)
    cosines = {}
    for each, system in systems.items():
        got = np.asarray(system(x)).reshape(-1)
        cosines[each] = float(got @ want / (np.linalg.norm(got) * np.linalg.norm(want)))
    return {"model": name, "length": length, "threads": threads, "ms": times, "cosine": cosines, "weights": reports}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", choices=MODELS, default="bert-base")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 16])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=20.0, help="how long the systems take turns, for each length")
    parser.add_argument("--layers", type=int, help="fewer layers than the model has")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    for length in options.lengths:
        row = measure(options.model, length, options.threads, options.seconds, options.layers)
        if options.json:
            print(json.dumps(row))
            continue
        print(f"{row['model']}, {length} tokens, {row['threads']} threads")
        for each, ms in row["ms"].items():
            print(f"  {each:<20} {ms:8.2f} ms   cosine to float {row['cosine'][each]:.5f}")
        ours = row["weights"]["ours dynamic"]
        print(f"  constants: {ours['bytes']:,} bytes, {ours['bytes'] / ours['float bytes']:.3f} of float's")


if __name__ == "__main__":
    main()
