"""Compiled kernels: one for each definition, static arguments and target; emitted only where no process has yet.

This process keeps what it has; `qcompiler.backends.cache.entries` keeps objects for other processes. There the key is
what a kernel is made from, not its IR, so that finding its code builds nothing.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from qcompiler.backends.cache import entries as object_cache
from qcompiler.backends.codegen.jit import LoadedKernel, emit_kernel, link_objects
from qcompiler.backends.kernel_ir.definition import KernelDef, KernelKey
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError

_compiled: dict[str | tuple[str, KernelKey], LoadedKernel] = {}
"""By the key between processes; by target and key where there is none."""
_addresses: dict[KernelDef, str | None] = {}
_lock = threading.Lock()


def kernels(keys: Sequence[KernelKey], target: Target) -> dict[KernelKey, LoadedKernel]:
    """The compiled kernels, loading or emitting those that this process does not have yet.

    Raises:
        LoweringError: this machine can't run the target, or a kernel is not legal.
    """
    texts = {key: stored_key(key, target) for key in dict.fromkeys(keys)}
    names = {key: (target.key, key) if text is None else text for key, text in texts.items()}
    with _lock:
        missing = {key: texts[key] for key, name in names.items() if name not in _compiled}
        if missing:
            for key, loaded in zip(missing, _loaded(missing, target)):
                _compiled[names[key]] = loaded
        return {key: _compiled[name] for key, name in names.items()}


@dataclass(frozen=True)
class StoredKernel:
    """What finds a kernel again in another process: its key there, its name, and its entry's symbol."""

    key: str
    name: str
    symbol: str


def stored(loaded: Sequence[LoadedKernel]) -> list[StoredKernel] | None:
    """What later processes find these kernels by. None if one is of this process only."""
    with _lock:
        keys = {kernel: key for key, kernel in _compiled.items() if isinstance(key, str)}
    if not all(kernel in keys for kernel in loaded):
        return None
    return [StoredKernel(keys[kernel], kernel.name, kernel.symbol) for kernel in loaded]


def restored(wanted: Sequence[StoredKernel], target: Target) -> list[LoadedKernel] | None:
    """Kernels that another process compiled. None if the cache lacks one."""
    with _lock:
        missing = [kernel for kernel in wanted if kernel.key not in _compiled]
        found = object_cache.load([kernel.key for kernel in missing])
        if len(found) != len(missing):
            return None
        if missing:
            loaded = link_objects([(kernel.name, kernel.symbol, found[kernel.key]) for kernel in missing], target)
            _compiled.update((kernel.key, code) for kernel, code in zip(missing, loaded))
        return [_compiled[kernel.key] for kernel in wanted]


def _loaded(keys: Mapping[KernelKey, str | None], target: Target) -> list[LoadedKernel]:
    if not target.can_run():
        raise LoweringError(
            f"this machine can't run {target.key}",
            hint=target.why_not() or 'target="native", or emit_object for export',
        )
    found = object_cache.load([text for text in keys.values() if text is not None])
    objects, new = [], {}
    for number, (key, text) in enumerate(keys.items()):
        symbol = _symbol(key, text, number)
        if text is None or text not in found:
            data = emit_kernel(key.definition.build(target, **dict(key.static)), symbol)
            if text is not None:
                new[text] = data
        else:
            data = found[text]
        objects.append((key.definition.kernel_name(dict(key.static)), symbol, data))
    if new:
        object_cache.store(new)
    return link_objects(objects, target)


def stored_key(key: KernelKey, target: Target) -> str | None:
    """The key of a kernel's object between processes. None for a kernel that only this process knows: one defined
    outside the backends (their sources are in every key), or one that no module holds by name."""
    if key.definition not in _addresses:
        _addresses[key.definition] = _address(key.definition)
    address = _addresses[key.definition]
    if address is None:
        return None
    static = ", ".join(f"{name}={_spelled(value, address)}" for name, value in key.static)
    return object_cache.key_of(f"target {target.key}", f"machine {target.machine}", f"kernel {address}({static})")


def _address(definition: KernelDef) -> str | None:
    """Where a module of the backends holds a definition: `module:NAME` or `module:NAME[key]`."""
    module = definition.body.__module__
    if not module.startswith("qcompiler.backends."):
        return None
    for name, value in vars(sys.modules[module]).items():
        if value is definition:
            return f"{module}:{name}"
        if isinstance(value, dict):
            for item, held in value.items():
                if held is definition:
                    return f"{module}:{name}[{item!r}]"
    return None


def _spelled(value: Any, address: str) -> str:
    """A static argument in a key: equal texts for equal code."""
    if isinstance(value, tuple):
        return "(" + "".join(f"{_spelled(item, address)}," for item in value) + ")"
    if value is None or type(value) in (bool, int, float, str):
        return repr(value)
    raise LoweringError(
        "a static argument of a kernel is no plain value",
        where=address,
        expected="bool, int, float, str, None or a tuple of these",
        got=repr(value)[:80],
    )


def _symbol(key: KernelKey, text: str | None, number: int) -> str:
    """A name that no other kernel of one engine has, the same in every process that shares the object."""
    if text is None:
        return f"{key.definition.name}.own{number}"
    return f"{key.definition.name}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
