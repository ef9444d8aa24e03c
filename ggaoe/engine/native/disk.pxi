# Vectors to and from the store: at once from and to the page cache, by Linux AIO, or by worker
# threads.

cdef Vector *new_vector(Engine *engine, Device *device, int op) noexcept nogil:
    cdef Vector *vector = engine.free_vectors
    if vector != NULL:
        engine.free_vectors = vector.next
    else:
        vector = <Vector *>malloc(sizeof(Vector))
        if vector == NULL:
            return NULL
    vector.device = device
    vector.op = op
    vector.count = 0
    vector.done_bytes = 0
    vector.bytes = 0
    vector.result = 0
    vector.is_timed = False
    vector.has_stalled = False
    vector.blocked_ns = 0
    vector.next = NULL
    return vector


cdef inline void free_vector(Engine *engine, Vector *vector) noexcept nogil:
    vector.next = engine.free_vectors
    engine.free_vectors = vector


cdef void lay_out(Vector *vector) noexcept nogil:
    # The buffers of the members, less what an earlier attempt has moved.
    cdef int i
    cdef Request *request
    vector.bytes = 0
    for i in range(vector.count):
        request = vector.members[i]
        vector.parts[i].iov_base = request.data
        vector.parts[i].iov_len = request.bytes
        vector.bytes += request.bytes
    if vector.op == VERIFY:
        vector.bytes -= vector.done_bytes
        if not vector.device.by_python:
            # Each piece overwrites the one before it: nobody wants the data.
            vector.bytes = min(vector.bytes, vector.members[0].link.payload_bytes)
        vector.parts[0].iov_len = vector.bytes
    elif vector.count:
        vector.parts[0].iov_base = <uint8_t *>vector.parts[0].iov_base + vector.done_bytes
        vector.parts[0].iov_len -= vector.done_bytes
        vector.bytes -= vector.done_bytes


cdef inline int64_t position_of(Vector *vector) noexcept nogil:
    return (
        vector.device.file_offset + <int64_t>vector.members[0].offset + <int64_t>vector.done_bytes
    )


cdef int64_t perform(Vector *vector) noexcept nogil:
    # The whole of one vector, however long that takes. The engine's lock is not held.
    cdef int64_t result
    cdef int fd = vector.device.fd
    while True:
        if vector.op == FLUSH:
            result = fdatasync(fd)
        elif vector.op == WRITE:
            result = pwritev2(fd, vector.parts, vector.count, position_of(vector), 0)
        else:
            result = preadv2(fd, vector.parts, vector.count, position_of(vector), 0)
        if result >= 0:
            return result
        result = -errno
        if result != -EINTR:
            forget_cached(vector.op, fd, <int>-result)
            return result


cdef void forget_cached(int op, int fd, int error) noexcept nogil:
    # After a failed write-back the page cache still has data that the store has not, in pages that
    # count as saved, and reads would show them until these pages are evicted. All of the file,
    # because the kernel keeps what a range covers only in part.
    if op == FLUSH:
        # It also keeps pages that have been written to meanwhile, so save those first: the error
        # that is about to be reported holds for them, too.
        fdatasync(fd)
    elif op != WRITE or error != EIO:  # a WRITE fails so where a file system is mounted with `sync`
        return
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED)


cdef void *work(void *argument) noexcept nogil:
    cdef Pool *pool = <Pool *>argument
    cdef Vector *vector
    pthread_mutex_lock(&pool.lock)
    while True:
        while pool.head == NULL and not pool.stopping:
            pool.idle += 1
            pthread_cond_wait(&pool.wanted, &pool.lock)
            pool.idle -= 1
        vector = pool.head
        if vector == NULL:
            break
        pool.head = vector.next
        if pool.head == NULL:
            pool.tail = NULL
        pthread_mutex_unlock(&pool.lock)
        if vector.is_timed:
            perform_timed(vector, voluntary_switches())
        else:
            vector.result = perform(vector)
        report(pool.engine, vector)
        pthread_mutex_lock(&pool.lock)
    pthread_mutex_unlock(&pool.lock)
    return NULL


cdef void report(Engine *engine, Vector *vector) noexcept nogil:
    # From any thread: `vector` has its result; wakes the leader once for as many as are waiting.
    cdef bint was_empty
    vector.next = NULL
    pthread_mutex_lock(&engine.done_lock)
    was_empty = engine.done_head == NULL
    if was_empty:
        engine.done_head = vector
    else:
        engine.done_tail.next = vector
    engine.done_tail = vector
    pthread_mutex_unlock(&engine.done_lock)
    if was_empty:
        wake(engine.event_fd)


cdef void hand_over(Pool *pool, Vector *vector) noexcept nogil:
    # To a worker thread; starts one where none is idle and there may be more.
    cdef bint wants_thread
    vector.next = NULL
    pool.engine.with_workers += 1
    pthread_mutex_lock(&pool.lock)
    if pool.tail != NULL:
        pool.tail.next = vector
    else:
        pool.head = vector
    pool.tail = vector
    wants_thread = pool.idle == 0 and pool.threads < pool.threads_max
    if wants_thread and pthread_create(&pool.thread[pool.threads], NULL, work, pool) == 0:
        pool.threads += 1
    elif pool.threads == 0:
        # No thread can be had at all: fail the vector rather than keep it for ever.
        pool.head = pool.tail = NULL
        pthread_mutex_unlock(&pool.lock)
        vector.result = -EAGAIN
        report(pool.engine, vector)
        return
    pthread_cond_signal(&pool.wanted)
    pthread_mutex_unlock(&pool.lock)


cdef void give_python(Vector *vector) noexcept nogil:
    # It reports like a worker thread.
    vector.device.engine.with_workers += 1
    append(&vector.device.engine.for_python, vector)
    tell_python(vector.device.engine)


cdef void pool_open(Pool *pool, Engine *engine, int threads_max) noexcept nogil:
    memset(pool, 0, sizeof(Pool))
    pool.engine = engine
    pool.threads_max = threads_max
    pthread_mutex_init(&pool.lock, NULL)
    pthread_cond_init(&pool.wanted, NULL)


cdef void pool_close(Pool *pool) noexcept nogil:
    # Nothing is under way: the threads leave at once.
    cdef int i
    pthread_mutex_lock(&pool.lock)
    pool.stopping = True
    pthread_cond_broadcast(&pool.wanted)
    pthread_mutex_unlock(&pool.lock)
    for i in range(pool.threads):
        pthread_join(pool.thread[i], NULL)
    pthread_cond_destroy(&pool.wanted)
    pthread_mutex_destroy(&pool.lock)


cdef inline Pool *pool_of(Vector *vector) noexcept nogil:
    # Writes and flushes do not wait for reads that hang, nor flushes for writes.
    if vector.op == FLUSH:
        return &vector.device.flushers
    return &vector.device.writers if vector.op == WRITE else &vector.device.readers


cdef bint read_cached(Vector *vector) noexcept nogil:
    # True where the page cache had all of it.
    cdef Device *device = vector.device
    cdef int64_t result = preadv2(
        device.fd, vector.parts, vector.count, position_of(vector), RWF_NOWAIT
    )
    if result == <int64_t>vector.bytes:
        vector.result = result
        return True
    if result < 0 and (errno == EOPNOTSUPP or errno == EINVAL or errno == ENOSYS):
        device.tries_cache = False
    return False


cdef inline void append(Vectors *vectors, Vector *vector) noexcept nogil:
    vector.next = NULL
    if vectors.head == NULL:
        vectors.head = vector
    else:
        vectors.tail.next = vector
    vectors.tail = vector


cdef inline bint is_quick(Device *device, int64_t now_ns) noexcept nogil:
    # It does not hold anybody up; see carrier.pxi.
    return (
        device.stalled == 0
        and device.careful_until_ns <= now_ns
        and device.engine.held_up < CARRIERS_MAX - 3
    )


cdef inline bint is_inline(Vector *vector, int64_t now_ns) noexcept nogil:
    # A write to the page cache, or a read where the kernel cannot say what it has.
    cdef Device *device = vector.device
    if device.direct or not is_quick(device, now_ns):
        return False
    return vector.op == WRITE or vector.is_timed and not device.offloads_reads


cdef bint prepare_aio(Vector *vector, int64_t now_ns) noexcept nogil:
    # False where the vector is not for AIO, or the ring is full: then it is a worker's.
    cdef Device *device = vector.device
    cdef Engine *engine = device.engine
    if not device.direct or not device.nowait or engine.aio == 0:
        return False
    if vector.op == FLUSH or engine.aio_in_flight == AIO_EVENTS or not is_quick(device, now_ns):
        return False
    engine.aio_in_flight += 1
    memset(&vector.control, 0, sizeof(iocb))
    vector.control.aio_data = <uint64_t><size_t>vector
    vector.control.aio_rw_flags = RWF_NOWAIT
    vector.control.aio_lio_opcode = IOCB_CMD_PWRITEV if vector.op == WRITE else IOCB_CMD_PREADV
    vector.control.aio_fildes = device.fd
    vector.control.aio_buf = <uint64_t><size_t>vector.parts
    vector.control.aio_nbytes = vector.count
    vector.control.aio_offset = position_of(vector)
    vector.control.aio_flags = IOCB_FLAG_RESFD
    vector.control.aio_resfd = engine.event_fd
    return True


cdef Vector *collect(Engine *engine) noexcept nogil:
    # Everything that has completed, by AIO or in threads, in a list. Cheap where there is nothing.
    cdef io_event events[64]
    cdef int count, i
    cdef Vector *done = NULL
    cdef Vector *vector
    if engine.with_workers:
        pthread_mutex_lock(&engine.done_lock)
        done = engine.done_head
        engine.done_head = engine.done_tail = NULL
        pthread_mutex_unlock(&engine.done_lock)
        vector = done
        while vector != NULL:
            engine.with_workers -= 1
            vector = vector.next
    while engine.aio_in_flight > 0:
        count = aio_reap(engine, events, 64)
        if count <= 0:
            break
        engine.aio_in_flight -= count
        for i in range(count):
            vector = <Vector *><size_t>events[i].data
            vector.result = events[i].res
            if vector.result == -EAGAIN or vector.result == -EINVAL or vector.result == -EOPNOTSUPP:
                # It would have blocked here, or this store does not know how not to.
                if vector.result == -EOPNOTSUPP:
                    vector.device.nowait = False
                hand_over(pool_of(vector), vector)
                continue
            vector.next = done
            done = vector
        if count < 64:
            break
    return uring_reap(engine, done)


cdef int aio_reap(Engine *engine, io_event *events, int wanted) noexcept nogil:
    # io_getevents without the system call: the kernel's ring of completions is mapped at the
    # context's address (linux fs/aio.c), and says itself whether it is one that we understand.
    cdef aio_ring *ring = <aio_ring *><size_t>engine.aio
    cdef uint32_t head, tail
    cdef int count = 0
    if ring.magic != AIO_RING_MAGIC or ring.incompat_features != 0:
        return <int>syscall(SYS_io_getevents, engine.aio, <long>0, <long>wanted, events, NULL)
    head = ring.head
    tail = load_acquire(&ring.tail)
    while head != tail and count < wanted:
        events[count] = (<io_event *>(<uint8_t *>ring + ring.header_length))[head]
        count += 1
        head += 1
        if head >= ring.nr:
            head = 0
    if count:
        store_release(&ring.head, head)
    return count
