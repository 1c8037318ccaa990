"""A kernel's definition: the Python function, its parameters and their layout; building it for a target.

Owns the `kernel` decorator. What the function may do is `builder`'s docstring.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qcompiler.backends.kernel_ir.ir import KernelFunction, Parameter, pack_args
from qcompiler.errors import LoweringError

if TYPE_CHECKING:
    from qcompiler.backends.target import Target


class KernelDef:
    """A kernel's definition: the Python function, its parameters in order, its name."""

    def __init__(
        self, body: Callable[..., None], parameters: tuple[Parameter, ...], aliased: frozenset[str] = frozenset()
    ) -> None:
        self.body = body
        self.name = _plain(body.__name__)
        self.__doc__ = body.__doc__
        self.parameters = parameters
        self.aliased = aliased

    def kernel_name(self, static: Mapping[str, Any]) -> str:
        """The name of the kernel that these static arguments make."""
        return self.name + "".join(f"_{name}{_plain(value)}" for name, value in sorted(static.items()))

    def build(self, target: Target, **static: Any) -> KernelFunction:
        """The verified kernel IR for a target and static arguments. Not cached here."""
        from qcompiler.backends.kernel_ir.builder import KernelBuilder
        from qcompiler.backends.kernel_ir.verifier import verify_kernel

        builder = KernelBuilder(self.kernel_name(static), self.parameters, target)
        self.body(builder, **static)
        if len(builder.blocks) != 1:
            raise LoweringError(f"kernel {builder.name} left a block open")
        function = KernelFunction(builder.name, self.parameters, builder.blocks[0], target, self.aliased)
        verify_kernel(function)
        return function

    def pack_args(self, **values: Any) -> np.ndarray:
        """np.int64 argument block: {pointer: (base index, byte offset), extent: int, scalar: float}."""
        return pack_args(self.name, self.parameters, values)


def _plain(value: Any) -> str:
    """A static argument as part of a symbol's name."""
    text = str(int(value)) if isinstance(value, bool) else str(value)
    return re.sub(r"\W+", "_", text.replace("-", "m"))


def kernel(
    *,
    pointers: Sequence[str] = (),
    extents: Sequence[str] = (),
    scalars: Sequence[str] = (),
    aliased: Sequence[str] = (),
) -> Callable[[Callable[..., None]], KernelDef]:
    """Declare a kernel. The argument block holds the pointers, then the extents, then the scalars, in this order.

    aliased: pointers that may overlap others (a kernel that may work in place); all others never overlap.
    """
    named = [*((n, "pointer") for n in pointers), *((n, "extent") for n in extents), *((n, "scalar") for n in scalars)]
    parameters = tuple(Parameter(name, kind) for name, kind in named)

    def declare(body: Callable[..., None]) -> KernelDef:
        return KernelDef(body, parameters, frozenset(aliased))

    return declare
