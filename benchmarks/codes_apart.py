"""Where the codes of a model of `quantized_by_others.py` are not those of ONNX Runtime with graph optimizations off.

Every convolution and addition is given the codes that ONNX Runtime has there, so that no difference is carried on. The
first two lines count the codes that differ in each kind of layer: with the float biases of the file, and with the
biases of integer layers rounded to multiples of scale(x) * scale(weight), as their i32 codes are. The other lines give
the largest distance of the results, relative to the largest result, and how many items have the same largest result.

    python benchmarks/quantized_by_others.py --models mobilenet_v2 --tools nncf --folder build/others --rounds 1
    python benchmarks/codes_apart.py build/others/mobilenet_v2.nncf.onnx --items 10
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from quantized_by_others import _images, session

import qcompiler as qc
from qcompiler.interpreter import evaluate_node
from qcompiler.ir import Const, Graph, Node, Value

Array = np.ndarray[Any, Any]


def all_values(model: onnx.ModelProto) -> Callable[[Array], dict[str, Array]]:
    """A session of ONNX Runtime without optimizations that gives every value of the graph by name."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    known = {each.name for each in model.graph.output}
    for node in model.graph.node:
        if node.op_type != "Constant":
            named.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name not in known)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    made = ort.InferenceSession(named.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [each.name for each in made.get_outputs()]
    return lambda x: dict(zip(names, made.run(None, {"x": x})))


def rounded_biases(model: onnx.ModelProto, graph: Graph) -> onnx.ModelProto:
    """The model with the biases of the convolutions that `graph` has in integers, rounded as their codes are."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    consts = {each.name: each for each in made.graph.initializer}
    producer = {name: node for node in model.graph.node for name in node.output}
    readers = {name: node for node in model.graph.node for name in node.input}
    integer = {node.result.name for node in graph.node_list if node.op == "conv" and node.result.type.is_quantized}
    for conv in (node for node in model.graph.node if node.op_type == "Conv" and len(node.input) == 3):
        end = readers[conv.output[0]]
        if not integer & {conv.output[0], *(end.output if end.op_type in ("Clip", "Relu") else ())}:
            continue
        x, weight = (producer[name] for name in conv.input[:2])
        scale, other = (numpy_helper.to_array(consts[each.input[1]]).astype(np.float64) for each in (x, weight))
        bias = numpy_helper.to_array(consts[conv.input[2]])
        if scale.ndim:  # a scale for each channel of a depthwise convolution
            scale = scale.repeat(bias.size // scale.size)
        rounded = np.rint(bias / (scale * other)) * (scale * other)
        consts[conv.input[2]].CopyFrom(numpy_helper.from_array(rounded.astype(np.float32), conv.input[2]))
    return made


def count(graph: Graph, model: onnx.ModelProto, theirs: dict[str, Array], x: Array, counts: dict[str, Array]) -> None:
    """Add to `counts`, by kind of layer, the codes that differ and all codes."""
    codes = {node.input[0]: node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    found: dict[str, Array] = {"x": x}

    def operand(value: Value | None) -> Array | None:
        if value is None:
            return None
        return value.data if isinstance(value, Const) else found[value.name]

    for node in graph.node_list:
        results = evaluate_node(node, [operand(value) for value in node.operands])
        for value, ours in zip(node.results, results):
            found[value.name] = ours
            want = theirs.get(codes.get(value.name, value.name))
            if not value.type.is_quantized or want is None or want.dtype == np.float32:
                continue
            if want.dtype == np.int8 and ours.dtype == np.uint8:
                want = (want.astype(np.int16) + 128).astype(np.uint8)
            apart = np.abs(ours.astype(np.int16) - want.astype(np.int16))
            assert apart.max() <= 1, f"%{value.name} is apart by {apart.max()} codes"
            kind = counts.setdefault(_kind(node), np.zeros(2, np.int64))
            kind += (int(apart.sum()), apart.size)
            found[value.name] = want


def _kind(node: Node) -> str:
    return "depthwise conv" if node.op == "conv" and node.attrs["groups"] != 1 else node.op


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--items", type=int, default=10)
    options = parser.parse_args()
    model = onnx.load(options.model)
    compiled = qc.compile(options.model, "keep", threads=1)
    with tempfile.TemporaryDirectory() as folder:
        rounded = pathlib.Path(folder) / "rounded.onnx"
        onnx.save(rounded_biases(model, compiled.graph), rounded)
        graph = qc.compile(rounded, "keep", threads=1).graph
        exact = {"file": session(options.model, optimized=False), "rounded": session(rounded, optimized=False)}
        values = {"file": all_values(model), "rounded": all_values(onnx.load(rounded))}
    fast = session(options.model, optimized=True)
    counts: dict[str, dict[str, Array]] = {"file": {}, "rounded": {}}
    results: dict[str, list[Array]] = {name: [] for name in ("ours", "file", "rounded", "optimized")}
    for seed in range(100, 100 + options.items):
        x = _images(seed, 1)
        for name, ours in (("file", compiled.graph), ("rounded", graph)):
            count(ours, model, values[name](x), x, counts[name])
            results[name].append(exact[name](x))
        results["ours"].append(compiled(x)["y"])
        results["optimized"].append(fast(x))
    for name, kinds in counts.items():
        print(f"{name}:", ", ".join(f"{kind} {apart} of {size}" for kind, (apart, size) in kinds.items()))
    for one, other in (("ours", "file"), ("rounded", "file"), ("optimized", "file"), ("ours", "rounded")):
        pairs = list(zip(results[one], results[other]))
        far = [float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs]
        same = sum(int(a.argmax() == b.argmax()) for a, b in pairs)
        print(f"{one} - {other}: at most {max(far):.1e}, median {np.median(far):.1e}, same largest {same}/{len(pairs)}")


if __name__ == "__main__":
    main()
