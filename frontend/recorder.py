"""The recorder behind every frontend: it appends ops to a float graph and knows names, source lines and constants.

Owns the active trace, the module scopes (names and origins of results), the constants (one for each array object), and
the inlining of other graphs. What values look like to the user is in `proxy.py`, what numpy calls mean in
`array_ops.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeGuard, cast

import numpy as np

from qcompiler.dims import Dim, DimLike, parse_dim
from qcompiler.errors import QCompilerError, TraceError
from qcompiler.frontend.sizes import Size, as_dim
from qcompiler.frontend.source import user_loc, user_place
from qcompiler.ir import AttrValue, Const, Graph, Loc, Origin, Value
from qcompiler.notes import Guard, Note, OutputStructure, Remark
from qcompiler.opdef import opdef
from qcompiler.signature import guards, structure_of
from qcompiler.structure import restore_outputs
from qcompiler.types import DType, QuantParams, TensorType

if TYPE_CHECKING:
    from qcompiler.frontend.proxy import Proxy

_active: ContextVar[Trace | None] = ContextVar("qcompiler_trace", default=None)
_STAGES = ("float", "observed", "fake_quant", "qdq", "integer")


def current_trace() -> Trace | None:
    """The trace being recorded, if any."""
    return _active.get()


def required_trace(what: str) -> Trace:
    trace = _active.get()
    if trace is None:
        raise TraceError(f"{what} needs a trace", hint="call it inside the function given to qcompiler.trace")
    return trace


class Traced:
    """A value of a trace, and the base of Proxy. All modules of the frontend can import it."""

    __slots__ = ("trace", "value")

    def __init__(self, trace: Trace, value: Value) -> None:
        self.trace = trace
        self.value = value


def is_traced(item: object) -> TypeGuard[Proxy]:
    """Whether `item` is a value of a trace. All are proxies; the modules below `proxy.py` can't import the class."""
    return isinstance(item, Traced)


class Trace:
    """One graph being recorded.

    Attributes:
        graph: what has been recorded.
        sizes: the example's number for each symbolic size.
        names: names of constants by id of the array (parameters, closure variables).
        loc: overrides the user's Python line (importers).
        spot: what messages call the place, if not `loc`.
        scalars_yield: whether arrays without axes count as numbers in promotion, as torch's do.
        widened: the float types of the model's own tensors, other than float32, that the graph holds as f32.
        baked: symbolic sizes that the example's number took the place of, and where.
        missing_example: what to do where a symbolic size has no example.
    """

    def __init__(self, name: str = "main") -> None:
        self.graph = Graph(name, "float")
        self.sizes: dict[str, int] = {}
        self.names: dict[int, str] = {}
        self.loc: Loc | None = None
        self.spot: str | None = None
        self.scalars_yield = False
        self.widened: set[str] = set()
        self.baked: list[tuple[Dim, str]] = []
        self.missing_example = "give an array as example input instead of a type"
        self._paths: dict[int, str] = {}
        self._scopes: list[Origin] = []
        self._consts: dict[
            tuple[int, str], tuple[Any, Const]
        ] = {}  # holds the source, so that its id is not used again
        self._made_of: dict[int, list[tuple[int, str]]] = {}
        self._held: set[int] = set()
        self._scalars: dict[tuple[str, str], Const] = {}
        self._inlined: dict[int, tuple[Const, Const]] = {}
        self._open = True

    # -- activity

    @contextmanager
    def recording(self) -> Iterator[Trace]:
        """Make this the active trace. Its values can't be used afterwards."""
        token = _active.set(self)
        try:
            yield self
        finally:
            self._open = False
            _active.reset(token)

    def check_open(self) -> None:
        if not self._open or _active.get() is not self:
            raise TraceError(
                "a traced value is used outside of its trace",
                where=user_place(),
                hint="return it from the traced function instead of storing it",
            )

    # -- module scopes

    def name_module(self, module: Any, path: str) -> None:
        """Give a module its path, and its parameters and buffers names below that path."""
        for name, child in module.named_modules():
            self._paths.setdefault(id(child), _join(path, name))
        for name, array in module.named_arrays():
            self.names.setdefault(id(array), _join(path, name))

    def module_path(self, module: Any) -> str:
        """The module's path. A new module gets one; the root gets the empty path."""
        path = self._paths.get(id(module))
        if path is None:
            parent = self._scopes[-1].path if self._scopes else ""
            path = parent
            if path in self._paths.values():
                path = self.graph.fresh_name(_join(parent, type(module).__name__.lower()))
            self.name_module(module, path)
        return path

    @contextmanager
    def scope(self, path: str, kind: str) -> Iterator[None]:
        """Ops recorded inside belong to the module at `path` of class `kind`."""
        self._scopes.append(Origin(path, kind))
        try:
            yield
        finally:
            self._scopes.pop()

    @property
    def path(self) -> str:
        return self._scopes[-1].path if self._scopes else ""

    def place(self) -> str:
        """Where the user's code is now, for messages."""
        if self.spot is not None:
            return self.spot
        place = str(self.loc) if self.loc is not None else user_place()
        return f"{place} (module {self._scopes[-1]})" if self._scopes and self._scopes[-1].path else place

    def adopt_name(self, traced: Traced, path: str) -> None:
        """Name the result of a module that is one op after the module's path."""
        value = traced.value
        if path and value.producer is not None and value.name.startswith(f"{path}."):
            self.graph.rename(value, self.graph.fresh_name(path))

    # -- recording

    def wrap(self, value: Value) -> Proxy:
        from qcompiler.frontend.proxy import Proxy

        return Proxy(self, value)

    def emit(
        self,
        op: str,
        operands: Sequence[Traced | None],
        attrs: Mapping[str, AttrValue] | None = None,
        *,
        name: str | None = None,
    ) -> Proxy:
        """Record one op with one result; see `emit_results`."""
        [result] = self.emit_results(op, operands, attrs, name=name)
        return result

    def emit_results(
        self,
        op: str,
        operands: Sequence[Traced | None],
        attrs: Mapping[str, AttrValue] | None = None,
        *,
        name: str | None = None,
    ) -> tuple[Proxy, ...]:
        """Record one op. Gives its results.

        Raises:
            TraceError: an operand belongs to another trace.
            ShapeError, VerifyError: operands or attrs do not fit; the message has the user's source line.
        """
        self.check_open()
        for operand in operands:
            if operand is not None and operand.trace is not self:
                raise TraceError(f"{op} reads a value of another trace", where=self.place())
        try:
            node = self.graph.create(
                op,
                [None if operand is None else operand.value for operand in operands],
                attrs,
                names=name or _join(self.path, op),
                loc=self.loc or user_loc(),
                origin=(self._scopes[-1],) if self._scopes else (),
            )
        except QCompilerError as error:
            error.where = f"{op} at {self.place()}"
            error.args = (error._render(),)
            raise error from None
        return tuple(self.wrap(result) for result in node.results)

    def emit_quantized(self, x: Traced, type: TensorType) -> Proxy:
        """Record a quantize of x. The result has this quantized type."""
        self.check_open()
        origin = (self._scopes[-1],) if self._scopes else ()
        name = _join(self.path, "quantize")
        made = self.graph.create(
            "quantize", [x.value], names=name, types=type, loc=self.loc or user_loc(), origin=origin
        )
        return self.wrap(made.result)

    def guard(self, guard: Guard) -> None:
        self._note(guard)

    def bake(self, size: Dim, number: int) -> None:
        """Note that the example's number took the place of a size."""
        self.baked.append((size, self.place()))
        self.guard(Guard(size, "==", number))

    def note(self, text: str) -> None:
        self._note(Remark(text))

    def _note(self, note: Note) -> None:
        if note not in self.graph.notes:
            self.graph.notes.append(note)

    # -- constants

    def constant(self, data: Any, *, dtype: DType | None = None, name: str | None = None) -> Proxy:
        """The constant that holds `data`; the same array object gives the same constant.

        float64 and float16 become f32. Without `dtype`, ints stay as they are.
        """
        array = _plain_array(data, self)
        wanted = dtype or _default_dtype(array, self)
        key = (id(data), wanted.value)
        known = self._consts.get(key)
        converted = _read_only(array, wanted)
        if known is not None and known[0] is data and _same(known[1].data, converted):
            return self.wrap(known[1])
        base = name or self.names.get(id(data)) or _join(self.path, "const")
        const = self.graph.add_const(base, converted)
        if array.dtype.kind == "f" and array.dtype != converted.dtype and array.ndim:
            self.note(f"constant @{const.name}: {array.dtype} became {wanted}")
        self._consts[key] = (data, const)
        self._made_of.setdefault(id(data), []).append(key)
        return self.wrap(const)

    def scalar(self, value: bool | int | float, dtype: DType) -> Proxy:
        """A constant of rank 0. Equal values share one constant."""
        if dtype.is_integer and not dtype.min <= value <= dtype.max:
            raise TraceError(
                f"a number that {dtype} does not hold",
                where=self.place(),
                expected=f"{dtype.min} to {dtype.max}",
                got=value,
            )
        data = np.asarray(value, dtype.numpy)
        key = (data.tobytes().hex(), dtype.value)
        if key not in self._scalars:
            self._scalars[key] = self.graph.add_const("c", data)
        return self.wrap(self._scalars[key])

    def derived(self, source: Any, purpose: str, data: np.ndarray, name: str) -> Proxy:
        """A constant computed from `source`, such as a transposed weight. There is one per source and purpose."""
        key = (id(source), purpose)
        known = self._consts.get(key)
        if known is None or known[0] is not source or not _same(known[1].data, data):
            self._consts[key] = known = (source, self.graph.add_const(name, np.array(data, order="C")))
            self._made_of.setdefault(id(source), []).append(key)
        return self.wrap(known[1])

    def codes(self, source: Any, codes: np.ndarray, dtype: DType, params: QuantParams, name: str) -> Proxy:
        """The constant of a quantized type that holds the codes of `source`. There is one per source."""
        key = (id(source), "codes")
        known = self._consts.get(key)
        if known is None or known[0] is not source or not _same(known[1].data, codes):
            const = self.graph.add_const(_join(self.path, name), codes, TensorType(dtype, codes.shape, params))
            self._consts[key] = known = (source, const)
            self._made_of.setdefault(id(source), []).append(key)
        return self.wrap(known[1])

    def hold(self, const: Const) -> None:
        """Keep a constant that ops may still read after the array that it was made of is released."""
        self._held.add(id(const))

    def release(self, source: Any) -> None:
        """Forget an array of which no more constants will be made. Constants of it that have no users and are not held
        leave the graph."""
        self.names.pop(id(source), None)
        for key in self._made_of.pop(id(source), ()):
            known = self._consts.get(key)
            if known is None or known[0] is not source:
                continue
            del self._consts[key]
            const = known[1]
            if not const.uses and id(const) not in self._held:
                self.release(const)
                self.graph.erase_const(const)

    # -- inlining

    def inline(self, callee: Any, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Any:
        """Record the ops of a graph, or of an object whose `__qc_graph__` is one, applied to `args`.

        The ops and types are the same, also quantized ones, so the result has the same bits. Symbolic sizes of the
        callee become the sizes of the arguments.
        """
        from qcompiler.frontend.array_ops import lift

        graph = graph_of(callee)
        if graph.stage not in _STAGES:
            raise TraceError(
                f"a graph of stage {graph.stage!r} cannot be inlined",
                expected=" | ".join(_STAGES),
                hint="inline the graph before it was lowered",
            )
        operands = [lift(item, self) for item in _by_input(graph, args, kwargs or {})]
        sizes = self._unify(graph, operands)
        mapping: dict[int, Value] = {id(v): operand.value for v, operand in zip(graph.inputs, operands)}
        for const in graph.consts.values():
            if id(const) not in self._inlined:
                self._inlined[id(const)] = const, self.graph.add_const(const.name, const.data, const.type)
            mapping[id(const)] = self._inlined[id(const)][1]
        graph.splice_into(self.graph, mapping)
        if sizes:
            self._rebind(graph, mapping, sizes)
        for guard in guards(graph):
            bound = guard.substitute(sizes)
            if not bound.is_static:
                self.guard(bound)
            elif not bound.holds({}):
                raise TraceError(
                    f"the inlined graph {graph.name} was traced for other sizes",
                    where=self.place(),
                    expected=str(guard),
                    got=str(bound),
                )
        for note in graph.notes:
            if not isinstance(note, (Guard, OutputStructure)):
                self._note(note)
        if _STAGES.index(graph.stage) > _STAGES.index(self.graph.stage):
            self.graph.stage = graph.stage
        return restore_outputs(structure_of(graph), [self.wrap(mapping[id(value)]) for value in graph.outputs])

    def _unify(self, graph: Graph, operands: Sequence[Traced]) -> dict[str, DimLike]:
        """The caller's size for each symbolic size of `graph`."""
        sizes: dict[str, DimLike] = {}
        for value, operand in zip(graph.inputs, operands):
            wanted, given = value.type, operand.value.type
            if wanted.dtype is given.dtype and wanted.rank == given.rank:
                for size, actual in zip(wanted.shape, given.shape):
                    if isinstance(size, Dim) and str(size) in size.names():
                        sizes.setdefault(str(size), actual)
            if wanted.substitute(sizes).with_layout(None) != given.with_layout(None):
                raise TraceError(
                    f"input {value.name!r} of the inlined graph {graph.name} does not fit",
                    where=self.place(),
                    expected=str(wanted),
                    got=str(given),
                )
        return sizes

    def _rebind(self, graph: Graph, mapping: Mapping[int, Value], sizes: Mapping[str, DimLike]) -> None:
        """Rewrite the spliced nodes' symbolic sizes, in types and in attrs of kind "shape"."""
        for node in graph.nodes:
            spliced = mapping[id(node.results[0])].producer
            assert spliced is not None  # splice_into has just made it
            for value in spliced.results:
                self.graph.set_type(value, value.type.substitute(sizes))
            for spec in opdef(node.op).attrs:
                if spec.kind == "shape" and node.attrs[spec.name] is not None:
                    shape = cast("tuple[int | str, ...]", node.attrs[spec.name])
                    self.graph.set_attr(spliced, spec.name, tuple(_substitute_text(size, sizes) for size in shape))


def _substitute_text(size: int | str, sizes: Mapping[str, DimLike]) -> int | str:
    dim = parse_dim(size) if isinstance(size, str) else size
    return shape_entry(dim.substitute(sizes)) if isinstance(dim, Dim) else dim


def shape_entry(size: Any) -> int | str:
    """A size as an attr of kind "shape" holds it: an int, or the text of a Dim."""
    dim = as_dim(size)
    return str(dim) if isinstance(dim, Dim) else dim


def graph_of(callee: Any) -> Graph:
    """The graph behind a Graph, a compiled model, or anything with `__qc_graph__`."""
    found = callee if isinstance(callee, Graph) else getattr(callee, "__qc_graph__", None)
    if callable(found) and not isinstance(found, Graph):
        found = found()
    if not isinstance(found, Graph):
        raise TraceError("only a graph or a compiled model can be inlined", got=type(callee).__name__)
    return found


def _by_input(graph: Graph, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    names = [value.name for value in graph.inputs]
    if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
        return _by_input(graph, (), args[0])
    unknown = [name for name in kwargs if name not in names[len(args) :]]
    if unknown or len(args) + len(kwargs) != len(names):
        raise TraceError(
            f"arguments of the inlined graph {graph.name}",
            expected=f"({', '.join(names)})",
            got=f"{len(args)} by position, by name: {', '.join(kwargs) or 'none'}",
        )
    return [*args, *(kwargs[name] for name in names[len(args) :])]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path and name else path or name


def _plain_array(data: Any, trace: Trace) -> np.ndarray:
    if isinstance(data, (Size, Traced)):
        raise TraceError("a traced value is not a constant", where=trace.place())
    if hasattr(data, "detach") and hasattr(data, "numpy"):  # a torch tensor
        data = data.detach().cpu().numpy()
    try:
        array = np.asarray(data)
    except (ValueError, TypeError) as error:
        raise TraceError(f"{type(data).__name__} is not an array: {error}", where=trace.place()) from None
    if array.dtype.kind not in "fiub":
        raise TraceError(
            "unsupported element type of a constant",
            where=trace.place(),
            expected="float, int or bool",
            got=str(array.dtype),
        )
    return array


def _read_only(array: np.ndarray, dtype: DType) -> np.ndarray:
    """A read-only copy, so that later changes of the user's array don't reach the graph. An array in a `bytes` object,
    as importers make it, cannot change, and is not copied."""
    memory: Any = array
    while isinstance(memory, np.ndarray):
        memory = memory.base
    if isinstance(memory, bytes) and array.dtype == dtype.numpy and array.flags.c_contiguous:
        return array
    converted = np.array(array, dtype.numpy)
    converted.setflags(write=False)
    return converted


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and np.array_equal(a, b, equal_nan=a.dtype.kind == "f")


def _default_dtype(array: np.ndarray, trace: Trace) -> DType:
    if array.dtype.kind == "f":
        return DType.F32
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        return DType.I64
    return DType.from_numpy(array.dtype)
