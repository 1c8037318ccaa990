"""The demo: quantize a trained ResNet, run it in float and in int8, and compare the two.

It prints accuracy, agreement, time and size, and writes build/demo.json, build/demo.qc.safetensors and a drawing.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import time
from typing import Any

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from dataset import load_split  # noqa: E402
from model import trained_model  # noqa: E402
from preprocess import preprocess  # noqa: E402

import qcompiler as qc  # noqa: E402
from qcompiler.errors import LoweringError  # noqa: E402
from qcompiler.report import constant_bytes, count_nodes  # noqa: E402


def milliseconds_per_image(model: qc.CompiledModel, image: np.ndarray, rounds: int = 30) -> float:
    """The median over `rounds` calls with one image, after three calls to warm up."""
    times = []
    for index in range(rounds + 3):
        start = time.perf_counter()
        model(image)
        if index >= 3:
            times.append((time.perf_counter() - start) * 1e3)
    return float(np.median(times))


def compiled(target: str, *args: Any, **options: Any) -> qc.CompiledModel:
    """Compile for `target`. If the target lacks an op, say so and compile for the interpreter."""
    try:
        return qc.compile(*args, target=target, **options)
    except LoweringError as error:
        print(f"{target}: {error.message}; running on the interpreter")
        return qc.compile(*args, target="reference", **options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--target", default="native")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    calibration = preprocess(load_split("calib")[0])
    images, labels = load_split("test")
    images = preprocess(images)
    batches = [calibration[i : i + 32] for i in range(0, len(calibration), 32)]
    dynamic = {"x": {0: "B"}}
    model = trained_model()
    real = compiled(options.target, model, None, (images[:1],), dynamic=dynamic)
    int8 = compiled(options.target, model, "int8", (images[:1],), calibration_data=batches, dynamic=dynamic)
    float_top1, int8_top1 = real(images).argmax(1), int8(images).argmax(1)
    integer_nodes, float_nodes = count_nodes(int8.graph)
    figures = {
        "float_top1": float(np.mean(float_top1 == labels)),
        "int8_top1": float(np.mean(int8_top1 == labels)),
        "agreement": float(np.mean(float_top1 == int8_top1)),
        "float_ms": milliseconds_per_image(real, images[:1]),
        "int8_ms": milliseconds_per_image(int8, images[:1]),
        "float_bytes": constant_bytes(real.graph),
        "int8_bytes": constant_bytes(int8.graph),
        "integer_nodes": integer_nodes,
        "float_nodes": float_nodes,
        "float_target": real.target,
        "int8_target": int8.target,
    }
    for name, value in figures.items():
        print(f"{name:>14}  {value:.4f}" if isinstance(value, float) else f"{name:>14}  {value}")
    print(int8.report())
    (options.out / "demo.json").write_text(json.dumps(figures, indent=1) + "\n")
    int8.save(options.out / "demo.qc.safetensors")
    print("drawn to", int8.draw(options.out / "demo.svg"))


if __name__ == "__main__":
    main()
