"""Keys of kernels, as plain data: where a kernel's definition is found, and its static arguments.

A key prints, compares, and can be stored in files. Its module is imported when the definition is first asked for.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from qcompiler.errors import LoweringError
from qcompiler.fork_safety import cached_property

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.definition import KernelDef
    from qcompiler.backends.kernel_ir.ir import KernelFunction
    from qcompiler.backends.target import Target

A = TypeVar("A")
"""The signature of a kernel: the class of its arguments."""

_HOME = "qcompiler.backends."
_places: dict[KernelDef[Any, ...], str] = {}
_local: dict[str, KernelDef[Any, ...]] = {}


@dataclass(frozen=True)
class KernelKey(Generic[A]):
    """A kernel with its static arguments, which determine its code on a target. A is the kernel's signature.

    Attributes:
        place: where the definition is found: `module:NAME` or `module:NAME[key]` in a module of the backends. A
            definition elsewhere has a name that is valid in this process only.
        name: the kernel's name, made from the definition and the static arguments.
        static: sorted (name, value) pairs.
    """

    place: str
    name: str
    static: tuple[tuple[str, Any], ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash((self.place, self.name, self.static))

    @staticmethod
    def of(definition: KernelDef[A, ...], static: Mapping[str, Any]) -> KernelKey[A]:
        """The key of a definition and its static arguments."""
        if definition not in _places:
            _places[definition] = _place(definition)
        return KernelKey(_places[definition], definition.kernel_name(static), tuple(sorted(static.items())))

    @property
    def definition(self) -> KernelDef[A, ...]:
        """The kernel's definition. Imports its module."""
        if self.place in _local:
            return _local[self.place]
        module, _, name = self.place.partition(":")
        name, _, item = name.partition("[")
        held = getattr(importlib.import_module(module), name)
        return next(each for key, each in held.items() if f"{key!r}]" == item) if item else held

    def build(self, target: Target) -> KernelFunction:
        """The verified kernel IR for a target. Not cached."""
        return self.definition.build(target, **dict(self.static))

    @property
    def is_local(self) -> bool:
        """Whether other processes can't find the definition."""
        return self.place in _local

    def __str__(self) -> str:
        """`module:NAME(argument=value, ...)`: equal texts for equal code."""
        static = ", ".join(f"{name}={_spelled(value, self.place)}" for name, value in self.static)
        return f"{self.place}({static})"


def _place(definition: KernelDef[Any, ...]) -> str:
    """Where a definition is found in the modules of the backends, whose sources are in every key of the cache. Other
    definitions get a name that only this process knows."""
    module = definition.body.__module__
    if module.startswith(_HOME):
        for name, value in vars(sys.modules[module]).items():
            if value is definition:
                return f"{module}:{name}"
            if isinstance(value, dict):
                for item, held in value.items():
                    if held is definition:
                        return f"{module}:{name}[{item!r}]"
    place = f"{module}:{definition.name}#{len(_local)}"
    _local[place] = definition
    return place


def _spelled(value: Any, place: str) -> str:
    if isinstance(value, tuple):
        return "(" + "".join(f"{_spelled(item, place)}," for item in value) + ")"
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    raise LoweringError(
        "a static argument of a kernel is no plain value",
        where=place,
        expected="bool, int, float, str, None or a tuple of these",
        got=repr(value)[:80],
    )
