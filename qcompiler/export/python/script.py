"""Writes a graph as a Python script and a safetensors file of its constants.

    graph = export_python(model, "model.py")      # and model.safetensors

The script runs with numpy and the standard library alone, and gives the interpreter's bits: a node is one line, which
calls the op's own reference with the operands, the attributes and the type of its result.

    h = integer(Conv, x, w, b, stride=(2, 2), ..., out=u8(B, 64, 56, 56, scale=0.0235, zero_point=114))  # features.0

Names are the graph's where they are identifiers; no other text of the graph becomes code.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import numpy as np

from qcompiler.arguments import check_path
from qcompiler.artifact.replacing import replacing
from qcompiler.compiled import CompiledModel
from qcompiler.dims import Dim, DimLike, parse_dim
from qcompiler.errors import LoweringError
from qcompiler.export.names import Identifiers, comment, origin_text
from qcompiler.export.python.bundle import Bundle
from qcompiler.export.refusals import check_graph, graph_of
from qcompiler.ir import AttrValue, Graph, Node, Value
from qcompiler.notes import Guard
from qcompiler.opdef import AttrSpec, OpDef, Trait, opdef
from qcompiler.ops.interfaces import Conversion
from qcompiler.text.printer import ArrayNames, format_scale
from qcompiler.types import DType, TensorType

Path = str | os.PathLike[str]
SUFFIX = ".py"


def export_python(model: CompiledModel | Graph, path: Path) -> None:
    """Write a model as a Python script that runs on numpy alone, and its constants beside it: docs/export.md.

    The script computes what the interpreter does, to the bit. Both files replace older ones by a rename, after
    everything was made.

    Args:
        model: a compiled model, or a graph of the stage float, qdq or integer; sizes may be symbolic.
        path: the script, NAME.py; the constants go to NAME.safetensors.

    Raises:
        LoweringError: another suffix, a stage that is not exported, nodes whose references cannot be copied.
        ArtifactError: a file cannot be written.
    """
    check_path("path", path)
    graph, place = graph_of(model), os.fspath(path)
    if not place.endswith(SUFFIX):
        raise LoweringError("the file of a script", expected=f"a path that ends in {SUFFIX}", got=place)
    beside = place.removesuffix(SUFFIX) + ".safetensors"
    script = Script(graph)
    data = script.data()
    text = script.text(os.path.basename(beside), hashlib.sha256(data).hexdigest())
    with replacing(beside) as constants, replacing(path) as file:
        constants.write(data)
        file.write(text.encode("ascii"))


def meaning_of(node: Node) -> tuple[str, str]:
    """(function of the runtime, method of the op) by which the interpreter evaluates a node."""
    definition = opdef(node.op)
    codes = any(value is not None and value.type.is_quantized for value in node.operands)
    gives_codes = any(value.type.is_quantized for value in node.results)
    if issubclass(definition, Conversion):
        return "integer", "integer"
    if not gives_codes and not (codes and definition.gives_real):
        return "real", "reference"
    if definition.integer is not None:
        return "integer", "integer"
    if Trait.MOVES_DATA in definition.traits:
        return "moved", "reference"
    return "table", "reference"


def why_not(node: Node) -> str | None:
    """Why a node cannot be written into a script, or None."""
    try:
        Bundle().add_op(opdef(node.op), meaning_of(node)[1])
    except LoweringError as error:
        return str(error)
    return None


class Script:
    """The text of one graph's script, and the bytes of its constants."""

    def __init__(self, graph: Graph) -> None:
        refused: dict[tuple[str, str], str | None] = {}

        def refusal(node: Node) -> str | None:
            key = (node.op, meaning_of(node)[1])
            if key not in refused:
                refused[key] = why_not(node)
            return refused[key]

        check_graph(graph, "a script", refusal)
        self.graph = graph
        self.bundle = Bundle()
        types = {value.type.dtype for value in graph.values()} | {DType.F32}
        helpers = {meaning_of(node)[0] for node in graph.nodes}
        for name in (*_ALWAYS, *sorted(helpers)):
            self.bundle.add(name)
        for node in graph.nodes:
            self.bundle.add_op(opdef(node.op), meaning_of(node)[1])
        self.makers = {dtype: dtype.value for dtype in sorted(types, key=lambda dtype: dtype.value)}
        if DType.BOOL in self.makers:
            self.makers[DType.BOOL] = "bool_"
        own = {*self.makers.values(), "CONSTANTS", "INPUTS", "OUTPUTS", "run", "inputs", "sizes"}
        self.bundle.close(own)
        taken = {*own, *self.bundle.names}
        self.identifiers = Identifiers(taken)
        self.sizes = {name: self.identifiers.make(name, "size") for name in sorted(_size_names(graph))}
        self.variables = {id(value): self.identifiers.make(value.name) for value in graph.values()}
        self.arrays = ArrayNames({const.name for const in graph.consts.values()})
        self.const_types = {name: self.type(const) for name, const in graph.consts.items()}

    # -- constants

    def data(self) -> bytes:
        """The safetensors file: constants under their names, and the scales and zero points of channels."""
        from safetensors.numpy import save

        arrays = {name: const.data for name, const in self.graph.consts.items()} | self.arrays.arrays
        return save({name: np.ascontiguousarray(array).reshape(array.shape) for name, array in arrays.items()})

    # -- text

    def text(self, constants: str, digest: str) -> str:
        """The script.

        Args:
            constants: the name of the file of constants, which lies beside the script.
            digest: the SHA-256 of that file.
        """
        lines = [*self._head(constants), "", self.bundle.text(), "", "", *self._constants(constants, digest)]
        return "\n".join([*lines, "", "", *self._run(), "", "", *_TAIL]) + "\n"

    def _head(self, constants: str) -> Iterator[str]:
        yield f'"""The graph {_quoted_comment(self.graph.name)}, which runs on numpy alone.'
        yield ""
        yield f"Its constants are in {_quoted_comment(constants)}, in the same folder."
        yield ""
        yield "    import SCRIPT; outputs = SCRIPT.run({name: array, ...})"
        yield "    python SCRIPT.py INPUTS.npz OUTPUTS.npz"
        yield ""
        yield "Definitions come first, then the constants. `run` at the end is the graph, one line a node, which ends"
        yield "in the name that the node had in the model. The results of integer nodes have the same bits everywhere."
        yield '"""'
        yield ""
        yield "from __future__ import annotations"

    def _constants(self, constants: str, digest: str) -> Iterator[str]:
        yield from (f"{maker} = of_type(DType.{dtype.name})" for dtype, maker in self.makers.items())
        yield ""
        yield f"CONSTANTS = read_arrays(os.path.join(os.path.dirname(os.path.abspath(__file__)), {ascii(constants)}),"
        yield f"                        {ascii(digest)})"
        yield f"INPUTS = ({''.join(f'{ascii(value.name)}, ' for value in self.graph.inputs)})"
        yield f"OUTPUTS = ({''.join(f'{ascii(name)}, ' for name in self.graph.output_names)})"
        yield ""
        for name, const in self.graph.consts.items():
            yield f"{self.variables[id(const)]} = TypedArray(CONSTANTS[{ascii(name)}], {self.const_types[name]})"

    def _run(self) -> Iterator[str]:
        yield "def run(inputs: Mapping[str, Any]) -> dict[str, np.ndarray]:"
        yield '    """The outputs by name. GraphError says what is wrong with inputs that do not fit."""'
        if self.sizes:
            yield "    sizes: dict[str, int] = {}"
        for value in self.graph.inputs:
            yield f"    {self._bind(value)}"
        for name, variable in self.sizes.items():
            yield f"    {variable} = sizes[{ascii(name)}]"
        for value in self.graph.inputs:
            if value.type.dim_names:
                shape = self._tuple(value.type.shape)
                yield f"    check({self.variables[id(value)]}.array.shape == {shape}, {ascii(shape)})"
        for note in self.graph.notes:
            if isinstance(note, Guard):
                holds = f"{self.size(note.left)} {note.relation} {self.size(note.right)}"
                yield f"    check({holds}, {ascii(holds)})"
        for node in self.graph.nodes:
            yield f"    {self.node(node)}"
        pairs = zip(self.graph.output_names, self.graph.outputs)
        yield f"    return dict(zip(OUTPUTS, ({''.join(f'{self.variables[id(v)]}.array, ' for _, v in pairs)})))"

    def _bind(self, value: Value) -> str:
        """The line that takes an input."""
        sizes = ", ".join(
            ascii(str(size)) if str(size) in self.sizes else "None" if isinstance(size, Dim) else str(size)
            for size in value.type.shape
        )
        type = self.type(value, sizes=sizes)
        where = "sizes" if self.sizes else "{}"
        return f"{self.variables[id(value)]} = bind(inputs, {ascii(value.name)}, {type}, {where})"

    def node(self, node: Node) -> str:
        """The line of one node."""
        function, _ = meaning_of(node)
        definition = opdef(node.op)
        operands = list(node.operands)
        count = sum(1 for spec in definition.operands if not spec.variadic)
        operands += [None] * (count - len(operands))
        given = [self.bundle.name_of(definition)]
        given += ["None" if value is None else self.variables[id(value)] for value in operands]
        given += [f"{key}={self.attr(spec, node.attrs[spec.name])}" for key, spec in _attr_fields(definition)]
        types = [self.type(value) for value in node.results]
        several = len(types) > 1
        given.append(f"out=({', '.join(types)})" if several else f"out={types[0]}")
        results = ", ".join(self.variables[id(value)] for value in node.results)
        text = f"{results} = {function}({', '.join(given)})"
        origin = origin_text(node.origin)
        return f"{text}  # {origin}" if origin else text

    def attr(self, spec: AttrSpec[object], value: AttrValue) -> str:
        """An attribute as Python; sizes may be expressions."""
        if spec.kind == "shape" and isinstance(value, tuple):
            return self._tuple([parse_dim(size) if isinstance(size, str) else size for size in value])
        return _literal(value)

    def type(self, value: Value, sizes: str | None = None) -> str:
        """The call that makes a value's type."""
        type = value.type
        fields = [", ".join(map(self.size, type.shape)) if sizes is None else sizes] if type.shape else []
        return f"{self.makers[type.dtype]}({', '.join([*fields, *self._params(type, value.name)])})"

    def _params(self, type: TensorType, owner: str) -> Iterator[str]:
        quant = type.quant
        if quant is None:
            return
        if quant.axis is None:
            yield f"scale={format_scale(quant.scale[0])}"
        else:
            yield f"scale=CONSTANTS[{ascii(self.arrays.name(owner, 'scale', quant.scales))}], axis={quant.axis}"
        if len(set(quant.zero_point)) > 1:
            yield f"zero_point=CONSTANTS[{ascii(self.arrays.name(owner, 'zero_point', quant.zero_points))}]"
        elif quant.zero_point[0]:
            yield f"zero_point={quant.zero_point[0]}"
        if (quant.qmin, quant.qmax) != (type.dtype.min, type.dtype.max):
            yield f"qmin={quant.qmin}, qmax={quant.qmax}"

    def size(self, size: DimLike) -> str:
        """A size as a Python expression of the variables that hold the sizes of the call."""
        if not isinstance(size, Dim):
            return str(int(size))
        return str(size.substitute({name: Dim.name(variable) for name, variable in self.sizes.items()}))

    def _tuple(self, sizes: object) -> str:
        items = [self.size(size) for size in sizes]  # type: ignore[attr-defined]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"


def _attr_fields(definition: OpDef) -> Iterator[tuple[str, AttrSpec[object]]]:
    """(name of the field on the class, declaration) of each attribute, in order."""
    fields = {
        id(spec): key
        for base in reversed(definition.__mro__)
        for key, spec in base.__dict__.get("_own_fields", {}).items()
    }
    for spec in definition.attrs:
        yield fields[id(spec)], spec


def _size_names(graph: Graph) -> set[str]:
    """The names of the sizes that inputs bind."""
    return set(graph.dim_names)


def _literal(value: AttrValue) -> str:
    """A value of an attribute as Python that needs no name but `DType` and `float`."""
    if isinstance(value, DType):
        return f"DType.{value.name}"
    if isinstance(value, float) and not np.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, tuple):
        items = [_literal(item) for item in value]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    return ascii(value)


def _quoted_comment(text: str) -> str:
    """Text for the docstring: nothing in it ends the docstring or is an escape."""
    return comment(text).replace("\\", "/").replace('"', "'")


_ALWAYS = ("GraphError", "DType", "TypedArray", "of_type", "read_arrays", "bind", "check", "command")
_TAIL = ('if __name__ == "__main__":', "    command(run, INPUTS)")
