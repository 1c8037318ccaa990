"""compile(): from a user's model to a program. Also trace, fuse and load.

Frontends, passes and backends are imported when they are needed. Does not own static quantization
(`quantization/workflow.py`) nor the compiled model (`compiled.py`), whose names users import from here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

from qcompiler.arguments import (
    check_callable,
    check_data,
    check_instruments,
    check_io,
    check_path,
    check_text,
    check_threads,
    check_type,
    described,
)
from qcompiler.compiled import CompiledModel
from qcompiler.cpus import thread_count
from qcompiler.dims import Dynamic
from qcompiler.errors import LoweringError, QuantizationError, TraceError
from qcompiler.ir import Graph
from qcompiler.passmanager import Instrument, PassManager
from qcompiler.quantization.dynamic import quantize_dynamic, quantize_graph
from qcompiler.quantization.workflow import Prepared, calibrate, convert, prepare

if TYPE_CHECKING:
    from qcompiler.artifact import SavedModel
    from qcompiler.backends.target import Target
    from qcompiler.quantization.calibration import Calibration
    from qcompiler.quantization.qconfig import QConfig, QConfigMapping
    from qcompiler.quantization.scales import Scales


def trace(model: object, example_inputs: object = None, *, dynamic: Dynamic | None = None) -> Graph:
    """The float graph of a model. A model that is quantized already gives a graph of stage qdq or integer.

    Args:
        model: a qcompiler.nn module, a Python function, a torch.nn.Module, a torch.export.ExportedProgram or
            its .pt2 file, an ONNX model (path or ModelProto), the path of a saved model (.safetensors), or a Graph,
            which is copied.
        example_inputs: an array, a tuple by position, or a dict by name; only shapes and dtypes are read.
        dynamic: {input: {axis: size name}}.

    Raises:
        TraceError: the model or its inputs cannot be traced; or it is a graph, whose inputs have their types already,
            and example inputs or dynamic sizes are given.
    """
    _check_typed(model, example_inputs, dynamic)
    if isinstance(model, Graph):
        return model.clone()
    if isinstance(model, CompiledModel):
        return model.graph.clone()
    if _is_torch_program(model):
        from qcompiler.frontend.torch_import import import_program

        return import_program(model, example_inputs, dynamic=dynamic)
    if _is_torch_module(model):
        from qcompiler.frontend.torch_import import import_torch

        return import_torch(model, example_inputs, dynamic=dynamic)
    if _is_saved(model):
        from qcompiler.artifact import load_graph

        return load_graph(model)
    if _is_file(model):
        from qcompiler.frontend.onnx_import import import_onnx

        return import_onnx(model, example_inputs, dynamic=dynamic)
    from qcompiler.frontend.tracer import trace as trace_python

    return trace_python(model, example_inputs, dynamic=dynamic)


def _is_torch_program(model: object) -> bool:
    """Whether a model is a torch.export.ExportedProgram, or the file of one."""
    if isinstance(model, (str, os.PathLike)):
        return str(model).endswith(".pt2")
    return type(model).__name__ == "ExportedProgram"


def _is_torch_module(model: object) -> bool:
    return any(base.__module__.startswith("torch.") for base in type(model).__mro__)


def _is_file(model: object) -> bool:
    """Whether a model is a file, or an ONNX model in memory."""
    return isinstance(model, (str, os.PathLike)) or type(model).__name__ == "ModelProto"


def _is_saved(model: object) -> TypeGuard[str | os.PathLike[str]]:
    return isinstance(model, (str, os.PathLike)) and str(model).endswith(".safetensors")


def _check_typed(model: object, example_inputs: object, dynamic: Dynamic | None) -> None:
    """Refuse example inputs and dynamic sizes for a model whose inputs have their types already."""
    if not (isinstance(model, (Graph, CompiledModel)) or _is_saved(model)):
        return
    for name, value in (("example_inputs", example_inputs), ("dynamic", dynamic or None)):
        if value is not None:
            raise TraceError(
                f"{name} is for a model that is traced; a graph has the types of its inputs",
                expected=f"{name}=None",
                got=described(value),
                hint="give it to qc.trace, or to the call that takes the model itself",
            )


def fuse(
    model: object,
    example_inputs: object = None,
    *,
    dynamic: Dynamic | None = None,
    instruments: Sequence[Instrument] = (),
) -> Graph:
    """The float graph simplified: batch norms folded, residual adds and activations fused.

    Args:
        model: a graph, or what `trace` takes, with its example inputs and dynamic sizes.
    """
    from qcompiler.passes.pipelines import float_pipeline

    instruments = check_instruments(instruments)
    graph = as_graph(model, example_inputs, dynamic)
    return PassManager(float_pipeline(), instruments).run(graph)  # on a copy


def as_graph(model: object, example_inputs: object, dynamic: Dynamic | None) -> Graph:
    """`trace`, but a Graph is not copied."""
    _check_typed(model, example_inputs, dynamic)
    return model if isinstance(model, Graph) else trace(model, example_inputs, dynamic=dynamic)


def compile(
    model: object,
    qconfig: str | QConfig | QConfigMapping | None = "int8",
    example_inputs: object = None,
    *,
    calibration_data: Iterable[object] | None = None,
    calibration: Calibration | Scales | None = None,
    dynamic: Dynamic | None = None,
    target: str = "native",
    threads: int | None = None,
    io: Literal["float", "quantized"] = "float",
    transform: Callable[[Any], object] | None = None,
    progress: Callable[[int], object] | None = None,
    instruments: Sequence[Instrument] = (),
) -> CompiledModel:
    """Trace, quantize and lower a model.

    Args:
        model: what `trace` takes. A graph at the integer stage is only lowered: its qconfig is the default or "keep".
        qconfig: None (float), "int8", "int8:plain" (no value between int8 nodes stays real), "auto" (int8, except for
            nodes that it would slow down), "keep" (a model that is quantized already keeps its own parameters),
            "dynamic" (activations are quantized at run time, which takes no calibration data),
            "torch:<backend>", a QConfig or a QConfigMapping.
        example_inputs: an array, a tuple by position, or a dict by name; only shapes and dtypes are read.
        calibration_data: an iterable; an item is the inputs of one call: array, tuple by position, or dict by name.
        calibration: the result of an earlier `calibrate`, in place of data. Another qconfig may use it as far as its
            observers collected enough. Or the Scales of a file, which are used as they are.
        dynamic: {input: {axis: size name}}. The program of a graph with symbolic sizes is made, and its kernels are
            compiled, at the first call for each binding of them.
        target: "native", "reference", or a level ("x86-64+avx2", ...).
        threads: the most threads to use, and never more than the CPUs that this process may use (the default).
        io: "float", or "quantized": inputs and outputs are codes, as the types in the graph's signature say.
        transform: applied to each item of `calibration_data` first.
        progress: called with the number of items of `calibration_data` done.
        instruments: see every pass that runs, those of lowering included (instruments.py).

    An option that the model leaves no use for, such as calibration data without a qconfig, is refused.

    Raises:
        QuantizationError, TraceError, LoweringError, all QCompilerError.
    """
    instruments = check_instruments(instruments)
    _check_calibration(calibration_data, calibration, transform, progress)
    machine = _check_options(target, threads, io, qconfig)
    if calibration_data is not None and calibration is not None:
        raise QuantizationError(
            "both calibration_data and a calibration are given",
            hint="merge what both saw: calibrate(...) + calibration",
        )
    graph = None
    may_be_quantized = _is_file(model) or _is_torch_program(model) or isinstance(model, (Graph, CompiledModel))
    if may_be_quantized or qconfig == "keep":
        graph = trace(model, example_inputs, dynamic=dynamic)
    stage = "float" if graph is None else graph.stage
    has_data = calibration_data is not None or calibration is not None
    _check_stage(stage, qconfig, io, has_data=has_data)
    if graph is None:
        graph = trace(model, example_inputs, dynamic=dynamic)
        if graph.stage != stage:
            stage = graph.stage
            _check_stage(stage, qconfig, io, has_data=has_data)
    elif isinstance(model, Graph):
        from qcompiler.verify import verify

        verify(graph)

    if stage == "qdq":
        graph = _integer(graph, instruments)
    elif stage != "integer" and qconfig is not None and _is_dynamic(qconfig):
        graph = quantize_graph(graph, qconfig, instruments)
    elif stage != "integer" and qconfig is not None:
        prepared = prepare(graph, qconfig, instruments=instruments)
        if calibration is None:
            assert calibration_data is not None  # _check_stage
            calibration = calibrate(prepared, calibration_data, transform=transform, progress=progress, threads=threads)
        graph = convert(prepared, calibration, io=io, instruments=instruments)
    elif stage != "integer":
        graph = fuse(graph, instruments=instruments)
    if io == "quantized":
        graph = _with_quantized_io(graph, instruments)

    if machine is None:
        return CompiledModel(graph, "reference", thread_count(threads))
    from qcompiler.backends.lower import lower_graph

    return CompiledModel(graph, machine.name, thread_count(threads), lower_graph(graph, machine, instruments))


def _check_calibration(data: object, calibration: object, transform: object, progress: object) -> None:
    """ArgumentError for calibration arguments of other types than they have."""
    from qcompiler.quantization.calibration import Calibration
    from qcompiler.quantization.scales import Scales

    if data is not None:
        check_data("calibration_data", data)
    if calibration is not None:
        hint = "calibration_data= takes batches, and a calibration is what qc.calibrate or Calibration.load gives"
        check_type("calibration", calibration, (Calibration, Scales), "a Calibration or Scales", hint)
    check_callable("transform", transform, "a calibration item")
    check_callable("progress", progress, "a number of items")
    for name, value in (("transform", transform), ("progress", progress)):
        if value is not None and data is None:
            raise QuantizationError(f"{name} is for calibration_data, which is not given", got=described(value))


def _check_options(
    target: str, threads: int | None, io: str = "float", qconfig: str | QConfig | QConfigMapping | None = None
) -> Target | None:
    """The target to lower for, None for the interpreter, once every option that needs no model is checked."""
    check_threads(threads)
    check_text("target", target, 'a text such as "native"')
    if threads is not None and threads < 1:
        raise LoweringError("threads", expected="at least 1", got=threads)
    check_io(io)
    if qconfig is not None and not (isinstance(qconfig, str) and qconfig == "keep"):
        from qcompiler.quantization.qconfig import as_mapping

        as_mapping(qconfig)
    if target == "reference":
        return None
    try:
        from qcompiler.backends.lower import check_runs
    except ModuleNotFoundError as error:
        raise LoweringError("no native backend is installed", hint='compile with target="reference"') from error
    from qcompiler.backends.target import parse_target

    machine = parse_target(target)
    check_runs(machine)
    return machine


def _check_stage(stage: str, qconfig: str | QConfig | QConfigMapping | None, io: str, *, has_data: bool) -> None:
    """Refuse a qconfig or an io that does not fit a model of this stage."""
    if qconfig == "keep" and stage not in ("qdq", "integer"):
        raise QuantizationError(
            'qconfig "keep" is for a model that is quantized already',
            expected="an ONNX model with QuantizeLinear or QLinear ops, modules of nn.quantized, or a graph of "
            "stage qdq or integer",
            hint='qconfig="int8" with calibration_data',
        )
    if stage == "qdq" and qconfig != "keep":
        raise QuantizationError(
            "the model is quantized already", got=repr(qconfig), hint='qconfig="keep" takes its own parameters'
        )
    if io == "quantized" and qconfig is None and stage not in ("qdq", "integer"):
        raise QuantizationError('io="quantized" is for a quantized graph', got=f"stage {stage}")
    dynamic = stage == "float" and qconfig is not None and _is_dynamic(qconfig)
    if dynamic and io == "quantized":
        raise QuantizationError(
            'io="quantized" is for static quantization', got=described(qconfig), hint="codes are made at run time"
        )
    if has_data and (stage in ("qdq", "integer") or qconfig is None or dynamic):
        why = "qconfig=None quantizes nothing" if stage == "float" else "the model is quantized already"
        why = "dynamic quantization finds ranges at run time" if dynamic else why
        raise QuantizationError(f"{why}, so there is nothing to calibrate", hint="leave the calibration out")
    if stage == "integer" and not (qconfig is None or (isinstance(qconfig, str) and qconfig in ("int8", "keep"))):
        raise QuantizationError(
            "the model is quantized already", got=described(qconfig), hint='qconfig="keep" takes its own parameters'
        )
    if stage in ("qdq", "integer"):
        return
    if qconfig is not None and not has_data and not dynamic:
        raise QuantizationError(
            "static quantization needs calibration data",
            hint='compile(..., calibration_data=batches), qconfig="dynamic", or qconfig=None for float',
        )


def _is_dynamic(qconfig: str | QConfig | QConfigMapping) -> bool:
    """`qconfig.is_dynamic`, also of "keep", which is no qconfig."""
    from qcompiler.quantization.qconfig import is_dynamic

    return qconfig != "keep" and is_dynamic(qconfig)


def _integer(graph: Graph, instruments: Sequence[Instrument]) -> Graph:
    """The integer graph of an imported qdq graph."""
    from qcompiler.passes.pipelines import float_pipeline, integer_pipeline

    return PassManager([*float_pipeline(), *integer_pipeline()], instruments).run(graph)


def _with_quantized_io(graph: Graph, instruments: Sequence[Instrument]) -> Graph:
    from qcompiler.passes.quantized_io import QuantizedIo

    return PassManager([QuantizedIo()], instruments).run(graph)


def load(path: str | os.PathLike[str], *, target: str = "native", threads: int | None = None) -> CompiledModel:
    """A saved model, lowered for `target`.

    No code from the file is run. The file stays mapped: replace it (as `save` does), but never write into it while the
    model is in use.

    Raises:
        ArtifactError: a file that is missing, damaged, of another version, or no legal graph.
        LoweringError: an unknown target, or one that this machine cannot run.
    """
    from qcompiler.artifact import SavedModel

    check_path("path", path)
    machine = _check_options(target, threads)
    return _lowered(SavedModel(path), machine, threads)


def unpickled(data: bytes, target: str, threads: int) -> CompiledModel:
    """The model that a `CompiledModel` was pickled as.

    Raises:
        ArtifactError: damaged data. LoweringError: this machine cannot run the target.
    """
    from qcompiler.artifact import SavedModel

    return _lowered(SavedModel(data), _check_options(target, threads), threads)


def _lowered(saved: SavedModel, machine: Target | None, threads: int | None) -> CompiledModel:
    """A saved model for a target, None for the interpreter."""
    if machine is None:
        return CompiledModel(saved.graph(), "reference", thread_count(threads))
    from qcompiler.backends.lower import lower_saved

    source, signature, program = lower_saved(saved, machine)
    return CompiledModel(source, machine.name, thread_count(threads), program, signature)


__all__ = [
    "CompiledModel",
    "Prepared",
    "calibrate",
    "compile",
    "convert",
    "fuse",
    "load",
    "prepare",
    "quantize_dynamic",
    "trace",
]
