"""Runs AArch64 step tables by `qemu-aarch64` (Debian's qemu-user), a process beside this one: all levels, i8mm too.

The process runs a small program that is emitted here. It takes orders from a pipe: map memory, fill it, give it back, call a function. A run
copies all that a program may touch there, and back what it may have written. Threads run one after another, step by step. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum

from qcompiler.backends.arm.elf import ObjectFile, executable
from qcompiler.backends.runtime import HEAD_WORDS, STEP_BYTES
from qcompiler.errors import LoweringError

PROGRAM = "qemu-aarch64"
_CODE, _DATA = 0x10_0000_0000, 0x20_0000_0000
_PAGE = 4096
_GAP = 128
"""Bytes between copies: a kernel may read a little past its arrays."""
_ORDER = struct.Struct("<6q")


class _Do(IntEnum):
    """An order: its number, then up to five words."""

    MAP = 1  # address, bytes
    UNMAP = 2  # address, bytes
    FILL = 3  # address, bytes; they follow
    GIVE = 4  # address, bytes; they are the answer
    CALL = 5  # function, four arguments; the answer is a word


_SYSTEM = (*(0xAA0003E0 | x << 16 | y for y, x in ((8, 0), (0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6))), 0xD4000001, 0xD65F03C0)
"""Machine code of a function that makes a system call, (number, six arguments) -> result: mov x8, x0; mov x0, x1; ...; svc #0; ret."""

_GUEST = f"""
@system = internal constant [9 x i32] [{", ".join(f"i32 {word}" for word in _SYSTEM)}], align 4
""" + """
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
  switch i64 %what, label %next [ i64 1, label %map i64 2, label %unmap i64 3, label %fill i64 4, label %give i64 5, label %call ]
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
"""System calls of AArch64 Linux: read 63, write 64, exit_group 94, munmap 215, mmap 222 (7: all rights; 50: private, anonymous, fixed)."""


def is_installed() -> bool:
    """Whether the emulator is there."""
    return shutil.which(PROGRAM) is not None


@dataclass(eq=False)
class Machine:
    """The process, started when first needed, and again after it died. Not safe to call from several threads at once."""

    _process: subprocess.Popen[bytes] | None = None
    _owner: int = 0
    _images: list[tuple[int, bytes]] = field(default_factory=list)
    _end: int = _CODE

    def load(self, data: bytes, symbol: str) -> int:
        """Place an object's code for good; the address of a symbol."""
        found = ObjectFile(data)
        base = self._end
        self._images.append((base, found.image(base)))
        self._end = base + _whole_pages(found.nbytes) + _PAGE
        if self._alive():
            self._place(*self._images[-1])
        return found.address(symbol, base)

    def map(self, address: int, nbytes: int) -> None:
        """Fresh memory; address: of a page."""
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
        """End the process: what it was told last may be half done."""
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
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=(file,), bufsize=0, start_new_session=True
            )
            self._owner = os.getpid()
            for image in self._images:
                self._place(*image)
            self.map(_DATA, _PAGE)  # answered: the program runs, and its file may go
        finally:
            os.close(file)

    def _alive(self) -> bool:
        return self._process is not None and self._owner == os.getpid() and self._process.poll() is None

    def _place(self, base: int, image: bytes) -> None:
        self.map(base, _whole_pages(len(image)))
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
        """The process is gone; the next run starts another."""
        process, self._process = self._process, None
        assert process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        code = process.returncode
        got = "it does not end" if code is None else f"signal {-code}" if code < 0 else f"exit status {code}"
        raise LoweringError("the emulated kernel stopped", where=PROGRAM, got=got)


def _whole_pages(nbytes: int) -> int:
    return -(-nbytes // _PAGE) * _PAGE


def _program() -> bytes:
    """The guest as an executable file."""
    from qcompiler.backends.jit import emit_object_of_text
    from qcompiler.backends.target import parse_target

    return executable(emit_object_of_text(_GUEST, parse_target("aarch64-linux+neon")), "_start")


_lock = threading.Lock()
_machine = Machine()


def load(data: bytes, symbol: str) -> int:
    """Place an object's code in the process; the address of its entry there."""
    with _lock, _whole():
        return _machine.load(data, symbol)


def run_steps(steps: int, count: int, bases: int, threads: int = 1, times: int = 0) -> int:
    """As `runtime.run_steps`: each step for all threads, one after another, then the next."""
    table = _words(steps, count * STEP_BYTES // 8)
    base_count, extents, arguments, argument_bytes, guard_count, first_guard = _words(bases - 8 * HEAD_WORDS, HEAD_WORDS)
    guards = _words(first_guard, guard_count)
    sizes = _words(extents, 2 * base_count)
    blocks = [*zip(_words(bases, base_count), sizes[::2], sizes[1::2]), (arguments, argument_bytes, 0)]
    regions = _regions(blocks)

    def there(address: int) -> int:
        return next((region.place + address - region.start for region in regions if region.start <= address < region.end), 0)

    pointers = _after(regions)
    total = _whole_pages(pointers + 8 * base_count + _GAP) - _DATA
    spent = ctypes.cast(times, ctypes.POINTER(ctypes.c_uint64)) if times else None
    with _lock, _whole():
        _machine.start()
        _machine.map(_DATA, total)
        _machine.fill(pointers, struct.pack(f"<{base_count}q", *(there(address) for address, _, _ in blocks[:-1])))
        for region in regions:
            for start, end in _between(region.start, region.end, guards):
                _machine.fill(there(start), _view(start, end - start))
        for guard in guards:
            _machine.unmap(there(guard), _PAGE)
        for step in range(count):
            began = time.perf_counter_ns()
            kernel, given = table[step * STEP_BYTES // 8], table[step * STEP_BYTES // 8 + 1]
            for thread in range(threads):
                _machine.call(kernel, there(given), pointers, thread, threads)
            if spent is not None:
                spent[step] = time.perf_counter_ns() - began
        for address, nbytes, writable in blocks:
            for start, end in _between(address, address + nbytes, guards) if writable else ():
                ctypes.memmove(start, _machine.give(there(start), end - start), end - start)
        _machine.unmap(_DATA, total)
    return threads


@contextlib.contextmanager
def _whole() -> Iterator[None]:
    """Whatever breaks off in here ends the process, whose answers would be taken for others'."""
    try:
        yield
    except BaseException:
        _machine.stop()
        raise


def _words(address: int, count: int) -> Sequence[int]:
    return list((ctypes.c_int64 * count).from_address(address))


def _view(address: int, nbytes: int) -> memoryview:
    return memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")


@dataclass(frozen=True)
class _Region:
    """Bytes of this process, start to end, and the address of their copy."""

    start: int
    end: int
    place: int


def _regions(blocks: Sequence[tuple[int, int, int]]) -> list[_Region]:
    """Copies of (address, bytes, _) that lie apart; blocks that share bytes share them there too."""
    found: list[_Region] = []
    for address, nbytes, _ in sorted(block for block in blocks if block[1]):
        if found and address < found[-1].end:
            found[-1] = replace(found[-1], end=max(found[-1].end, address + nbytes))
            continue
        found.append(_Region(address, address + nbytes, _after(found) + address % _PAGE))
    return found


def _between(start: int, end: int, guards: Sequence[int]) -> list[tuple[int, int]]:
    """start to end without the pages that fault."""
    inside = sorted(guard for guard in guards if start <= guard < end)
    edges = [start, *(edge for guard in inside for edge in (guard, guard + _PAGE)), end]
    return [(low, high) for low, high in zip(edges[::2], edges[1::2]) if low < high]


def _after(regions: Sequence[_Region]) -> int:
    """The first page behind the copies."""
    return _whole_pages(regions[-1].place + regions[-1].end - regions[-1].start + _GAP if regions else _DATA)
