"""Passes, importers and exporters that a user registers: what they do, and what a wrong one is told."""

from __future__ import annotations

import pathlib
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

import qcompiler as qc
from qcompiler.errors import ArgumentError, LoweringError, PassError, TraceError
from qcompiler.frontend import register
from qcompiler.opdef import OWN_RANGE, Op, float_attr, no_accumulator, operand
from qcompiler.ops.activations import Relu
from qcompiler.passes import own_passes
from qcompiler.passes.pipelines import convert_pipeline, dynamic_pipeline, float_pipeline
from qcompiler.passes.registry import format_pipeline, parse_pipeline
from qcompiler.passes.rewrite import Rewrite, RewritePass
from qcompiler.passmanager import PassManager
from qcompiler.quantization import qmath
from qcompiler.types import TensorType

X = np.linspace(-2, 2, 24, dtype=np.float32).reshape(2, 12)


@pytest.fixture(autouse=True)
def paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def scaled() -> Iterator[type[Op]]:
    """An op of a user: x * factor."""

    def integer(self: Any, x: Any, *, out: TensorType) -> np.ndarray:
        real = x.centered().astype(np.float32) * qmath.multiplier(x.scales, self.factor, over=out.params.scales)
        return qmath.requantize(real, out)

    members = {
        "name": "scaled",
        "__doc__": "x * factor",
        "__module__": "of_a_user",
        "x": operand(),
        "factor": float_attr(default=1.0),
        "quant": OWN_RANGE,
        "chooses_params": True,
        "terms": no_accumulator,
        "infer": lambda self, x: x,
        "reference": lambda self, x: x * np.asarray(self.factor, x.dtype),
        "integer": integer,
    }
    yield type("Scaled", (Op,), members)
    qc.unregister_op("scaled")


# -- passes


@dataclass(frozen=True)
class Counts:
    """Counts the nodes that it sees."""

    label: str = ""
    seen: tuple[int, ...] = field(default=())
    configs: Any = None
    name: ClassVar[str] = "counts"

    def run(self, graph: qc.Graph) -> qc.Graph:
        GRAPHS.append((len(graph.node_list), self.configs is not None, graph.stage))
        return graph


GRAPHS: list[tuple[int, bool, str]] = []


@pytest.fixture
def passes() -> Iterator[None]:
    GRAPHS.clear()
    yield
    own_passes._own.clear()


def test_a_pass_runs_where_it_was_registered(passes: None) -> None:
    qc.register_pass(Counts(), before="dce")
    model = lambda x: np.maximum(x * 2, 0)  # noqa: E731
    qc.compile(model, None, (X,), target="reference")
    assert GRAPHS == [(2, False, "float")]
    GRAPHS.clear()
    qc.compile(model, "int8:plain", (X,), calibration_data=[X], target="reference")
    assert {stage for *_, stage in GRAPHS} == {"float", "integer"} and all(given for _, given, _ in GRAPHS)
    qc.unregister_pass("counts")
    GRAPHS.clear()
    qc.compile(model, None, (X,), target="reference")
    assert not GRAPHS


@pytest.mark.parametrize(
    "anchor, pipeline",
    [
        ("fuse", float_pipeline()),
        ("choose-precision", convert_pipeline({}, {})),
        ("insert-qdq", convert_pipeline({}, {})),
        ("integerize", convert_pipeline({}, {})),
        ("quantize-dynamic", dynamic_pipeline({})),
        ("fold-batchnorm", dynamic_pipeline({})),
    ],
)
def test_the_places_of_passes(passes: None, anchor: str, pipeline: list[Any]) -> None:
    make = {len(float_pipeline()): float_pipeline, len(dynamic_pipeline({})): lambda: dynamic_pipeline({})}.get(
        len(pipeline), lambda: convert_pipeline({}, {})
    )
    other = type("Other", (Counts,), {"name": "other"})
    before = type("Before", (Counts,), {"name": "runs-before"})
    qc.register_pass(Counts(), after=anchor)
    qc.register_pass(other(), after=anchor)
    qc.register_pass(before(), before=anchor)
    names = [each.name for each in make()]
    at = names.index(anchor)
    assert names[at - 1 : at + 3] == ["runs-before", anchor, "counts", "other"] and names.count("counts") == 1


def test_a_pass_has_a_text(passes: None) -> None:
    qc.register_pass(Counts())
    [made] = parse_pipeline('counts{label="x"}')
    assert made == Counts("x") and format_pipeline([made]) == 'counts{label="x"}'
    assert "counts" not in [each.name for each in float_pipeline()]
    assert PassManager([made]).run(qc.trace(lambda x: x + 1, (X,)))


def test_the_error_of_a_pass_names_it(passes: None) -> None:
    def broken(self: Any, graph: qc.Graph) -> qc.Graph:
        raise KeyError("what")

    qc.register_pass(
        dataclass(frozen=True)(type("Broken", (Counts,), {"name": "broken", "run": broken}))(), after="fuse"
    )
    with pytest.raises(PassError, match=r"pass \d+ broken failed: KeyError: 'what'") as caught:
        qc.compile(lambda x: x + 1, None, (X,), target="reference")
    assert "broken" in caught.value.reproducer


@dataclass
class NotFrozen:
    name: ClassVar[str] = "not-frozen"

    def run(self, graph: qc.Graph) -> qc.Graph:
        return graph


@dataclass(frozen=True)
class NoDefault:
    option: int
    name: ClassVar[str] = "no-default"

    def run(self, graph: qc.Graph) -> qc.Graph:
        return graph


def renamed(name: Any, **members: Any) -> Any:
    return dataclass(frozen=True)(type("Renamed", (Counts,), {"name": name, **members}))()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: qc.register_pass(Counts), "an instance of a pass"),  # type: ignore[arg-type]
        (lambda: qc.register_pass(object()), "an instance of a pass"),  # type: ignore[arg-type]
        (lambda: qc.register_pass(renamed("TwoWords")), "kebab-case"),
        (lambda: qc.register_pass(renamed("fuse")), "there is a pass 'fuse' already"),
        (lambda: qc.register_pass(renamed("ok", run=lambda self: self)), "takes other arguments"),
        (lambda: qc.register_pass(NotFrozen()), "no frozen dataclass"),
        (lambda: qc.register_pass(NoDefault(1)), "no default"),
        (lambda: qc.register_pass(Counts(), before="fuse", after="dce"), "before and after"),
        (lambda: qc.register_pass(Counts(), before="fusee"), "did you mean 'fuse'"),
        (lambda: qc.register_pass(Counts(), after="assign-layout"), "no pipeline has a pass 'assign-layout'"),
        (lambda: [qc.register_pass(Counts()), qc.register_pass(Counts())], r"unregister_pass\('counts'\)"),
        (lambda: qc.unregister_pass("counts"), "no pass 'counts' was registered"),
    ],
)
def test_wrong_passes(passes: None, make: Callable[[], object], message: str) -> None:
    with pytest.raises((PassError, ArgumentError), match=message):
        make()


def test_a_pattern_that_finds_nothing_has_to_say_so() -> None:
    class Silent(Rewrite[Any]):
        rule = "a rule"
        ops = (Relu,)

        def match(self, graph: qc.Graph, node: qc.Node) -> Any:
            return None

    @dataclass(frozen=True)
    class SilentPass(RewritePass):
        name: ClassVar[str] = "silent"

        def rules(self, graph: qc.Graph) -> tuple[Rewrite[Any], ...]:
            return (Silent(),)

    with pytest.raises(PassError, match=r"(?s)match of Silent gave None.*self.refuse\(node, reason\)"):
        PassManager([SilentPass()]).run(qc.fuse(lambda x: np.maximum(x, 0), (X,)))


# -- importers


@pytest.fixture
def importers() -> Iterator[None]:
    yield
    for source, key in list(register._own):
        qc.unregister_importer(
            source, key.replace(".", "::", 1) if source == "torch" else "::".join(key.rsplit(".", 1))
        )  # type: ignore[arg-type]


def foreign(op: str = "Scaled", domain: str = "com.example", **attrs: Any) -> Any:
    from onnx import helper

    node = helper.make_node(op, ["x"], ["y"], domain=domain, **attrs)
    values = [helper.make_tensor_value_info(name, 1, [2, 12]) for name in "xy"]
    graph = helper.make_graph([node], "g", values[:1], values[1:])
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.example", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def test_an_onnx_op_as_an_op_of_a_user(importers: None, scaled: type[Op]) -> None:
    with pytest.raises(TraceError, match=r"(?s)1 x com.example.Scaled.*register_importer"):
        qc.trace(foreign())
    qc.register_importer("onnx", "com.example::Scaled", scaled)
    [node] = qc.trace(foreign(factor=0.1)).nodes
    assert node.op == "scaled" and node.attrs["factor"] == 0.1
    assert qc.trace(foreign()).node_list[0].attrs["factor"] == 1.0


def test_an_onnx_op_by_a_function(importers: None) -> None:
    qc.register_importer("onnx", "com.example::Scaled", lambda node: node.x(0) * node.number("factor", 1.0))
    assert [node.op for node in qc.trace(foreign(factor=3.0)).nodes] == ["mul"]


def test_a_torch_op(importers: None, scaled: type[Op]) -> None:
    import torch

    library = torch.library.Library("qc_test_own", "DEF")
    library.define("scaled(Tensor x, float factor) -> Tensor")
    library.impl("scaled", lambda x, factor: x * factor, "CompositeExplicitAutograd")
    torch.library.register_fake("qc_test_own::scaled", lambda x, factor: torch.empty_like(x), lib=library)

    class Net(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return torch.ops.qc_test_own.scaled(torch.relu(x), 0.3)

    with pytest.raises(TraceError, match=r"(?s)1 x qc_test_own.scaled.default.*register_importer"):
        qc.trace(Net().eval(), (X,))
    qc.register_importer("torch", "qc_test_own::scaled", scaled)
    graph = qc.trace(Net().eval(), (X,))
    assert [node.op for node in graph.nodes] == ["relu", "scaled"] and graph.node_list[1].attrs["factor"] == 0.3
    np.testing.assert_array_equal(qc.interpret(graph, [X])[0], np.maximum(X, 0) * np.float32(0.3))


def test_a_wrong_result_of_an_importer(importers: None) -> None:
    for meaning in (lambda node: 5, lambda node: "x", lambda node: None, lambda node: node.nothing):
        qc.register_importer("onnx", "com.example::Scaled", meaning)
        with pytest.raises(TraceError, match="Scaled"):
            qc.trace(foreign())
        qc.unregister_importer("onnx", "com.example::Scaled")


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: qc.register_importer("tf", "a::b", len), "unknown source 'tf'"),  # type: ignore[arg-type]
        (lambda: qc.register_importer("onnx", "Scaled", len), '"namespace::op"'),
        (lambda: qc.register_importer("onnx", "ai.onnx::Relu", len), "qcompiler has a meaning of ai.onnx::Relu"),
        (lambda: qc.register_importer("torch", "aten::relu", len), "qcompiler has a meaning of aten::relu"),
        (lambda: qc.register_importer("onnx", "a::B", lambda: None), "takes one argument, the node"),
        (lambda: qc.register_importer("onnx", "a::B", 5), "a function, or the class of an op"),  # type: ignore[arg-type]
        (
            lambda: [qc.register_importer("onnx", "a::B", len)] * 2 + [qc.register_importer("onnx", "a::B", len)],
            "you have",
        ),
        (lambda: qc.unregister_importer("onnx", "ai.onnx::Relu"), "no meaning of 'ai.onnx::Relu'"),
    ],
)
def test_wrong_importers(importers: None, make: Callable[[], object], message: str) -> None:
    with pytest.raises((TraceError, ArgumentError), match=message):
        make()


# -- exporters


def compiled(op: type[Op], dynamic: Any = None) -> qc.CompiledModel:
    model = lambda x: op.apply(op.apply(x + 1, factor=0.5) - 1, factor=0.25)  # noqa: E731
    return qc.compile(model, "int8:plain", (X,), calibration_data=[X], dynamic=dynamic, target="reference")


def onnx_scaled(w: Any) -> str:
    return w.emit("Mul", w.x(), w.number(w.op.factor))


@pytest.mark.parametrize("domain", [None, "com.example"])
def test_onnx(tmp_path: pathlib.Path, importers: None, scaled: type[Op], domain: str | None) -> None:
    import onnx
    import onnxruntime

    model, path = compiled(scaled, {"x": {0: "B"}}), tmp_path / "m.onnx"
    with pytest.raises(LoweringError, match=r"(?s)2 nodes have no form in ONNX.*register_exporter\(\"onnx\", Scaled"):
        qc.export_onnx(model, path)
    qc.register_exporter("onnx", scaled, onnx_scaled, domain=domain)
    qc.export_onnx(model, path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    kinds = [(node.domain, node.op_type) for node in proto.graph.node]
    assert kinds.count((domain or "", "Mul" if domain is None else "Scaled")) == 2
    assert [function.overload for function in proto.functions] == ([] if domain is None else ["", "1"])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    step = model.graph.outputs[0].producer.operands[0].type.params.scale[0]  # type: ignore[union-attr]
    np.testing.assert_allclose(session.run(None, {"x": X})[0], model(X), atol=1.01 * step)
    if domain is not None:
        qc.register_importer("onnx", "com.example::Scaled", scaled)
        again = qc.compile(path, "keep", target="reference")
        [output] = again(X).values()
        np.testing.assert_array_equal(output, model(X))
        assert [node.attrs["factor"] for node in again.graph.nodes if node.op == "scaled"] == [0.5, 0.25]


def test_a_node_without_a_body(tmp_path: pathlib.Path, scaled: type[Op]) -> None:
    import onnx

    qc.register_exporter("onnx", scaled, None, domain="com.example")
    qc.export_onnx(compiled(scaled), tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    assert not proto.functions and [n.op_type for n in proto.graph.node].count("Scaled") == 2


def test_torch(scaled: type[Op]) -> None:
    import torch

    from qcompiler.export.torch import codes

    model = compiled(scaled)
    with pytest.raises(LoweringError, match=r"(?s)register_exporter\(\"torch\", Scaled, write, on_codes=True\)"):
        qc.to_torch(model)

    def on_codes(w: Any) -> Any:
        factor = qmath.multiplier(w.type(0).params.scales, w.op.factor, over=w.out.params.scales)
        return codes.requantize(codes.scaled(w, codes.centered(w, 0, torch.float32), factor), w.out)

    qc.register_exporter("torch", scaled, on_codes, on_codes=True)
    module = torch.jit.script(qc.to_torch(model))
    np.testing.assert_array_equal(module(torch.from_numpy(X)).numpy(), model(X))
    qc.register_exporter("torch", scaled, lambda w: w.x(0) * w.op.factor)
    real = qc.compile(lambda x: scaled.apply(x, factor=0.5), None, (X,), target="reference")
    np.testing.assert_array_equal(qc.to_torch(real)(torch.from_numpy(X)).numpy(), X * np.float32(0.5))


def test_text(tmp_path: pathlib.Path, scaled: type[Op]) -> None:
    model = compiled(scaled)
    qc.export_text(model, tmp_path / "m.qir")
    np.testing.assert_array_equal(qc.interpret(qc.load_text(tmp_path / "m.qir"), [X])[0], model(X))


def test_a_script(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The op's source is copied; here of a file that names things by `qc.`."""
    (tmp_path / "file_of_a_user.py").write_text(
        "import numpy as np\nimport qcompiler as qc\nfrom qcompiler import opdef\n"
        "class Doubled(opdef.Op):\n    name = 'doubled'\n    x = opdef.operand()\n"
        "    def infer(self, x):\n"
        "        if x.rank != 2: raise qc.ShapeError('operand of doubled')\n"
        "        return x\n"
        "    def reference(self, x):\n"
        "        if x.ndim != 2: raise qc.ShapeError('operand of doubled')\n"
        "        return (x * np.float32(2)).astype(x.dtype)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    from file_of_a_user import Doubled  # type: ignore[import-not-found]

    try:
        model = qc.compile(lambda x: Doubled.apply(x), None, (X,), target="reference")
        qc.export_python(model, tmp_path / "m.py")
    finally:
        qc.unregister_op("doubled")
    [output] = runpy.run_path(str(tmp_path / "m.py"))["run"]({"x": X}).values()
    np.testing.assert_array_equal(output, 2 * X)
    assert "import numpy" in (tmp_path / "m.py").read_text()


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda op: qc.register_exporter("tflite", op, len), "no exporters are registered for the form 'tflite'"),
        (lambda op: qc.register_exporter("onnx", op, lambda: "x"), "an exporter takes one argument"),
        (lambda op: qc.register_exporter("onnx", op, None), "a function of a NodeWriter"),
        (lambda op: qc.register_exporter("onnx", op, len, domain=""), "a name that is not ONNX's"),
        (lambda op: qc.register_exporter("onnx", op, len, on_codes=True), "on_codes is for torch"),
        (lambda op: qc.register_exporter("torch", op, len, domain="com.example"), "domain is for ONNX"),
        (lambda op: qc.register_exporter("onnx", "scaled", len), "the class of an op"),
        (lambda op: [qc.register_exporter("onnx", op, len) for _ in range(2)], "has an exporter for onnx already"),
        (lambda op: qc.register_exporter("onnx", relu(), len), "is an op of qcompiler"),
    ],
)
def test_wrong_exporters(scaled: type[Op], make: Callable[[Any], object], message: str) -> None:
    with pytest.raises((LoweringError, ArgumentError), match=message):
        make(scaled)


def relu() -> Any:
    from qcompiler.opdef import opdef

    return opdef("relu")


@pytest.mark.parametrize("given", [None, 5, "", [], ["x", "y"]])
@pytest.mark.parametrize("domain", [None, "com.example"])
def test_a_wrong_result_of_an_exporter(
    tmp_path: pathlib.Path, scaled: type[Op], given: Any, domain: str | None
) -> None:
    qc.register_exporter("onnx", scaled, lambda w: given, domain=domain)
    with pytest.raises(LoweringError, match="its exporter gave"):
        qc.export_onnx(compiled(scaled), tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


# -- the command line


FILE = """
import qcompiler as qc
from qcompiler.opdef import Op, operand

class Doubled(Op):
    name = "doubled_by_a_file"
    x = operand()

    def infer(self, x):
        return x

    def reference(self, x):
        return x * 2
"""


def test_the_command_line_imports_a_file(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from qcompiler.cli import main
    from qcompiler.cli.extensions import import_extensions

    (tmp_path / "a_file_of_a_user.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    import_extensions(["a_file_of_a_user.py"])
    from a_file_of_a_user import Doubled  # type: ignore[import-not-found]

    qc.compile(lambda x: Doubled.apply(x), None, (X,)).save("m.qc.safetensors")
    qc.unregister_op("doubled_by_a_file")
    del sys.modules["a_file_of_a_user"]
    np.save("x.npy", X)
    run = ["run", "m.qc.safetensors", "--input", "x.npy", "-o", "y.npz"]
    assert main(run) == 1
    assert "unknown op 'doubled_by_a_file'" in capsys.readouterr().err
    try:
        for _ in range(2):  # a second time the module is there
            assert main([*run, "--import", "a_file_of_a_user.py"]) == 0
    finally:
        qc.unregister_op("doubled_by_a_file")
    with np.load("y.npz") as file:
        np.testing.assert_array_equal(next(iter(file.values())), 2 * X)
    capsys.readouterr()
    (tmp_path / "fails_of_a_user.py").write_text("1 // 0")
    (tmp_path / "numpy.py").write_text("")
    for name, message in (
        ("nothing.py", "there is no such file"),
        ("nothing_at_all", "ModuleNotFoundError"),
        ("fails_of_a_user.py", "ZeroDivisionError"),
        ("numpy.py", "there is a module 'numpy' already"),
    ):
        assert main([*run, "--import", name]) == 1
        assert message in capsys.readouterr().err and "fails_of_a_user" not in sys.modules
