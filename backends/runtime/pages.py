"""Pages of memory: blocks that hold arenas and packed constants, and guard pages that fault.

Owns page mappings. What lies where in a block is decided elsewhere (`qcompiler.backends.program.arena`).
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass, field

import numpy as np

from qcompiler.errors import LoweringError

HUGE_PAGE = 2 << 20
POISON = 0xA5
"""The byte that fills memory before a run when QC_POISON is set."""
_PROT_NONE = 0


@dataclass(eq=False)
class Block:
    """Zeroed pages, private to the process (a fork copies them), freed when the last view is gone.

    data: u8[nbytes], writable until `freeze`; aligned to 2 MiB with huge pages advised, or to a page. guards: byte
    offsets of pages that fault when touched, after `protect`.
    """

    data: np.ndarray
    pages: mmap.mmap
    address: int
    guards: list[int] = field(default_factory=list)

    def freeze(self) -> None:
        """Make `data` read only."""
        self.data.flags.writeable = False

    def protect(self, offset: int) -> None:
        """Make the page at this byte offset (a multiple of the page size) fault on every access."""
        libc = ctypes.CDLL(None, use_errno=True)
        address = ctypes.c_void_p(self.address + offset)
        if libc.mprotect(address, ctypes.c_size_t(mmap.PAGESIZE), _PROT_NONE) != 0:
            raise LoweringError("the system refused a guard page", got=f"errno {ctypes.get_errno()}")
        self.guards.append(offset)


def aligned_block(nbytes: int, huge: bool = True) -> Block:
    """A fresh block of nbytes. huge: align it to 2 MiB and advise huge pages, if it fills at least half of one."""
    if nbytes < 0:
        raise LoweringError("a block needs a size >= 0", got=nbytes)
    huge = huge and nbytes >= HUGE_PAGE // 2 and hasattr(mmap, "MADV_HUGEPAGE")
    alignment = HUGE_PAGE if huge else mmap.PAGESIZE
    length = max(1, -(-nbytes // alignment)) * alignment
    reserve = length + (alignment if huge else 0)
    try:
        pages = mmap.mmap(-1, reserve, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError, ValueError) as error:
        raise LoweringError("the system has no memory for a block", expected=f"{nbytes:,} bytes", got=error) from None
    whole = np.frombuffer(pages, np.uint8)
    skip = -whole.ctypes.data % alignment
    if huge:
        pages.madvise(mmap.MADV_HUGEPAGE, skip, length)
    data = whole[skip : skip + nbytes]
    return Block(data, pages, whole.ctypes.data + skip)


def guarded_block(nbytes: int, alignment: int = 1) -> Block:
    """A block whose `data` lies between two pages that fault: it ends where one begins, and starts soon after the
    other.

    In tests of kernels, a read or write one byte past the end then crashes the process instead of passing unseen. With
    alignment above 1, up to alignment - 1 bytes lie between the end and the guard page.
    """
    room = -(-max(nbytes, 1) // mmap.PAGESIZE) * mmap.PAGESIZE
    block = aligned_block(room + 2 * mmap.PAGESIZE, huge=False)
    block.protect(0)
    block.protect(mmap.PAGESIZE + room)
    start = (mmap.PAGESIZE + room - nbytes) // alignment * alignment
    block.data = block.data[start : start + nbytes]
    block.address += start
    return block
