"""The loader that runs AArch64 code of all levels by `qemu-aarch64` (Debian's qemu-user), in another process
(`qemu_machine.py`).

A run copies to that process all that the steps may touch, and copies back what they may have written. Threads run one
after another, step by step. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from qcompiler.backends.arm.qemu_machine import DATA, PAGE, PROGRAM, Machine, whole_pages
from qcompiler.backends.runtime.loader import Bases, KernelObject, LoadedKernel, StepTable
from qcompiler.fork_safety import fork_safe_lock

__all__ = ["PROGRAM", "QemuLoader", "load"]

_GAP = 128
"""Bytes between copies, because a kernel may read a little past its arrays."""

_lock = fork_safe_lock()
_machine = Machine()


def load(data: bytes, symbol: str) -> int:
    """Place an object's code in the process. Returns the address of its entry there."""
    with _lock, _stopped_on_error():
        return _machine.load(data, symbol)


class QemuLoader:
    """Loads code into the other process. A run copies there all memory that the steps may touch."""

    def load(self, objects: Sequence[KernelObject]) -> list[LoadedKernel]:
        return [LoadedKernel(each.name, load(each.data, each.symbol)) for each in objects]

    def run(self, table: StepTable, first: int, count: int, bases: Bases, threads: int, times: int) -> None:
        """Run each step for all threads, one after another, then the next step."""
        blocks = [(address, block.nbytes, block.writable) for address, block in zip(bases.words, bases.blocks)]
        regions = _regions(blocks)
        arguments = _after(regions)
        pointers = arguments + whole_pages(table.arguments.nbytes + _GAP)
        total = whole_pages(pointers + 8 * len(blocks) + _GAP) - DATA
        spent = ctypes.cast(times, ctypes.POINTER(ctypes.c_uint64)) if times else None

        def there(address: int) -> int:
            """The address of the copy of a byte of this process; 0 if it has no copy."""
            found = (region for region in regions if region.start <= address < region.end)
            return next((region.place + address - region.start for region in found), 0)

        with _lock, _stopped_on_error():
            _machine.start()
            _machine.map(DATA, total)
            _machine.fill(arguments, table.arguments.tobytes())
            _machine.fill(pointers, struct.pack(f"<{len(blocks)}q", *(there(address) for address, _, _ in blocks)))
            for region in regions:
                for start, end in _between(region.start, region.end, bases.guards):
                    _machine.fill(there(start), _view(start, end - start))
            for guard in bases.guards:
                _machine.unmap(there(guard), PAGE)
            for step in range(first, first + count):
                began = time.perf_counter_ns()
                for thread in range(threads):
                    _machine.call(table.kernels[step], arguments + 8 * table.starts[step], pointers, thread, threads)
                if spent is not None:
                    spent[step - first] = time.perf_counter_ns() - began
            for address, nbytes, writable in blocks:
                for start, end in _between(address, address + nbytes, bases.guards) if writable else ():
                    ctypes.memmove(start, _machine.give(there(start), end - start), end - start)
            _machine.unmap(DATA, total)


@contextlib.contextmanager
def _stopped_on_error() -> Iterator[None]:
    """Stop the emulator on any exception: a half-read answer would be taken for the next one's."""
    try:
        yield
    except BaseException:
        _machine.stop()
        raise


def _view(address: int, nbytes: int) -> memoryview:
    return memoryview((ctypes.c_char * nbytes).from_address(address)).cast("B")


@dataclass(frozen=True)
class _Region:
    """The bytes start to end of this process, and the address of their copy."""

    start: int
    end: int
    place: int


def _regions(blocks: Sequence[tuple[int, int, bool]]) -> list[_Region]:
    """Regions that cover blocks (address, bytes, writable) and do not overlap. Blocks that share bytes share a
    region."""
    found: list[_Region] = []
    for address, nbytes, _ in sorted(block for block in blocks if block[1]):
        if found and address < found[-1].end:
            found[-1] = replace(found[-1], end=max(found[-1].end, address + nbytes))
            continue
        found.append(_Region(address, address + nbytes, _after(found) + address % PAGE))
    return found


def _between(start: int, end: int, guards: Sequence[int]) -> list[tuple[int, int]]:
    """The ranges between start and end without the pages that fault."""
    inside = sorted(guard for guard in guards if start <= guard < end)
    edges = [start, *(edge for guard in inside for edge in (guard, guard + PAGE)), end]
    return [(low, high) for low, high in zip(edges[::2], edges[1::2]) if low < high]


def _after(regions: Sequence[_Region]) -> int:
    """The first page behind the copies."""
    return whole_pages(regions[-1].place + regions[-1].end - regions[-1].start + _GAP if regions else DATA)
