"""Makes findings small: drops parts of the input as long as it still ends in the same finding."""

from __future__ import annotations

import time
from collections.abc import Iterator

from tests.fuzz.door import Door
from tests.fuzz.worker import Verdict, Worker


def minimized(verdict: Verdict, door: Door, worker: Worker, seconds: float = 60.0) -> Verdict:
    """The verdict on the smallest input with the same finding that was found within this many seconds."""
    end = time.monotonic() + seconds
    again = worker.judge(verdict.data)
    if again.key != verdict.key:
        return verdict  # it depends on the inputs before
    progress = True
    while progress:
        progress = False
        for candidate in door.smaller(verdict.data):
            if time.monotonic() > end:
                return verdict
            again = worker.judge(candidate)
            if again.key == verdict.key:
                verdict, progress = again, True
                break
    return verdict


def shorter_bytes(data: bytes) -> Iterator[bytes]:
    """`data` without a part: without halves first, then without ever smaller parts, up to 500 of one size."""
    size = len(data) // 2
    while size:
        for start in range(0, min(len(data), 500 * size), size):
            yield data[:start] + data[start + size :]
        size //= 2


def shorter_lines(text: str) -> Iterator[str]:
    """`text` without some of its lines, then without some of its words."""
    for separator in ("\n", " "):
        parts = text.split(separator)
        size = len(parts) // 2
        while size:
            for start in range(0, len(parts), size):
                yield separator.join([*parts[:start], *parts[start + size :]])
            size //= 2
