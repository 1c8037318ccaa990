"""Holds the kernels of this process, one for each key and target. Kernels that no process has emitted yet are emitted.

They stay loaded until the process ends. `qcompiler.backends.cache.entries` stores their objects for other processes
under a key of what a kernel is made from, so finding the code of a kernel does not build its IR.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from qcompiler.backends.cache import entries
from qcompiler.backends.codegen.jit import emit_kernel
from qcompiler.backends.kernel_ir.kernel_key import KernelKey
from qcompiler.backends.runtime.loader import KernelObject, LoadedKernel
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError
from qcompiler.fork_safety import fork_safe_lock

_loaded: dict[str | tuple[str, KernelKey[Any]], LoadedKernel] = {}
"""The loaded kernels by the key of their entry, or by target and kernel key where there is none."""
_lock = fork_safe_lock()


def load(keys: Sequence[KernelKey[Any]], target: Target) -> dict[KernelKey[Any], LoadedKernel]:
    """Load kernels for the target's loader: from this process, from the cache, or emitted now and stored there.

    Raises:
        LoweringError: this machine can't run the target, or a kernel is not legal.
    """
    texts = {key: entry_key(key, target) for key in dict.fromkeys(keys)}
    names = {key: (target.key, key) if text is None else text for key, text in texts.items()}
    with _lock:
        missing = {key: texts[key] for key, name in names.items() if name not in _loaded}
        if missing:
            for key, kernel in zip(missing, _load(missing, target)):
                _loaded[names[key]] = kernel
        return {key: _loaded[name] for key, name in names.items()}


def _load(keys: Mapping[KernelKey[Any], str | None], target: Target) -> list[LoadedKernel]:
    if not target.can_run():
        raise LoweringError(
            f"this machine can't run {target.key}",
            hint=target.why_not() or 'target="native", or emit_object for export',
        )
    found = entries.load([text for text in keys.values() if text is not None])
    objects, emitted = [], {}
    for number, (key, text) in enumerate(keys.items()):
        symbol = _symbol(key, text, number)
        if text is None or text not in found:
            data = emit_kernel(key.build(target), symbol)
            if text is not None:
                emitted[text] = data
        else:
            data = found[text]
        objects.append(KernelObject(key.name, symbol, data))
    if emitted:
        entries.store(emitted)
    return target.loader().load(objects)


def entry_key(key: KernelKey[Any], target: Target) -> str | None:
    """The key of a kernel's entry in the cache. None for a kernel that only this process knows, and while the cache is
    off."""
    if key.is_local:
        return None
    return entries.key_of(f"target {target.key}", f"machine {target.machine}", f"kernel {key}")


def _symbol(key: KernelKey[Any], text: str | None, number: int) -> str:
    """A symbol that is unique among the kernels of one engine, and the same in every process that shares the object."""
    if text is None:
        return f"{key.name}.own{number}"
    return f"{key.name}.{hashlib.sha256(text.encode()).hexdigest()[:16]}"
