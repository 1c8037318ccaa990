"""Loads the dispatcher's machine code into this process: from the cache, or emitted now and stored there.

Its text is `qcompiler.backends.runtime.dispatcher`'s; `qcompiler.backends.runtime.threads` calls it.
"""

from __future__ import annotations

import hashlib
from typing import Any

from qcompiler.backends.cache import entries
from qcompiler.backends.llvm_lock import llvm_lock
from qcompiler.backends.runtime.dispatcher import Dialect, emit_dispatcher

_FUNCTIONS = ("qc_run", "qc_call", "qc_worker", "qc_stop")

emitted: list[str] = []
"""Objects that this process compiled; empty if the cache had the dispatcher."""


def load_dispatcher(dialect: Dialect) -> tuple[dict[str, int], Any]:
    """Load the dispatcher of this machine's architecture.

    It is compiled for any CPU of the architecture, and by LLVM's level 2, since it is plain scalar code.

    Returns the addresses of its functions by name, and the owner of their code, which must outlive all calls.
    """
    import llvmlite.binding as llvm

    with llvm_lock:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        machine = llvm.Target.from_default_triple().create_target_machine(
            opt=2, reloc="pic", codemodel="small", jit=True
        )
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly("", llvm.create_context()), machine, use_lmm=True)
        engine.add_object_file(llvm.ObjectFileRef.from_data(_object(emit_dispatcher(dialect), machine)))
        engine.finalize_object()
        return {name: engine.get_function_address(name) for name in _FUNCTIONS}, engine


def _object(text: str, machine: Any) -> bytes:
    """The object code of the dispatcher's text, emitted where no process has yet."""
    import llvmlite.binding as llvm

    digest = hashlib.sha256(text.encode()).hexdigest()
    key = entries.key_of(f"machine {machine.triple}, generic, opt 2", f"dispatcher {digest}")
    found = {} if key is None else entries.load([key])
    if key in found:
        return found[key]
    module = llvm.parse_assembly(text, llvm.create_context())
    module.verify()
    data: bytes = machine.emit_object(module)
    emitted.append("dispatcher")
    if key is not None:
        entries.store({key: data})
    return data
