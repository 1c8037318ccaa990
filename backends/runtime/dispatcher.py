"""The dispatcher: native code that runs a step table, and both sides of the thread pool's protocol.

Owns the layout of the control block and the protocol between the threads. The code is `dispatcher.ll`, plain LLVM IR
with names to fill in; what differs between architectures is one `Dialect`. `codegen.dispatcher_store` compiles it, and
`runtime.threads` drives it.

    i64 qc_run(const Step* steps, i64 count, u8* const* bases, i64 thread, i64 threads, Control* control, u64* times)
    i64 qc_call(Control*, const Step* steps, i64 count, u8* const* bases, i64 threads, u64* times, i64 patience_ns)
    i64 qc_worker(Control*, i64 thread)
    i64 qc_stop(Control*, i64 threads)

Step = {i64 kernel address, i64 argument block address, i64 flags}. `qc_run` runs all the steps for one thread and
gives the number of steps done: fewer than count when the time slice is over, so that the caller can look for signals
and go on from there (all threads stop after the same step). times, if not null, gets thread 0's nanoseconds for each
step.

`qc_call` runs a table on threads 0 .. threads-1, thread 0 in the caller. Each worker has a mailbox word: IDLE (it
spins), ARMED (it waits for a job that is about to come), JOB, PARKED (it waits in Python), STOP. The caller arms all
the workers before it posts a job to the first one. If one of them is parked, all go back to IDLE and the call gives
CALL_PARKED: no step has run, so Python may wake the workers, or be interrupted, safely. No Python runs in the caller
between the first job posted and the last worker done.
"""

from __future__ import annotations

import pathlib
import string
from dataclasses import dataclass

BARRIER_AFTER = 1
"""Step flag, bit 0: all threads meet after the step."""

IDLE, JOB, PARKED, STOP, ARMED = 0, 1, 2, 3, 4
CALL_PARKED = -1
"""Result of qc_call: a worker is parked; wake it and call again."""
CALL_BUSY = -2
"""Result of qc_call: the pool serves another caller."""

MAX_THREADS = 256

# Byte offsets in the control block. Words that different threads write lie 128 bytes apart: two lines, because the
# hardware fetches lines in pairs.
COUNTER, STOP_AT = 0, 128
YIELD, CLOCK, CLOCK_ID, SLICE_TICKS, BARRIER_SPINS, WORKER_SPIN_NS, SLEEP = 256, 264, 272, 280, 288, 296, 304
OWNER, DONE = 384, 512
JOB_STEPS, JOB_COUNT, JOB_BASES, JOB_THREADS = 640, 648, 656, 664
MAILBOXES, MAILBOX_STRIDE = 768, 128
SCORE, LIMIT = 8, 16
"""Offsets in a thread's own mailbox: see `await` in dispatcher.ll."""
FIRST_LIMIT, LAST_LIMIT = 8, 4096
GRACE_NS = 20_000_000
"""A woken worker spins at least this long for its first job."""
YIELD_NS = 100_000
"""A caller that waits for parked workers to wake yields for this long, then naps."""
CONTROL_BYTES = MAILBOXES + MAILBOX_STRIDE * MAX_THREADS


@dataclass(frozen=True)
class Dialect:
    """What an architecture adds to the dispatcher, as LLVM text.

    Attributes:
        pause: a hint for spinning loops. ticks: reads a cheap tick counter.
        slice_ticks: a number of ticks that takes 0.05 to 0.3 s on any machine of the architecture.
        enter: saves the floating-point environment (in values of the function's entry block) and sets the default one:
            round to nearest even, subnormals kept, no traps.
        leave: restores the saved environment.
        declarations: declares the intrinsics that these use.
    """

    pause: str
    ticks: str
    slice_ticks: int
    enter: str
    leave: str
    declarations: str


def emit_dispatcher(dialect: Dialect) -> str:
    """The LLVM text of the four functions and their helpers: `dispatcher.ll` with its names filled in."""
    template = string.Template(pathlib.Path(__file__).with_name("dispatcher.ll").read_text(encoding="utf-8"))
    constants = {name: value for name, value in globals().items() if name.isupper() and isinstance(value, int)}
    return template.substitute(
        constants,
        DECLARATIONS=dialect.declarations,
        PAUSE=dialect.pause,
        TICKS=dialect.ticks,
        ENTER=dialect.enter,
        LEAVE=dialect.leave,
    )
