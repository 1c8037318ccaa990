"""From the phrases of the text form to graphs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np

from qcompiler.dims import Dim
from qcompiler.errors import ParseError, nearest
from qcompiler.ir import Graph, Node, Value
from qcompiler.notes import Note, parse_note
from qcompiler.text.messages import at_token
from qcompiler.text.phrases import Failure, NodePhrase, TypePhrase, reference, unquote
from qcompiler.text.sizes import MAX_NAME, parse_size
from qcompiler.types import DType, Layout, QuantParams, TensorType

MAX_ZEROS = 64 * 2**20
MAX_NODES = 100_000

Data = Mapping[str, np.ndarray] | str | None


class GraphBuilder:
    """Builds one graph from its phrases.

    Attributes:
        missing: names of arrays that `data` lacks.
    """

    def __init__(self, name: str, stage: str, data: Data, prefix: str) -> None:
        self.graph = Graph(name, stage)
        self.values: dict[str, Value] = {}
        self.data, self.prefix = data, prefix
        self.missing: list[str] = []
        self.types: dict[str, TensorType] = {}

    def build(self, inputs: list[Any], items: list[Any], outputs: list[Any]) -> Graph:
        graph = self.graph
        for token, phrase in inputs:
            self.claim(token, partial(self.input, token, phrase))
        for item in items:
            if isinstance(item, NodePhrase):
                self.node(item)
            elif item[0] == "note":
                graph.notes.append(at_token(item[1], partial(self.note, item[1])))
            else:
                self.claim(item[1], partial(self.const, item[1], item[2]))
        if self.missing:
            self.missing = list(dict.fromkeys(self.missing))
            shown = ", ".join(f"@{name}" for name in self.missing[:5])
            raise ParseError(
                f"{len(self.missing)} arrays of graph {graph.name} have no data",
                got=shown,
                hint='pass data={"name": array}, or data="zeros" for text alone',
            )
        values = [self.find(token) for token, _ in outputs]
        graph.set_outputs(
            values, [name if name is not None else value.name for value, (_, name) in zip(values, outputs)]
        )
        return graph

    def input(self, token: Any, phrase: TypePhrase) -> Value:
        return self.graph.add_input(reference(token), self.tensor_type(phrase))

    def note(self, token: Any) -> Note:
        return parse_note(unquote(token))

    def claim(self, token: Any, make: Callable[[], Value | None]) -> None:
        """Define the value that `make` gives under the token's name."""
        if str(token) in self.values:
            raise Failure(token, f"{token} is defined twice")
        value = at_token(token, make)
        if value is not None:
            self.values[str(token)] = value

    def find(self, token: Any) -> Value:
        """The value that a token names."""
        found = self.values.get(str(token))
        if found is None:
            known = list(self.values)[-1000:]
            raise Failure(
                token, f"{token} is not defined here", hint=nearest(str(token), known) if len(known) < 50 else None
            )
        return found

    def array(self, name: str) -> np.ndarray | None:
        """The data of that name, if it is given."""
        if not isinstance(self.data, Mapping):
            return None
        found = self.data.get(self.prefix + name)
        if found is None and self.data is not None:
            found = self.data.get(name)
        return None if found is None else np.asarray(found)

    def const(self, token: Any, phrase: TypePhrase) -> Value | None:
        name, type = reference(token), self.tensor_type(phrase)
        data = self.array(name)
        if not type.is_static:
            raise Failure(token, "a constant has sizes, not names", got=str(type))
        if data is None and self.data != "zeros":
            self.missing.append(name)
            return Value(name, type)  # never reaches a graph: missing data is reported when all names are known
        if data is None:
            nbytes = type.nbytes
            if isinstance(nbytes, Dim) or nbytes > MAX_ZEROS:
                raise Failure(token, "constant too large to fill with zeros", expected=f"at most {MAX_ZEROS} bytes")
            data = np.zeros(type.sizes, type.dtype.numpy)
        if len(name.encode()) > MAX_NAME or self.graph.fresh_name(name) != name:
            raise Failure(token, f"{token} is defined twice or its name is too long")
        return self.graph.add_const(name, data, type)

    def node(self, phrase: NodePhrase) -> None:
        from qcompiler.opdef import opdef

        graph = self.graph
        if len(graph) >= MAX_NODES:
            raise Failure(phrase.op, "too many nodes", expected=f"at most {MAX_NODES}")
        names = []
        for token in phrase.results:
            if str(token) in self.values:
                raise Failure(token, f"{token} is defined twice")
            names.append(reference(token))
            if graph.fresh_name(names[-1]) != names[-1] or len(set(names)) != len(names):
                raise Failure(token, f"the name {names[-1]!r} is taken")
        operands = [None if token is None else self.find(token) for token in phrase.operands]
        attrs = {}
        for name, value in phrase.attrs:
            if str(name) in attrs:
                raise Failure(name, f"attr {name!s} is given twice")
            attrs[str(name)] = _plain(value)
        types = [self.tensor_type(type) for type in phrase.types]

        def make() -> Node:
            opdef(str(phrase.op)).check_operands(operands)
            return graph.create(
                str(phrase.op), operands, attrs, types=types or None, names=names, loc=phrase.loc, origin=phrase.origin
            )

        node = at_token(phrase.op, make)
        if len(node.results) != len(names):
            raise Failure(phrase.op, f"{len(names)} results but {len(node.results)} types")
        for token, value in zip(phrase.results, node.results):
            self.values[str(token)] = value

    def tensor_type(self, phrase: TypePhrase) -> TensorType:
        """The type that a phrase names. Plain types are built once."""
        token, fields = phrase.token, phrase.fields
        if not fields and str(token) in self.types:
            return self.types[str(token)]
        dtype, _, sizes = str(token)[:-1].partition("[")
        made = dict(fields)
        if len(made) != len(fields):
            raise Failure(token, "a field of this type is given twice", got=", ".join(name for name, _ in fields))
        shape = tuple(parse_size(token, size) for size in sizes.split(",")) if sizes.strip() else ()
        type = at_token(
            token, lambda: TensorType(DType(dtype), shape, self.quant(token, DType(dtype), made), self.layout(made))
        )
        if not fields:
            self.types[str(token)] = type
        return type

    def layout(self, fields: dict[str, Any]) -> Layout | None:
        if "layout" not in fields:
            return None
        order, attrs = fields["layout"]
        if str(order) not in ("row_major", "channels_last"):
            raise Failure(order, f"unknown layout {order!s}", expected="row_major | channels_last")
        given = {str(name): _plain(value) for name, value in attrs}
        halo = given.pop("halo", ())
        stride = given.pop("channel_stride", 0)
        pairs = isinstance(halo, tuple) and all(
            isinstance(p, tuple) and len(p) == 2 and all(type(i) is int for i in p) for p in halo
        )
        if given or type(stride) is not int or not pairs:
            raise Failure(order, "malformed layout", expected="channel_stride=int, halo=((int,int),...)")
        return Layout(str(order), stride, halo)

    def quant(self, token: Any, dtype: DType, fields: dict[str, Any]) -> QuantParams | None:
        if not fields.keys() - {"layout"}:
            return None
        if "scale" not in fields:
            raise Failure(token, "quantization parameters without a scale", expected="scale=...")
        axis, scale, zero_point = fields.get("axis"), fields["scale"], fields.get("zero_point", 0)
        scales = self.parameter(token, scale, axis, np.float32)
        if axis is None and len(scales) != 1:
            raise Failure(token, "per-channel parameters need an axis", expected="axis=...")
        points = self.parameter(token, zero_point, axis, np.int32)
        if len(points) == 1:
            points = points * len(scales)
        return QuantParams(scales, points, axis, fields.get("qmin", dtype.min), fields.get("qmax", dtype.max))

    def parameter(self, token: Any, given: Any, axis: int | None, kind: type[np.generic]) -> tuple[Any, ...]:
        """A number, a tuple of numbers, or the named array, as a tuple of float32-exact floats or of ints."""
        if isinstance(given, (int, float)):
            given = (given,)
        elif not isinstance(given, tuple):
            name = reference(given)
            array = self.array(name)
            if array is None:
                if self.data != "zeros":
                    self.missing.append(name)
                size = str(token)[:-1].partition("[")[2].split(",")[axis or 0].strip() if axis is not None else "1"
                count = int(size) if size.isdigit() and len(size) < 8 else 1
                return ((1.0,) if kind is np.float32 else (0,)) * count
            if array.ndim != 1 or array.dtype != kind:
                raise Failure(
                    given,
                    f"{given} is not an array of parameters",
                    expected=f"{np.dtype(kind)}[n]",
                    got=f"{array.dtype}{list(array.shape)}",
                )
            return tuple(array.tolist())
        if not all(isinstance(item, (int, float) if kind is np.float32 else int) for item in given):
            raise Failure(token, "malformed parameters", expected="numbers")
        if kind is np.float32:
            return tuple([_single(item) for item in given])
        return tuple(given)


def _single(item: float) -> float:
    """A number rounded to float32; infinite where it is too large."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", item))[0])
    except OverflowError:
        with np.errstate(over="ignore"):
            return float(np.float32(item))


def _plain(value: Any) -> Any:
    return tuple(_plain(item) for item in value) if isinstance(value, tuple) else value
