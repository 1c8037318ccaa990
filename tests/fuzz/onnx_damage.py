"""Damage to one part of an ONNX model."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from qcompiler.frontend.onnx_ops import table
from tests.fuzz.damage import ODD_FLOATS, ODD_INTS, ODD_NAMES, Chance

DOMAINS = ["", "ai.onnx", "com.microsoft", "com.example", "ai.onnx.ml", "\0"]
WORDS = [
    "constant", "edge", "linear", "nearest", "SAME_UPPER", "VALID", "NOTSET", "none", "tanh", "floor", "half_pixel",
    "ij,jk->ik", "->", "reflect", "DCR", "add", "i...->...", "align_corners",
]  # fmt: skip


def damage_model(model: onnx.ModelProto, chance: Chance) -> None:
    """Change one part of a model in place."""
    chance.one(_DAMAGES)(model, chance)


def _name(model: onnx.ModelProto, chance: Chance) -> str:
    """Draw a name of the model, or an odd one."""
    graph = model.graph
    known = [name for node in graph.node for name in (*node.input, *node.output)]
    known += [item.name for item in (*graph.input, *graph.initializer, *graph.output)]
    return str(chance.one(known)) if known and chance.often(0.75) else str(chance.one(ODD_NAMES))


def _node(model: onnx.ModelProto, chance: Chance) -> Any:
    return chance.one(model.graph.node) if len(model.graph.node) else model.graph.node.add(op_type="Relu")


# -- attributes


@cache
def _declared(op: str) -> list[tuple[str, int]]:
    """The attributes that any version of an op has."""
    schemas = [schema for schema in _all_schemas() if schema.name == op]
    return sorted({(name, attr.type.value) for schema in schemas for name, attr in schema.attributes.items()})


@cache
def _all_schemas() -> list[Any]:
    return list(onnx.defs.get_all_schemas_with_history())


def _attribute(model: onnx.ModelProto, chance: Chance) -> None:
    """Give a node another value of an attribute, one attribute more or less, or one of another kind."""
    node = _node(model, chance)
    kind = chance.below(10)
    if kind < 3 and len(node.attribute):
        _change(chance.one(node.attribute), chance)
    elif kind < 7 and _declared(node.op_type):
        name, type = chance.one(_declared(node.op_type))
        held = next((attribute for attribute in node.attribute if attribute.name == name), None)
        if held is not None:
            node.attribute.remove(held)
        _fill(node.attribute.add(name=name), type, chance)
    elif kind == 7 and len(node.attribute):
        del node.attribute[chance.below(len(node.attribute))]
    elif kind == 8 and len(node.attribute):
        again = node.attribute.add()
        again.CopyFrom(chance.one(list(node.attribute)[:-1] or [again]))
    else:
        _fill(
            node.attribute.add(name=chance.one(["axis", "axes", "to", "mode", *ODD_NAMES])),
            1 + chance.below(14),
            chance,
        )


def _change(attribute: Any, chance: Chance) -> None:
    if attribute.type == AttributeProto.INTS and len(attribute.ints) and chance.often(0.7):
        at = chance.below(len(attribute.ints))
        if chance.often(0.3):
            del attribute.ints[at]
        elif chance.often(0.3):
            attribute.ints.append(chance.int())
        else:
            attribute.ints[at] = chance.int()
    elif attribute.type == AttributeProto.TENSOR and chance.often(0.7):
        _change_tensor(attribute.t, chance)
    elif chance.often(0.15):
        attribute.type = chance.below(15)
    elif chance.often(0.1):
        attribute.ref_attr_name = chance.one(ODD_NAMES)
    else:
        _fill(attribute, attribute.type, chance)


def _fill(attribute: Any, type: int, chance: Chance) -> None:
    """Give an attribute a value of a kind."""
    name = attribute.name
    attribute.Clear()
    attribute.name = name
    attribute.type = type
    count = chance.below(5)
    if type == AttributeProto.INT:
        attribute.i = chance.int()
    elif type == AttributeProto.INTS:
        attribute.ints.extend(chance.int() for _ in range(count))
    elif type == AttributeProto.FLOAT:
        attribute.f = chance.float()
    elif type == AttributeProto.FLOATS:
        attribute.floats.extend(chance.float() for _ in range(count))
    elif type == AttributeProto.STRING:
        attribute.s = _text(chance)
    elif type == AttributeProto.STRINGS:
        attribute.strings.extend(_text(chance) for _ in range(count))
    elif type == AttributeProto.TENSOR:
        attribute.t.CopyFrom(_tensor(chance, ""))
    elif type == AttributeProto.GRAPH:
        attribute.g.CopyFrom(helper.make_graph([helper.make_node("Relu", ["x0"], ["z"])], "g", [], []))


def _text(chance: Chance) -> bytes:
    return chance.one([*(word.encode() for word in WORDS), b"", b"\xff", b"\0", b"a" * 2000])


# -- tensors


def _tensor(chance: Chance, name: str) -> Any:
    shape = [chance.below(4) for _ in range(chance.below(4))]
    dtype = chance.one([np.float32, np.int64, np.int8, np.uint8, np.int32, np.float16, np.bool_, np.float64])
    return numpy_helper.from_array(np.asarray(chance.rng.integers(-3, 5, shape)).astype(dtype), name)


def _change_tensor(tensor: Any, chance: Chance) -> None:
    kind = chance.below(8)
    if kind < 3:
        _change_numbers(tensor, chance)
    elif kind == 3:
        tensor.data_type = chance.below(30)
    elif kind == 4 and len(tensor.dims):
        tensor.dims[chance.below(len(tensor.dims))] = chance.int()
    elif kind == 5:
        tensor.dims.extend([chance.int()] if chance.often(0.5) else [])
        del tensor.dims[: chance.below(2)]
    elif kind == 6:
        tensor.raw_data = tensor.raw_data[: chance.below(len(tensor.raw_data) + 1)]
    else:
        tensor.CopyFrom(_tensor(chance, tensor.name))


def _change_numbers(tensor: Any, chance: Chance) -> None:
    """Change a number in the data, or how many there are: sizes, axes and bounds are data in ONNX."""
    try:
        array = numpy_helper.to_array(tensor).copy()
    except Exception:  # noqa: BLE001 -- damaged before
        return
    if not array.size or array.dtype.kind not in "fiub":
        return
    flat = array.reshape(-1)
    with np.errstate(all="ignore"):
        at = chance.below(flat.size)
        if array.dtype.kind in "iu" and chance.often(0.3) and array.ndim == 1:
            flat = np.append(flat, flat[at]) if chance.often(0.5) else np.delete(flat, at)
            array = flat
        else:
            odd = chance.one(ODD_FLOATS) if array.dtype.kind == "f" else chance.int()
            flat[at] = np.array(odd).astype(array.dtype)
    name = tensor.name
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def _initializer(model: onnx.ModelProto, chance: Chance) -> None:
    held = model.graph.initializer
    if len(held) and chance.often(0.8):
        _change_tensor(chance.one(held), chance)
    elif chance.often(0.5):
        held.append(_tensor(chance, _name(model, chance)))
    elif len(held):
        del held[chance.below(len(held))]


def _input_to_initializer(model: onnx.ModelProto, chance: Chance) -> None:
    """Make an input known, or an initializer unknown."""
    graph = model.graph
    if len(graph.input) and chance.often(0.5):
        value = chance.one(graph.input)
        tensor = value.type.tensor_type
        shape = [dim.dim_value for dim in tensor.shape.dim]
        if tensor.elem_type in (1, 6, 7) and all(0 <= size < 50 for size in shape):
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            data = np.asarray(chance.rng.integers(-3, 5, shape)).astype(dtype)
            graph.initializer.append(numpy_helper.from_array(data, value.name))
            if chance.often(0.8):
                graph.input.remove(value)
    elif len(graph.initializer):
        tensor = chance.one(graph.initializer)
        graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        if chance.often(0.8):
            graph.initializer.remove(tensor)


# -- wiring, names and types


def _wiring(model: onnx.ModelProto, chance: Chance) -> None:
    node, kind = _node(model, chance), chance.below(9)
    if kind == 0 and len(node.input):
        node.input[chance.below(len(node.input))] = chance.one(["", _name(model, chance)])
    elif kind == 1:
        node.input.append(_name(model, chance))
    elif kind == 2 and len(node.input):
        del node.input[chance.below(len(node.input))]
    elif kind == 3:
        node.output.append(chance.one(["", f"more{chance.below(9)}", _name(model, chance)]))
    elif kind == 4 and len(node.output):
        node.output[chance.below(len(node.output))] = chance.one(["", _name(model, chance)])
    elif kind == 5 and len(node.output):
        del node.output[chance.below(len(node.output))]
    elif kind == 6:
        nodes = list(model.graph.node)
        chance.rng.shuffle(nodes)  # type: ignore[arg-type]
        copies = [onnx.NodeProto.FromString(each.SerializeToString()) for each in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
    elif kind == 7:
        model.graph.node.add().CopyFrom(node)
    elif len(model.graph.node):
        del model.graph.node[chance.below(len(model.graph.node))]


def _op(model: onnx.ModelProto, chance: Chance) -> None:
    node, kind = _node(model, chance), chance.below(6)
    if kind < 4:
        names = sorted(table())
        full = chance.one(names)
        domain, _, op = full.rpartition(".")
        node.op_type, node.domain = op, domain
    elif kind == 4:
        node.domain = chance.one(DOMAINS)
    else:
        node.op_type = chance.one(["If", "Loop", "Scan", "SequenceAt", "Optional", "FusedConv", *ODD_NAMES])


def _names(model: onnx.ModelProto, chance: Chance) -> None:
    """Rename something everywhere, or in one place."""
    graph, odd = model.graph, _name(model, chance)
    if chance.often(0.6):
        old = _name(model, chance)
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = [odd if name == old else name for name in names]
        for item in (*graph.input, *graph.initializer, *graph.output):
            if item.name == old:
                item.name = odd
        return
    held = [*graph.node, *graph.input, *graph.initializer, *graph.output, graph]
    chance.one(held).name = odd


def _shape(model: onnx.ModelProto, chance: Chance) -> None:
    """Change a size, the name of a size, the rank or the element type of an input or output."""
    graph = model.graph
    values = list(graph.input if chance.often(0.7) else graph.output) or [graph.input.add(name="x0")]
    tensor = chance.one(values).type.tensor_type
    kind = chance.below(7)
    if kind < 3 and len(tensor.shape.dim):
        dim = chance.one(tensor.shape.dim)
        if chance.often(0.5):
            dim.dim_value = chance.int()
        else:
            dim.dim_param = chance.one(["", "B", "B", "N", "batch size", "2", "2*B", "-1", *ODD_NAMES])
    elif kind == 3:
        tensor.shape.dim.add(dim_value=chance.below(4))
    elif kind == 4 and len(tensor.shape.dim):
        del tensor.shape.dim[chance.below(len(tensor.shape.dim))]
    elif kind == 5:
        tensor.ClearField("shape")
    else:
        tensor.elem_type = chance.one([1, 1, 2, 3, 5, 6, 7, 9, 10, 11, chance.below(30)])


def _open_sizes(model: onnx.ModelProto, chance: Chance) -> None:
    """Make the first size of all inputs open."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if len(dims):
            dims[0].dim_param = chance.one(["B", "N", ""])


def _outputs(model: onnx.ModelProto, chance: Chance) -> None:
    outputs, kind = model.graph.output, chance.below(5)
    if kind == 0 and len(outputs):
        del outputs[chance.below(len(outputs))]
    elif kind == 1 and len(outputs):
        outputs.add().CopyFrom(chance.one(list(outputs)))
    elif kind == 2 and len(outputs):
        chance.one(outputs).name = _name(model, chance)
    elif kind == 3 and len(outputs):
        chance.one(outputs).ClearField("type")
    else:
        outputs.append(helper.make_tensor_value_info(_name(model, chance), TensorProto.FLOAT, None))


def _opset(model: onnx.ModelProto, chance: Chance) -> None:
    kind = chance.below(5)
    if kind < 3 and len(model.opset_import):
        versions = [*range(6, onnx.defs.onnx_opset_version() + 2), *ODD_INTS]
        chance.one(model.opset_import).version = chance.one(versions)
    elif kind == 3:
        model.opset_import.add(domain=chance.one(DOMAINS), version=chance.one([1, 1, 11, 17, 0, -1]))
    else:
        model.ir_version = chance.one([0, 3, 8, 10, 13, 100])


_DAMAGES: list[Callable[[onnx.ModelProto, Chance], None]] = [
    *[_attribute] * 6, *[_initializer] * 4, _input_to_initializer, _input_to_initializer, *[_wiring] * 3, *[_op] * 2,
    _names, _shape, _shape, _open_sizes, _outputs, _opset,
]  # fmt: skip
