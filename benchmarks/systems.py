"""The systems that are compared: how each builds a model at its best setting, and runs it.

A system is a function of (model name, batch, threads, folder) that returns a call; call(x) runs the model once. All
quantized systems are calibrated with the same arrays. Each runs in a process of its own (child.py).
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from models import build

Call = Callable[[np.ndarray], np.ndarray]
CALIBRATION_ITEMS = 4


def calibration(shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(1)
    for _ in range(CALIBRATION_ITEMS):
        yield rng.normal(size=(1, *shape)).astype(np.float32)


def sample(shape: tuple[int, ...], batch: int) -> np.ndarray:
    return np.random.default_rng(2).normal(size=(batch, *shape)).astype(np.float32)


def _ours(name: str, batch: int, threads: int, qconfig: str | None, target: str = "native") -> Call:
    import qcompiler as qc

    model, shape = build(name)
    x = sample(shape, batch)
    if qconfig is None:
        return qc.compile(model, None, (x,), threads=threads, target=target)
    return qc.compile(
        model,
        qconfig,
        (x,),
        calibration_data=[np.repeat(item, batch, axis=0) for item in calibration(shape)],
        threads=threads,
        target=target,
    )


def ours_int8(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    return _ours(name, batch, threads, "int8")


def ours_float(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    return _ours(name, batch, threads, None)


def ours_int8_avx2(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    return _ours(name, batch, threads, "int8", "x86-64+avx2")


def ours_fbgemm_avx2(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    return _ours(name, batch, threads, "torch:fbgemm", "x86-64+avx2")


def ours_float_avx2(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    return _ours(name, batch, threads, None, "x86-64+avx2")


def _float_onnx(name: str, batch: int, folder: pathlib.Path) -> pathlib.Path:
    path = folder / f"{name}.b{batch}.onnx"
    if not path.exists():
        import onnx
        from to_onnx import to_onnx

        import qcompiler as qc

        model, shape = build(name)
        onnx.save(to_onnx(qc.trace(model, (sample(shape, batch),))), path)
    return path


def _session(path: pathlib.Path, threads: int) -> Call:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x})[0]


def ort_float(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    return _session(_float_onnx(name, batch, folder), threads)


def _qdq_onnx(name: str, batch: int, folder: pathlib.Path) -> pathlib.Path:
    """Run quant_pre_process, then quantize_static: QDQ, u8 activations, i8 weights per channel."""
    path = folder / f"{name}.b{batch}.qdq.onnx"
    if not path.exists():
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process

        source = _float_onnx(name, batch, folder)
        prepared = folder / f"{name}.b{batch}.prepared.onnx"
        quant_pre_process(str(source), str(prepared))

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.items = ({"x": np.repeat(item, batch, axis=0)} for item in calibration(build(name)[1]))

            def get_next(self) -> dict[str, np.ndarray] | None:
                return next(self.items, None)

        quantize_static(
            str(prepared),
            str(path),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    return path


def ort_int8(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    return _session(_qdq_onnx(name, batch, folder), threads)


def _openvino(model: object, threads: int) -> Call:
    import openvino as ov

    compiled = ov.Core().compile_model(model, "CPU", {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads})
    request = compiled.create_infer_request()
    return lambda x: request.infer([x])[compiled.output(0)]


def openvino_float(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    import openvino as ov

    return _openvino(ov.Core().read_model(_float_onnx(name, batch, folder)), threads)


def openvino_int8(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    """OpenVINO on the QDQ file that ONNX Runtime's quantizer wrote."""
    import openvino as ov

    return _openvino(ov.Core().read_model(_qdq_onnx(name, batch, folder)), threads)


def openvino_nncf(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    """OpenVINO on the float model quantized by nncf.quantize."""
    import nncf
    import openvino as ov

    model = ov.Core().read_model(_float_onnx(name, batch, folder))
    items = [np.repeat(item, batch, axis=0) for item in calibration(build(name)[1])]
    return _openvino(nncf.quantize(model, nncf.Dataset(items), subset_size=len(items)), threads)


def _torch(module: object, x: np.ndarray, threads: int) -> Call:
    """Trace and freeze the module, as torch's guide to inference recommends."""
    import torch

    torch.set_num_threads(threads)
    with torch.no_grad():
        frozen = torch.jit.freeze(torch.jit.trace(module, torch.from_numpy(x)))
        frozen = torch.jit.optimize_for_inference(frozen)

    def call(x: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return frozen(torch.from_numpy(x)).numpy()

    return call


def torch_float(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    from to_torch import to_torch

    import qcompiler as qc

    model, shape = build(name)
    x = sample(shape, batch)
    return _torch(to_torch(qc.trace(model, (x,))), x, threads)


def torch_int8(name: str, batch: int, threads: int, folder: pathlib.Path) -> Call:
    """torch's FX quantization with the x86 engine, its fastest setting on these networks."""
    import torch
    from to_torch import to_torch
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    import qcompiler as qc

    torch.backends.quantized.engine = "x86"
    torch.set_num_threads(threads)
    model, shape = build(name)
    x = sample(shape, batch)
    prepared = prepare_fx(to_torch(qc.trace(model, (x,))), get_default_qconfig_mapping("x86"), (torch.from_numpy(x),))
    with torch.no_grad():
        for item in calibration(shape):
            prepared(torch.from_numpy(np.repeat(item, batch, axis=0)))
    return _torch(convert_fx(prepared), x, threads)


SYSTEMS: dict[str, Callable[[str, int, int, pathlib.Path], Call]] = {
    "ours int8": ours_int8,
    "ours float": ours_float,
    "ours int8 avx2": ours_int8_avx2,
    "ours fbgemm avx2": ours_fbgemm_avx2,
    "ours float avx2": ours_float_avx2,
    "onnxruntime int8": ort_int8,
    "onnxruntime float": ort_float,
    "openvino int8": openvino_int8,
    "openvino nncf": openvino_nncf,
    "openvino float": openvino_float,
    "torch int8": torch_int8,
    "torch float": torch_float,
}
