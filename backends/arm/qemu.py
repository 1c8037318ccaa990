"""Runs AArch64 step tables by `qemu-aarch64` (Debian's qemu-user), a process beside this one (`qemu_machine.py`): all
levels, i8mm too.

A run copies all that a program may touch there, and back what it may have written. Threads run one after another, step
by step. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from qcompiler.backends.arm.qemu_machine import DATA, PAGE, PROGRAM, Machine, whole_pages
from qcompiler.backends.runtime.threads import HEAD_WORDS, STEP_BYTES

__all__ = ["PROGRAM", "load", "run_steps"]

_GAP = 128
"""Bytes between copies: a kernel may read a little past its arrays."""

_lock = threading.Lock()
_machine = Machine()


def load(data: bytes, symbol: str) -> int:
    """Place an object's code in the process; the address of its entry there."""
    with _lock, _whole():
        return _machine.load(data, symbol)


def run_steps(steps: int, count: int, bases: int, threads: int = 1, times: int = 0) -> int:
    """As `runtime.run_steps`: each step for all threads, one after another, then the next."""
    table = _words(steps, count * STEP_BYTES // 8)
    base_count, extents, arguments, argument_bytes, guard_count, first_guard = _words(
        bases - 8 * HEAD_WORDS, HEAD_WORDS
    )
    guards = _words(first_guard, guard_count)
    sizes = _words(extents, 2 * base_count)
    blocks = [*zip(_words(bases, base_count), sizes[::2], sizes[1::2]), (arguments, argument_bytes, 0)]
    regions = _regions(blocks)

    def there(address: int) -> int:
        return next(
            (region.place + address - region.start for region in regions if region.start <= address < region.end), 0
        )

    pointers = _after(regions)
    total = whole_pages(pointers + 8 * base_count + _GAP) - DATA
    spent = ctypes.cast(times, ctypes.POINTER(ctypes.c_uint64)) if times else None
    with _lock, _whole():
        _machine.start()
        _machine.map(DATA, total)
        _machine.fill(pointers, struct.pack(f"<{base_count}q", *(there(address) for address, _, _ in blocks[:-1])))
        for region in regions:
            for start, end in _between(region.start, region.end, guards):
                _machine.fill(there(start), _view(start, end - start))
        for guard in guards:
            _machine.unmap(there(guard), PAGE)
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
        _machine.unmap(DATA, total)
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
        found.append(_Region(address, address + nbytes, _after(found) + address % PAGE))
    return found


def _between(start: int, end: int, guards: Sequence[int]) -> list[tuple[int, int]]:
    """start to end without the pages that fault."""
    inside = sorted(guard for guard in guards if start <= guard < end)
    edges = [start, *(edge for guard in inside for edge in (guard, guard + PAGE)), end]
    return [(low, high) for low, high in zip(edges[::2], edges[1::2]) if low < high]


def _after(regions: Sequence[_Region]) -> int:
    """The first page behind the copies."""
    return whole_pages(regions[-1].place + regions[-1].end - regions[-1].start + _GAP if regions else DATA)
