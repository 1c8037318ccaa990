"""LLVM text to machine code: in this process, or as an object file or assembly for any target.

Owns LLVM's engines: a `CompiledKernel` keeps its module's code alive. Code comes straight from instruction selection;
LLVM's middle end is not run, since the builder writes what it would find. Thread-safe.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from qcompiler.backends.codegen.emit_llvm import emit_module
from qcompiler.backends.kernel_ir.ir import KernelFunction
from qcompiler.backends.kernel_ir.verifier import verify_kernel
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError

emitted_kernels: Counter[str] = Counter()
"""Kernels compiled in this process, by target level: a run can prove which level executed."""

_lock = threading.Lock()


@dataclass(frozen=True, eq=False)
class LoadedKernel:
    """Machine code of a kernel that is ready to be called. address: of the ABI entry, valid while this object lives;
    symbol: its name in the object."""

    name: str
    symbol: str
    address: int
    engine: Any


@dataclass(frozen=True, eq=False)
class CompiledKernel:
    """Machine code of a kernel. address: of the ABI entry, valid while this object lives."""

    function: KernelFunction
    address: int
    engine: Any

    @property
    def name(self) -> str:
        return self.function.name


@cache
def _initialize(arch: str) -> None:
    import llvmlite.binding as llvm

    if arch == "host":
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
    else:
        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()


def _machine(target: Target, *, jit: bool) -> Any:
    import llvmlite.binding as llvm

    _initialize("host" if target.execution() == "native" else "all")
    found = llvm.Target.from_triple(target.triple)
    return found.create_target_machine(
        cpu=target.cpu, features=target.llvm_features, opt=3, reloc="pic", codemodel="small", jit=jit
    )


def symbols(functions: Sequence[KernelFunction]) -> list[str]:
    """Unique symbol names, in order: the kernel's own, numbered where several share it."""
    seen: Counter[str] = Counter()
    names = []
    for function in functions:
        seen[function.name] += 1
        names.append(function.name if seen[function.name] == 1 else f"{function.name}.{seen[function.name]}")
    return names


def verified(functions: Sequence[KernelFunction]) -> Target:
    """The one target that these kernels are for. VerifyError for a kernel that breaks a rule, LoweringError for a mix
    of targets."""
    if not functions:
        raise LoweringError("no kernels to compile")
    target = functions[0].target
    for function in functions:
        if function.target != target:
            raise LoweringError("a module holds kernels of one target", expected=target.key, got=function.target.key)
        verify_kernel(function)
    return target


def _parsed(functions: Sequence[KernelFunction], names: Sequence[str]) -> Any:
    verified(functions)
    return _parse(emit_module(functions, names))


def _parse(text: str) -> Any:
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text)
    module.verify()
    return module


def compile_kernels(functions: Sequence[KernelFunction]) -> list[CompiledKernel]:
    """Compile kernels of one target for this process. LoweringError if it can't run here."""
    functions = list(functions)
    if not functions:
        return []
    target = functions[0].target
    if not target.can_run():
        raise LoweringError(
            f"this machine can't run {target.key}",
            hint=target.why_not() or 'target="native", or emit_object for export',
        )
    objects = [
        (symbol, symbol, emit_kernel(function, symbol)) for function, symbol in zip(functions, symbols(functions))
    ]
    loaded = link_objects(objects, target)
    return [CompiledKernel(function, one.address, one.engine) for function, one in zip(functions, loaded)]


def emit_kernel(function: KernelFunction, symbol: str) -> bytes:
    """A relocatable object of one kernel, to be linked into this process. Counted in `emitted_kernels`."""
    with _lock:
        data = _machine(function.target, jit=True).emit_object(_parsed([function], [symbol]))
        emitted_kernels[function.target.level] += 1
    return data


def link_objects(objects: Sequence[tuple[str, str, bytes]], target: Target) -> list[LoadedKernel]:
    """Kernels from objects: (name of the kernel, symbol of its entry, object). The bytes must be whole: LLVM ends the
    process otherwise."""
    import llvmlite.binding as llvm

    if target.emulator == "qemu-aarch64":
        from qcompiler.backends.arm import qemu

        return [LoadedKernel(name, symbol, qemu.load(data, symbol), None) for name, symbol, data in objects]
    with _lock:
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(target, jit=True))
        for _, _, data in objects:
            engine.add_object_file(llvm.ObjectFileRef.from_data(data))
        engine.finalize_object()
        addresses = [engine.get_function_address(symbol) for _, symbol, _ in objects]
        if target.execution() == "emulated":
            from qcompiler.backends.arm import emulate

            emulate.forget_code()
    return [LoadedKernel(name, symbol, address, engine) for (name, symbol, _), address in zip(objects, addresses)]


def emit_object(functions: Sequence[KernelFunction]) -> bytes:
    """A relocatable object file with an entry for each kernel, for the kernels' target."""
    with _lock:
        return _machine(functions[0].target, jit=False).emit_object(_parsed(functions, symbols(functions)))


def emit_object_of_text(text: str, target: Target) -> bytes:
    """A relocatable object file of a module of LLVM text, for a target."""
    with _lock:
        return _machine(target, jit=False).emit_object(_parse(text))


def disassemble(function: KernelFunction) -> str:
    """The kernel's machine code as assembly text."""
    with _lock:
        return _machine(function.target, jit=False).emit_assembly(_parsed([function], [function.name]))
