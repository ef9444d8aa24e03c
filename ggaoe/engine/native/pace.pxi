# Rules of time: which thread reads a file whose file system has no RWF_NOWAIT, and whether to spin.
#
# A read that the page cache has is a copy of a microsecond or two, and offloading it costs ten times
# as much. A read that waits for a disk belongs to a worker thread, where others wait beside it. The
# file system tells neither in advance, so each device has a debt: a read adds the time for which it
# was blocked and pays back READ_BUDGET_NS, or more where no other read of the device could wait beside
# it: a round trip to a FUSE server is then quicker than the change of threads on top of it. With a debt of READ_DEBT_HIGH_NS its reads are offloaded;
# their times are what the device returns by, so that nothing is ever tried at the expense of others.
# A read that stalled the engine thread adds STALL_TIMES as much: the device returns late and seldom.
#
# Spinning saves the time to wake up, and takes a processor. So at every look the thread yields it. If
# another thread had it meanwhile, spinning costs more than it saves: the next request would wait for
# the rest of that thread's time slice, while a thread that sleeps is let in at once. So the thread
# sleeps between requests for REST_TIMES as long as it was away: at most one part in a hundred is lost.

cdef inline int64_t debt_after(
    int64_t debt_ns, int64_t blocked_ns, bint is_alone, bint has_stalled
) noexcept nogil:
    cdef int64_t most_ns
    if has_stalled:
        if blocked_ns > STALL_DEBT_MAX_NS // STALL_TIMES:
            return STALL_DEBT_MAX_NS
        debt_ns += blocked_ns * STALL_TIMES
        return debt_ns if debt_ns < STALL_DEBT_MAX_NS else STALL_DEBT_MAX_NS
    most_ns = debt_ns if debt_ns > READ_DEBT_MAX_NS else READ_DEBT_MAX_NS
    debt_ns += blocked_ns - (LONE_READ_BUDGET_NS if is_alone else READ_BUDGET_NS)
    if debt_ns < 0:
        return 0
    return debt_ns if debt_ns < most_ns else most_ns


cdef inline bint offloads_with(int64_t debt_ns, bint offloads) noexcept nogil:
    # Whether reads are offloaded with such a debt, where they were or were not before.
    return debt_ns > 0 if offloads else debt_ns >= READ_DEBT_HIGH_NS


cdef inline void charge(Device *device, Vector *vector) noexcept nogil:
    device.read_debt_ns = debt_after(
        device.read_debt_ns, vector.blocked_ns, vector.is_alone, vector.has_stalled
    )
    device.offloads_reads = offloads_with(device.read_debt_ns, device.offloads_reads)


cdef inline long voluntary_switches() noexcept nogil:
    # Of this thread: each time that it was blocked, and none when others took its processor.
    cdef rusage usage
    getrusage(RUSAGE_THREAD, &usage)
    return usage.ru_nvcsw


cdef void perform_timed(Vector *vector, long switches) noexcept nogil:
    # perform() for a thread that has been blocked `switches` times so far.
    cdef int64_t began_ns = clock_ns(CLOCK_MONOTONIC)
    vector.result = perform(vector)
    vector.blocked_ns = clock_ns(CLOCK_MONOTONIC) - began_ns
    if vector.blocked_ns > READ_BUDGET_NS and voluntary_switches() == switches:
        vector.blocked_ns = 0


cdef inline int64_t end_of_rest(int64_t rests_until_ns, int64_t yielded_ns, int64_t back_ns) noexcept nogil:
    # Until when a thread does not spin that yielded its processor and has it back.
    cdef int64_t rest_ns = back_ns - yielded_ns
    if rest_ns <= AWAY_NS_MAX:
        return rests_until_ns
    rest_ns = rest_ns * REST_TIMES if rest_ns < REST_NS_MAX // REST_TIMES else REST_NS_MAX
    return back_ns + rest_ns
