"""What x86-64 adds to the LLVM text of the dispatcher and of exported entry points."""

from __future__ import annotations

from qcompiler.backends.runtime.dispatcher import Dialect

DIALECT = Dialect(
    pause="call void @llvm.x86.sse2.pause()",
    ticks="call i64 @llvm.x86.rdtsc()",
    slice_ticks=1 << 28,
    enter="""\
  %fp.saved = alloca i32, align 4
  %fp.default = alloca i32, align 4
  call void @llvm.x86.sse.stmxcsr(ptr %fp.saved)
  store i32 8064, ptr %fp.default, align 4
  call void @llvm.x86.sse.ldmxcsr(ptr %fp.default)""",
    leave="  call void @llvm.x86.sse.ldmxcsr(ptr %fp.saved)",
    declarations="""\
declare void @llvm.x86.sse2.pause()
declare i64 @llvm.x86.rdtsc()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)""",
)
