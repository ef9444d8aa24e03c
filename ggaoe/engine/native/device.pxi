# A device's requests from start to reply: submit, settle, commit, finish. The twin of the same
# steps in engine/portable.py.

cdef inline int64_t clock_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <int64_t>now.tv_sec * 1000000000 + now.tv_nsec


cdef inline int64_t monotonic_ns(Engine *engine) noexcept nogil:
    return engine.told_monotonic_ns or clock_ns(CLOCK_MONOTONIC)


cdef inline int64_t real_ns(Engine *engine) noexcept nogil:
    return engine.told_real_ns or clock_ns(CLOCK_REALTIME)


cdef inline void activate(Device *device) noexcept nogil:
    if not device.is_active:
        device.is_active = True
        device.active_next_device = device.engine.active_devices
        device.engine.active_devices = device


cdef void submit(Device *device, bint after_completion) noexcept nogil:
    # Start all that may start. Cached reads finish here and may make room for more.
    cdef Request *started[64]
    cdef Vector *vector
    cdef Vector *again
    cdef int count, i
    cdef int64_t now_ns = monotonic_ns(device.engine)
    cdef bint starts = device.serving and not device.suspended
    device.has_more_to_verify = False
    while True:
        again = device.again
        device.again = NULL
        while again != NULL:
            vector = again
            again = again.next
            launch(device, vector, now_ns)
        count = 0
        if device.has_more_to_verify:
            device.verify_turn = device.engine.turns
        if device.verify_turn == device.engine.turns:
            device.wake_ns = now_ns  # the next turn goes on: it may bring requests to other devices
        elif starts:
            count = take(device, started, 64, now_ns, after_completion)
        if count == 0 and device.again == NULL:
            break
        if count:
            sort_for_merging(device, started, count)
            device.stats.batches += 1
            device.stats.in_flight_sum += device.in_flight
        i = 0
        while i < count:
            vector = next_vector(device, started, count, &i)
            if vector == NULL:
                continue
            launch(device, vector, now_ns)
    if starts and device.ready_count and device.in_flight < device.queue_length:
        hold(device)
    if device.joined_head != NULL and not device.flushing:
        vector = new_vector(device.engine, device, FLUSH)
        if vector != NULL:
            device.covered = device.joined_head
            device.joined_head = device.joined_tail = NULL
            device.flushing = True
            device.flushes += 1
            device.stats.commits += 1
            device.stats.vectors += 1
            if device.by_python:
                give_python(vector)
            else:
                hand_over(pool_of(vector), vector)


cdef void hold(Device *device) noexcept nogil:
    # Have the leader come back to it at `wake_ns`.
    if not device.is_holding:
        device.is_holding = True
        device.holding_next = device.engine.holding
        device.engine.holding = device


cdef Vector *next_vector(Device *device, Request **started, int count, int *at) noexcept nogil:
    # The vector that begins with started[at]; NULL where that joined the commit, or has failed.
    cdef Request *request = started[at[0]]
    cdef Vector *vector
    cdef uint64_t end
    at[0] += 1
    if request.op == FLUSH:
        join(device, request)
        return NULL
    if not (request.op == VERIFY and device.by_python or take_buffer(request)):
        drop_started(device, request)
        return NULL
    vector = new_vector(device.engine, device, request.op)
    if vector == NULL:
        finish(device, request, EIO)
        return NULL
    vector.members[0] = request
    vector.count = 1
    vector.bytes = request.bytes
    vector.done_bytes = request.verified
    end = request.offset + request.bytes
    while request.op != VERIFY and at[0] < count and vector.count < MEMBERS_MAX:
        request = started[at[0]]
        if (
            request.op != vector.op
            or request.offset != end
            or vector.bytes + request.bytes > VECTOR_BYTES_MAX
            or request.op == READ and not take_buffer(request)
        ):
            break
        vector.members[vector.count] = request
        vector.count += 1
        vector.bytes += request.bytes
        end += request.bytes
        at[0] += 1
        device.stats.merged_requests += 1
    return vector


cdef void launch(Device *device, Vector *vector, int64_t now_ns) noexcept nogil:
    # By the quickest way that is open to `vector`.
    lay_out(vector)
    device.stats.vectors += 1
    if device.by_python:
        give_python(vector)
    elif is_beyond(device, vector.members[vector.count - 1]):
        # The store has shrunk since they were admitted: a write would make the file grow again.
        vector.result = -ENOSPC if vector.op == WRITE else -EIO
        settle(vector)
    elif (
        (vector.op == READ or vector.op == VERIFY) and device.tries_cache and read_cached(vector)
    ):
        settle(vector)
    else:
        vector.is_timed = vector.op == READ and not device.direct and not device.tries_cache
        vector.is_alone = device.in_flight <= <uint32_t>vector.count
        if is_inline(vector, now_ns):
            append(&device.engine.inlined, vector)
        elif uring_prepare(vector):
            pass
        elif prepare_aio(vector, now_ns):
            append(&device.engine.prepared, vector)
        else:
            hand_over(pool_of(vector), vector)


cdef void settle(Vector *vector) noexcept nogil:
    # What `vector.result` means for each member (sched/merge.py); frees the vector.
    cdef Device *device = vector.device
    cdef Vector *single
    cdef uint64_t progress
    cdef int i
    cdef Request *request
    if device.is_given_up:
        return
    activate(device)
    if vector.is_timed:
        charge(device, vector)
    if vector.op == FLUSH:
        flushed(device, vector.result)
    elif vector.result == <int64_t>vector.bytes:
        for i in range(vector.count):
            request = vector.members[i]
            if request.op == VERIFY and vector.done_bytes + vector.bytes < request.bytes:
                verify_more(device, request, vector.done_bytes + <uint32_t>vector.bytes)
            elif request.op == WRITE and (request.lost or not device.write_cache):
                join(device, request)
            else:
                finish(device, request, request.lost)
    elif vector.count > 1:
        device.stats.retries += 1
        for i in range(vector.count - 1, -1, -1):  # each comes before those behind it
            single = new_vector(device.engine, device, vector.op)
            if single == NULL:
                finish(device, vector.members[i], EIO)
                continue
            single.members[0] = vector.members[i]
            single.count = 1
            single.next = device.again
            device.again = single
    elif vector.result < 0:
        finish(device, vector.members[0], <int>-vector.result)
    else:
        progress = <uint64_t>vector.result // 512 * 512
        if progress == 0 or <uint64_t>vector.result > vector.bytes:
            finish(device, vector.members[0], EIO)
        else:
            device.stats.retries += 1
            vector.done_bytes += <uint32_t>progress
            vector.next = device.again
            device.again = vector
            return
    free_vector(device.engine, vector)


cdef void verify_more(Device *device, Request *request, uint32_t verified) noexcept nogil:
    # A VERIFY takes turns with other requests after each piece, since a short frame may ask for
    # much; so it has no more of the store than the READs that ask for as much.
    request.verified = verified
    request.started = False
    return_buffer(request)
    device.in_flight -= 1
    device.has_more_to_verify = True
    book(device, request)
    make_ready(device, request)
    if device.engine.is_fenced:
        tell_python(device.engine)  # it may have been the last one in flight


cdef inline void join(Device *device, Request *request) noexcept nogil:
    # To be answered by a flush that starts from now on.
    request.next = NULL
    if device.joined_head == NULL:
        device.joined_head = request
    else:
        device.joined_tail.next = request
    device.joined_tail = request


cdef void flushed(Device *device, int64_t result) noexcept nogil:
    cdef Request *request
    cdef Request *following
    cdef int error = 0
    device.flushing = False
    request = device.covered
    device.covered = NULL
    if result < 0:
        # Whoever joined meanwhile, is under way, waits to flush, or has been answered from the cache
        # may have lost data to this flush, too: the kernel reports a failed write-back once, so that
        # the next flush would succeed. Those that are not answered yet are after that flush: then it
        # is certain what the store has.
        error = <int>-result
        note_failure(device, COMMIT, error, 0, 0, 0)
        following = device.active_head
        while following != NULL:
            if following.op == FLUSH or following.started and following.op == WRITE:
                following.lost = error
            following = following.active_next
        lose(device, error)
    device.stable = device.flushes
    while request != NULL:
        following = request.next
        finish(device, request, error or request.lost)
        request = following


cdef void lose(Device *device, int error) noexcept nogil:
    # Where no flush has saved what was answered, hosts hear of it from their FLUSHes: all of them, as
    # who has several addresses may write by one and flush by another.
    cdef Source *source
    cdef int i
    if device.wrote >= device.stable:
        if device.forgot_writer:
            device.forgotten_lost = error
        for i in range(SOURCES):
            source = device.sources[i]
            while source != NULL:
                if source.has_written:
                    source.lost = error
                    source.lost_told_ns = 0
                source = source.next
    device.flushes += 1


cdef int lost_by(Source *source, int64_t now_ns) noexcept nogil:
    # The errno for a FLUSH of this host, whatever its own flush has given.
    if source.lost == 0:
        return 0
    if source.lost_told_ns == 0:
        source.lost_told_ns = now_ns
    elif now_ns - source.lost_told_ns > <int64_t>TOLD_S * NANO:
        source.lost = 0
    return source.lost


cdef void finish(Device *device, Request *request, int error) noexcept nogil:
    # Account, let those start that waited for it, reply.
    cdef int64_t now_ns = monotonic_ns(device.engine)
    cdef int64_t duration_ns = now_ns - request.received_ns
    cdef Stats *stats = &device.stats
    cdef Source *source = request.source
    if request.op == FLUSH:
        error = lost_by(source, now_ns) or error
    elif request.op == WRITE and device.write_cache and not error:
        source.has_written = True
        device.wrote = device.flushes
    if request.op == READ:
        stats.read_requests += 1
        stats.read_bytes += request.bytes
        stats.read_ns += duration_ns
        device.histograms.read_latency[latency_bucket(duration_ns)] += 1
        device.histograms.read_sectors[size_bucket(request.bytes // 512)] += 1
        source.read_requests += 1
        source.read_bytes += request.bytes
    elif request.op == WRITE:
        stats.write_requests += 1
        stats.write_bytes += request.bytes
        stats.write_ns += duration_ns
        device.histograms.write_latency[latency_bucket(duration_ns)] += 1
        device.histograms.write_sectors[size_bucket(request.bytes // 512)] += 1
        source.write_requests += 1
        source.write_bytes += request.bytes
    else:
        source.other_requests += 1
        if request.op == FLUSH:
            stats.flush_requests += 1
            stats.flush_ns += duration_ns
            device.histograms.flush_latency[latency_bucket(duration_ns)] += 1
        else:
            stats.verify_requests += 1
    note_fate(request, FAILED if error else ANSWERED, error)
    if error:
        failed(device, request, error)
    forget(device, request)
    device.in_flight -= 1
    device.engine.finished += 1
    order_leave(device, request)
    answer(device, request, error)


cdef void drop_started(Device *device, Request *request) noexcept nogil:
    # There is no buffer for its data: its host sends it again, and an error would end more than that.
    device.stats.queue_full += 1
    request.source.dropped += 1
    note_fate(request, NO_ROOM, 0)
    forget(device, request)
    device.in_flight -= 1
    device.engine.finished += 1
    order_leave(device, request)
    slot_free(request)


cdef inline bint is_beyond(Device *device, Request *request) noexcept nogil:
    # The store has shrunk since the request was admitted.
    return request.offset + request.bytes > device.size_bytes


cdef void failed(Device *device, Request *request, int error) noexcept nogil:
    device.stats.ata_errors += 1
    request.source.errors += 1
    if error == EIO and not is_beyond(device, request):
        device.medium_failed = True
    note_failure(
        device, request.op, error, request.mac, request.offset // 512, request.bytes // 512
    )


cdef void note_failure(
    Device *device, int op, int error, uint64_t mac, uint64_t sector, uint32_t sectors
) noexcept nogil:
    cdef Failure *failure
    device.engine.attention = True
    if device.failure_count == FAILURES_KEPT_MAX:
        device.failures_lost += 1
        return
    failure = &device.failures[device.failure_count]
    failure.op = op
    failure.error = error
    failure.mac = mac
    failure.sector = sector
    failure.sectors = sectors
    device.failure_count += 1


cdef void answer(Device *device, Request *request, int error) noexcept nogil:
    # Turn the request's head into the reply's, in place, and queue it.
    cdef uint8_t *head = request.head
    cdef int i
    for i in range(6):
        head[i] = head[6 + i]
        head[6 + i] = request.link.mac[i]
    head[14] = 0x18
    head[15] = 0
    head[16] = <uint8_t>(device.shelf >> 8)
    head[17] = <uint8_t>device.shelf
    head[18] = <uint8_t>device.slot
    if error:
        head[25] = 0x04
        if request.op != WRITE and request.op != FLUSH and (
            error == EIO or error == EBADMSG or error == ENODATA or error == EILSEQ
        ):
            head[25] = 0x40
        if is_beyond(device, request):
            head[25] = 0x10
        head[27] = 0x41
    else:
        head[25] = 0
        head[26] = 0
        head[27] = 0x40
    head[34] = 0
    head[35] = 0
    request.send_bytes = request.bytes
    if request.op != READ or error:
        request.send_bytes = PADDING_BYTES
        memset(request.data, 0, PADDING_BYTES)
    if device.trace != NULL:
        trace(
            device, request.link, real_ns(device.engine), head, HEAD_BYTES + request.send_bytes
        )
    queue_send(request.link, request)


cdef void serve(Device *device, uint64_t granule, uint64_t origin) noexcept nogil:
    # From the store that has just been attached; what has waited for it is ordered by its granules.
    order_granule(device, granule, origin)
    drop_unstarted(device, DROP_NONE)
    device.is_attached = device.serving = True
    device.suspended = False


cdef int drop_unstarted(Device *device, int which) noexcept nogil:
    # Give up what has not started, as far as `which` says; what is left is entered into an empty
    # order and an empty round again. Other granules may need more memory: where there is none, a
    # request is given up as well.
    cdef Request *request = device.active_head
    cdef Request *following
    cdef Source *source
    cdef int i, dropped = 0
    order_clear(device)
    for i in range(SOURCES):
        source = device.sources[i]
        while source != NULL:
            source.ready_head = NULL
            source.turn_next = NULL
            source = source.next
    device.turn_head = device.turn_tail = NULL
    device.parked_head = device.parked_tail = NULL
    device.ready_count = 0
    while request != NULL:
        following = request.active_next
        if request.started:
            order_enter(device, request)
        elif order_prepare(device, request) and (
            which == DROP_NONE
            or which == DROP_LOCKED_OUT and permits(&device.lists[LIST_RESERVED], request.mac)
        ):
            if order_enter(device, request):
                make_ready(device, request)
        else:
            unbook(device, request)
            note_fate(request, LOCKED_OUT if which == DROP_LOCKED_OUT else NOT_STARTED, 0)
            forget(device, request)
            slot_free(request)
            dropped += 1
        request = following
    if device.ready_count:
        activate(device)
    return dropped
