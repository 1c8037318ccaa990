"""The lock around every use of LLVM, from a module's text to the last object that refers to it.

LLVM's context is one for the process, and llvmlite has a lock of its own that a fork does not renew: whoever holds
this lock may call llvmlite, so while a fork waits for it, no other thread does.
"""

from __future__ import annotations

from qcompiler.fork_safety import fork_awaited_lock

llvm_lock = fork_awaited_lock()
