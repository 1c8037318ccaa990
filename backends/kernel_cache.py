"""Compiled kernels of this process, one for each definition, static arguments and target.

Kernels that are asked for together are compiled as one LLVM module: parsing and linking are paid once.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcompiler.backends.jit import CompiledKernel, compile_kernels
from qcompiler.backends.kernel_ir.definition import KernelDef
from qcompiler.backends.target import Target


@dataclass(frozen=True)
class KernelKey:
    """What determines a kernel's code. static: sorted (name, value) pairs."""

    definition: KernelDef
    static: tuple[tuple[str, Any], ...]

    @staticmethod
    def of(definition: KernelDef, static: Mapping[str, Any]) -> KernelKey:
        return KernelKey(definition, tuple(sorted(static.items())))


_compiled: dict[tuple[str, KernelKey], CompiledKernel] = {}
_lock = threading.Lock()


def kernels(keys: Sequence[KernelKey], target: Target) -> dict[KernelKey, CompiledKernel]:
    """The compiled kernels, emitting those that this process does not have yet. LoweringError as compile_kernels."""
    with _lock:
        missing = [key for key in dict.fromkeys(keys) if (target.key, key) not in _compiled]
        functions = [key.definition.build(target, **dict(key.static)) for key in missing]
        for key, compiled in zip(missing, compile_kernels(functions)):
            _compiled[target.key, key] = compiled
        return {key: _compiled[target.key, key] for key in keys}
