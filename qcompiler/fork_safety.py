"""Locks and cached properties that a fork's child can use, whatever other threads did at the moment of the fork.

A fork copies the memory of a process but only the thread that forks. A lock that another thread holds stays taken in
the child for good, so every lock of qcompiler is made here (a test looks for others). Modules that threads import for
the first time at the moment of a fork stay locked by Python itself: import before forking, or fork when no thread
traces or compiles for the first time.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from weakref import WeakSet

T = TypeVar("T")
_renewed: WeakSet[Any] = WeakSet()
_awaited: list[Any] = []


def fork_safe_lock() -> Any:
    """A reentrant lock (threading.RLock) that is free in a fork's child unless the thread that forked holds it.

    What it guards must be usable at each moment, because in the child its holder has stopped anywhere: compute first
    and publish the result with one assignment.
    """
    lock = threading.RLock()
    _renewed.add(lock)
    return lock


def fork_awaited_lock() -> Any:
    """A reentrant lock that a fork waits for, so that the child finds what it guards whole. It lives forever.

    It is for state of other libraries, which cannot be usable at each moment. Sections must be short, and must take no
    other lock of this kind.
    """
    lock = threading.RLock()
    _awaited.append(lock)
    return lock


def _before_fork() -> None:
    for lock in _awaited:
        lock.acquire()


def _in_parent() -> None:
    for lock in reversed(_awaited):
        lock.release()


def _in_child() -> None:
    _in_parent()
    for lock in _renewed:
        if lock.acquire(blocking=False):  # free, or held by the thread that forked, which goes on here
            lock.release()
        else:
            lock._at_fork_reinit()  # as the standard library does with its own


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_in_parent, after_in_child=_in_child)


if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property
else:

    class cached_property(Generic[T]):
        """functools.cached_property as of Python 3.12. That of 3.11 holds a lock while it computes, one for all
        instances of a class. Threads that ask at the same time may each compute."""

        def __init__(self, function: Callable[[Any], T]) -> None:
            self._function, self.__doc__ = function, function.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, instance: Any, owner: type | None = None) -> Any:
            if instance is None:
                return self
            value = vars(instance)[self._name] = self._function(instance)
            return value


__all__ = ["cached_property", "fork_awaited_lock", "fork_safe_lock"]
