"""The process that `qemu-aarch64` runs for `qemu.py`. It maps memory and calls functions as orders in a pipe tell it.

Its program is emitted here. An order is six words: its number, and up to five arguments.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import struct
import subprocess
from dataclasses import dataclass, field
from enum import IntEnum

from qcompiler.backends.arm.elf import ObjectFile, executable
from qcompiler.errors import LoweringError

PROGRAM = "qemu-aarch64"
CODE, DATA = 0x10_0000_0000, 0x20_0000_0000
PAGE = 4096
_ORDER = struct.Struct("<6q")


class _Do(IntEnum):
    """An order: its number, then up to five words."""

    MAP = 1  # address, bytes
    UNMAP = 2  # address, bytes
    FILL = 3  # address, bytes; they follow
    GIVE = 4  # address, bytes; they are the answer
    CALL = 5  # function, four arguments; the answer is a word


_SYSTEM = (
    *(0xAA0003E0 | x << 16 | y for y, x in ((8, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6))),
    0xD4000001,
    0xD65F03C0,
)
"""Machine code of a function that makes a system call, (number, six arguments) -> result: mov x8, x0; mov x0, x1; ...;
svc #0; ret."""

_GUEST = (
    f"""
@system = internal constant [9 x i32] [{", ".join(f"i32 {word}" for word in _SYSTEM)}], align 4
"""
    + """
define internal void @transfer(i64 %number, i64 %file, i64 %start, i64 %bytes) noinline {
entry:
  %end = add i64 %start, %bytes
  br label %check
check:
  %at = phi i64 [ %start, %entry ], [ %next, %moved ]
  %left = sub i64 %end, %at
  %done = icmp eq i64 %left, 0
  br i1 %done, label %out, label %more
more:
  %got = call i64 @system(i64 %number, i64 %file, i64 %at, i64 %left, i64 0, i64 0, i64 0)
  %ended = icmp sle i64 %got, 0
  br i1 %ended, label %leave, label %moved
moved:
  %next = add i64 %at, %got
  br label %check
leave:
  %never = call i64 @system(i64 94, i64 0, i64 0, i64 0, i64 0, i64 0, i64 0)
  unreachable
out:
  ret void
}
define void @_start() {
entry:
  %order = alloca [6 x i64]
  %place = ptrtoint ptr %order to i64
  %pa = getelementptr i64, ptr %order, i64 1
  %pb = getelementptr i64, ptr %order, i64 2
  %pc = getelementptr i64, ptr %order, i64 3
  %pd = getelementptr i64, ptr %order, i64 4
  %pe = getelementptr i64, ptr %order, i64 5
  br label %next
next:
  call void @transfer(i64 63, i64 0, i64 %place, i64 48)
  %what = load volatile i64, ptr %order
  %a = load volatile i64, ptr %pa
  %b = load volatile i64, ptr %pb
  %c = load volatile i64, ptr %pc
  %d = load volatile i64, ptr %pd
  %e = load volatile i64, ptr %pe
  switch i64 %what, label %next [
    i64 1, label %map
    i64 2, label %unmap
    i64 3, label %fill
    i64 4, label %give
    i64 5, label %call
  ]
map:
  %mapped = call i64 @system(i64 222, i64 %a, i64 %b, i64 7, i64 50, i64 -1, i64 0)
  br label %answer
unmap:
  %gone = call i64 @system(i64 215, i64 %a, i64 %b, i64 0, i64 0, i64 0, i64 0)
  br label %answer
fill:
  call void @transfer(i64 63, i64 0, i64 %a, i64 %b)
  br label %next
give:
  call void @transfer(i64 64, i64 1, i64 %a, i64 %b)
  br label %next
call:
  %function = inttoptr i64 %a to ptr
  call void %function(i64 %b, i64 %c, i64 %d, i64 %e)
  br label %answer
answer:
  %value = phi i64 [ %mapped, %map ], [ %gone, %unmap ], [ 0, %call ]
  store volatile i64 %value, ptr %order
  call void @transfer(i64 64, i64 1, i64 %place, i64 8)
  br label %next
}
"""
)
"""The program's LLVM text. System calls of AArch64 Linux: read 63, write 64, exit_group 94, munmap 215, mmap 222 (7:
all rights; 50: private, anonymous, fixed)."""


@dataclass(eq=False)
class Machine:
    """The process. It is started when first needed, and again after it died. Not thread-safe."""

    _process: subprocess.Popen[bytes] | None = None
    _owner: int = 0
    _images: list[tuple[int, bytes]] = field(default_factory=list)
    _end: int = CODE

    def load(self, data: bytes, symbol: str) -> int:
        """Place an object's code, which stays there. Returns the address of a symbol."""
        found = ObjectFile(data)
        base = self._end
        self._end = base + whole_pages(found.nbytes) + PAGE  # first: a fork in between must not leave two images there
        self._images.append((base, found.image(base)))
        if self._alive():
            self._place(*self._images[-1])
        return found.address(symbol, base)

    def map(self, address: int, nbytes: int) -> None:
        """Map fresh memory at the address of a page."""
        if self._ask(_Do.MAP, address, nbytes) != address:
            raise LoweringError("the emulated process gets no memory", expected=f"{nbytes} bytes at {address:#x}")

    def unmap(self, address: int, nbytes: int) -> None:
        self._ask(_Do.UNMAP, address, nbytes)

    def fill(self, address: int, data: bytes | memoryview) -> None:
        """Write into mapped memory."""
        self._send(_ORDER.pack(_Do.FILL, address, len(data), 0, 0, 0))
        self._send(data)

    def give(self, address: int, nbytes: int) -> bytes:
        """Read mapped memory."""
        self._send(_ORDER.pack(_Do.GIVE, address, nbytes, 0, 0, 0))
        return self._receive(nbytes)

    def call(self, function: int, *arguments: int) -> None:
        """Call a function of up to four integers. LoweringError if the process dies of it."""
        self._ask(_Do.CALL, function, *arguments)

    def stop(self) -> None:
        """End the process, whose last order may be half done."""
        process, self._process = self._process, None
        if process is not None and self._owner == os.getpid():
            process.kill()
            process.wait()

    # -- the process

    def start(self) -> None:
        """Start the process unless it runs. LoweringError if the emulator is missing."""
        if self._alive():
            return
        found = shutil.which(PROGRAM)
        if found is None:
            raise LoweringError("the emulator is missing", hint="apt install qemu-user")
        file = os.memfd_create("guest")
        try:
            os.write(file, _program())
            command = [found, "-cpu", "max", f"/proc/self/fd/{file}"]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                pass_fds=(file,),
                bufsize=0,
                start_new_session=True,
            )
            self._owner = os.getpid()
            for image in self._images:
                self._place(*image)
            self.map(DATA, PAGE)  # answered: the program runs, and its file may go
        finally:
            os.close(file)

    def _alive(self) -> bool:
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def _place(self, base: int, image: bytes) -> None:
        self.map(base, whole_pages(len(image)))
        self.fill(base, image)

    def _ask(self, what: _Do, *words: int) -> int:
        self._send(_ORDER.pack(what, *words, *(0,) * (5 - len(words))))
        return struct.unpack("<q", self._receive(8))[0]

    def _send(self, data: bytes | memoryview) -> None:
        assert self._process is not None and self._process.stdin is not None
        left = memoryview(data).cast("B")
        while len(left):
            try:
                left = left[os.write(self._process.stdin.fileno(), left) :]
            except BrokenPipeError:
                self._died()

    def _receive(self, nbytes: int) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        parts, left = [], nbytes
        while left:
            part = os.read(self._process.stdout.fileno(), left)
            if not part:
                self._died()
            parts.append(part)
            left -= len(part)
        return b"".join(parts)

    def _died(self) -> None:
        """Raise LoweringError because the process is gone. The next run starts another."""
        process, self._process = self._process, None
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        code = process.returncode
        got = "it does not end" if code is None else f"signal {-code}" if code < 0 else f"exit status {code}"
        raise LoweringError("the emulated kernel stopped", where=PROGRAM, got=got)


def whole_pages(nbytes: int) -> int:
    """nbytes, rounded up to pages."""
    return -(-nbytes // PAGE) * PAGE


def _program() -> bytes:
    """The guest as an executable file."""
    from qcompiler.backends.codegen.jit import emit_object_of_text
    from qcompiler.backends.target import parse_target

    return executable(emit_object_of_text(_GUEST, parse_target("aarch64-linux+neon")), "_start")
