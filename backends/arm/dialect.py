"""The LLVM text that AArch64 adds to the dispatcher and to exported entry points."""

from __future__ import annotations

from qcompiler.backends.runtime.dispatcher import Dialect

DIALECT = Dialect(
    pause="call void @llvm.aarch64.hint(i32 1)",
    ticks="call i64 @llvm.read_volatile_register.i64(metadata !0)",
    slice_ticks=1 << 22,
    enter="""\
  %fp.saved = call i64 @llvm.aarch64.get.fpcr()
  call void @llvm.aarch64.set.fpcr(i64 0)""",
    leave="  call void @llvm.aarch64.set.fpcr(i64 %fp.saved)",
    declarations="""\
declare void @llvm.aarch64.hint(i32)
declare i64 @llvm.read_volatile_register.i64(metadata)
!0 = !{!"cntvct_el0"}
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)""",
)
