"""compile(): from a user's model to a program, and the steps it is made of: trace, prepare, calibrate, convert.

Nothing works in place: each step takes a graph and gives a new one. Frontends, passes and backends are imported when a
step needs them.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from qcompiler.cpus import thread_count
from qcompiler.dims import Dynamic
from qcompiler.errors import InputError, LoweringError, QuantizationError
from qcompiler.interpreter import bind_inputs
from qcompiler.interpreter import run as interpret
from qcompiler.ir import Graph
from qcompiler.passmanager import Instrument, PassManager
from qcompiler.report import Report, constant_bytes, count_nodes, report
from qcompiler.signature import Signature
from qcompiler.structure import restore_outputs
from qcompiler.types import QuantParams

if TYPE_CHECKING:
    from qcompiler.quantization.calibration import Calibration
    from qcompiler.quantization.precision import Decision
    from qcompiler.quantization.qconfig import QConfig, QConfigMapping
    from qcompiler.quantization.spec import QuantSpec


def trace(model: Any, example_inputs: Any = None, *, dynamic: Dynamic | None = None) -> Graph:
    """The float graph of a qcompiler.nn module, a Python function, a torch.nn.Module or an ONNX model (path or
    ModelProto). A Graph is copied, a saved one (.safetensors) loaded. An ONNX model that is quantized already gives a
    graph of stage qdq.

    Raises:
        TraceError: the model or its inputs cannot be traced.
    """
    if isinstance(model, Graph):
        return model.clone()
    if any(base.__module__.startswith("torch.") for base in type(model).__mro__):
        from qcompiler.frontend.torch_import import import_torch

        return import_torch(model, example_inputs, dynamic=dynamic)
    if isinstance(model, (str, os.PathLike)) and str(model).endswith(".safetensors"):
        from qcompiler.artifact import load_graph

        return load_graph(model)
    if isinstance(model, (str, os.PathLike)) or type(model).__name__ == "ModelProto":
        from qcompiler.frontend.onnx_import import import_onnx

        return import_onnx(model, example_inputs, dynamic=dynamic)
    from qcompiler.frontend.tracer import trace as trace_python

    return trace_python(model, example_inputs, dynamic=dynamic)


def fuse(graph: Graph) -> Graph:
    """The float graph simplified: batchnorm folded, residual adds and activations fused."""
    from qcompiler.passes.pipelines import float_pipeline

    return PassManager(float_pipeline()).run(graph)


@dataclass
class Prepared:
    """An observed graph, and the table of qconfigs that its nodes resolved to."""

    graph: Graph
    table: Any
    configs: dict[str, Any]

    def specs(self) -> dict[str, QuantSpec]:
        """Group of values -> how its observer is made."""
        from qcompiler.quantization.spec import QuantSpec

        return {
            node.attrs["group"]: QuantSpec.parse(node.attrs["spec"])
            for node in self.graph.nodes
            if node.op == "observe"
        }


def prepare(
    graph: Graph, qconfig: QConfig | QConfigMapping | str | None = "int8", *, instruments: Sequence[Instrument] = ()
) -> Prepared:
    """Resolve qconfigs on the traced graph, fuse, and insert observers.

    Raises:
        QuantizationError: an unknown qconfig, or a rule that matches nothing.
    """
    from qcompiler.passes.pipelines import float_pipeline, observe_pipeline
    from qcompiler.quantization.resolution import resolve

    table = resolve(graph, qconfig)
    configs = {node.name: table[node.name] for node in graph.nodes}
    fused = PassManager(float_pipeline(configs), instruments).run(graph)
    slow: Mapping[str, str] = {}
    if qconfig == "auto":
        decision = _decide(fused, configs)
        table, slow = table.kept_float(decision.slow), decision.slow
        fused.notes.append(decision.note())
    observed = PassManager(observe_pipeline(configs, slow), instruments).run(fused)
    return Prepared(observed, table, configs)


def _decide(graph: Graph, configs: Mapping[str, Any]) -> Decision:
    """What int8 would slow down."""
    from qcompiler.passes.insert_observers import follows, why_float
    from qcompiler.quantization.cost_profile import ZEN5_AVX512VNNI
    from qcompiler.quantization.precision import decide

    able = {node.name: why_float(node, configs.get(node.name)) is None for node in graph.nodes}
    return decide(graph, able, frozenset(node.name for node in graph.nodes if follows(node)), ZEN5_AVX512VNNI)


def calibrate(
    prepared: Prepared,
    data: Iterable[Any],
    *,
    transform: Callable[[Any], Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Calibration:
    """Run the observed graph on every item of `data`. An item is the inputs of one call.

    Raises:
        QuantizationError: no items, NaN, or an item that is not the inputs of a call.
    """
    from qcompiler.quantization.calibration import Calibration, iterate_items
    from qcompiler.quantization.observers import make_observer

    specs = prepared.specs()
    observers = {group: make_observer(spec) for group, spec in specs.items()}

    def collect(node: Any, results: Sequence[np.ndarray]) -> None:
        if node.op == "observe":
            observers[node.attrs["group"]].observe(results[0], node.name)

    for count, item in enumerate(iterate_items(data, prepared.graph.inputs, transform), start=1):
        interpret(prepared.graph, item, hook=collect)
        if progress is not None:
            progress(count)
    return Calibration(observers, specs)


def convert(prepared: Prepared, observers: Mapping[str, Any], *, instruments: Sequence[Instrument] = ()) -> Graph:
    """The integer graph that the calibrated ranges give."""
    from qcompiler.passes.pipelines import convert_pipeline

    params: dict[str, QuantParams] = {group: observer.qparams() for group, observer in observers.items()}
    return PassManager(convert_pipeline(params, prepared.configs), instruments).run(prepared.graph)


@dataclass
class CompiledModel:
    """A graph ready to be called.

    Attributes:
        source: the graph, or what reads it from a file when it is first asked for.
        target: "reference" (the interpreter), or a level such as "x86-64+avx512vnni".
        signature: how it is called; by default that of the graph.
    """

    source: Graph | Callable[[], Graph]
    target: str
    threads: int
    program: Any = None
    signature: Signature | None = None

    @cached_property
    def graph(self) -> Graph:
        """The float or integer graph that runs."""
        return self.source if isinstance(self.source, Graph) else self.source()

    def __call__(self, *inputs: Any, **named: Any) -> Any:
        """Outputs in the model's own structure.

        Raises:
            InputError: inputs that do not fit the signature.
        """
        for argument in (*inputs, *named.values()):
            if hasattr(argument, "__qc_inline__"):  # a value of a trace
                return argument.__qc_inline__(self, inputs, named)
        if self.signature is None:
            self.signature = Signature.of(self.graph)
        names = [value.name for value in self.signature.inputs]
        if len(inputs) > len(names) or any(name in names[: len(inputs)] for name in named):
            raise InputError(
                "wrong inputs", expected=", ".join(names), got=f"{len(inputs)} by position, {', '.join(named)}"
            )
        given: dict[str, np.ndarray] = {**dict(zip(names, inputs)), **named}
        arrays, sizes = bind_inputs(self.signature, given)
        outputs = (
            interpret(self.graph, arrays) if self.program is None else self.program.run(arrays, sizes, self.threads)
        )
        return restore_outputs(self.signature.structure, outputs)

    @property
    def __qc_graph__(self) -> Graph:
        return self.graph

    def report(self) -> Report:
        """How many nodes run in int8, what stayed float and why, and the bytes of the constants; prints as text."""
        return report(self)

    def draw(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """A picture of the graph: SVG, PNG, PDF or .dot by suffix."""
        from qcompiler.draw import draw

        return draw(self.graph, path)

    def save(self, path: str | os.PathLike[str]) -> None:
        """One safetensors file; the old file stays if anything fails."""
        from qcompiler.artifact import save_graph

        save_graph(self.graph, path)

    def export_object(
        self,
        path: str | os.PathLike[str],
        *,
        target: str = "native",
        prefix: str | None = None,
        sizes: Mapping[str, int] | None = None,
    ) -> None:
        """An object file (.o) for any target, and beside it a C header (.h): docs/object-export.md.

        Args:
            prefix: of the C names; the model's name by default.
            sizes: of symbolic dimensions, which the object fixes.

        Raises:
            LoweringError: a size not given, a node that no kernel serves, an unknown target.
        """
        _export_object(self.graph, path, target, prefix, sizes)


def _export_object(
    graph: Graph, path: str | os.PathLike[str], target: str, prefix: str | None, sizes: Mapping[str, int] | None
) -> None:
    if target == "reference":
        raise LoweringError("the interpreter has no object code", hint='target="native", or a level')
    from qcompiler.backends.object_export.export import export_object
    from qcompiler.backends.target import parse_target

    export_object(graph, path, parse_target(target, exact=True), prefix=prefix, sizes=sizes)


def _lowered(graph: Graph, target: str) -> tuple[str, Any]:
    if target == "reference":
        return target, None
    lower, chosen = _backend(target)
    return chosen.name, lower.lower_graph(graph, chosen)


def _backend(target: str) -> tuple[Any, Any]:
    """The module that lowers, and the target of this name."""
    try:
        from qcompiler.backends import lower
    except ModuleNotFoundError as error:
        raise LoweringError("no native backend is installed", hint='compile with target="reference"') from error
    from qcompiler.backends.target import parse_target

    return lower, parse_target(target)


def compile(
    model: Any,
    qconfig: QConfig | QConfigMapping | str | None = "int8",
    example_inputs: Any = None,
    *,
    calibration_data: Iterable[Any] | None = None,
    calibration: Calibration | None = None,
    dynamic: Dynamic | None = None,
    target: str = "native",
    threads: int | None = None,
    io: Literal["float", "quantized"] = "float",
    transform: Callable[[Any], Any] | None = None,
    progress: Callable[[int], None] | None = None,
    instruments: Sequence[Instrument] = (),
) -> CompiledModel:
    """Trace, quantize and lower a model.

    Args:
        model: what `trace` takes. A graph at the integer stage is only lowered.
        qconfig: None (float), "int8", "auto" (int8, but for nodes that it would slow down), "keep" (a model that is
            quantized already: its own parameters), "torch:<backend>", a QConfig or a QConfigMapping.
        example_inputs: a tuple of arrays; shapes and dtypes are read.
        calibration_data: an iterable; an item is the inputs of one call: array, tuple by position, or dict by name.
        calibration: what an earlier `calibrate` learnt, in place of data; another qconfig may use it as far as its
            observers kept enough.
        dynamic: {input: {axis: size name}}.
        target: "native", "reference", or a level ("x86-64+avx2", ...).
        threads: at most this many, and at most the CPUs that this process may use: the default.
        io: "float", or "quantized": inputs and outputs are codes, as the types in the graph's signature say.
        transform: applied to each calibration item first.

    Raises:
        QuantizationError, TraceError, LoweringError, all QCompilerError.
    """
    _check_threads(threads)
    if io not in ("float", "quantized"):
        raise QuantizationError("io", expected="float | quantized", got=repr(io))
    _check_target(target)
    if isinstance(model, (str, os.PathLike)) or type(model).__name__ == "ModelProto":
        model = trace(model, example_inputs, dynamic=dynamic)
    is_integer = isinstance(model, Graph) and model.stage == "integer"
    if qconfig == "keep" and not (isinstance(model, Graph) and model.stage in ("qdq", "integer")):
        raise QuantizationError(
            'qconfig "keep" is for a model that is quantized already',
            expected="an ONNX model with QuantizeLinear or QLinear ops, or a graph of stage qdq or integer",
            hint='qconfig="int8" with calibration_data',
        )
    if isinstance(model, Graph) and model.stage == "qdq" and qconfig != "keep":
        raise QuantizationError(
            "the model is quantized already", got=repr(qconfig), hint='qconfig="keep" takes its own parameters'
        )
    if qconfig is not None and qconfig != "keep" and not is_integer:
        if isinstance(qconfig, str):
            from qcompiler.quantization.qconfig import get_qconfig

            get_qconfig(qconfig)
        if calibration_data is None and calibration is None:
            raise QuantizationError(
                "static quantization needs calibration data",
                hint="compile(..., calibration_data=batches), or qconfig=None for float",
            )
        if calibration_data is not None and calibration is not None:
            raise QuantizationError(
                "both calibration_data and a calibration are given",
                hint="merge what both saw: calibrate(...) + calibration",
            )
    if isinstance(model, Graph):
        from qcompiler.verify import verify

        verify(model)
    graph = trace(model, example_inputs, dynamic=dynamic)
    if is_integer:
        pass
    elif qconfig == "keep":
        graph = _integer(graph, instruments)
    elif qconfig is None:
        graph = fuse(graph)
    else:
        prepared = prepare(graph, qconfig, instruments=instruments)
        if calibration is None:
            calibration = calibrate(prepared, calibration_data, transform=transform, progress=progress)
        graph = convert(prepared, calibration.for_specs(prepared.specs()), instruments=instruments)
    if io == "quantized":
        from qcompiler.passes.quantized_io import QuantizedIo

        if graph.stage != "integer":
            raise QuantizationError('io="quantized" is for a quantized graph', got=f"stage {graph.stage}")
        graph = PassManager([QuantizedIo()], instruments).run(graph)
    name, program = _lowered(graph, target)
    return CompiledModel(graph, name, thread_count(threads), program)


def _integer(graph: Graph, instruments: Sequence[Instrument]) -> Graph:
    """The integer graph of an imported qdq graph."""
    from qcompiler.passes.pipelines import float_pipeline, integer_pipeline

    return PassManager([*float_pipeline(), *integer_pipeline()], instruments).run(graph)


def _check_threads(threads: int | None) -> None:
    if threads is not None and threads < 1:
        raise LoweringError("threads", expected="at least 1", got=threads)


def _check_target(target: str) -> None:
    if target != "reference":
        from qcompiler.backends.target import parse_target

        parse_target(target)


def load(path: str | os.PathLike[str], *, target: str = "native", threads: int | None = None) -> CompiledModel:
    """A saved model, lowered for `target`. Runs no code from the file, which stays mapped: replace it (`save` does),
    but never write into it while the model is in use."""
    from qcompiler.artifact import SavedModel

    _check_threads(threads)
    _check_target(target)
    saved = SavedModel(path)
    if target == "reference":
        return CompiledModel(saved.graph(), target, thread_count(threads))
    lower, chosen = _backend(target)
    source, signature, program = lower.lower_saved(saved, chosen)
    return CompiledModel(source, chosen.name, thread_count(threads), program, signature)


__all__ = [
    "CompiledModel",
    "Prepared",
    "calibrate",
    "compile",
    "constant_bytes",
    "convert",
    "count_nodes",
    "fuse",
    "load",
    "prepare",
    "trace",
]
