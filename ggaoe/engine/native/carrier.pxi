# The threads that carry requests. One leads: it sleeps until something happens, and does all that
# follows, in batches, holding the engine's lock; it never needs Python.
#
# Three things that a leader does can take long: writing to the page cache, reading where the kernel
# cannot say what is in it, and io_submit. Nearly always it is a matter of microseconds, far less than
# it would take to have another thread do it, and now and then, with a disk that is overloaded, frozen
# or gone, a wait without end. So it lets go of the lock for the call, and a watcher looks on: when a
# call lasts longer than STALL_NS, the watcher becomes the leader. Whoever comes back from such a call
# finds that out, hands in the result, and watches in turn.

cdef inline void enter(Engine *engine) noexcept nogil:
    # The gate makes it fair: a leader that lets go of the lock cannot have it back before
    # whoever came meanwhile.
    pthread_mutex_lock(&engine.gate)
    pthread_mutex_lock(&engine.lock)
    pthread_mutex_unlock(&engine.gate)


cdef inline void leave(Engine *engine) noexcept nogil:
    pthread_mutex_unlock(&engine.lock)


cdef inline void wake(int event_fd) noexcept nogil:
    cdef uint64_t one = 1
    write(event_fd, &one, sizeof(one))


cdef void *carry(void *argument) noexcept nogil:
    cdef Carrier *carrier = <Carrier *>argument
    cdef Engine *engine = carrier.engine
    enter(engine)
    while not engine.stopping:
        if engine.leader == NULL:
            engine.leader = carrier
        if engine.leader == carrier:
            lead(engine, carrier)
        elif engine.watcher == NULL:
            engine.watcher = carrier
            watch(engine, carrier)
            engine.watcher = NULL
            pthread_cond_signal(&engine.spare)
        else:
            pthread_cond_wait(&engine.spare, &engine.lock)
    leave(engine)
    return NULL


cdef bint start_carrier(Engine *engine) noexcept nogil:
    # False where no more threads can be had.
    cdef Carrier *carrier
    cdef sigset_t every, before
    cdef bint started
    if engine.carrier_count == CARRIERS_MAX:
        return False
    carrier = &engine.carriers[engine.carrier_count]
    carrier.engine = engine
    sigfillset(&every)  # signals are Python's
    pthread_sigmask(SIG_SETMASK, &every, &before)
    started = pthread_create(&carrier.thread, NULL, carry, carrier) == 0
    pthread_sigmask(SIG_SETMASK, &before, NULL)
    if started:
        engine.carrier_count += 1
    return started


cdef void watch(Engine *engine, Carrier *carrier) noexcept nogil:
    # Until this thread leads, or is to stop.
    cdef timespec until
    cdef uint64_t seen
    while not engine.stopping and engine.leader != carrier:
        seen = engine.stores
        clock_gettime(CLOCK_MONOTONIC, &until)
        until.tv_nsec += STALL_NS
        if until.tv_nsec >= 1000000000:
            until.tv_nsec -= 1000000000
            until.tv_sec += 1
        pthread_cond_timedwait(&engine.watch, &engine.lock, &until)
        if engine.stores != seen:
            continue
        if engine.in_store == NULL:
            engine.watcher_sleeps = True
            while engine.watcher_sleeps and not engine.stopping:
                pthread_cond_wait(&engine.watch, &engine.lock)
        # Not without an heir for the next time.
        elif engine.carrier_count - engine.held_up > 2 or start_carrier(engine):
            engine.in_store.stalled += 1
            engine.in_store = NULL
            engine.leader.is_held_up = True
            engine.leader.held_up_ns = monotonic_ns(engine)
            engine.held_up += 1
            engine.leader = carrier


cdef void lead(Engine *engine, Carrier *carrier) noexcept nogil:
    # Turn after turn, until another thread has taken over, or this one is to stop.
    cdef int64_t now_ns, wait_ns
    cdef int64_t idle_ns = monotonic_ns(engine)  # since when there is nothing to do
    cdef bint spins = False                # as long as what follows comes soon enough
    cdef int64_t rests_until_ns = 0        # it does not spin before: others want the processor
    cdef uint64_t before
    cdef bint more
    carrier.has_slept = True
    while engine.leader == carrier and not engine.stopping:
        before = engine.sequence + engine.finished
        more = take_turn(engine, carrier)
        report_to_python(engine, before)  # also what a call that was held up has finished
        if engine.leader != carrier:
            return
        wait_ns = 0
        if not more:
            now_ns = monotonic_ns(engine)
            if engine.sequence + engine.finished != before:
                # Not where much comes at a time: what comes while we wake up makes a larger batch.
                spins = (
                    now_ns - idle_ns <= engine.busy_poll_ns
                    and engine.busy_poll_ns > 0
                    and engine.sequence + engine.finished - before <= SPIN_BATCH_MAX
                )
                idle_ns = now_ns
            elif now_ns - idle_ns > engine.busy_poll_ns:
                spins = False
            if not spins or now_ns < rests_until_ns or not pays(engine):
                wait_ns = time_to_wait(engine, now_ns)
        if wait_ns:
            sleep_until_event(engine, wait_ns)
            carrier.has_slept = True
        else:
            leave(engine)
            if not more:
                sched_yield()
                rests_until_ns = end_of_rest(rests_until_ns, now_ns, clock_ns(CLOCK_MONOTONIC))
        enter(engine)


cdef bint pays(Engine *engine) noexcept nogil:
    # To wait actively: not where there is one processor and worker threads want it, and not where a
    # disk has much to do.
    cdef uint32_t in_flight = engine.aio_in_flight
    if engine.uring != NULL:
        in_flight += engine.uring.in_flight
    return in_flight <= SPIN_IN_FLIGHT_MAX and not (engine.is_alone and engine.with_workers)


cdef bint take_turn(Engine *engine, Carrier *carrier) noexcept nogil:
    # One batch: frames and completions in, replies out. True where frames are left.
    cdef Vector *vector = collect(engine)
    cdef Vector *following
    cdef bint after_completion = vector != NULL
    cdef bint more
    engine.turns += 1
    while vector != NULL:
        following = vector.next
        settle(vector)
        vector = following
    if engine.holding != NULL:
        end_holds(engine)
    if engine.has_error:
        take_errors(engine)
    more = receive_all(engine)
    if engine.starved_until_ns:
        more = False
    push(engine, carrier, after_completion)
    return more


cdef void push(Engine *engine, Carrier *carrier, bint after_completion) noexcept nogil:
    # Submit once per device that has news, then send once per link that has replies.
    cdef Device *device
    cdef Link *link
    while True:
        while engine.prepared.head != NULL or engine.active_devices != NULL:
            if engine.prepared.head != NULL:
                if not start_aio(engine, carrier):
                    return
                continue
            device = engine.active_devices
            engine.active_devices = device.active_next_device
            device.is_active = False
            if device.is_attached:
                submit(device, after_completion)
        uring_submit(engine)
        if engine.inlined.head == NULL:
            break
        while engine.inlined.head != NULL:
            if not store(engine, carrier):
                return
    link = engine.links
    while link != NULL:
        if link.send_head != NULL and (
            link.paused_until_ns == 0 or link.paused_until_ns <= monotonic_ns(engine)
        ):
            transmit(link)
        link = link.next


cdef bint store(Engine *engine, Carrier *carrier) noexcept nogil:
    # Do the first of the transfers that are this thread's; False where it leads no longer.
    cdef Vector *vector = engine.inlined.head
    cdef Device *device = vector.device
    cdef bint leads
    engine.inlined.head = vector.next
    if device.is_given_up:
        return True
    if (
        device.stalled
        or vector.is_timed and device.offloads_reads
        # While this thread has something in io_uring it must not be held up; see there.
        or engine.uring != NULL and engine.uring.in_flight
    ):
        hand_over(pool_of(vector), vector)
        return True
    begin_call(engine, device)
    if vector.is_timed:
        if carrier.has_slept:
            carrier.switches = voluntary_switches()
            carrier.has_slept = False
        perform_timed(vector, carrier.switches)
        carrier.has_slept = vector.blocked_ns > READ_BUDGET_NS
    else:
        vector.result = perform(vector)
    leads = end_call(engine, carrier, device, not vector.is_timed or vector.blocked_ns > 0)
    vector.has_stalled = not leads
    settle(vector)
    return leads


cdef bint start_aio(Engine *engine, Carrier *carrier) noexcept nogil:
    # Give prepared vectors of one device to the kernel; False as above.
    cdef iocb *controls[SUBMIT_MAX]
    cdef Vector *vectors[SUBMIT_MAX]
    cdef Vector *vector = engine.prepared.head
    cdef Device *device = vector.device
    cdef int i
    cdef int count = 0
    cdef int taken = 0
    cdef long result
    cdef bint leads = True
    while vector != NULL and vector.device == device and count < SUBMIT_MAX:
        vectors[count] = vector
        controls[count] = &vector.control
        count += 1
        vector = vector.next
    engine.prepared.head = vector
    if device.is_given_up:
        engine.aio_in_flight -= count
        return True
    if device.stalled == 0:
        begin_call(engine, device)
        while taken < count:
            result = syscall(SYS_io_submit, engine.aio, <long>(count - taken), &controls[taken])
            if result <= 0:
                break
            taken += <int>result
        leads = end_call(engine, carrier, device, True)
    for i in range(taken, count):  # a worker's
        engine.aio_in_flight -= 1
        hand_over(pool_of(vectors[i]), vectors[i])
    return leads


cdef inline void begin_call(Engine *engine, Device *device) noexcept nogil:
    # Of the device's store, which may take long. Lets go of the lock.
    engine.stores += 1
    engine.in_store = device
    if engine.watcher_sleeps:
        engine.watcher_sleeps = False
        pthread_cond_signal(&engine.watch)
    leave(engine)


cdef bint end_call(
    Engine *engine, Carrier *carrier, Device *device, bint was_blocked
) noexcept nogil:
    # Take the lock again; False where this thread leads no longer. Where the call was not blocked,
    # but others had this thread's processor, the device is not to blame.
    cdef int64_t now_ns
    enter(engine)
    if engine.leader == carrier:
        engine.in_store = NULL
        return True
    now_ns = monotonic_ns(engine)
    device.stalled -= 1
    if was_blocked:
        device.careful_until_ns = now_ns + CAREFUL_TIMES * (now_ns - carrier.held_up_ns + STALL_NS)
    carrier.is_held_up = False
    engine.held_up -= 1
    wake(engine.event_fd)
    return False


cdef int64_t time_to_wait(Engine *engine, int64_t now_ns) noexcept nogil:
    # Until something is to be done of which no descriptor tells; -1: no such thing.
    cdef int64_t wake_ns = engine.starved_until_ns
    cdef Link *link = engine.links
    cdef Device *device = engine.holding
    while link != NULL:
        if (
            link.send_head != NULL
            and link.paused_until_ns
            and (wake_ns == 0 or link.paused_until_ns < wake_ns)
        ):
            wake_ns = link.paused_until_ns
        link = link.next
    while device != NULL:
        if wake_ns == 0 or device.wake_ns < wake_ns:
            wake_ns = device.wake_ns
        device = device.holding_next
    if wake_ns == 0:
        return -1
    return wake_ns - now_ns if wake_ns > now_ns else 0


cdef void end_holds(Engine *engine) noexcept nogil:
    # Look again at the devices that have held requests back, to merge them or because of limits.
    cdef Device **place = &engine.holding
    cdef Device *device
    cdef int64_t now_ns = monotonic_ns(engine)
    while place[0] != NULL:
        device = place[0]
        if device.wake_ns <= now_ns:
            place[0] = device.holding_next
            device.is_holding = False
            activate(device)
        else:
            place = &device.holding_next


cdef void sleep_until_event(Engine *engine, int64_t wait_ns) noexcept nogil:
    # Lets go of the lock. Not epoll: its entry in each socket's queue would cost the sender of every
    # frame something, whether anybody sleeps or not.
    cdef pollfd watched[LINKS_MAX + 1]
    cdef timespec timeout
    cdef Link *link = engine.links
    cdef uint64_t counter
    cdef int count = 1
    cdef int i
    cdef short events
    watched[0].fd = engine.event_fd
    watched[0].events = POLLIN
    while link != NULL:
        events = 0 if engine.starved_until_ns else POLLIN
        if link.is_full:
            events |= POLLOUT
        if events:
            watched[count].fd = link.fd
            watched[count].events = events
            count += 1
        link = link.next
    leave(engine)
    for i in range(count):
        watched[i].revents = 0
    timeout.tv_sec = wait_ns // 1000000000
    timeout.tv_nsec = wait_ns % 1000000000
    ppoll(watched, count, NULL if wait_ns < 0 else &timeout, NULL)
    if watched[0].revents:
        read(engine.event_fd, &counter, sizeof(counter))
    for i in range(1, count):
        if watched[i].revents & POLLERR:
            engine.has_error = True


cdef void tell_python(Engine *engine) noexcept nogil:
    if not engine.is_told:
        engine.is_told = True
        wake(engine.python_fd)


cdef inline void report_to_python(Engine *engine, uint64_t before) noexcept nogil:
    # After a turn, before which so many requests had come and gone.
    if engine.slow_head != NULL or engine.attention or (
        engine.is_fenced and engine.sequence + engine.finished != before
    ):
        tell_python(engine)


cdef void take_errors(Engine *engine) noexcept nogil:
    # Such as "the interface went down": poll reports it until somebody has read it.
    cdef Link *link = engine.links
    cdef int error
    cdef socklen_t size = sizeof(error)
    engine.has_error = False
    while link != NULL:
        getsockopt(link.fd, SOL_SOCKET, SO_ERROR, &error, &size)
        link = link.next
