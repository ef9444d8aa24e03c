# Limits that a user sets, the twin of sched/throttle.py and of what sched/queue.py does with it.

cdef inline int64_t free_ns(Meter *meter, Rate *rate, int64_t cost, int64_t now_ns) noexcept nogil:
    # When `cost` more may be used; `now_ns`: at once.
    cdef int64_t elapsed_ns = now_ns - meter.since_ns
    cdef int64_t over
    if rate.per_s == 0 or cost == 0:
        return now_ns
    if elapsed_ns > meter.owed // rate.per_s:
        meter.owed = 0
    else:
        meter.owed -= elapsed_ns * rate.per_s
    meter.since_ns = now_ns
    over = meter.owed + min(cost * NANO, rate.burst) - rate.burst
    return now_ns if over <= 0 else now_ns + (over + rate.per_s - 1) // rate.per_s


cdef inline int64_t _moved_bytes(Request *request) noexcept nogil:
    # To and from the store, which a VERIFY is read from, too. A FLUSH has none.
    return <int64_t>request.bytes


cdef inline int64_t _both_free_ns(
    Meter *meters, Rate *limits, int64_t moved_bytes, int64_t now_ns
) noexcept nogil:
    return max(
        free_ns(&meters[0], &limits[0], 1, now_ns),
        free_ns(&meters[1], &limits[1], moved_bytes, now_ns),
    )


cdef inline void _use(Meter *meters, Rate *limits, int64_t moved_bytes) noexcept nogil:
    if limits[0].per_s:
        meters[0].owed += NANO
    if limits[1].per_s:
        meters[1].owed += moved_bytes * NANO


cdef bint find_turn(Device *device, int64_t now_ns) noexcept nogil:
    # Whether limits let anybody start; then that is the first in the round. Otherwise, where somebody
    # is left in it, `wake_ns` says when.
    cdef Source *source
    cdef Rate *own = &device.limits[LIMIT_INITIATOR_IOPS]
    cdef Rate *shared = &device.limits[LIMIT_IOPS]
    cdef int64_t until_ns, moved_bytes
    while device.turn_head != NULL:
        source = device.turn_head
        if source.ready_head.verified:
            return True  # limits have let the whole VERIFY start
        moved_bytes = _moved_bytes(source.ready_head)
        until_ns = _both_free_ns(source.meters, own, moved_bytes, now_ns)
        if until_ns > now_ns:
            leave_round(device)
            _park(device, source, until_ns)
            continue
        until_ns = _both_free_ns(device.meters, shared, moved_bytes, now_ns)
        if until_ns > now_ns:
            device.wake_ns = until_ns
            return False
        _use(device.meters, shared, moved_bytes)
        _use(source.meters, own, moved_bytes)
        return True
    return False


cdef void _park(Device *device, Source *source, int64_t until_ns) noexcept nogil:
    source.parked_until_ns = until_ns
    source.turn_next = NULL
    if device.parked_tail != NULL:
        device.parked_tail.turn_next = source
    else:
        device.parked_head = source
    device.parked_tail = source


cdef void unpark(Device *device, int64_t now_ns) noexcept nogil:
    # Those whose own limits have room again join the round.
    cdef Source *source = device.parked_head
    cdef Source *following
    device.parked_head = device.parked_tail = NULL
    while source != NULL:
        following = source.turn_next
        if source.parked_until_ns <= now_ns:
            enter_round(device, source)
        else:
            _park(device, source, source.parked_until_ns)
        source = following


cdef int64_t end_of_parking(Device *device) noexcept nogil:
    # When the first of those that are parked comes back.
    cdef Source *source = device.parked_head
    cdef int64_t until_ns = INT64_MAX
    while source != NULL:
        until_ns = min(until_ns, source.parked_until_ns)
        source = source.turn_next
    return until_ns


cdef void set_limits(Device *device, Rate *limits) noexcept nogil:
    # New limits begin with nothing used of them.
    cdef Source *source
    cdef int i
    if memcmp(device.limits, limits, sizeof(device.limits)) == 0:
        return
    memcpy(device.limits, limits, sizeof(device.limits))
    device.is_limited = False
    for i in range(LIMITS):
        device.is_limited = device.is_limited or limits[i].per_s > 0
    memset(device.meters, 0, sizeof(device.meters))
    for i in range(SOURCES):
        source = device.sources[i]
        while source != NULL:
            memset(source.meters, 0, sizeof(source.meters))
            source = source.next
    unpark(device, INT64_MAX)
    activate(device)
