"""Kernel definitions: a Python function that emits the kernel, and the signature that its callers fill.

A signature is a frozen value class, generic in what fills it: `P` stands for a pointer, `E` for an extent (i64), `S`
for a scalar (f32). A lowering rule fills it with memory, ints and floats; the kernel reads these fields as IR values:

    class Rows(Group, Generic[E]):
        count: E
        stride: E                                      # bytes from row to row

    class Scale(Arguments["Scale"], Generic[P, E, S]):
        x: P
        y: Written[P]                                  # the kernel writes here; it only reads the other pointers
        rows: Rows[E]                                  # groups nest
        alpha: S

    @kernel
    def scale(b: KernelBuilder, a: Scale, *, unroll: int = 1) -> None:
        with b.loop(0, a.rows.count) as row:
            x = a.x + row.index * a.rows.stride ...    # a.x and a.rows.count are `ir.Value`s

    s.call(scale(unroll=4), Scale(x=x, y=y, rows=Rows(count=8, stride=256), alpha=0.5))     # in a lowering rule
    function = scale.build(target, unroll=4)                                                # -> KernelFunction
    words = scale.pack_args(Scale(x=At(2), y=At(3, 64), rows=..., alpha=0.5))               # in a test

A field may also be a tuple of fields: `tuple[E, E]`, or `tuple[Axis[E], ...]`, whose length `@kernel(axes=5)` fixes.
The type variables default to `Value`, so a bare `Scale` is what the kernel sees. Keyword arguments of the function are
static: they are part of the kernel's name and must not depend on symbolic sizes. The argument block holds the fields in
the order of their declaration. A type checker verifies both sides: that each field is given, and of which kind, and
that the arguments belong to the kernel. Fields that are `Aliased[P]` may overlap other pointers; all others must not.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from types import CodeType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    ClassVar,
    Concatenate,
    Generic,
    ParamSpec,
    dataclass_transform,
    get_args,
    get_origin,
    overload,
)

import numpy as np

from qcompiler.backends.kernel_ir.ir import KernelFunction, Parameter, Value, pack_args
from qcompiler.backends.kernel_ir.kernel_key import A, KernelKey
from qcompiler.errors import LoweringError
from qcompiler.fork_safety import cached_property
from qcompiler.traced_size import guarded

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from qcompiler.backends.kernel_ir.builder import KernelBuilder
    from qcompiler.backends.target import Target

    P = TypeVar("P", bound="Value | Memory | None", covariant=True, default=Value)
    E = TypeVar("E", bound="Value | int", covariant=True, default=Value)
    S = TypeVar("S", bound="Value | float", covariant=True, default=Value)
else:
    from typing import TypeVar

    P, E, S = TypeVar("P"), TypeVar("E"), TypeVar("S")

_KINDS: dict[Any, str] = {P: "pointer", E: "extent", S: "scalar"}
_WRITTEN, _ALIASED = "written", "aliased"

K = ParamSpec("K")
Any_P = TypeVar("Any_P")
Written = Annotated[Any_P, _WRITTEN]
"""A pointer that the kernel writes through. Callers may rely on the kernel only reading through all others."""
Aliased = Annotated[Any_P, _ALIASED]
"""A pointer that may overlap others, in a kernel that may work in place."""


class Memory:
    """The argument that a caller gives for a pointer; None for a pointer that this call does not use."""

    @property
    def pointer(self) -> tuple[Any, int]:
        """The buffer, as the program builder knows it, and a byte offset."""
        raise NotImplementedError

    def shifted(self, nbytes: int) -> At:
        """The address `nbytes` further."""
        buffer, offset = self.pointer
        return At(buffer, offset + nbytes)


@dataclass(frozen=True)
class At(Memory):
    """A byte offset in a buffer. buffer: as the program builder knows it, or the index of a base."""

    buffer: Any
    offset: int = 0

    @property
    def pointer(self) -> tuple[Any, int]:
        return self.buffer, self.offset


@dataclass_transform(frozen_default=True, eq_default=False)
class Group:
    """Base of the value classes that signatures are made of. The annotated attributes are the fields.

    A type checker treats subclasses as frozen dataclasses. At run time they are not: a process declares about a hundred
    of them before it compiles anything, and `dataclass` would compile five methods for each.
    """

    field_names: ClassVar[tuple[str, ...]] = ()
    _fields: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.field_names = tuple(dict.fromkeys([*cls.field_names, *cls.__dict__.get("__annotations__", ())]))
        cls._fields = frozenset(cls.field_names)

    if not TYPE_CHECKING:

        def __init__(self, *args: Any, **values: Any) -> None:
            if args:
                values = dict(zip(self.field_names, args), **values)
            if values.keys() != self._fields or len(args) > len(self.field_names):
                raise TypeError(f"{type(self).__name__} takes {', '.join(self.field_names)}, not {', '.join(values)}")
            self.__dict__.update(values)

        def __setattr__(self, name: str, value: Any) -> None:
            raise AttributeError(f"{type(self).__name__} is frozen")

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.field_names)
        return f"{type(self).__name__}({fields})"


class Arguments(Group, Generic[A]):
    """Base of a kernel's signature. A is the signature itself, by which a type checker matches kernel and arguments."""


class KernelDef(Generic[A, K]):
    """A kernel's definition: the Python function, its parameters in order, its name.

    Calling it with static arguments gives the `KernelKey` of one kernel.
    """

    def __init__(
        self,
        body: Callable[..., None],
        lengths: Mapping[str, int] | None = None,
    ) -> None:
        self.body = body
        self.name = _plain(body.__name__)
        self.__doc__ = body.__doc__
        self._lengths = lengths or {}
        self._keys: dict[tuple[tuple[str, Any], ...], KernelKey[A]] = {}

    def __call__(self, *args: K.args, **static: K.kwargs) -> KernelKey[A]:
        """The kernel with these static arguments. Those that equal the function's default are left out."""
        given = tuple([(name, guarded(value)) for name, value in static.items()])
        if given not in self._keys:
            chosen = {name: value for name, value in given if value != self._defaults.get(name, _NO_DEFAULT)}
            self._keys[given] = KernelKey.of(self, chosen)
        return self._keys[given]

    @cached_property
    def _inspected(self) -> list[inspect.Parameter]:
        return list(inspect.signature(self.body).parameters.values())

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        return {each.name: each.default for each in self._inspected if each.default is not inspect.Parameter.empty}

    @cached_property
    def signature(self) -> Any:
        """The class of the arguments, which annotates the function's second parameter."""
        annotation = self._inspected[1].annotation
        return eval(annotation, self.body.__globals__) if isinstance(annotation, str) else annotation

    @cached_property
    def parameters(self) -> tuple[Parameter, ...]:
        """The parameters in the order of the argument block."""
        return tuple(_parameters(self.signature, "", self._lengths))

    @property
    def aliased(self) -> frozenset[str]:
        """Names of the pointers that may overlap others."""
        return frozenset(parameter.name for parameter in self.parameters if parameter.aliased)

    def kernel_name(self, static: Mapping[str, Any]) -> str:
        """The name of the kernel that these static arguments make."""
        return self.name + "".join(f"_{name}{_plain(value)}" for name, value in sorted(static.items()))

    def build(self, target: Target, **static: Any) -> KernelFunction:
        """The verified kernel IR for a target and static arguments. Not cached here."""
        from qcompiler.backends.kernel_ir.builder import KernelBuilder
        from qcompiler.backends.kernel_ir.verifier import verify_kernel

        builder = KernelBuilder(self.kernel_name(static), self.parameters, target)
        values = iter(builder.blocks[0].args)
        self.body(builder, _filled(self.signature, "", self._lengths, values), **static)
        if len(builder.blocks) != 1:
            raise LoweringError(f"kernel {builder.name} left a block open")
        function = KernelFunction(builder.name, self.parameters, builder.blocks[0], target, self.aliased)
        verify_kernel(function)
        return function

    def arguments(self, arguments: Arguments[A]) -> list[tuple[Parameter, Any]]:
        """The parameters in order, each with the argument that a caller gives for it."""
        values = self._leaves(arguments) if isinstance(arguments, self.signature) else ()
        if len(values) != len(self.parameters):
            raise LoweringError(
                f"arguments do not fit kernel {self.name}",
                expected=f"{self.signature.__name__}: {', '.join(each.name for each in self.parameters)}",
                got=f"{type(arguments).__name__} with {len(list(_leaves(arguments)))} values",
            )
        return list(zip(self.parameters, values))

    @cached_property
    def _leaves(self) -> Callable[[Any], tuple[Any, ...]]:
        """A function that reads the arguments of all parameters, in order. It is written in C if no field is a
        tuple."""
        paths = [each.name for each in self.parameters]
        if len(paths) < 2 or any(part.isdecimal() for path in paths for part in path.split(".")):
            return lambda arguments: tuple(_leaves(arguments))
        return attrgetter(*paths)

    def pack_args(self, arguments: Arguments[A]) -> np.ndarray:
        """The np.int64 argument block of a call; the buffers of pointers are indices of bases."""
        values = {each.name: _base_and_offset(value) for each, value in self.arguments(arguments)}
        return pack_args(self.name, self.parameters, values)


_NO_DEFAULT = object()


@overload
def kernel(body: Callable[Concatenate[KernelBuilder, A, K], None], /) -> KernelDef[A, K]: ...
@overload
def kernel(**lengths: int) -> Callable[[Callable[Concatenate[KernelBuilder, A, K], None]], KernelDef[A, K]]: ...
def kernel(body: Any = None, /, **lengths: int) -> Any:
    """Declare a kernel: a function of a builder, its arguments and static keywords; see the module's docstring.

    lengths: the lengths of fields that are tuples of any length, by field name (`group_field` within a group).
    """
    return KernelDef(body) if body is not None else lambda body: KernelDef(body, lengths)


# -- signatures


@cache
def _fields(group: Any) -> tuple[tuple[str, Any], ...]:
    """(name, annotation) of the fields of a group, in order."""
    hints: dict[str, Any] = {}
    for owner in reversed(group.__mro__):
        for name, text in vars(owner).get("__annotations__", {}).items():
            if name in group.field_names:
                hints[name] = eval(_compiled(text), vars(sys.modules[owner.__module__]))
    return tuple((name, hints[name]) for name in group.field_names)


@cache
def _compiled(annotation: str) -> CodeType:
    """An annotation as code. Compiling takes longer than evaluating, and most fields have one of a few annotations."""
    return compile(annotation, "<annotation>", "eval")


def _items(annotation: Any, path: str, lengths: Mapping[str, int]) -> Sequence[Any]:
    """The annotations of a tuple's items."""
    items = get_args(annotation)
    return items[:1] * lengths[path.replace(".", "_")] if items[-1] is Ellipsis else items


def _parameters(annotation: Any, path: str, lengths: Mapping[str, int]) -> Iterator[Parameter]:
    """The parameters of a field, of a group's fields or of a tuple's items, in order."""
    marks: Sequence[Any] = ()
    if get_origin(annotation) is Annotated:
        annotation, *marks = get_args(annotation)
    if annotation in _KINDS:
        yield Parameter(path, _KINDS[annotation], written=_WRITTEN in marks, aliased=_ALIASED in marks)
    elif get_origin(annotation) is tuple:
        for index, item in enumerate(_items(annotation, path, lengths)):
            yield from _parameters(item, f"{path}.{index}", lengths)
    else:
        for name, field in _fields(get_origin(annotation) or annotation):
            yield from _parameters(field, f"{path}.{name}" if path else name, lengths)


def _filled(annotation: Any, path: str, lengths: Mapping[str, int], values: Iterator[Value]) -> Any:
    """Make the field, group or tuple of an annotation from the next values."""
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    if annotation in _KINDS:
        return next(values)
    if get_origin(annotation) is tuple:
        items = enumerate(_items(annotation, path, lengths))
        return tuple(_filled(item, f"{path}.{index}", lengths, values) for index, item in items)
    group = get_origin(annotation) or annotation
    fields = _fields(group)
    return group(**{n: _filled(each, f"{path}.{n}" if path else n, lengths, values) for n, each in fields})


def _leaves(value: Any) -> Iterator[Any]:
    """The arguments of all parameters, in order."""
    if value is None or isinstance(value, Memory | int | float | np.generic):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _leaves(item)
    else:
        for name in value.field_names:
            yield from _leaves(getattr(value, name))


def _base_and_offset(value: Any) -> Any:
    return value.pointer if isinstance(value, Memory) else (0, 0) if value is None else value


def _plain(value: Any) -> str:
    """A static argument as part of a symbol's name."""
    text = str(int(value)) if isinstance(value, bool) else str(value)
    return re.sub(r"\W+", "_", text.replace("-", "m"))
