"""Large arrays that the processes of one user share: packed constants of programs, as files in the cache folder.

A block is named by the digests of its parts, so that what lies under a name is known. A block that is not as it was
written is removed and named in the log.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import partial

import numpy as np

from qcompiler.backends.cache.folder import Bad, opened, own_file, prune, remove_bad, touch, warn_once, write
from qcompiler.background import run_all

SUFFIX = ".qcb"
MAX_FOLDER = 1024 * 2**20
"""If all blocks take more bytes than this, the least recently used are removed, down to half."""
MAX_BLOCK = MAX_FOLDER // 4
"""Larger blocks are not stored."""

_PART = 4 * 2**20
"""Bytes that one digest covers."""


def store(data: np.ndarray) -> list[str] | None:
    """Store u8[n] and give the digests of its parts, by which `load` finds it. None if it is too large, or can't be
    stored."""
    if data.nbytes > MAX_BLOCK:
        return None
    with opened(make=True) as folder:
        if folder is None:
            return None
        digests = [hashlib.sha256(data[part].data).hexdigest() for part in _parts(data.nbytes)]
        name = block_name(digests)
        try:
            if name not in os.listdir(folder):
                write(folder, name, data.data)
                prune(folder, SUFFIX, MAX_FOLDER)
        except OSError as error:
            warn_once("blocks", "packed constants are not stored for the next process: %s", error)
            return None
    return digests


def load(digests: Sequence[str], into: np.ndarray) -> bool:
    """Fill `into`, u8[n], with the block of these digests. False if there is none; then the contents of `into` are
    undefined."""
    name, parts = block_name(digests), _parts(into.nbytes)
    with opened(make=False) as folder:
        if folder is None:
            return False
        try:
            with own_file(folder, name) as file:
                if len(digests) != len(parts) or os.fstat(file.fileno()).st_size != into.nbytes:
                    raise Bad("its length is not the recorded one")
                run_all(
                    [partial(_read_part, file.fileno(), digest, part, into) for digest, part in zip(digests, parts)]
                )
                touch(file)
            return True
        except FileNotFoundError:
            return False
        except (Bad, OSError) as error:
            remove_bad(folder, name, error)
            return False


def block_name(digests: Sequence[str]) -> str:
    """The file that a block lies in."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest() + SUFFIX


def _parts(nbytes: int) -> list[slice]:
    return [slice(start, min(start + _PART, nbytes)) for start in range(0, nbytes, _PART)]


def _read_part(descriptor: int, digest: str, part: slice, into: np.ndarray) -> None:
    block = into[part]
    if os.preadv(descriptor, [block.data], part.start) != block.nbytes:
        raise Bad("it is cut off")
    if hashlib.sha256(block.data).hexdigest() != digest:
        raise Bad("its digest is not the recorded one")
