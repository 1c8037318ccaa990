"""Small kernels in LLVM text, for tests of the runtime: compiled once, with the kernel ABI."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

_HEAD = """
define void @{name}(ptr %args, ptr %bases, i64 %thread, i64 %threads) {{
entry:
  %in.base.p = getelementptr i64, ptr %args, i64 0
  %in.off.p = getelementptr i64, ptr %args, i64 1
  %out.base.p = getelementptr i64, ptr %args, i64 2
  %out.off.p = getelementptr i64, ptr %args, i64 3
  %n.p = getelementptr i64, ptr %args, i64 4
  %k.p = getelementptr i64, ptr %args, i64 5
  %in.base = load i64, ptr %in.base.p
  %in.off = load i64, ptr %in.off.p
  %out.base = load i64, ptr %out.base.p
  %out.off = load i64, ptr %out.off.p
  %n = load i64, ptr %n.p
  %k = load i64, ptr %k.p
  %in.slot = getelementptr ptr, ptr %bases, i64 %in.base
  %out.slot = getelementptr ptr, ptr %bases, i64 %out.base
  %in.b = load ptr, ptr %in.slot
  %out.b = load ptr, ptr %out.slot
  %in = getelementptr i8, ptr %in.b, i64 %in.off
  %out = getelementptr i8, ptr %out.b, i64 %out.off
  %begin.n = mul i64 %n, %thread
  %begin = udiv i64 %begin.n, %threads
  %thread.1 = add i64 %thread, 1
  %end.n = mul i64 %n, %thread.1
  %end = udiv i64 %end.n, %threads
  br label %loop
loop:
  %i = phi i64 [ %begin, %entry ], [ %i.next, %body ]
  %more = icmp ult i64 %i, %end
  br i1 %more, label %body, label %exit
body:
{body}
  %i.next = add i64 %i, 1
  br label %loop
exit:
  ret void
}}
"""

_BODIES = {
    # out[i] = 3 * in[(i + k) % n] + i: each thread reads what others wrote.
    "rotate": """
  %ik = add i64 %i, %k
  %from = urem i64 %ik, %n
  %ip = getelementptr i32, ptr %in, i64 %from
  %v = load i32, ptr %ip, align 4
  %v3 = mul i32 %v, 3
  %i32 = trunc i64 %i to i32
  %r = add i32 %v3, %i32
  %op = getelementptr i32, ptr %out, i64 %i
  store i32 %r, ptr %op, align 4
""",
    # out[i] = in[i] + k, bytes
    "add": """
  %ip = getelementptr i8, ptr %in, i64 %i
  %v = load i8, ptr %ip, align 1
  %k8 = trunc i64 %k to i8
  %r = add i8 %v, %k8
  %op = getelementptr i8, ptr %out, i64 %i
  store i8 %r, ptr %op, align 1
""",
    # out[i] = in[i] * 0.5, floats
    "halve": """
  %ip = getelementptr float, ptr %in, i64 %i
  %v = load float, ptr %ip, align 4
  %r = fmul float %v, 0.5
  %op = getelementptr float, ptr %out, i64 %i
  store float %r, ptr %op, align 4
""",
    # out[i] += 1, i64, after k rounds of nothing
    "spin": """
  br label %wait
wait:
  %w = phi i64 [ 0, %body ], [ %w.next, %wait ]
  call void asm sideeffect "", ""()
  %w.next = add i64 %w, 1
  %w.more = icmp ult i64 %w.next, %k
  br i1 %w.more, label %wait, label %tail
tail:
  %op = getelementptr i64, ptr %out, i64 %i
  %v = load i64, ptr %op, align 8
  %r = add i64 %v, 1
  store i64 %r, ptr %op, align 8
""",
    # out[i] = threads, i64
    "count_threads": """
  %op = getelementptr i64, ptr %out, i64 %i
  store i64 %threads, ptr %op, align 8
""",
}


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel that is loaded. Its arguments are: in, out (two words each), n, k."""

    name: str
    address: int
    engine: Any


@cache
def _engine() -> Any:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    text = "".join(_HEAD.format(name=name, body=body) for name, body in _BODIES.items())
    # The loop's back edge of `spin` comes from its tail.
    start = text.index("define void @spin(")
    text = text[:start] + text[start:].replace("[ %i.next, %body ]", "[ %i.next, %tail ]", 1)
    module = llvm.parse_assembly(text, llvm.create_context())
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(jit=True)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    return engine


@cache
def kernel(name: str) -> Kernel:
    """Load one of the kernels above."""
    return Kernel(name, _engine().get_function_address(name), _engine())
