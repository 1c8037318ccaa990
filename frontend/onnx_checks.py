"""What an ONNX file must fulfil before it is imported: its names, opsets, makers of values and attributes.

A file that contradicts itself is refused, because any reading of it would be a guess. The schemas are those of the
package onnx; ops of other domains have none there, so only their structure is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from qcompiler.errors import TraceError, nearest
from qcompiler.frontend.onnx_bodies import branches
from qcompiler.frontend.onnx_tensors import TensorReader
from qcompiler.verify import MAX_NAME_BYTES, MAX_NODES

OLDEST_OPSET = 7
_OTHER_DOMAINS = {"com.microsoft": 1}
_OF_ONNX_RUNTIME = frozenset({"SimplifiedLayerNormalization"})
"""ONNX Runtime's own ops that stand in ONNX's domain."""
_FIELDS = {1: "f", 2: "i", 3: "s", 4: "t", 5: "g", 6: "floats", 7: "ints", 8: "strings", 9: "tensors", 10: "graphs"}
"""AttributeProto.AttributeType -> the field that holds the value."""
FLAGS = frozenset({
    "align_corners", "allowzero", "antialias", "ceil_mode", "count_include_pad", "detect_negative", "detect_positive",
    "exclude_outside", "exclusive", "fmod", "input_forget", "keepdims", "largest", "layout", "linear_before_reset",
    "new_axis", "noop_with_empty_axes", "output_sequence", "reverse", "saturate", "select_last_index", "sorted",
    "storage_order", "training_mode", "transA", "transB", "upper",
})  # fmt: skip
"""Attributes that are 0 or 1 wherever they occur. Of another number, readers of the file make different things."""


def check_names(proto: Any, file: str) -> None:
    """Raise unless every name that the importer reads is text of a legal length."""
    graph = proto.graph
    if len(graph.node) > MAX_NODES:
        raise TraceError("too many nodes", where=file, expected=f"at most {MAX_NODES}", got=len(graph.node))
    _check_texts((entry.domain for entry in proto.opset_import), f"{file}, opset_import")
    _check_graph_names(graph, file)
    for number, function in enumerate(proto.functions):
        where = f"{file}, function {number}"
        _check_texts((function.name, function.domain, function.overload, *function.input, *function.output), where)
        _check_texts((entry.domain for entry in function.opset_import), f"{where}, opset_import")
        _check_nodes(function.node, where)


def _check_graph_names(graph: Any, file: str) -> None:
    _check_texts((each.name for each in (graph,)), f"{file}, the graph's name")
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for index, value in enumerate(values):
            _check_texts(_value_texts(value), f"{file}, {kind} {index}")
    for index, tensor in enumerate(graph.initializer):
        _check_texts(_tensor_texts(tensor), f"{file}, initializer {index}")
    _check_nodes(graph.node, file)


def _check_nodes(nodes: Sequence[Any], file: str) -> None:
    for index, node in enumerate(nodes):
        _check_texts(_node_texts(node), f"{file}, node {index}")
        for graph in branches(node):
            _check_graph_names(graph, f"{file}, node {index}")


def _value_texts(value: Any) -> Iterator[Any]:
    yield value.name
    for dim in value.type.tensor_type.shape.dim:
        yield dim.dim_param


def _tensor_texts(tensor: Any) -> Iterator[Any]:
    yield tensor.name
    for entry in tensor.external_data:
        yield from (entry.key, entry.value)


def _node_texts(node: Any) -> Iterator[Any]:
    yield from (node.name, node.op_type, node.domain, node.overload)
    yield from node.input
    yield from node.output
    for attribute in node.attribute:
        yield attribute.name
        yield from _tensor_texts(attribute.t)


def _check_texts(texts: Iterable[Any], where: str) -> None:
    """Raise unless all texts are UTF-8 and short. They are read here: some implementations of protobuf raise for
    text that is not UTF-8, others give bytes."""
    try:
        plain = [text.decode() if isinstance(text, bytes) else text for text in texts]
        longest = max((len(text.encode()) for text in plain), default=0)
    except UnicodeError as error:
        raise TraceError(
            "a name is not UTF-8", where=where, got=str(error)[:200], hint="the file is damaged: export it again"
        ) from None
    if longest > MAX_NAME_BYTES:
        raise TraceError("a name is too long", where=where, expected=f"at most {MAX_NAME_BYTES} bytes", got=longest)


def checked_opsets(entries: Any, nodes: Sequence[Any], file: str) -> dict[str, int]:
    """Domain -> version, ONNX's own domain as "ai.onnx", of a model or of one of its functions.

    entries: its opset_import. nodes: what it applies to.
    """
    from onnx.defs import onnx_opset_version

    opsets: dict[str, int] = {}
    for entry in entries:
        domain = entry.domain or "ai.onnx"
        if opsets.setdefault(domain, entry.version) != entry.version:
            raise TraceError(f"two opset versions of {domain}", where=file, got=f"{opsets[domain]} and {entry.version}")
    used = {node.domain or "ai.onnx" for node in nodes}
    if "ai.onnx" in used and "ai.onnx" not in opsets:
        raise TraceError(
            "the file does not say its opset", where=file, hint="onnx.helper.make_model(..., opset_imports=...)"
        )
    own, newest = opsets.get("ai.onnx", OLDEST_OPSET), onnx_opset_version()
    if own < OLDEST_OPSET:
        raise TraceError(
            "the opset is too old",
            where=file,
            expected=f"{OLDEST_OPSET} or newer",
            got=own,
            hint="onnx.version_converter.convert_version",
        )
    if own > newest:
        raise TraceError(
            "the opset is not known",
            where=file,
            expected=f"at most {newest}, the newest that the installed package onnx knows",
            got=own,
            hint="pip install -U onnx",
        )
    for domain, version in _OTHER_DOMAINS.items():
        if domain in used and opsets.get(domain, version) != version:
            raise TraceError(f"unknown version of {domain}", where=file, expected=version, got=opsets[domain])
    return opsets


def check_makers(graph: Any, file: str) -> None:
    """Raise if a name has two makers: inputs, initializers or nodes. An initializer may give an input its default."""
    makers: dict[str, str] = {}

    def made(name: str, maker: str) -> None:
        if name in makers:
            raise TraceError(f"two makers of the value {name!r}", where=file, got=f"{makers[name]} and {maker}")
        makers[name] = maker

    for index, value in enumerate(graph.input):
        if not value.name:
            raise TraceError("an input has no name", where=f"{file}, input {index}")
        made(value.name, f"input {index}")
    inputs = set(makers)
    held: set[str] = set()
    for index, tensor in enumerate(graph.initializer):
        if tensor.name in held or tensor.name not in inputs:
            made(tensor.name, f"initializer {index}")
        held.add(tensor.name)
    for index, node in enumerate(graph.node):
        if not any(node.output):
            raise TraceError(f"{node.op_type} has no outputs", where=f"{file}, node {index} {node.name}")
        for name in filter(None, node.output):
            made(name, f"node {index} {node.op_type}")
    listed = [value.name for value in graph.output]
    if not listed:
        raise TraceError("the graph has no outputs", where=file)
    if not all(listed):
        raise TraceError("an output has no name", where=f"{file}, output {listed.index('')}")
    twice = next((name for name in listed if listed.count(name) > 1), None)
    if twice is not None:
        raise TraceError(f"two outputs have the name {twice!r}", where=file)


@cache
def _schema(op: str, opset: int) -> Any:
    from onnx.defs import SchemaError, get_schema

    try:
        return get_schema(op, opset, "")
    except SchemaError:
        return None


def check_schema(node: Any, opset: int, where: str) -> None:
    """Raise if a node of ONNX's own ops has other counts of operands or other attributes than its opset defines."""
    if node.domain not in ("", "ai.onnx") or node.op_type in _OF_ONNX_RUNTIME:
        return
    schema = _schema(node.op_type, opset)
    if schema is None:
        raise TraceError(f"{node.op_type} is not an op of opset {opset}", where=where)
    for kind, given, least, most in (
        ("operands", node.input, schema.min_input, schema.max_input),
        ("outputs", node.output, schema.min_output, schema.max_output),
    ):
        count = max((index + 1 for index, name in enumerate(given) if name), default=0)
        if count > most or len(given) < least:
            raise TraceError(
                f"{node.op_type} has another number of {kind}",
                where=where,
                expected=f"{least} to {most}" if least != most else least,
                got=count,
            )
    for index, name in enumerate(node.input):
        declared = schema.inputs[min(index, len(schema.inputs) - 1)]
        if not name and declared.option.name != "Optional":
            raise TraceError(f"{node.op_type}: operand {index} ({declared.name}) is missing", where=where)
    given_attributes = {attribute.name: attribute for attribute in node.attribute}
    for name, attribute in given_attributes.items():
        if name not in schema.attributes:
            raise TraceError(
                f"{node.op_type} has no attribute {name!r} in opset {opset}",
                where=where,
                hint=nearest(name, list(schema.attributes)) if schema.attributes else None,
            )
        wanted = schema.attributes[name].type.value
        if attribute.type != wanted:
            raise TraceError(
                f"the attribute {name!r} of {node.op_type} is of another kind",
                where=where,
                expected=_FIELDS.get(wanted, wanted),
                got=_FIELDS.get(attribute.type, attribute.type),
            )
    for name, declared in schema.attributes.items():
        if declared.required and name not in given_attributes:
            raise TraceError(f"{node.op_type}: the attribute {name} is missing", where=where)


def read_attributes(node: Any, reader: TensorReader, where: str, place: str) -> dict[str, Any]:
    """The attributes as Python values: numbers, text, lists of them, and arrays."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        name = attribute.name
        if name in found:
            raise TraceError(f"{node.op_type} has the attribute {name!r} twice", where=where)
        found[name] = value = _value(attribute, reader, where, f"{place}, attribute {name!r}")
        if name in FLAGS and (type(value) is not int or value not in (0, 1)):
            raise TraceError(f"{node.op_type}: {name} is a flag", where=where, expected="0 or 1", got=repr(value)[:200])
    return found


def _value(attribute: Any, reader: TensorReader, where: str, place: str) -> Any:
    field = _FIELDS.get(attribute.type)
    if field in (None, "g", "graphs", "tensors") or attribute.ref_attr_name:
        raise TraceError(
            f"the attribute {attribute.name!r} is of a kind that is not supported",
            where=where,
            expected="numbers, text, lists of them, or a tensor",
            got=field or f"type {attribute.type}",
        )
    assert field is not None
    other = next((name for name in _FIELDS.values() if name != field and _is_set(attribute, name)), None)
    if other is not None or (field == "t" and not attribute.HasField("t")):
        raise TraceError(
            f"the value of the attribute {attribute.name!r} is not of the kind that it declares",
            where=where,
            expected=field,
            got=other or "none",
        )
    value = getattr(attribute, field)
    if field == "t":
        return reader.read(value, place)
    try:
        if field == "s":
            return value.decode()
        return (
            [item.decode() for item in value] if field == "strings" else list(value) if field.endswith("s") else value
        )
    except UnicodeDecodeError as error:
        raise TraceError(
            f"the text of the attribute {attribute.name!r} is not UTF-8", where=where, got=str(error)[:200]
        ) from None


def _is_set(attribute: Any, field: str) -> bool:
    return len(getattr(attribute, field)) > 0 if field.endswith("s") and field != "s" else attribute.HasField(field)


def check_declared(
    output: Any, number: int | None, shape: tuple[Any, ...], numbers: Mapping[int, Any], file: str
) -> str | None:
    """Raise if the element type that the file declares of an output is not what its nodes make. What to say of the
    shape if that is another one, or None: ONNX Runtime runs such a model too, and the nodes decide.

    number: the result's element type in TensorProto.DataType, None if it has none there. numbers: the dtype of the IR
    for each; types that are one dtype in the IR count as one.
    """
    tensor = output.type.tensor_type
    where = f"{file}, output {output.name!r}"
    if output.type.WhichOneof("value") not in (None, "tensor_type"):
        raise TraceError("an output is no tensor", where=where, got=output.type.WhichOneof("value"))
    declared = tensor.elem_type
    if declared and number is not None and declared != number and numbers.get(declared) is not numbers.get(number):
        raise TraceError(
            "the declared element type is not what the nodes make",
            where=where,
            expected=f"data_type {number}",
            got=f"data_type {declared}",
        )
    if not tensor.HasField("shape"):
        return None
    sizes = [dim.dim_value if dim.HasField("dim_value") else None for dim in tensor.shape.dim]
    differs = len(sizes) != len(shape) or any(
        isinstance(own, int) and given is not None and given > 0 and own != given for own, given in zip(shape, sizes)
    )
    if not differs:
        return None
    declared_shape = ", ".join("?" if size is None else str(size) for size in sizes)
    made = ", ".join(map(str, shape))
    return f"output {output.name}: the file declares the shape [{declared_shape}], but its nodes make [{made}]"
