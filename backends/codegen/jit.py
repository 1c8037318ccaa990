"""Compiles LLVM text to objects and assembly for any target, and links objects into this process.

Owns LLVM's target machines and engines. LLVM's middle end is not run, only its instruction selection, since kernels are
written in the form that the middle end would give them. Thread-safe. `emit_llvm` is imported when a kernel is emitted:
objects from the cache do not need it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from qcompiler.backends.llvm_lock import llvm_lock
from qcompiler.backends.runtime.loader import KernelObject, LoadedKernel
from qcompiler.backends.target import Target
from qcompiler.errors import LoweringError

if TYPE_CHECKING:
    from qcompiler.backends.kernel_ir.ir import KernelFunction

emitted_kernels: Counter[str] = Counter()
"""How many kernels this process compiled for each target level, so that a run can prove which level executed."""


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
    """A unique symbol for each kernel: its name, with a number where several kernels share it."""
    seen: Counter[str] = Counter()
    names = []
    for function in functions:
        seen[function.name] += 1
        names.append(function.name if seen[function.name] == 1 else f"{function.name}.{seen[function.name]}")
    return names


def verified(functions: Sequence[KernelFunction]) -> Target:
    """Verify kernels of one target, and give that target.

    Raises:
        VerifyError: a kernel breaks a rule. LoweringError: no kernels, or several targets.
    """
    from qcompiler.backends.kernel_ir.verifier import verify_kernel

    if not functions:
        raise LoweringError("no kernels to compile")
    target = functions[0].target
    for function in functions:
        if function.target != target:
            raise LoweringError("a module holds kernels of one target", expected=target.key, got=function.target.key)
        verify_kernel(function)
    return target


def _parsed(functions: Sequence[KernelFunction], names: Sequence[str]) -> Any:
    from qcompiler.backends.codegen.emit_llvm import emit_module

    verified(functions)
    return _parse(emit_module(functions, names))


def _parse(text: str) -> Any:
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text)
    module.verify()
    return module


def emit_kernel(function: KernelFunction, symbol: str) -> bytes:
    """Compile one kernel that `KernelDef.build` verified to a relocatable object, for a loader. Counts it in
    `emitted_kernels`."""
    from qcompiler.backends.codegen.emit_llvm import emit_module

    text = emit_module([function], [symbol])
    with llvm_lock:
        data: bytes = _machine(function.target, jit=True).emit_object(_parse(text))
        emitted_kernels[function.target.level] += 1
    return data


def load_objects(objects: Sequence[KernelObject], target: Target) -> list[LoadedKernel]:
    """Link objects into this process. The caller knows whether the code can be called here.

    llvmlite's memory manager reserves all sections of an object at once. LLVM's own may place code and constants more
    than 2 GiB apart, which a relocation can't span: LLVM then aborts the process.
    """
    import llvmlite.binding as llvm

    with llvm_lock:
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _machine(target, jit=True), use_lmm=True)
        for each in objects:
            engine.add_object_file(llvm.ObjectFileRef.from_data(each.data))
        engine.finalize_object()
        addresses = [engine.get_function_address(each.symbol) for each in objects]
    return [LoadedKernel(each.name, address, engine) for each, address in zip(objects, addresses)]


def compile_kernels(functions: Sequence[KernelFunction]) -> list[LoadedKernel]:
    """Compile and load kernels of one target that runs here, without the cache. LoweringError if it does not run."""
    functions = list(functions)
    if not functions:
        return []
    target = functions[0].target
    if not target.can_run():
        raise LoweringError(
            f"this machine can't run {target.key}",
            hint=target.why_not() or 'target="native", or emit_object for export',
        )
    named = zip(functions, symbols(functions))
    return target.loader().load(
        [KernelObject(function.name, symbol, emit_kernel(function, symbol)) for function, symbol in named]
    )


def emit_object(functions: Sequence[KernelFunction]) -> bytes:
    """Compile kernels to a relocatable object file with an entry for each, for the kernels' target."""
    with llvm_lock:
        data: bytes = _machine(functions[0].target, jit=False).emit_object(_parsed(functions, symbols(functions)))
    return data


def emit_object_of_text(text: str, target: Target) -> bytes:
    """Compile a module of LLVM text to a relocatable object file for a target."""
    with llvm_lock:
        data: bytes = _machine(target, jit=False).emit_object(_parse(text))
    return data


def disassemble(function: KernelFunction) -> str:
    """The kernel's machine code as assembly text."""
    with llvm_lock:
        text: str = _machine(function.target, jit=False).emit_assembly(_parsed([function], [function.name]))
    return text
