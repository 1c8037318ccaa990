"""The constants of a program: arrays packed once into one block, shared by all calls and bindings.

Owns packing and sharing of equal bytes. The pages come from `qcompiler.backends.program.memory`. Large constants (packed
weights) are written straight into the block when it is made, one after another, so that no second copy of all of them
ever exists.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from qcompiler.backends.program.memory import ALIGNMENT, Block, aligned_block
from qcompiler.background import run_all
from qcompiler.errors import LoweringError

_MAX_ALIGNMENT = 4096
_LARGE_BLOCK = 4 << 20
"""Bytes from which two threads pack."""

Fill = Callable[[np.ndarray], None]
"""Writes all bytes of a constant: u8[nbytes], zeros so far."""


class Constants:
    """Arrays packed into one read-only block. Equal bytes are stored once. Thread-safe.

    An array must not change between `add` and `seal`.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: list[tuple[int, np.ndarray]] = []
        self._known: dict[bytes, tuple[int, ...]] = {}
        self._fills: list[tuple[int, int, Fill]] = []
        self._keyed: dict[str, int] = {}
        self._end = 0
        self._block: Block | None = None

    def add(self, array: np.ndarray, alignment: int = ALIGNMENT) -> int | None:
        """The byte offset of the array's bytes (C order); None if they are new and the block is sealed."""
        if alignment < 1 or alignment & (alignment - 1) or alignment > _MAX_ALIGNMENT:
            raise LoweringError(
                "a bad alignment of a constant", expected=f"a power of two up to {_MAX_ALIGNMENT}", got=alignment
            )
        if array.dtype.hasobject:
            raise LoweringError("a constant needs plain numbers", got=array.dtype)
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        digest = hashlib.blake2b(flat.data, digest_size=32).digest()
        alignment = max(alignment, ALIGNMENT)
        with self._lock:
            for offset in self._known.get(digest, ()):
                if offset % alignment == 0:
                    return offset
            if self._block is not None:
                return None
            offset = -(-self._end // alignment) * alignment
            self._entries.append((offset, flat))
            self._known[digest] = (*self._known.get(digest, ()), offset)
            self._end = offset + flat.nbytes
            return offset

    @staticmethod
    def sealed_in(block: Block, known: Mapping[bytes, tuple[int, ...]], keyed: Mapping[str, int]) -> Constants:
        """Constants that lie in a block already, where the `offsets` of others say."""
        block.freeze()
        made = Constants()
        made._known, made._keyed, made._end, made._block = dict(known), dict(keyed), block.data.nbytes, block
        return made

    @property
    def sealed(self) -> bool:
        return self._block is not None

    def offsets(self) -> tuple[Mapping[bytes, tuple[int, ...]], Mapping[str, int]]:
        """Where constants lie: by the digest of their bytes, and by key."""
        with self._lock:
            return dict(self._known), dict(self._keyed)

    def defer(self, key: str, nbytes: int, fill: Fill) -> int | None:
        """The byte offset of bytes that `fill` writes when the block is made. Equal keys share one place: the key says
        what determines the bytes. None if the key is new and the block is sealed. `fill` must not use this object."""
        with self._lock:
            if key in self._keyed or self._block is not None:
                return self._keyed.get(key)
            offset = -(-self._end // ALIGNMENT) * ALIGNMENT
            self._fills.append((offset, nbytes, fill))
            self._keyed[key] = offset
            self._end = offset + nbytes
            return offset

    def seal(self) -> Block:
        """The block: packed at the first call, fixed from then on."""
        with self._lock:
            if self._block is None:
                block = aligned_block(self._end)
                tasks = [partial(fill, block.data[offset : offset + nbytes]) for offset, nbytes, fill in self._fills]
                if self._end < _LARGE_BLOCK:
                    for task in tasks:
                        task()
                else:
                    run_all(tasks)
                for offset, flat in self._entries:
                    block.data[offset : offset + flat.nbytes] = flat
                block.freeze()
                self._entries.clear()
                self._fills.clear()
                self._block = block
            return self._block
