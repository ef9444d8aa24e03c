# Vectors of direct-I/O devices through io_uring: one system call submits those of all devices, and
# completions are read from memory. The kernel tries each without waiting, and has threads of its
# own for what would wait.
#
# A completion is delivered by the thread that has submitted, whenever that is in the kernel and can
# be interrupted: a sleep in poll is cut short, a spinning thread looks at IORING_SQ_TASKRUN. But a
# store that keeps a thread waiting uninterruptibly keeps back all that this thread has submitted.
# So nobody starts such a call while `in_flight` is not 0: what is in flight is always the leader's.

cdef enum:
    URING_ENTRIES = 1024             # in flight at most
    URING_BATCH = 256                # prepared at most: so that these stay in the processor's cache
    URING_FILES = 256                # devices with a registered file; others do without

ctypedef struct Uring:
    int fd
    uint32_t entries
    uint32_t in_flight               # with those that are only prepared
    uint8_t *rings                   # mapped: both of them
    size_t rings_bytes
    io_uring_sqe *sqes               # mapped
    size_t sqes_bytes
    uint32_t sqes_mask
    uint32_t *sq_head                # the kernel's
    uint32_t *sq_tail
    uint32_t *sq_flags               # the kernel's
    io_uring_cqe *cqes
    uint32_t cqes_mask
    uint32_t *cq_head
    uint32_t *cq_tail                # the kernel's
    int32_t files[256]               # descriptor by index, -1: free; of no use if not `has_files`
    bint has_files


cdef int uring_open(Engine *engine, uint32_t entries) noexcept nogil:
    # 0, or a negative errno: ENOSYS where the kernel is too old, EPERM where it refuses.
    cdef Uring *uring = <Uring *>calloc(1, sizeof(Uring))
    cdef io_uring_params setup
    cdef int error
    if uring == NULL:
        return -ENOMEM
    uring.entries = entries
    uring.fd = uring_setup(&setup, entries)
    if uring.fd < 0:
        error = -ENOSYS if errno == EINVAL else -errno  # it does not know these flags
        free(uring)
        return error
    engine.uring = uring
    error = uring_map(uring, &setup)
    if error == 0 and syscall(
        SYS_io_uring_register, uring.fd, IORING_REGISTER_EVENTFD, &engine.event_fd, <long>1
    ) < 0:
        error = -errno
    if error == 0:
        memset(uring.files, -1, sizeof(uring.files))
        uring.has_files = syscall(
            SYS_io_uring_register, uring.fd, IORING_REGISTER_FILES, uring.files, <long>URING_FILES
        ) == 0
        error = uring_restrict(uring)
    if error:
        uring_close(engine)
    return error


cdef int uring_restrict(Uring *uring) noexcept nogil:
    # Enable the ring for what is done with it here, and for nothing else: no seccomp filter sees
    # what is asked of a ring.
    cdef io_uring_restriction allowed[6]
    cdef uint8_t[4] operations
    cdef int i
    operations[:] = [IORING_OP_READ, IORING_OP_READV, IORING_OP_WRITE, IORING_OP_WRITEV]
    memset(allowed, 0, sizeof(allowed))
    for i in range(4):
        allowed[i].opcode = IORING_RESTRICTION_SQE_OP
        allowed[i].sqe_op = operations[i]
    allowed[4].opcode = IORING_RESTRICTION_SQE_FLAGS_ALLOWED
    allowed[4].sqe_flags = IOSQE_FIXED_FILE
    allowed[5].opcode = IORING_RESTRICTION_REGISTER_OP
    allowed[5].register_op = <uint8_t>IORING_REGISTER_FILES_UPDATE
    if syscall(
        SYS_io_uring_register, uring.fd, IORING_REGISTER_RESTRICTIONS, allowed, <long>6
    ) < 0 or syscall(
        SYS_io_uring_register, uring.fd, IORING_REGISTER_ENABLE_RINGS, NULL, <long>0
    ) < 0:
        return -errno
    return 0


cdef int uring_setup(io_uring_params *setup, uint32_t entries) noexcept nogil:
    # No more completions can be waiting than are in flight: with CQSIZE they always have room.
    cdef long batch = entries if entries < URING_BATCH else URING_BATCH
    cdef int fd
    memset(setup, 0, sizeof(io_uring_params))
    setup.cq_entries = entries
    # No interrupt between processors for each completion.
    setup.flags = (
        IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED
        | IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG
    )
    fd = <int>syscall(SYS_io_uring_setup, batch, setup)
    if fd < 0 and errno == EINVAL:  # Linux before 5.19
        setup.flags = IORING_SETUP_CQSIZE | IORING_SETUP_R_DISABLED
        fd = <int>syscall(SYS_io_uring_setup, batch, setup)
    return fd


cdef void *map_ring(int fd, size_t size, uint64_t offset) noexcept nogil:
    cdef void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset)
    return NULL if mapped == MAP_FAILED else mapped


cdef int uring_map(Uring *uring, io_uring_params *setup) noexcept nogil:
    cdef uint32_t *order
    cdef uint32_t i
    cdef size_t sq_bytes = setup.sq_off.array + setup.sq_entries * sizeof(uint32_t)
    cdef size_t cq_bytes = setup.cq_off.cqes + setup.cq_entries * sizeof(io_uring_cqe)
    # Linux 5.12 or later, which also knows all the operations that are used here.
    cdef uint32_t wanted = (
        IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE
        | IORING_FEAT_NATIVE_WORKERS
    )
    if setup.features & wanted != wanted:
        return -ENOSYS
    uring.rings_bytes = sq_bytes if sq_bytes > cq_bytes else cq_bytes
    uring.sqes_bytes = setup.sq_entries * sizeof(io_uring_sqe)
    uring.rings = <uint8_t *>map_ring(uring.fd, uring.rings_bytes, IORING_OFF_SQ_RING)
    uring.sqes = <io_uring_sqe *>map_ring(uring.fd, uring.sqes_bytes, IORING_OFF_SQES)
    if uring.rings == NULL or uring.sqes == NULL:
        return -ENOMEM
    uring.sqes_mask = (<uint32_t *>(uring.rings + setup.sq_off.ring_mask))[0]
    uring.sq_head = <uint32_t *>(uring.rings + setup.sq_off.head)
    uring.sq_tail = <uint32_t *>(uring.rings + setup.sq_off.tail)
    uring.sq_flags = <uint32_t *>(uring.rings + setup.sq_off.flags)
    uring.cqes = <io_uring_cqe *>(uring.rings + setup.cq_off.cqes)
    uring.cqes_mask = (<uint32_t *>(uring.rings + setup.cq_off.ring_mask))[0]
    uring.cq_head = <uint32_t *>(uring.rings + setup.cq_off.head)
    uring.cq_tail = <uint32_t *>(uring.rings + setup.cq_off.tail)
    order = <uint32_t *>(uring.rings + setup.sq_off.array)
    for i in range(setup.sq_entries):
        order[i] = i
    return 0


cdef void uring_close(Engine *engine) noexcept nogil:
    # Nothing is in flight; the kernel takes the ring down on its own time.
    cdef Uring *uring = engine.uring
    engine.uring = NULL
    if uring == NULL:
        return
    if uring.sqes != NULL:
        munmap(uring.sqes, uring.sqes_bytes)
    if uring.rings != NULL:
        munmap(uring.rings, uring.rings_bytes)
    close(uring.fd)
    free(uring)


cdef bint uring_set_file(Uring *uring, int index, int32_t fd) noexcept nogil:
    cdef io_uring_files_update update
    memset(&update, 0, sizeof(update))
    update.offset = index
    update.fds = <uint64_t><size_t>&fd
    uring.files[index] = fd
    return syscall(
        SYS_io_uring_register, uring.fd, IORING_REGISTER_FILES_UPDATE, &update, <long>1
    ) == 1


cdef int uring_add_file(Engine *engine, int fd) noexcept nogil:
    # The index by which the ring knows `fd` until uring_remove_file; -1: it does not.
    cdef Uring *uring = engine.uring
    cdef int i
    if uring == NULL or not uring.has_files:
        return -1
    for i in range(URING_FILES):
        if uring.files[i] < 0:
            if uring_set_file(uring, i, fd):
                return i
            uring.files[i] = -1
            break
    return -1


cdef void uring_remove_file(Engine *engine, int index) noexcept nogil:
    # None of its vectors is in flight. Without this the file stays open, whoever closes it.
    if engine.uring != NULL and index >= 0:
        uring_set_file(engine.uring, index, -1)


cdef bint uring_prepare(Vector *vector) noexcept nogil:
    # Into the ring, where it waits for uring_submit; False where it has to go another way.
    cdef Device *device = vector.device
    cdef Uring *uring = device.engine.uring
    cdef io_uring_sqe *entry
    cdef uint32_t tail
    cdef bint single = vector.count == 1
    if uring == NULL or not device.direct or vector.op == FLUSH:
        return False
    if uring.in_flight == uring.entries:
        return False
    tail = uring.sq_tail[0]
    if tail - load_acquire(uring.sq_head) > uring.sqes_mask:
        uring_submit(device.engine)
        tail = uring.sq_tail[0]
    entry = &uring.sqes[tail & uring.sqes_mask]
    memset(entry, 0, sizeof(io_uring_sqe))
    if vector.op == WRITE:
        entry.opcode = IORING_OP_WRITE if single else IORING_OP_WRITEV
    else:
        entry.opcode = IORING_OP_READ if single else IORING_OP_READV
    if device.uring_file >= 0:
        entry.fd = device.uring_file
        entry.flags = IOSQE_FIXED_FILE
    else:
        entry.fd = device.fd
    entry.off = position_of(vector)
    if single:
        entry.addr = <uint64_t><size_t>vector.parts[0].iov_base
        entry.len = <uint32_t>vector.parts[0].iov_len
    else:
        entry.addr = <uint64_t><size_t>vector.parts
        entry.len = vector.count
    entry.user_data = <uint64_t><size_t>vector
    store_release(uring.sq_tail, tail + 1)
    uring.in_flight += 1
    return True


cdef void uring_submit(Engine *engine) noexcept nogil:
    # All that has been prepared. What the kernel does not take is a worker's: nothing stays behind.
    cdef Uring *uring = engine.uring
    cdef Vector *vector
    cdef uint32_t head, tail
    cdef long result
    if uring == NULL:
        return
    tail = uring.sq_tail[0]
    head = load_acquire(uring.sq_head)
    while head != tail:
        result = syscall(
            SYS_io_uring_enter, uring.fd, <long>(tail - head), <long>0, <long>0, NULL, <long>0
        )
        if result == 0 or result < 0 and errno != EINTR:
            break
        head = load_acquire(uring.sq_head)
    # Without a polling thread the kernel looks at the tail only when it is called.
    store_release(uring.sq_tail, head)
    while head != tail:
        vector = <Vector *><size_t>uring.sqes[head & uring.sqes_mask].user_data
        head += 1
        uring.in_flight -= 1
        hand_over(pool_of(vector), vector)


cdef Vector *uring_reap(Engine *engine, Vector *done) noexcept nogil:
    # `done`, and before it all that has completed. Some reads of memory where there is nothing.
    cdef Uring *uring = engine.uring
    cdef io_uring_cqe *entry
    cdef Vector *vector
    cdef uint32_t head, tail
    if uring == NULL or uring.in_flight == 0:
        return done
    if load_acquire(uring.sq_flags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW):
        syscall(
            SYS_io_uring_enter, uring.fd, <long>0, <long>0, IORING_ENTER_GETEVENTS, NULL, <long>0
        )
    head = uring.cq_head[0]
    tail = load_acquire(uring.cq_tail)
    while head != tail:
        entry = &uring.cqes[head & uring.cqes_mask]
        head += 1
        uring.in_flight -= 1
        vector = <Vector *><size_t>entry.user_data
        vector.result = entry.res
        if vector.result == -EAGAIN or vector.result == -ECANCELED or vector.result == -EINTR:
            hand_over(pool_of(vector), vector)  # it was never done
        else:
            vector.next = done
            done = vector
    store_release(uring.cq_head, head)
    return done
