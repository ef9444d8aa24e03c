# The queue of one device, the twin of sched/queue.py and sched/merge.py.

cdef inline Request **_tag_chain(Device *device, uint64_t mac, uint8_t *head) noexcept nogil:
    cdef uint32_t tag = (
        <uint32_t>head[20] << 24 | <uint32_t>head[21] << 16 | <uint32_t>head[22] << 8 | head[23]
    )
    return &device.tags[hash_of(device.engine, mac << 16 ^ tag) >> CHAIN_SHIFT]


cdef inline Source **source_chain(Device *device, uint64_t mac) noexcept nogil:
    return &device.sources[hash_of(device.engine, mac) >> SOURCES_SHIFT]


cdef Source *source_of(Device *device, uint64_t mac) noexcept nogil:
    # The host `mac`; NULL where there is no memory, or every remembered host has work here.
    cdef Source **chain = source_chain(device, mac)
    cdef Source *source = chain[0]
    while source != NULL:
        if source.mac == mac:
            return source
        source = source.next
    if device.source_count >= SOURCES_MAX and not _forget_one(device):
        return NULL
    source = <Source *>calloc(1, sizeof(Source))
    if source != NULL:
        source.mac = mac
        # It may be one that was forgotten.
        source.has_written = device.forgot_writer
        source.lost = device.forgotten_lost
        source.next = chain[0]
        chain[0] = source
        device.source_count += 1
        if not device.engine.has_newcomers:
            device.engine.has_newcomers = device.engine.attention = True
    return source


cdef bint _forget_one(Device *device) noexcept nogil:
    # Forget an idle host: of those that a failed flush does not concern, the one that was silent
    # longest. Where it concerns all of them, the device remembers for the one that is forgotten.
    cdef Source **chosen = NULL
    cdef Source **place
    cdef Source *source
    cdef int i
    for i in range(SOURCES):
        place = &device.sources[i]
        while place[0] != NULL:
            if place[0].active == 0 and (chosen == NULL or _is_before(place[0], chosen[0])):
                chosen = place
            place = &place[0].next
    if chosen == NULL:
        return False
    source = chosen[0]
    device.forgot_writer = device.forgot_writer or source.has_written
    if source.lost:
        device.forgotten_lost = source.lost
    chosen[0] = source.next
    free(source)
    device.source_count -= 1
    return True


cdef inline bint _is_before(Source *source, Source *other) noexcept nogil:
    # In the order in which hosts are forgotten.
    cdef bint matters = source.has_written or source.lost
    cdef bint other_matters = other.has_written or other.lost
    if matters != other_matters:
        return other_matters
    return source.last_seen_ns < other.last_seen_ns


cdef void make_ready(Device *device, Request *request) noexcept nogil:
    cdef Source *source = request.source
    request.next = NULL
    if source.ready_head == NULL:
        source.ready_head = request
        enter_round(device, source)
    else:
        source.ready_tail.next = request
    source.ready_tail = request
    device.ready_count += 1
    device.ready_number += 1
    request.ready_number = device.ready_number


cdef inline uint64_t _cost(Request *request) noexcept nogil:
    # A write waits in a slot of its link's; others wait in short ones, and are counted with what
    # they are about to use.
    return REQUEST_BYTES + (request.link.payload_bytes if request.op == WRITE else request.bytes)


cdef inline bint _has_room(Device *device, Source *source, uint64_t cost) noexcept nogil:
    cdef Engine *engine = device.engine
    return (
        source.waiting < max(
            <uint32_t>WAITING_PER_SOURCE_MIN, WAITING_PER_BUFFER * device.queue_length
        )
        and source.waiting_bytes + cost <= WAITING_BYTES_PER_SOURCE_MAX
        and device.waiting_bytes + cost <= WAITING_BYTES_MAX
        and (
            device.waiting_bytes + cost <= WAITING_BYTES_PER_DEVICE_MIN
            or engine.waiting_bytes + cost <= WAITING_BYTES_TOTAL_MAX
        )
    )


cdef inline void note(Source *source, Request *request, int64_t now_ns, int fate) noexcept nogil:
    # It is the last one of its host.
    cdef Sighting *last = &source.last
    last.time_ns = now_ns
    last.sequence = request.sequence if fate == UNDER_WAY else 0
    last.link_index = request.link.index
    last.length = request.length
    last.fate = fate
    last.error = 0
    memcpy(last.head, request.head, HEAD_BYTES)


cdef inline void note_fate(Request *request, int fate, int error) noexcept nogil:
    if request.source.last.sequence == request.sequence:
        request.source.last.fate = fate
        request.source.last.error = error


cdef inline void book(Device *device, Request *request) noexcept nogil:
    # It waits, and what it holds counts.
    cdef uint64_t cost = _cost(request)
    device.engine.waiting_bytes += cost
    device.waiting_bytes += cost
    request.source.waiting_bytes += cost
    request.source.waiting += 1


cdef inline void unbook(Device *device, Request *request) noexcept nogil:
    cdef uint64_t cost = _cost(request)
    device.engine.waiting_bytes -= cost
    device.waiting_bytes -= cost
    request.source.waiting_bytes -= cost
    request.source.waiting -= 1


cdef bint arrive(Device *device, Request *request, int64_t now_ns) noexcept nogil:
    # Take in `request`, or return False: its twin is active, or the budget is used up.
    cdef Source *source = source_of(device, request.mac)
    cdef Request **chain = _tag_chain(device, request.mac, request.head)
    cdef Request *other = chain[0]
    cdef Request *moved
    cdef bint is_ready
    if source != NULL:
        source.last_seen_ns = now_ns
        source.link_index = request.link.index
    while other != NULL:
        if (
            other.mac == request.mac
            and other.link == request.link
            and memcmp(&other.head[20], &request.head[20], 16) == 0
        ):
            device.stats.absorbed += 1
            other.source.absorbed += 1
            return False
        other = other.tag_next
    if (
        source == NULL
        or not _has_room(device, source, _cost(request))
        or not order_prepare(device, request)
    ):
        device.stats.queue_full += 1
        if source != NULL:
            source.dropped += 1
            note(source, request, now_ns, NO_ROOM)
        return False
    request.source = source
    request.device = device
    request.received_ns = now_ns
    request.started = False
    request.verified = 0
    request.lost = 0
    device.engine.sequence += 1
    request.sequence = device.engine.sequence
    note(source, request, now_ns, UNDER_WAY)
    is_ready = order_enter(device, request)
    if request.op != WRITE and (not is_ready or device.active_count >= device.queue_length):
        # It does not start in this turn.
        moved = shortened(request)
        if moved != request:
            order_moved(device, request, moved)
            slot_free(request)
            request = moved
    book(device, request)
    source.active += 1
    request.tag_next = chain[0]
    chain[0] = request
    request.active_next = NULL
    request.active_prev = device.active_tail
    if device.active_tail != NULL:
        device.active_tail.active_next = request
    else:
        device.active_head = request
    device.active_tail = request
    device.active_count += 1
    if not is_ready:
        device.stats.overlaps += 1
    else:
        if device.active_count > device.queue_length:
            device.stats.waits += 1
            source.waits += 1
        if device.ready_count == 0:
            device.hold_until_ns = now_ns + device.merge_delay_ns
        make_ready(device, request)
    activate(device)
    return True


cdef void forget(Device *device, Request *request) noexcept nogil:
    # Take a request out of the tables that know the active ones, other than the order.
    cdef Request **place = _tag_chain(device, request.mac, request.head)
    while place[0] != request:
        place = &place[0].tag_next
    place[0] = request.tag_next
    if request.active_prev != NULL:
        request.active_prev.active_next = request.active_next
    else:
        device.active_head = request.active_next
    if request.active_next != NULL:
        request.active_next.active_prev = request.active_prev
    else:
        device.active_tail = request.active_prev
    device.active_count -= 1
    request.source.active -= 1


cdef inline void enter_round(Device *device, Source *source) noexcept nogil:
    source.turn_next = NULL
    if device.turn_tail != NULL:
        device.turn_tail.turn_next = source
    else:
        device.turn_head = source
    device.turn_tail = source


cdef inline void leave_round(Device *device) noexcept nogil:
    # The first one does.
    device.turn_head = device.turn_head.turn_next
    if device.turn_head == NULL:
        device.turn_tail = NULL


cdef int take(Device *device, Request **started, int started_max, int64_t now_ns, bint after_completion) noexcept nogil:
    # Start what may start, each host in turn; returns how many, in `started`.
    cdef int count = 0
    cdef Source *source
    cdef Request *request
    if device.ready_count == 0 or device.in_flight >= device.queue_length:
        return 0
    if device.merge_delay_ns and now_ns < device.hold_until_ns and not after_completion:
        device.wake_ns = device.hold_until_ns
        return 0
    if device.parked_head != NULL:
        unpark(device, now_ns)
    while (
        device.turn_head != NULL
        and device.in_flight < device.queue_length
        and count < started_max
        and (not device.is_limited or find_turn(device, now_ns))
    ):
        source = device.turn_head
        leave_round(device)
        request = source.ready_head
        source.ready_head = request.next
        if source.ready_head != NULL:
            enter_round(device, source)
        device.ready_count -= 1
        unbook(device, request)
        request.started = True
        if request.ready_number <= device.throttled_number and not request.verified:
            device.stats.throttled += 1
            source.throttled += 1
        device.in_flight += 1
        started[count] = request
        count += 1
    if device.ready_count and device.in_flight < device.queue_length and count < started_max:
        device.throttled_number = device.ready_number
        if device.turn_head == NULL:
            device.wake_ns = end_of_parking(device)
    return count


cdef void sort_for_merging(Device *device, Request **started, int count) noexcept nogil:
    # By arrival; within windows of max_delay_ns by address. Batches are small: insertion sort.
    cdef int i, j, first
    cdef Request *request
    for i in range(1, count):
        request = started[i]
        j = i
        while j > 0 and started[j - 1].sequence > request.sequence:
            started[j] = started[j - 1]
            j -= 1
        started[j] = request
    if device.max_delay_ns == 0:
        return
    first = 0
    for i in range(1, count):
        request = started[i]
        if request.arrival_ns - started[first].arrival_ns > device.max_delay_ns:
            first = i
            continue
        j = i
        while j > first and started[j - 1].offset > request.offset:
            started[j] = started[j - 1]
            j -= 1
        started[j] = request
