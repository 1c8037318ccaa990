"""Blocks of pages: alignment, freezing, forks, guard pages."""

import os
import subprocess
import sys

import pytest

from qcompiler.backends.runtime.pages import HUGE_PAGE, aligned_block, guarded_block
from qcompiler.errors import LoweringError


@pytest.mark.parametrize("nbytes", [0, 1, 64, 4096, (1 << 20) - 1, 1 << 20, (2 << 20) + 1, 5 << 20])
def test_blocks_are_aligned_zeroed_and_of_the_size(nbytes):
    block = aligned_block(nbytes)
    assert block.data.nbytes == nbytes
    assert block.address % (HUGE_PAGE if nbytes >= 1 << 20 else 4096) == 0
    assert not block.data.any()
    if nbytes:
        assert block.data.ctypes.data == block.address


def test_a_frozen_block_refuses_writes():
    block = aligned_block(100)
    block.data[:] = 3
    block.freeze()
    with pytest.raises(ValueError):
        block.data[0] = 1


def test_absurd_sizes_give_one_clear_error():
    with pytest.raises(LoweringError, match="no memory"):
        aligned_block(1 << 60)
    with pytest.raises(LoweringError, match="size >= 0"):
        aligned_block(-1)


def test_blocks_are_private_after_a_fork():
    block = aligned_block(4096)
    child = os.fork()
    if child == 0:
        block.data[:] = 7
        os._exit(0)
    os.waitpid(child, 0)
    assert not block.data.any()


@pytest.mark.parametrize("nbytes", [1, 100, 4096, 5000])
def test_a_guarded_block_is_usable_to_its_last_byte(nbytes):
    block = guarded_block(nbytes)
    block.data[:] = 9
    assert block.data.sum() == 9 * nbytes
    assert block.data.ctypes.data == block.address
    assert (block.address + nbytes) % 4096 == 0


def test_one_byte_past_a_guarded_block_crashes():
    code = (
        "import ctypes; from qcompiler.backends.runtime.pages import guarded_block; b = guarded_block(100);"
        "ctypes.memset(b.address, 1, 100); print('inside', flush=True); ctypes.memset(b.address + 100, 1, 1)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "inside\n"
    assert done.returncode == -11
