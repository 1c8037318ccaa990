"""Say what the demo's network keeps of its accuracy with few bits, on the 10,000 test images of Fashion-MNIST.

    python examples/fashion_mnist/few_bits.py [--qconfig NAME ...] [--data FOLDER]

The images are those of Debian's package dataset-fashion-mnist. Calibration images are training images (`calib.npz`).
Prints a markdown table: the share of right classes, the share of classes that float gives, and seconds to compile.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
import time

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from dataset import FULL_DATA, load_full, load_split  # noqa: E402
from model import trained_model  # noqa: E402
from preprocess import preprocess  # noqa: E402

import qcompiler as qc  # noqa: E402

QCONFIGS = ("int8", *(f"{bits}{how}" for bits in ("w4a8", "w3a8", "w4a4") for how in ("", ":gptq", ":adaround")))
BATCH = 500


def classes(model: qc.CompiledModel, images: np.ndarray) -> np.ndarray:
    """The class that the model gives each image."""
    return np.concatenate([model(images[i : i + BATCH]).argmax(1) for i in range(0, len(images), BATCH)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--qconfig", nargs="+", default=list(QCONFIGS))
    parser.add_argument("--data", type=pathlib.Path, default=FULL_DATA)
    options = parser.parse_args()
    images, labels = load_full("test", options.data)
    images, calibration = preprocess(images), preprocess(load_split("calib")[0])
    batches = [calibration[i : i + 32] for i in range(0, len(calibration), 32)]
    dynamic = {"x": {0: "B"}}
    real = classes(qc.compile(trained_model(), None, (images[:1],), dynamic=dynamic), images)
    print("| qconfig | right class, % | same class as float, % | compile, s |\n|---|---|---|---|")
    print(f"| float | {100 * np.mean(real == labels):.2f} | 100 | |", flush=True)
    for qconfig in options.qconfig:
        started = time.perf_counter()
        model = qc.compile(trained_model(), qconfig, (images[:1],), calibration_data=batches, dynamic=dynamic)
        seconds = time.perf_counter() - started
        got = classes(model, images)
        right, same = 100 * np.mean(got == labels), 100 * np.mean(got == real)
        print(f"| `{qconfig}` | {right:.2f} | {same:.2f} | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
