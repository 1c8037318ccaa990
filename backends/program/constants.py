"""The constants of a graph's programs: packed once into one block, which all calls and bindings of sizes share.

Owns their offsets and the packing. Each constant is known by a key, a text that says what determines its bytes. The
bytes are written straight into the block when it is packed, at the first link, so no second copy of them ever exists.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from qcompiler.backends.program.arena import ALIGNMENT
from qcompiler.backends.runtime.pages import Block, aligned_block
from qcompiler.background import run_all
from qcompiler.errors import LoweringError
from qcompiler.fork_safety import fork_safe_lock

_LARGE_BLOCK = 4 << 20
"""Blocks of at least this many bytes are packed by two threads."""

Fill = Callable[[np.ndarray], None]
"""Writes all bytes of a constant into u8[nbytes], which holds zeros."""


class Constants:
    """Constants in one read-only block. Constants with equal keys share memory. Thread-safe.

    The first program that is finished closes the block; constants that later programs add go to their own blocks.
    """

    def __init__(self) -> None:
        self._lock = fork_safe_lock()
        self._offsets: dict[str, int] = {}
        self._fills: list[tuple[int, int, Fill]] = []
        self._end = 0
        self._is_closed = False
        self._block: Block | None = None

    @staticmethod
    def packed(block: Block, offsets: Mapping[str, int]) -> Constants:
        """Constants of a block that is packed already. offsets: the offset of each key."""
        block.freeze()
        made = Constants()
        made._offsets, made._end, made._block, made._is_closed = dict(offsets), block.data.nbytes, block, True
        return made

    @property
    def is_closed(self) -> bool:
        """Whether the block takes no more constants."""
        return self._is_closed

    @property
    def nbytes(self) -> int:
        """The size of the block in bytes."""
        return self._end

    def add(self, key: str, nbytes: int, fill: Fill) -> int | None:
        """Add a constant, and give its byte offset. None if the key is new and the block is closed.

        fill: writes its bytes when the block is packed; it must not use this object.
        """
        with self._lock:
            if key in self._offsets or self._is_closed:
                return self._offsets.get(key)
            offset = -(-self._end // ALIGNMENT) * ALIGNMENT
            self._end = offset + nbytes  # first: a fork in between must not leave two fills at one offset
            self._fills.append((offset, nbytes, fill))
            self._offsets[key] = offset
            return offset

    def close(self) -> None:
        """Close the block: it takes no more constants."""
        with self._lock:
            self._is_closed = True

    def block(self) -> Block:
        """The packed block. The first call closes and packs it."""
        with self._lock:
            self._is_closed = True
            if self._block is None:
                block = aligned_block(self._end)
                tasks = [partial(fill, block.data[offset : offset + nbytes]) for offset, nbytes, fill in self._fills]
                if self._end < _LARGE_BLOCK:
                    for task in tasks:
                        task()
                else:
                    run_all(tasks)
                block.freeze()
                self._fills.clear()
                self._block = block
            return self._block


def content_key(array: np.ndarray) -> tuple[str, Fill]:
    """A key made of an array's bytes in C order, and the function that writes them. The array must not change before it
    is called.

    Raises:
        LoweringError: the array holds Python objects.
    """
    if array.dtype.hasobject:
        raise LoweringError("a constant needs plain numbers", got=array.dtype)
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return f"{CONTENT}{hashlib.blake2b(flat.data, digest_size=32).hexdigest()}", fill_with(flat)


def fill_with(array: np.ndarray) -> Fill:
    """The function that writes the bytes of an array, which lies in C order and must not change before it is called."""

    def fill(block: np.ndarray) -> None:
        block[:] = array.reshape(-1).view(np.uint8)

    return fill


CONTENT = "blake2b:"
"""The beginning of the keys of `content_key`."""
