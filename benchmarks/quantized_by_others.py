"""How models that other tools quantized run here and in ONNX Runtime, for which they were made.

ResNet-18, MobileNetV2 and SqueezeNet 1.1 of torchvision are exported by torch.onnx, and quantized by the defaults of
`onnxruntime.quantization.quantize_static` in both of its formats, and by `nncf.quantize`. Weights are random and the
statistics of batch norms are those of random images. One line a model: nodes that run in a Python step, the results
that are not ONNX Runtime's with graph optimizations off, and the least CPU time of a run in each of the systems.

    python benchmarks/quantized_by_others.py                          # needs torchvision, onnxruntime and nncf
    python benchmarks/quantized_by_others.py --models resnet18 --tools qdq --rounds 50
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

SIZE = 224
CALIBRATION_ITEMS = 4
MODELS = ("resnet18", "mobilenet_v2", "squeezenet1_1")
TOOLS = ("qdq", "qoperator", "nncf")


def _images(seed: int, count: int) -> np.ndarray[Any, Any]:
    """Random images with structure at several sizes, normalized as photographs are."""
    rng = np.random.default_rng(seed)
    image = np.zeros((count, 3, SIZE, SIZE), np.float32)
    for cells in (7, 28, 224):
        part = rng.normal(size=(count, 3, cells, cells)).astype(np.float32)
        image += part.repeat(SIZE // cells, 2).repeat(SIZE // cells, 3)
    return image / image.std()


def float_model(name: str, path: pathlib.Path) -> None:
    """Export a model of torchvision with random weights, and batch norms that have seen images."""
    import torch
    import torchvision

    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None)
    for layer in module.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None
        if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)) and layer.bias is not None:
            torch.nn.init.normal_(layer.bias, std=0.02)  # equal ones become one constant, which quantize_static refuses
    with torch.no_grad():
        module.train()(torch.from_numpy(_images(3, 8)))
    module.eval()
    x = torch.from_numpy(_images(2, 1))
    torch.onnx.export(module, (x,), path, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"])


def quantize(tool: str, source: pathlib.Path, path: pathlib.Path) -> None:
    """Quantize an ONNX file by the defaults of a tool."""
    items = [{"x": _images(10 + i, 1)} for i in range(CALIBRATION_ITEMS)]
    if tool == "nncf":
        import nncf
        import onnx

        onnx.save(nncf.quantize(onnx.load(source), nncf.Dataset(items)), path)
        return
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.items = iter(items)

        def get_next(self) -> dict[str, np.ndarray[Any, Any]] | None:
            return next(self.items, None)

    form = QuantFormat.QDQ if tool == "qdq" else QuantFormat.QOperator
    quantize_static(source, path, Reader(), quant_format=form)


def session(path: pathlib.Path, optimized: bool) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    made = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda x: made.run(None, {"x": x})[0]  # type: ignore[no-any-return]


def fastest(calls: list[Callable[[], object]], rounds: int) -> list[float]:
    """The least CPU time of each call in milliseconds; a round runs all of them, so that they meet the same load."""
    best = [float("inf")] * len(calls)
    for _ in range(rounds):
        for i, call in enumerate(calls):
            begin = time.process_time()
            call()
            best[i] = min(best[i], (time.process_time() - begin) * 1e3)
    return best


def line(name: str, tool: str, folder: pathlib.Path, rounds: int) -> str:
    """A row of the table for one model."""
    import qcompiler as qc

    source, path = folder / f"{name}.onnx", folder / f"{name}.{tool}.onnx"
    if not source.exists():
        float_model(name, source)
    quantize(tool, source, path)
    x = _images(2, 1)
    compiled = qc.compile(path, "keep", threads=1)
    report = compiled.report()
    exact, fast = session(path, optimized=False), session(path, optimized=True)
    got, want, theirs = compiled(x)["y"], exact(x), fast(x)
    apart, own = (np.abs(each - want) / np.abs(want).max() for each in (got, theirs))
    mine, ort = fastest([lambda: compiled(x), lambda: fast(x)], rounds)
    return (
        f"| {name} | {tool} | {len(report.python_nodes)} | {_distance(apart)} | {_distance(own)} |"
        f" {mine:.2f} | {ort:.2f} | {ort / mine:.2f}x |"
    )


def _distance(apart: np.ndarray[Any, Any]) -> str:
    """How many results differ, and the largest distance."""
    differ = int((apart > 0).sum())
    return f"{differ} of {apart.size}, at most {apart.max():.1e}" if differ else "equal"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=MODELS, help="names of torchvision")
    parser.add_argument("--tools", nargs="*", choices=TOOLS, default=TOOLS)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--folder", type=pathlib.Path, help="keep the ONNX files here")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or pathlib.Path(temporary)
        print("| model | quantized as | Python steps | apart | ONNX Runtime's own | ms | ONNX Runtime | ratio |")
        print("|---|---|---|---|---|---|---|---|")
        for name in options.models:
            for tool in options.tools:
                print(line(name, tool, folder, options.rounds), flush=True)


if __name__ == "__main__":
    main()
