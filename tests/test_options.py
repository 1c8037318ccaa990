"""Every option of the public functions is honoured, or refused where the call leaves no use for it.

An option is a parameter with a default. Each has a row that shows its effect, found by the signatures: a new option
fails here until it has one. The classes of the IR, which are for authors of passes, are tested with them.
"""

from __future__ import annotations

import contextlib
import inspect
import pathlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import pytest

import qcompiler as qc
from qcompiler import cpus, nn
from qcompiler.errors import QCompilerError
from qcompiler.opdef import OWN_RANGE, Op, no_accumulator, operand
from qcompiler.passes.pipelines import float_pipeline
from qcompiler.quantization import collect, qmath
from qcompiler.quantization.observers import make_observer
from qcompiler.text.printer import graph_data
from qcompiler.types import Layout
from tests.passes.test_equalization import items, normed

RNG = np.random.default_rng(0)
X = RNG.normal(size=(2, 3, 5, 5)).astype(np.float32)
MODEL = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1))
GRAPH = qc.trace(MODEL, (X,))
PREPARED = qc.prepare(GRAPH)
CALIBRATION = qc.calibrate(PREPARED, [X])
WIDER = qc.calibrate(PREPARED, [X * 3])
INTEGER = qc.convert(PREPARED, CALIBRATION)
COMPILED = qc.compile(INTEGER, target="reference")
TEXT = str(INTEGER)
OF_CLASSES_OF_THE_IR = ("Graph", "Node", "Value", "Dim", "DType")
MADE_BY_THE_LIBRARY = ("CompiledModel", "Prepared", "Calibration")


def doubled(item: Any) -> Any:
    return item * 2


class Watch:
    def __init__(self) -> None:
        self.seen: list[str] = []

    def after(self, index: int, done: Any, before: qc.Graph, graph: qc.Graph, seconds: float) -> None:
        self.seen.append(done.name)


def watched(call: Callable[..., object]) -> tuple[object, object]:
    watch = Watch()
    call(instruments=[watch])
    return watch.seen, []


def progressed(call: Callable[..., object]) -> tuple[object, object]:
    seen: list[int] = []
    call(progress=seen.append)
    return seen, []


def compiled(**options: Any) -> qc.CompiledModel:
    given = {"model": MODEL, "example_inputs": (X,), "calibration_data": [X], "target": "reference", **options}
    return qc.compile(**given)


def text(model: qc.CompiledModel | qc.Graph) -> str:
    graph = model.graph if isinstance(model, qc.CompiledModel) else model
    return str(graph) + "".join(str(const.data.tolist()) for const in graph.consts.values())


def threads_of_calibration(threads: int | None) -> list[int]:
    """The numbers of threads that calibration asks its collector for."""
    seen: list[int] = []

    class Recording(collect.GraphInterpreter):
        def observe(self, item: Any, taken: Any, threads: int) -> None:
            seen.append(threads)
            super().observe(item, taken, threads)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpus, "usable_cpus", lambda: 4)
        patch.setattr(collect, "collector", lambda graph, sampled: Recording(graph, sampled, ""))
        qc.calibrate(PREPARED, [X], threads=threads)
    return seen


def exported(folder: pathlib.Path, model: qc.CompiledModel = COMPILED, **options: Any) -> tuple[bytes, str]:
    model.export_object(folder / "m.o", **{"target": "x86-64-linux+avx2", **options})
    return (folder / "m.o").read_bytes(), (folder / "m.h").read_text()


def saved(folder: pathlib.Path) -> pathlib.Path:
    COMPILED.save(folder / "m.qc.safetensors")
    return folder / "m.qc.safetensors"


DYNAMIC = {"x": {0: "B"}}
SYMBOLIC = qc.compile(MODEL, None, (X,), dynamic=DYNAMIC, target="reference")
Pair = tuple[object, object]
Effect = Callable[[pathlib.Path], Pair]


def pair(call: Callable[..., object], **options: Any) -> Effect:
    """What a call gives with an option and without."""
    return lambda folder: (call(**options), call())


def spec_effect(name: str, value: object, values: list[float] | None = None, **rest: Any) -> Effect:
    """The parameters that an observer of a spec chooses."""

    def params(**options: Any) -> qc.QuantParams:
        observer = make_observer(qc.QuantSpec(**rest, **options))
        observer.observe(np.array([-1.0, *([0.5] * 9), 3.0] if values is None else values, np.float32))
        return observer.qparams()

    return lambda folder: (params(**{name: value}), params())


def qconfig_effect(name: str, model: Callable[[], nn.Module], data: list[np.ndarray]) -> Effect:
    """A compiled model with an option of a QConfig that is on or off, all others off."""

    def graph(value: bool) -> str:
        config = replace(qc.get_qconfig("int8:plain"), **{name: value})  # type: ignore[arg-type]
        return text(qc.compile(model(), config, (data[0],), calibration_data=data, target="reference"))

    return lambda folder: (graph(True), graph(False))


def rounded(rounding: str) -> qc.CompiledModel:
    """A layer with weights of 4 bits that are rounded so."""
    config = replace(qc.get_qconfig("w4a8:plain"), rounding=rounding)
    return qc.compile(normed(), config, (items(8, 64)[0],), calibration_data=items(8, 64), target="reference")


ROWS = np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)


def dynamically(**options: Any) -> qc.CompiledModel:
    """A layer that is quantized dynamically."""
    model = nn.Sequential(nn.ReLU(), nn.Linear(5, 3))
    return qc.quantize_dynamic(model, **{"example_inputs": (ROWS,), "target": "reference", **options})


def in_training(**options: Any) -> Any:
    """A torch layer after two training steps."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    given = {"qconfig": "int8:plain", "example_inputs": (torch.ones(2, 5),), **options}
    model = qc.prepare_qat(torch.nn.Sequential(torch.nn.Linear(5, 3)), **given)
    for scale in (1, 2):
        model(torch.tensor(ROWS[:2] * scale))
    return model


def trained(**options: Any) -> str:
    return text(qc.convert(in_training(**options)))


def scheduled(**options: Any) -> list[str]:
    """What a schedule leaves in the state and in the outputs of a training step."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv1d(2, 3, 2), torch.nn.BatchNorm1d(3))
    x = torch.tensor(ROWS.reshape(2, 2, 5))
    model = qc.prepare_qat(net, "int8:plain", (x,), schedule=qc.QatSchedule(**options))
    outputs = [model(x * scale).tolist() for scale in (1, 2)]
    return [str(outputs), *(f"{name} {each.tolist()}" for name, each in model.state_dict().items())]


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(QCompilerError) as caught:
        call()
    return str(caught.value)


def rules(**options: Any) -> str:
    return str(qc.prepare(GRAPH, qc.QConfigMapping(**{"default": qc.get_qconfig("int8"), **options})).table)


CODES = qc.quantize_per_tensor(np.random.default_rng(3).permutation(24).reshape(2, 3, 4) / 10, 0.1, 3, "u8")


def codes(call: Callable[..., Any], **options: Any) -> Effect:
    """The shape and the numbers that a method gives with an option and without."""

    def result(**given: Any) -> object:
        made = call(**given)
        return [(np.shape(each), np.asarray(each).tolist()) for each in (made if isinstance(made, tuple) else (made,))]

    return pair(result, **options)


def own_op_as_onnx(folder: pathlib.Path, **options: Any) -> bytes:
    """The file of an op of a user, with options of its exporter."""
    with own_op() as op:
        qc.register_exporter("onnx", op, lambda w: w.emit("Neg", w.x()), **options)
        qc.export_onnx(qc.trace(lambda x: op.apply(x), (X,)), folder / "m.onnx")
    return (folder / "m.onnx").read_bytes()


def own_op_on_codes(**options: Any) -> str:
    """Why an op of a user on codes is not exported to torch, if it is not."""
    with own_op() as op:
        qc.register_exporter("torch", op, lambda w: w.x(), **options)
        data = [X]
        model = qc.compile(lambda x: op.apply(x + 1), "int8:plain", (X,), calibration_data=data, target="reference")
        try:
            return str(len(list(qc.to_torch(model).buffers())))
        except QCompilerError as error:
            return str(error)


@contextlib.contextmanager
def own_op() -> Iterator[type[Op]]:
    """An op of a user, which is forgotten afterwards."""
    members = {
        "name": "negated",
        "x": operand(),
        "quant": OWN_RANGE,
        "chooses_params": True,
        "terms": no_accumulator,
        "infer": lambda self, x: x,
        "reference": lambda self, x: -x,
        "integer": lambda self, x, *, out: qmath.quantize(-x.real(), out.params, out.dtype),
        "__module__": "of_a_user",
    }
    try:
        yield type("Negated", (Op,), members)
    finally:
        qc.unregister_op("negated")


@dataclass(frozen=True)
class OwnPass:
    """A pass that does nothing."""

    name: ClassVar[str] = "own-pass"

    def run(self, graph: qc.Graph) -> qc.Graph:
        return graph


def with_own_pass(**options: Any) -> list[str]:
    """The passes of a pipeline after a pass was registered."""
    qc.register_pass(OwnPass(), **options)
    try:
        return [each.name for each in float_pipeline()]
    finally:
        qc.unregister_pass("own-pass")


EFFECTS: dict[str, Effect] = {
    "register_exporter.domain": lambda f: (own_op_as_onnx(f, domain="com.example"), own_op_as_onnx(f)),
    "register_exporter.on_codes": lambda f: (own_op_on_codes(on_codes=True), own_op_on_codes()),
    "register_pass.before": lambda f: (with_own_pass(before="fuse"), with_own_pass(after="fuse")),
    "register_pass.after": lambda f: (with_own_pass(after="fuse"), with_own_pass()),
    "check_op.targets": lambda f: (str(qc.check_op("relu", targets=["x86-64+avx2"])), str(qc.check_op("relu"))),
    "check_op.most_steps": lambda f: (
        refusal(lambda: qc.check_op("relu", targets=[], most_steps=-1)),
        str(qc.check_op("relu", targets=[])),
    ),
    "compile.qconfig": lambda f: (text(compiled(qconfig="torch:qnnpack")), text(compiled())),
    "compile.example_inputs": lambda f: (
        text(compiled(example_inputs=(X[:1],), calibration_data=[X[:1]])),
        text(compiled()),
    ),
    "compile.calibration_data": lambda f: (text(compiled(calibration_data=[X * 3])), text(compiled())),
    "compile.calibration": lambda f: (text(compiled(calibration_data=None, calibration=WIDER)), text(compiled())),
    "compile.dynamic": lambda f: (text(compiled(dynamic=DYNAMIC)), text(compiled())),
    "compile.target": lambda f: (compiled(target="x86-64+avx2").target, compiled().target),
    "compile.threads": lambda f: (compiled(threads=1).threads, compiled(threads=2).threads),
    "compile.io": lambda f: (text(compiled(io="quantized")), text(compiled())),
    "compile.transform": lambda f: (text(compiled(transform=doubled)), text(compiled())),
    "compile.progress": lambda f: progressed(compiled),
    "compile.instruments": lambda f: watched(compiled),
    "trace.example_inputs": lambda f: (text(qc.trace(MODEL, (X[:1],))), text(GRAPH)),
    "trace.dynamic": lambda f: (text(qc.trace(MODEL, (X,), dynamic=DYNAMIC)), text(GRAPH)),
    "fuse.example_inputs": lambda f: (text(qc.fuse(MODEL, (X[:1],))), text(qc.fuse(MODEL, (X,)))),
    "fuse.dynamic": lambda f: (text(qc.fuse(MODEL, (X,), dynamic=DYNAMIC)), text(qc.fuse(MODEL, (X,)))),
    "fuse.instruments": lambda f: watched(lambda **options: qc.fuse(GRAPH, **options)),
    "prepare.qconfig": lambda f: (text(qc.prepare(GRAPH, "int8:minmax").graph), text(PREPARED.graph)),
    "prepare.example_inputs": lambda f: (text(qc.prepare(MODEL, "int8", (X[:1],)).graph), text(PREPARED.graph)),
    "prepare.dynamic": lambda f: (text(qc.prepare(MODEL, "int8", (X,), dynamic=DYNAMIC).graph), text(PREPARED.graph)),
    "prepare.instruments": lambda f: watched(lambda **options: qc.prepare(GRAPH, **options)),
    "calibrate.transform": lambda f: (
        text(qc.convert(PREPARED, qc.calibrate(PREPARED, [X], transform=doubled))),
        text(INTEGER),
    ),
    "calibrate.progress": lambda f: progressed(lambda **options: qc.calibrate(PREPARED, [X, X], **options)),
    "calibrate.threads": lambda f: (threads_of_calibration(3), threads_of_calibration(None)),
    "calibrate.executor": lambda f: sent(),
    "convert.observers": lambda f: (text(qc.convert(PREPARED, WIDER)), refusal(lambda: qc.convert(PREPARED))),
    "prepare_qat.qconfig": lambda f: (trained(qconfig="torch:x86"), trained()),
    "prepare_qat.example_inputs": lambda f: (
        refusal(lambda: in_training(example_inputs=(ROWS[:3],))),
        refusal(lambda: in_training(example_inputs=None)),
    ),
    "prepare_qat.dynamic": lambda f: (trained(dynamic={"input": {0: "N"}}), trained()),
    "prepare_qat.schedule": lambda f: (trained(schedule=qc.QatSchedule(freeze_observers=1)), trained()),
    "QatSchedule.quantize": pair(scheduled, quantize=1),
    "QatSchedule.freeze_observers": pair(scheduled, freeze_observers=1),
    "QatSchedule.freeze_batch_norm": pair(scheduled, freeze_batch_norm=1),
    "QatSchedule.learn_scales": pair(scheduled, learn_scales=1),
    "get_default_qat_qconfig.backend": pair(qc.get_default_qat_qconfig, backend="qnnpack"),
    "convert.instruments": lambda f: watched(lambda **options: qc.convert(PREPARED, CALIBRATION, **options)),
    "load.target": lambda f: (
        qc.load(saved(f), target="reference").target,
        qc.load(saved(f), target="x86-64+avx2").target,
    ),
    "load.threads": lambda f: (qc.load(saved(f), threads=1).threads, qc.load(saved(f), threads=2).threads),
    "parse.data": lambda f: (text(qc.parse(TEXT, data="zeros")), text(qc.parse(TEXT, data=graph_data(INTEGER)))),
    "print_graph.rename": lambda f: (
        qc.print_graph(GRAPH, rename=lambda value: f"{value.name}_"),
        qc.print_graph(GRAPH),
    ),
    "interpret.hook": lambda f: hooked(),
    "interpret.keep": lambda f: kept(),
    "get_default_qconfig.backend": pair(qc.get_default_qconfig, backend="qnnpack"),
    "get_default_qconfig_mapping.backend": pair(qc.get_default_qconfig_mapping, backend="qnnpack"),
    "CompiledModel.export_object.target": lambda f: (exported(f, target="aarch64-linux+neon"), exported(f)),
    "CompiledModel.export_object.prefix": lambda f: (exported(f, prefix="other"), exported(f)),
    "CompiledModel.export_object.sizes": lambda f: (
        exported(f, SYMBOLIC, sizes={"B": 1}),
        exported(f, SYMBOLIC, sizes={"B": 2}),
    ),
    "QuantSpec.dtype": lambda f: tuple(  # type: ignore[arg-type, return-value]
        text(qc.prepare(GRAPH, qc.QConfig(qc.QuantSpec(dtype, 0, 127), qc.get_qconfig("int8").weight)).graph)
        for dtype in (qc.DType.I8, qc.DType.U8)
    ),
    "QuantSpec.qmin": spec_effect("qmin", 100),
    "QuantSpec.qmax": spec_effect("qmax", 100),
    "QuantSpec.symmetric": spec_effect("symmetric", True),
    "QuantSpec.per_channel": lambda f: tuple(  # type: ignore[arg-type, return-value]
        text(compiled(qconfig=qc.QConfig(qc.QuantSpec(), qc.QuantSpec(qc.DType.I8, -127, 127, True, each, "minmax"))))
        for each in (True, False)
    ),
    "QuantSpec.observer": spec_effect("observer", "percentile(60)"),
    "QuantSpec.eps": spec_effect("eps", 0.5),
    "QConfig.mixed_precision": qconfig_effect(
        "mixed_precision", lambda: nn.Sequential(nn.Linear(5, 4), nn.Softmax(-1)), [X[0, 0]]
    ),
    "QConfig.equalize": qconfig_effect("equalize", normed, items(8, 64)),
    "QConfig.rounding": lambda f: (text(rounded("gptq")), text(rounded("nearest"))),
    "QConfig.dynamic": lambda f: (text(dynamically()), text(dynamically(qconfig_spec={"": "dynamic:per_tensor"}))),
    "quantize_dynamic.qconfig_spec": lambda f: (
        text(dynamically(qconfig_spec={"": "dynamic", "1": None})),
        text(dynamically()),
    ),
    "quantize_dynamic.dtype": lambda f: (text(dynamically(dtype="float16")), text(dynamically())),
    "quantize_dynamic.mapping": lambda f: (refusal(lambda: dynamically(mapping={})), ""),
    "quantize_dynamic.inplace": lambda f: (refusal(lambda: dynamically(inplace=True)), ""),
    "quantize_dynamic.example_inputs": lambda f: (
        text(dynamically(example_inputs=(ROWS[:2],))),
        text(dynamically()),
    ),
    "quantize_dynamic.dynamic": lambda f: (text(dynamically(dynamic=DYNAMIC)), text(dynamically())),
    "quantize_dynamic.target": lambda f: (dynamically(target="x86-64+avx2").target, dynamically().target),
    "quantize_dynamic.threads": lambda f: (dynamically(threads=1).threads, dynamically(threads=3).threads),
    "export_onnx.form": lambda f: (exported_onnx(f, form="qoperator"), exported_onnx(f)),
    "convert.io": lambda f: (text(qc.convert(PREPARED, CALIBRATION, io="quantized")), text(INTEGER)),
    "QConfigMapping.default": lambda f: (rules(default=None), rules()),
    "QConfigMapping.object_types": lambda f: (rules(object_types={"conv": None}), rules()),
    "QConfigMapping.regexes": lambda f: (rules(regexes={"0": None}), rules()),
    "QConfigMapping.names": lambda f: (rules(names={"0": None}), rules()),
    "QConfigMapping.orders": lambda f: (rules(orders={("2", "Conv2d", 0): None}), rules()),
    "QConfigMapping.builtin": lambda f: (rules(builtin={"conv": None}), rules()),
    "QuantParams.per_tensor.qmin": pair(lambda **o: qc.QuantParams.per_tensor(0.1, 9, qc.DType.U8, **o), qmin=1),
    "QuantParams.per_tensor.qmax": pair(lambda **o: qc.QuantParams.per_tensor(0.1, 9, qc.DType.U8, **o), qmax=99),
    "QuantParams.per_channel.qmin": pair(lambda **o: qc.QuantParams.per_channel([0.1], 9, 0, qc.DType.U8, **o), qmin=1),
    "QuantParams.per_channel.qmax": pair(
        lambda **o: qc.QuantParams.per_channel([0.1], 9, 0, qc.DType.U8, **o), qmax=99
    ),
    "QuantizedTensor.flatten.start": codes(lambda **o: CODES.flatten(**o), start=1),
    "QuantizedTensor.flatten.end": codes(lambda **o: CODES.flatten(**o), end=1),
    "QuantizedTensor.as_strided.offset": codes(lambda **o: CODES.as_strided((2, 2), (2, 1), **o), offset=3),
    "QuantizedTensor.max.axis": codes(lambda **o: CODES.max(**o), axis=1),
    "QuantizedTensor.max.keepdims": codes(lambda **o: CODES.max(1, **o), keepdims=True),
    "QuantizedTensor.min.axis": codes(lambda **o: CODES.min(**o), axis=1),
    "QuantizedTensor.min.keepdims": codes(lambda **o: CODES.min(1, **o), keepdims=True),
    "QuantizedTensor.mean.axis": codes(lambda **o: CODES.mean(**o), axis=1),
    "QuantizedTensor.mean.keepdims": codes(lambda **o: CODES.mean(1, **o), keepdims=True),
    "QuantizedTensor.sort.axis": codes(lambda **o: CODES.sort(**o), axis=0),
    "QuantizedTensor.sort.descending": codes(lambda **o: CODES.sort(**o), descending=True),
    "QuantizedTensor.topk.axis": codes(lambda **o: CODES.topk(1, **o), axis=0),
    "QuantizedTensor.topk.largest": codes(lambda **o: CODES.topk(1, **o), largest=False),
    "QuantizedTensor.clamp.low": codes(lambda **o: CODES.clamp(high=9.0, **o), low=0.5),
    "QuantizedTensor.clamp.high": codes(lambda **o: CODES.clamp(low=0.0, **o), high=0.5),
    "TensorType.quant": lambda f: (
        str(qc.TensorType(qc.DType.U8, (2, 3), qc.QuantParams.per_tensor(0.1, 0, qc.DType.U8))),
        str(qc.TensorType(qc.DType.U8, (2, 3))),
    ),
    "TensorType.layout": lambda f: (
        str(qc.TensorType(qc.DType.U8, (2, 3, 4), layout=Layout("channels_last", 4))),
        str(qc.TensorType(qc.DType.U8, (2, 3, 4))),
    ),
}
OBSERVERS: dict[str, Effect] = {
    "percentile(percent)": spec_effect("observer", "percentile(60)"),
    "moving_average(constant)": lambda f: (averaged("moving_average(0.5)"), averaged("moving_average")),
    "fixed(scale)": lambda f: tuple(  # type: ignore[arg-type, return-value]
        make_observer(qc.QuantSpec(observer=f"fixed({scale},3)")).qparams() for scale in (0.5, 0.25)
    ),
    "fixed(zero_point)": lambda f: tuple(  # type: ignore[arg-type, return-value]
        make_observer(qc.QuantSpec(observer=f"fixed(0.5,{point})")).qparams() for point in (3, 4)
    ),
}


def averaged(observer: str) -> qc.QuantParams:
    made = make_observer(qc.QuantSpec(observer=observer))
    for scale in (1, 5):
        made.observe(X * np.float32(scale))
    return made.qparams()


def sent() -> Pair:
    with ThreadPoolExecutor(1) as pool:
        used: list[object] = []
        submit = pool.submit
        pool.submit = lambda *args: used.append(args) or submit(*args)  # type: ignore[assignment, func-returns-value]
        qc.calibrate(PREPARED, [X], executor=pool)
    return len(used), 0


def hooked() -> Pair:
    seen: list[str] = []
    qc.interpret(GRAPH, [X], hook=lambda node, results: seen.append(node.name))
    return seen, []


def exported_onnx(folder: pathlib.Path, **options: Any) -> bytes:
    """The file that export_onnx writes."""
    qc.export_onnx(INTEGER, folder / "m.onnx", **options)
    return (folder / "m.onnx").read_bytes()


def kept() -> Pair:
    held: dict[str, np.ndarray] = {}
    qc.interpret(GRAPH, [X], keep=held)
    return set(held), set()


def options() -> set[str]:
    """function.option of all public functions, constructors and methods."""
    found: set[str] = set()
    for name in qc.__all__:
        item = getattr(qc, name)
        if inspect.ismodule(item) or name in OF_CLASSES_OF_THE_IR:
            continue
        functions = {name: item}
        if isinstance(item, type):
            if issubclass(item, QCompilerError):
                continue
            public = [key for key in vars(item) if not key.startswith("_")]
            functions = {f"{name}.{key}": getattr(item, key) for key in public if callable(getattr(item, key))}
            functions |= {} if name in MADE_BY_THE_LIBRARY else {name: item}
        for function, each in functions.items():
            parameters = inspect.signature(each).parameters.values()
            found |= {f"{function}.{p.name}" for p in parameters if p.default is not p.empty}
    return found


def test_every_option_has_a_row() -> None:
    assert options() == set(EFFECTS)
    assert {f"QuantSpec.{field.name}" for field in fields(qc.QuantSpec)} <= set(EFFECTS)


@pytest.mark.parametrize("name", [*EFFECTS, *OBSERVERS])
def test_an_option_has_an_effect(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpus, "usable_cpus", lambda: 4)
    with_it, without = {**EFFECTS, **OBSERVERS}[name](tmp_path)
    assert with_it != without


# -- where an option has no use, it is refused


WITHOUT_USE: dict[str, Callable[[], object]] = {
    "trace: a graph and example inputs": lambda: qc.trace(GRAPH, (X,)),
    "trace: a graph and dynamic sizes": lambda: qc.trace(GRAPH, dynamic=DYNAMIC),
    "trace: a compiled model and dynamic sizes": lambda: qc.trace(COMPILED, dynamic=DYNAMIC),
    "trace: a saved model and dynamic sizes": lambda: qc.trace("m.qc.safetensors", dynamic=DYNAMIC),
    "fuse: a graph and example inputs": lambda: qc.fuse(GRAPH, (X,)),
    "fuse: a graph and dynamic sizes": lambda: qc.fuse(GRAPH, dynamic=DYNAMIC),
    "prepare: a graph and example inputs": lambda: qc.prepare(GRAPH, "int8", (X,)),
    "prepare: a graph and dynamic sizes": lambda: qc.prepare(GRAPH, "int8", dynamic=DYNAMIC),
    "compile: a graph and example inputs": lambda: qc.compile(GRAPH, "int8", (X,), calibration_data=[X]),
    "compile: a graph and dynamic sizes": lambda: qc.compile(GRAPH, None, dynamic=DYNAMIC),
    "compile: an integer graph and dynamic sizes": lambda: qc.compile(INTEGER, dynamic=DYNAMIC),
    "compile: an integer graph and data": lambda: qc.compile(INTEGER, calibration_data=[X]),
    "compile: an integer graph and a calibration": lambda: qc.compile(INTEGER, calibration=CALIBRATION),
    "compile: an integer graph and a qconfig": lambda: qc.compile(INTEGER, "torch:x86"),
    "compile: a compiled model and a QConfig": lambda: qc.compile(COMPILED, qc.get_qconfig("int8")),
    "compile: float and data": lambda: compiled(qconfig=None),
    "compile: float and a calibration": lambda: compiled(qconfig=None, calibration_data=None, calibration=CALIBRATION),
    "compile: float and codes": lambda: compiled(qconfig=None, calibration_data=None, io="quantized"),
    "compile: data and a calibration": lambda: compiled(calibration=CALIBRATION),
    "compile: a calibration and a transform": lambda: compiled(
        calibration_data=None, calibration=CALIBRATION, transform=doubled
    ),
    "compile: a calibration and progress": lambda: compiled(
        calibration_data=None, calibration=CALIBRATION, progress=print
    ),
    "compile: no data and a transform": lambda: qc.compile(INTEGER, transform=doubled),
    "compile: dynamic and data": lambda: compiled(qconfig="dynamic"),
    "compile: dynamic and codes": lambda: compiled(qconfig="dynamic", calibration_data=None, io="quantized"),
    "prepare: dynamic": lambda: qc.prepare(GRAPH, "dynamic"),
    "QConfig: float16 and a spec": lambda: qc.QConfig(None, qc.QuantSpec(), dynamic="float16"),
    "QConfig: dynamic without specs": lambda: qc.QConfig(None, None, dynamic="row"),
    "calibrate: an executor and observers that depend on the order": lambda: qc.calibrate(
        qc.prepare(GRAPH, "torch:x86"), [X], executor=ThreadPoolExecutor(1)
    ),
    "convert: an observer of no group": lambda: qc.convert(PREPARED, {**CALIBRATION, "y": CALIBRATION["x"]}),
    "QConfig: activations per channel": lambda: qc.QConfig(qc.QuantSpec(per_channel=True), qc.QuantSpec()),
    "QuantSpec: numbers for an observer that takes none": lambda: qc.QuantSpec(observer="minmax(1)"),
    "QuantSpec: too many numbers": lambda: qc.QuantSpec(observer="percentile(99,1)"),
    "export: sizes that the model has not": lambda: exported(pathlib.Path(), SYMBOLIC, sizes={"B": 1, "C": 2}),
    "export: the interpreter": lambda: COMPILED.export_object("m.o", target="reference"),
}


@pytest.mark.parametrize("name", WITHOUT_USE)
def test_an_option_without_a_use_is_refused(name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved(tmp_path)
    with pytest.raises(QCompilerError):
        WITHOUT_USE[name]()
    assert [path.name for path in tmp_path.iterdir()] == ["m.qc.safetensors"]


def test_no_dynamic_sizes_are_none() -> None:
    assert text(qc.trace(GRAPH, dynamic={})) == text(GRAPH)


def test_the_default_qconfig_and_keep_lower_an_integer_graph() -> None:
    for model in (INTEGER, COMPILED):
        for qconfig in ("int8", "keep", None):
            assert text(qc.compile(model, qconfig, target="reference")) == text(INTEGER)
