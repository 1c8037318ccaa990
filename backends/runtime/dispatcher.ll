; The native side of the runtime. `dispatcher.py` describes these functions and the control block. It fills in the names
; that begin with a dollar sign: byte offsets, states of the mailboxes, and what differs between architectures.

$DECLARATIONS

; Monotonic nanoseconds, from the system's clock_gettime.
define internal i64 @now(ptr %control) {
  %time = alloca [2 x i64], align 8
  %clock.p = getelementptr i8, ptr %control, i64 $CLOCK
  %clock = load ptr, ptr %clock.p, align 8
  %id.p = getelementptr i8, ptr %control, i64 $CLOCK_ID
  %id64 = load i64, ptr %id.p, align 8
  %id = trunc i64 %id64 to i32
  %status = call i32 %clock(i32 %id, ptr %time)
  %seconds = load i64, ptr %time, align 8
  %rest.p = getelementptr i8, ptr %time, i64 8
  %rest = load i64, ptr %rest.p, align 8
  %scaled = mul i64 %seconds, 1000000000
  %ns = add i64 %scaled, %rest
  ret i64 %ns
}

define internal void @pass_on(ptr %control) {
  %yield.p = getelementptr i8, ptr %control, i64 $YIELD
  %yield = load ptr, ptr %yield.p, align 8
  %status = call i32 %yield()
  ret void
}

; The shortest sleep there is: the scheduler places the thread anew when it wakes.
define internal void @nap(ptr %control) {
  %time = alloca [2 x i64], align 8
  store i64 0, ptr %time, align 8
  %rest.p = getelementptr i8, ptr %time, i64 8
  store i64 1, ptr %rest.p, align 8
  %sleep.p = getelementptr i8, ptr %control, i64 $SLEEP
  %sleep = load ptr, ptr %sleep.p, align 8
  %status = call i32 %sleep(ptr %time, ptr null)
  ret void
}

; Wait until *word >= target: spin a while, then yield the processor between looks. Two threads that the scheduler
; put on one processor hand it to each other forever that way, with another one idle beside them. The sign is that
; the first yield already brings what was waited for, wait after wait (the score). At the limit the thread naps once
; instead, which gets it placed on the idle processor; where there is none the limit doubles, so that naps become
; rare.
define internal void @await(ptr %word, i64 %target, ptr %control, i64 %thread) {
entry:
  %mine.offset = mul i64 %thread, $MAILBOX_STRIDE
  %mine.start = add i64 %mine.offset, $MAILBOXES
  %mine = getelementptr i8, ptr %control, i64 %mine.start
  %score.p = getelementptr i8, ptr %mine, i64 $SCORE
  %limit.p = getelementptr i8, ptr %mine, i64 $LIMIT
  %spins.p = getelementptr i8, ptr %control, i64 $BARRIER_SPINS
  %spins = load i64, ptr %spins.p, align 8
  %first = load atomic i64, ptr %word acquire, align 8
  %at.once = icmp uge i64 %first, %target
  br i1 %at.once, label %done, label %pause
pause:
  %tries = phi i64 [ 0, %entry ], [ %tries.next, %look ]
  $PAUSE
  %value = load atomic i64, ptr %word acquire, align 8
  %there = icmp uge i64 %value, %target
  br i1 %there, label %healthy, label %look
look:
  %tries.next = add i64 %tries, 1
  %patient = icmp ult i64 %tries.next, %spins
  br i1 %patient, label %pause, label %first.yield
healthy:
  store i64 0, ptr %score.p, align 8
  store i64 $FIRST_LIMIT, ptr %limit.p, align 8
  br label %done
first.yield:
  %score = load i64, ptr %score.p, align 8
  %limit.stored = load i64, ptr %limit.p, align 8
  %limit.low = icmp ult i64 %limit.stored, $FIRST_LIMIT
  %limit = select i1 %limit.low, i64 $FIRST_LIMIT, i64 %limit.stored
  %stuck = icmp uge i64 %score, %limit
  br i1 %stuck, label %move, label %yield.once
move:
  %limit.double = mul i64 %limit, 2
  %limit.high = icmp ugt i64 %limit.double, $LAST_LIMIT
  %limit.next = select i1 %limit.high, i64 $LAST_LIMIT, i64 %limit.double
  store i64 %limit.next, ptr %limit.p, align 8
  store i64 0, ptr %score.p, align 8
  call void @nap(ptr %control)
  br label %yield
yield.once:
  call void @pass_on(ptr %control)
  %after = load atomic i64, ptr %word acquire, align 8
  %brought = icmp uge i64 %after, %target
  %score.more = add i64 %score, 1
  %score.next = select i1 %brought, i64 %score.more, i64 0
  store i64 %score.next, ptr %score.p, align 8
  br i1 %brought, label %done, label %yield
yield:
  call void @pass_on(ptr %control)
  %later = load atomic i64, ptr %word acquire, align 8
  %finally = icmp uge i64 %later, %target
  br i1 %finally, label %done, label %yield
done:
  ret void
}

define i64 @qc_run(ptr %steps, i64 %count, ptr %bases, i64 %thread, i64 %threads, ptr %control, ptr %times) {
entry:
$ENTER
  %counter.p = getelementptr i8, ptr %control, i64 $COUNTER
  %stop.p = getelementptr i8, ptr %control, i64 $STOP_AT
  %slice.p = getelementptr i8, ptr %control, i64 $SLICE_TICKS
  %slice = load i64, ptr %slice.p, align 8
  %leader = icmp eq i64 %thread, 0
  %parallel = icmp ugt i64 %threads, 1
  %times.given = icmp ne ptr %times, null
  %timed = and i1 %leader, %times.given
  %begin = $TICKS
  br i1 %timed, label %first.time, label %loop.entry
first.time:
  %first.ns = call i64 @now(ptr %control)
  br label %loop.entry
loop.entry:
  %ns.start = phi i64 [ 0, %entry ], [ %first.ns, %first.time ]
  br label %loop
loop:
  %i = phi i64 [ 0, %loop.entry ], [ %next, %latch ]
  %target = phi i64 [ 0, %loop.entry ], [ %target.out, %latch ]
  %ns = phi i64 [ %ns.start, %loop.entry ], [ %ns.out, %latch ]
  %more = icmp ult i64 %i, %count
  br i1 %more, label %step, label %exit
step:
  %step.p = getelementptr [3 x i64], ptr %steps, i64 %i
  %kernel = load ptr, ptr %step.p, align 8
  %args.p = getelementptr i8, ptr %step.p, i64 8
  %args = load ptr, ptr %args.p, align 8
  %flags.p = getelementptr i8, ptr %step.p, i64 16
  %flags = load i64, ptr %flags.p, align 8
  call void %kernel(ptr %args, ptr %bases, i64 %thread, i64 %threads)
  %next = add i64 %i, 1
  br i1 %parallel, label %meet.maybe, label %alone
alone:
  %alone.ticks = $TICKS
  %alone.used = sub i64 %alone.ticks, %begin
  %alone.over = icmp ugt i64 %alone.used, %slice
  br label %stepped
meet.maybe:
  %flag = and i64 %flags, $BARRIER_AFTER
  %flagged = icmp ne i64 %flag, 0
  %inner = icmp ult i64 %next, %count
  %meets = and i1 %flagged, %inner
  br i1 %meets, label %meet, label %stepped
meet:
  br i1 %leader, label %budget, label %arrive
budget:
  %lead.ticks = $TICKS
  %lead.used = sub i64 %lead.ticks, %begin
  %lead.over = icmp ugt i64 %lead.used, %slice
  br i1 %lead.over, label %announce, label %arrive
announce:
  store atomic i64 %next, ptr %stop.p monotonic, align 8
  br label %arrive
arrive:
  %target.met = add i64 %target, %threads
  %arrived = atomicrmw add ptr %counter.p, i64 1 acq_rel, align 8
  call void @await(ptr %counter.p, i64 %target.met, ptr %control, i64 %thread)
  %stop.at = load atomic i64, ptr %stop.p monotonic, align 8
  %stop.here = icmp eq i64 %stop.at, %next
  br label %stepped
stepped:
  %over = phi i1 [ %alone.over, %alone ], [ false, %meet.maybe ], [ %stop.here, %arrive ]
  %target.out = phi i64 [ %target, %alone ], [ %target, %meet.maybe ], [ %target.met, %arrive ]
  br i1 %timed, label %time, label %latch
time:
  %ns.now = call i64 @now(ptr %control)
  %spent = sub i64 %ns.now, %ns
  %slot = getelementptr i64, ptr %times, i64 %i
  store i64 %spent, ptr %slot, align 8
  br label %latch
latch:
  %ns.out = phi i64 [ %ns, %stepped ], [ %ns.now, %time ]
  br i1 %over, label %exit, label %loop
exit:
  %done = phi i64 [ %i, %loop ], [ %next, %latch ]
$LEAVE
  ret i64 %done
}

define i64 @qc_call(ptr %control, ptr %steps, i64 %count, ptr %bases, i64 %threads, ptr %times, i64 %patience) {
entry:
  %owner.p = getelementptr i8, ptr %control, i64 $OWNER
  %own = cmpxchg ptr %owner.p, i64 0, i64 1 acq_rel acquire
  %owned = extractvalue { i64, i1 } %own, 1
  br i1 %owned, label %prepare, label %busy
busy:
  ret i64 $CALL_BUSY
prepare:
  %counter.p = getelementptr i8, ptr %control, i64 $COUNTER
  %stop.p = getelementptr i8, ptr %control, i64 $STOP_AT
  %done.p = getelementptr i8, ptr %control, i64 $DONE
  %steps.p = getelementptr i8, ptr %control, i64 $JOB_STEPS
  %count.p = getelementptr i8, ptr %control, i64 $JOB_COUNT
  %bases.p = getelementptr i8, ptr %control, i64 $JOB_BASES
  %threads.p = getelementptr i8, ptr %control, i64 $JOB_THREADS
  %boxes = getelementptr i8, ptr %control, i64 $MAILBOXES
  %began = call i64 @now(ptr %control)
  br label %arm
arm:
  %w = phi i64 [ 1, %prepare ], [ %w, %arm.nap ], [ %w, %arm.yield ], [ %w.next, %armed ]
  %arm.all = icmp uge i64 %w, %threads
  br i1 %arm.all, label %publish, label %arm.one
arm.one:
  %w.offset = mul i64 %w, $MAILBOX_STRIDE
  %box = getelementptr i8, ptr %boxes, i64 %w.offset
  %try = cmpxchg ptr %box, i64 $IDLE, i64 $ARMED acq_rel acquire
  %tried = extractvalue { i64, i1 } %try, 1
  br i1 %tried, label %armed, label %parked
armed:
  %w.next = add i64 %w, 1
  br label %arm
parked:
  %now = call i64 @now(ptr %control)
  %waited = sub i64 %now, %began
  %go.on = icmp ult i64 %waited, %patience
  br i1 %go.on, label %arm.again, label %disarm
arm.again:
  %tired = icmp ugt i64 %waited, $YIELD_NS
  br i1 %tired, label %arm.nap, label %arm.yield
arm.nap:
  call void @nap(ptr %control)
  br label %arm
arm.yield:
  call void @pass_on(ptr %control)
  br label %arm
disarm:
  %d = phi i64 [ 1, %parked ], [ %d.next, %disarm.one ]
  %disarmed = icmp uge i64 %d, %w
  br i1 %disarmed, label %give.up, label %disarm.one
disarm.one:
  %d.offset = mul i64 %d, $MAILBOX_STRIDE
  %d.box = getelementptr i8, ptr %boxes, i64 %d.offset
  store atomic i64 $IDLE, ptr %d.box release, align 8
  %d.next = add i64 %d, 1
  br label %disarm
give.up:
  store atomic i64 0, ptr %owner.p release, align 8
  ret i64 $CALL_PARKED
publish:
  store atomic i64 0, ptr %counter.p monotonic, align 8
  store atomic i64 0, ptr %stop.p monotonic, align 8
  store atomic i64 0, ptr %done.p monotonic, align 8
  store ptr %steps, ptr %steps.p, align 8
  store i64 %count, ptr %count.p, align 8
  store ptr %bases, ptr %bases.p, align 8
  store i64 %threads, ptr %threads.p, align 8
  br label %post
post:
  %p = phi i64 [ 1, %publish ], [ %p.next, %post.one ]
  %posted = icmp uge i64 %p, %threads
  br i1 %posted, label %lead, label %post.one
post.one:
  %p.offset = mul i64 %p, $MAILBOX_STRIDE
  %p.box = getelementptr i8, ptr %boxes, i64 %p.offset
  store atomic i64 $JOB, ptr %p.box release, align 8
  %p.next = add i64 %p, 1
  br label %post
lead:
  %result = call i64 @qc_run(ptr %steps, i64 %count, ptr %bases, i64 0, i64 %threads, ptr %control, ptr %times)
  %helpers = sub i64 %threads, 1
  call void @await(ptr %done.p, i64 %helpers, ptr %control, i64 0)
  store atomic i64 0, ptr %owner.p release, align 8
  ret i64 %result
}

; One worker: runs jobs as they come; gives PARKED when none came for a while, STOP when it shall end. A worker that was
; woken waits longer for its first job, so that it isn't asleep again before the last of its fellows is up.
define i64 @qc_worker(ptr %control, i64 %thread) {
entry:
  %offset = mul i64 %thread, $MAILBOX_STRIDE
  %boxes = getelementptr i8, ptr %control, i64 $MAILBOXES
  %box = getelementptr i8, ptr %boxes, i64 %offset
  %done.p = getelementptr i8, ptr %control, i64 $DONE
  %spin.p = getelementptr i8, ptr %control, i64 $WORKER_SPIN_NS
  %spin = load i64, ptr %spin.p, align 8
  %unpark = cmpxchg ptr %box, i64 $PARKED, i64 $IDLE acq_rel acquire
  %woken = extractvalue { i64, i1 } %unpark, 1
  %hasty = icmp ult i64 %spin, $GRACE_NS
  %graced = and i1 %woken, %hasty
  %first.spin = select i1 %graced, i64 $GRACE_NS, i64 %spin
  br label %wait
wait:
  %patience = phi i64 [ %first.spin, %entry ], [ %patience, %look.again ], [ %spin, %job ]
  %since = call i64 @now(ptr %control)
  br label %look
look:
  %spins = phi i64 [ 0, %wait ], [ %spins.next, %again ], [ 0, %rest ]
  %mail = load atomic i64, ptr %box acquire, align 8
  switch i64 %mail, label %idle [ i64 $JOB, label %job
                                  i64 $STOP, label %stop ]
idle:
  %full = icmp uge i64 %spins, 64
  br i1 %full, label %late.maybe, label %again
again:
  $PAUSE
  %spins.next = add i64 %spins, 1
  br label %look
late.maybe:
  %armed = icmp eq i64 %mail, $ARMED
  br i1 %armed, label %rest, label %clock
clock:
  %now = call i64 @now(ptr %control)
  %waited = sub i64 %now, %since
  %late = icmp uge i64 %waited, %patience
  br i1 %late, label %park, label %rest
rest:
  call void @pass_on(ptr %control)
  br label %look
park:
  %try = cmpxchg ptr %box, i64 $IDLE, i64 $PARKED acq_rel acquire
  %parked = extractvalue { i64, i1 } %try, 1
  br i1 %parked, label %parked.exit, label %look.again
look.again:
  br label %wait
parked.exit:
  ret i64 $PARKED
stop:
  ret i64 $STOP
job:
  %steps.p = getelementptr i8, ptr %control, i64 $JOB_STEPS
  %steps = load ptr, ptr %steps.p, align 8
  %count.p = getelementptr i8, ptr %control, i64 $JOB_COUNT
  %count = load i64, ptr %count.p, align 8
  %bases.p = getelementptr i8, ptr %control, i64 $JOB_BASES
  %bases = load ptr, ptr %bases.p, align 8
  %threads.p = getelementptr i8, ptr %control, i64 $JOB_THREADS
  %threads = load i64, ptr %threads.p, align 8
  %result = call i64 @qc_run(ptr %steps, i64 %count, ptr %bases, i64 %thread, i64 %threads, ptr %control, ptr null)
  store atomic i64 $IDLE, ptr %box release, align 8
  %others = atomicrmw add ptr %done.p, i64 1 acq_rel, align 8
  br label %wait
}

; Tell all workers to end. Takes the pool for good: later calls find it busy. 0 if a caller has it, else 1.
define i64 @qc_stop(ptr %control, i64 %threads) {
entry:
  %owner.p = getelementptr i8, ptr %control, i64 $OWNER
  %own = cmpxchg ptr %owner.p, i64 0, i64 1 acq_rel acquire
  %owned = extractvalue { i64, i1 } %own, 1
  %boxes = getelementptr i8, ptr %control, i64 $MAILBOXES
  br i1 %owned, label %loop, label %busy
busy:
  ret i64 0
loop:
  %w = phi i64 [ 1, %entry ], [ %w.next, %tell ]
  %all = icmp uge i64 %w, %threads
  br i1 %all, label %exit, label %tell
tell:
  %offset = mul i64 %w, $MAILBOX_STRIDE
  %box = getelementptr i8, ptr %boxes, i64 %offset
  store atomic i64 $STOP, ptr %box seq_cst, align 8
  %w.next = add i64 %w, 1
  br label %loop
exit:
  ret i64 1
}
