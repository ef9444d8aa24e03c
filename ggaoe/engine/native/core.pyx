# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=False
"""The compiled core: READ, WRITE and FLUSH from packet socket to store and back, in batches.

Owns the data path of links and devices that are files. Knows nothing of configuration, interfaces or
state: `engine/native/__init__.py` tells it what to admit, and gets every frame that is not flawless.
All methods are called in the event loop's thread; `turn` gives the GIL up for the whole batch.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset

from ggaoe.engine.native.kernel cimport *

include "structs.pxi"

include "order.pxi"
include "queue.pxi"
include "disk.pxi"
include "device.pxi"
include "link.pxi"


cdef class CoreLink:
    """One packet socket. `payload_bytes` is what follows the first 36 bytes of the largest frame."""

    cdef Link *c
    cdef Core core

    def counters(self):
        """What has happened since the last call, by counter's name; drops have their own mapping."""
        cdef LinkStats stats = self.c.stats
        memset(&self.c.stats, 0, sizeof(LinkStats))
        return (
            {
                "rx_frames": stats.rx_frames, "rx_bytes": stats.rx_bytes,
                "rx_batches": stats.rx_batches, "tx_frames": stats.tx_frames,
                "tx_bytes": stats.tx_bytes, "tx_batches": stats.tx_batches,
                "tx_held": stats.tx_held,
            },
            {
                "vlan": stats.vlan, "foreign_host": stats.foreign_host,
                "truncated": stats.truncated, "tx_refused": stats.tx_refused,
                "stale": stats.stale, "replies_held": stats.replies_held,
            },
        )

    @property
    def is_blocked(self):
        return self.c.is_blocked

    def unblock(self):
        """Try to send again what the kernel had no room for."""
        self.c.is_blocked = False

    def route(self, routes):
        """Serve exactly these devices: ((shelf, slot), CoreDevice) pairs."""
        cdef CoreDevice device
        cdef uint32_t count = len(routes)
        cdef Route *table = <Route *>malloc(sizeof(Route) * (count or 1))
        if table == NULL:
            raise MemoryError
        for i, ((shelf, slot), device) in enumerate(sorted(routes, key=_address_of)):
            table[i].address = <uint32_t>shelf << 8 | <uint32_t>slot
            table[i].device = device.c
        free(self.c.routes)
        self.c.routes = table
        self.c.route_count = count

    def send(self, bytes frame):
        """Queue one frame of at least 60 bytes; without effect where memory is short."""
        cdef Request *request
        cdef size_t size = len(frame)
        cdef const uint8_t *bytes_of = frame
        if size < HEAD_BYTES + 24 or size - HEAD_BYTES > self.c.payload_bytes:
            self.c.stats.tx_refused += 1
            return
        request = slot_new(self.c)
        if request == NULL:
            return
        memcpy(request.head, bytes_of, HEAD_BYTES)
        memcpy(request.data, bytes_of + HEAD_BYTES, size - HEAD_BYTES)
        request.send_bytes = <uint32_t>(size - HEAD_BYTES)
        request.is_raw = True
        queue_send(self.c, request)


def _address_of(route):
    return route[0]


cdef void set_macs(MacSet *macs, object wanted) except *:
    cdef uint64_t *table = NULL
    cdef uint32_t count = 0
    cdef bint is_any = wanted is None
    numbers = sorted(int.from_bytes(mac, "big") for mac in wanted or ())
    if numbers:
        table = <uint64_t *>malloc(sizeof(uint64_t) * len(numbers))
        if table == NULL:
            raise MemoryError
        for number in numbers:
            table[count] = number
            count += 1
    free(macs.macs)
    macs.macs = table
    macs.count = count
    macs.is_any = is_any


cdef class CoreDevice:
    """One device; without `attach` it serves nothing."""

    cdef Device *c
    cdef Core core

    def __cinit__(self, Core core):
        self.core = core
        self.c = <Device *>calloc(1, sizeof(Device))
        if self.c == NULL:
            raise MemoryError
        self.c.engine = core.c
        self.c.granule = 512
        self.c.accept.is_any = True

    def __dealloc__(self):
        cdef Source *source
        cdef Source *following
        if self.c == NULL or self.c.active_count or self.c.fd > 0:
            return  # given up: the kernel or a thread may still use what it points to
        for i in range(SOURCES):
            source = self.c.sources[i]
            while source != NULL:
                following = source.next
                free(source)
                source = following
        free(self.c.accept.macs)
        free(self.c.deny.macs)
        free(self.c.mask.macs)
        free(self.c.reserved.macs)
        free(self.c)

    def admit(self, int shelf, int slot, accept, deny, mask, reserved, bint read_only,
              bint write_cache, bint fast):
        """What the checks of a flawless request need to know; MACs are 6 bytes."""
        self.c.shelf = shelf
        self.c.slot = slot
        set_macs(&self.c.accept, accept)
        set_macs(&self.c.deny, deny)
        set_macs(&self.c.mask, mask)
        set_macs(&self.c.reserved, reserved)
        self.c.read_only = read_only
        self.c.write_cache = write_cache
        self.c.fast = fast

    def limit(self, uint32_t queue_length, int64_t max_delay_ns, int64_t merge_delay_ns):
        """The queue's policy."""
        self.c.queue_length = queue_length
        self.c.max_delay_ns = max_delay_ns
        self.c.merge_delay_ns = merge_delay_ns
        activate(self.c)

    def activate(self):
        """Look at the queue again in the next turn."""
        activate(self.c)

    def resize(self, uint64_t size_bytes):
        self.c.size_bytes = size_bytes

    def attach(self, int fd, int64_t file_offset, bint direct, bint nowait,
               uint64_t granule, uint64_t origin):
        """Serve from the open file `fd`, which stays the caller's."""
        self.c.fd = fd
        self.c.file_offset = file_offset
        self.c.direct = direct
        self.c.nowait = nowait
        self.c.tries_cache = not direct
        self.c.granule = granule
        self.c.origin = origin
        self.c.medium_failed = False
        pool_open(&self.c.readers, self.core.c, READERS_MAX)
        pool_open(&self.c.writers, self.core.c, 1)
        self.c.serving = True

    def stop(self):
        """Serve nothing new, drop what has not started; returns how many requests that were."""
        self.c.serving = False
        return drop_unstarted(self.c)

    def detach(self):
        """Nothing is active any more: let the file go."""
        cdef Device *device = self.c
        with nogil:
            pool_close(&device.readers)
            pool_close(&device.writers)
        self.c.fd = 0

    @property
    def in_flight(self):
        return self.c.in_flight

    @property
    def active(self):
        return self.c.active_count

    @property
    def oldest(self):
        """The sequence number of the oldest active request, or None."""
        return self.c.active_head.sequence if self.c.active_head != NULL else None

    @property
    def medium_failed(self):
        return self.c.medium_failed

    @property
    def wake_ns(self):
        """When held requests may start (merge_delay_ns), or None."""
        if self.c.ready_count and self.c.merge_delay_ns and self.c.in_flight < self.c.queue_length:
            return self.c.hold_until_ns
        return None

    def failures(self):
        """(op, sector, sectors, errno) of requests that have failed since the last call, and how
        many more there were than are remembered."""
        found = []
        cdef uint32_t i
        for i in range(self.c.failure_count):
            failure = self.c.failures[i]
            found.append((failure.op, failure.sector, failure.sectors, failure.error))
        lost = self.c.failures_lost
        self.c.failure_count = 0
        self.c.failures_lost = 0
        return found, lost

    def counters(self):
        """What has happened since the last call, by counter's name, and drops of a full queue."""
        cdef Stats stats = self.c.stats
        memset(&self.c.stats, 0, sizeof(Stats))
        queue_full = stats.queue_full
        values = dict(stats)
        del values["queue_full"]
        return values, queue_full

    def initiators(self):
        """What hosts have done since the last call, in order of when they were seen last."""
        cdef Source *source
        found = []
        for i in range(SOURCES):
            source = self.c.sources[i]
            while source != NULL:
                found.append((
                    source.last_seen_ns, source.mac.to_bytes(6, "big"), source.link_index,
                    source.active,
                    {
                        "read_requests": source.read_requests, "read_bytes": source.read_bytes,
                        "write_requests": source.write_requests,
                        "write_bytes": source.write_bytes,
                        "other_requests": source.other_requests, "errors": source.errors,
                        "absorbed": source.absorbed, "waits": source.waits,
                    },
                    source.dropped,
                ))
                source.read_requests = source.read_bytes = 0
                source.write_requests = source.write_bytes = 0
                source.other_requests = source.errors = 0
                source.absorbed = source.waits = source.dropped = 0
                source = source.next
        found.sort()
        return found


cdef class Core:
    """All links and devices of one engine. `event_fd` becomes readable when something completed."""

    cdef Engine *c
    cdef readonly bint has_aio
    cdef int64_t stale_age_ns
    cdef list _links

    def __cinit__(self, int64_t stale_age_ns):
        self.stale_age_ns = stale_age_ns
        self._links = []
        self.c = <Engine *>calloc(1, sizeof(Engine))
        if self.c == NULL:
            raise MemoryError
        pthread_mutex_init(&self.c.done_lock, NULL)
        self.c.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.c.event_fd < 0:
            raise OSError(errno, "eventfd")
        self.has_aio = syscall(SYS_io_setup, <long>AIO_EVENTS, &self.c.aio) == 0
        if not self.has_aio:
            self.c.aio = 0

    def close(self):
        """Every device is detached, every link closed."""
        if self.c.aio:
            syscall(SYS_io_destroy, self.c.aio)
            self.c.aio = 0
        if self.c.event_fd >= 0:
            close(self.c.event_fd)
            self.c.event_fd = -1

    @property
    def event_fd(self):
        return self.c.event_fd

    @property
    def sequence(self):
        """The number of the request that was taken in last."""
        return self.c.sequence

    def open_link(self, int fd, int index, bytes mac, uint32_t sectors_max, uint32_t payload_bytes):
        """Carry the frames of the packet socket `fd`, which stays the caller's."""
        cdef CoreLink link = CoreLink.__new__(CoreLink)
        cdef Link *made = <Link *>calloc(1, sizeof(Link))
        if made == NULL:
            raise MemoryError
        made.engine = self.c
        made.fd = fd
        made.index = index
        made.is_open = True
        made.is_drained = True
        memcpy(made.mac, <const uint8_t *>mac, 6)
        made.mac_number = mac_at(made.mac)
        made.sectors_max = sectors_max
        made.payload_bytes = (payload_bytes + 4095) // 4096 * 4096
        made.next = self.c.links
        self.c.links = made
        link.c = made
        link.core = self
        self._links.append(link)
        return link

    def close_link(self, CoreLink link):
        """Forget what it has received and not sent; requests in flight go on without a reply."""
        cdef Link **place = &self.c.links
        cdef Link *closed = link.c
        cdef Request *request
        cdef uint32_t i
        while place[0] != closed:
            place = &place[0].next
        place[0] = closed.next
        self._links.remove(link)
        closed.slots_out += 1  # so that it lives until the end of this function
        closed.is_open = False
        for i in range(closed.received_count):
            slot_free(closed.received[i])
        for i in range(BATCH):
            if closed.slots[i] != NULL:
                slot_free(closed.slots[i])
        while closed.send_head != NULL:
            request = closed.send_head
            closed.send_head = request.next
            slot_free(request)
        while closed.free != NULL:
            request = closed.free
            closed.free = request.next
            free(request.data)
            free(request)
        free(closed.routes)
        closed.routes = NULL
        closed.route_count = 0
        closed.slots_out -= 1
        link.c = NULL
        if closed.slots_out == 0:
            free(closed)

    def submit(self, CoreDevice device, CoreLink link, bytes head, int64_t arrival_ns, int op,
               uint64_t sector, uint32_t sectors, data):
        """Queue a request that Python has checked; False where it is dropped."""
        cdef Request *request
        cdef Py_buffer payload
        cdef void *scratch
        if not device.c.serving or len(head) != HEAD_BYTES:
            return False
        request = slot_new(link.c)
        if request == NULL:
            return False
        memcpy(request.head, <const uint8_t *>head, HEAD_BYTES)
        request.mac = mac_at(&request.head[6])
        request.arrival_ns = arrival_ns
        request.op = op
        request.offset = sector * 512
        request.bytes = sectors * 512
        if op == WRITE:
            PyObject_GetBuffer(data, &payload, PyBUF_SIMPLE)
            fits = <uint64_t>payload.len >= request.bytes <= link.c.payload_bytes
            if fits:
                memcpy(request.data, payload.buf, request.bytes)
            PyBuffer_Release(&payload)
            if not fits:
                slot_free(request)
                return False
        elif op == VERIFY:
            if posix_memalign(&scratch, 4096, request.bytes) != 0:
                slot_free(request)
                return False
            request.scratch = <uint8_t *>scratch
        if not arrive(device.c, request, monotonic_ns()):
            slot_free(request)
            return False
        return True

    def turn(self, bint receiving, bint completing):
        """One batch: frames and completions in, replies out. Returns the frames that Python has to
        look at, (CoreLink, frame, arrival_ns) each, and whether more frames wait."""
        cdef bint more
        with nogil:
            more = run(self.c, receiving, completing, self.stale_age_ns)
        return self._slow_frames() if self.c.slow_head != NULL else (), more

    def busy_poll(self, int64_t wait_ns):
        """Wait actively for `wait_ns` after each batch; 0: never."""
        self.c.busy_poll_ns = wait_ns

    def take_attention(self):
        """Whether a link is blocked, requests have failed or are held since the last call."""
        wanted = self.c.attention
        self.c.attention = False
        return wanted

    def flush(self):
        """Start what Python has queued, and send what it has to say."""
        with nogil:
            push(self.c, False)

    def _slow_frames(self):
        cdef Request *request = self.c.slow_head
        cdef Request *following
        cdef CoreLink link
        cdef uint32_t first
        frames = []
        self.c.slow_head = self.c.slow_tail = NULL
        while request != NULL:
            following = request.next
            first = request.length if request.length < HEAD_BYTES else HEAD_BYTES
            frame = request.head[:first] + request.data[:request.length - first]
            for link in self._links:
                if link.c == request.link:
                    frames.append((link, frame, request.arrival_ns))
                    break
            slot_free(request)
            request = following
        return frames


cdef bint run(Engine *engine, bint receiving, bint completing, int64_t stale_age_ns) noexcept nogil:
    cdef Vector *vector
    cdef Vector *following
    cdef bint more = False
    if completing:
        vector = collect(engine)
        while vector != NULL:
            following = vector.next
            settle(vector)
            vector = following
    if receiving:
        more = receive_all(engine, stale_age_ns)
    push(engine, completing)
    if engine.busy_poll_ns and not more:
        more = poll_busily(engine, stale_age_ns)
    return more


cdef bint poll_busily(Engine *engine, int64_t stale_age_ns) noexcept nogil:
    # The next frame or completion is often only some microseconds away, and waking up is dearer
    # than all the rest. Returns early for whatever is Python's.
    cdef int64_t now_ns = monotonic_ns()
    cdef int64_t end_ns = now_ns + BUSY_TURN_NS_MAX
    cdef int64_t idle_end_ns = now_ns + engine.busy_poll_ns
    cdef uint64_t sequence = engine.sequence
    cdef Vector *vector
    cdef Vector *following
    cdef bint more = False
    cdef bint completed
    # Worker threads want this processor: not while they have something.
    while now_ns < idle_end_ns and now_ns < end_ns and engine.with_workers == 0:
        completed = engine.aio_in_flight > 0
        if completed:
            vector = collect(engine)
            completed = vector != NULL
            while vector != NULL:
                following = vector.next
                settle(vector)
                vector = following
        more = receive_all(engine, stale_age_ns)
        now_ns = monotonic_ns()
        if completed or more or engine.sequence != sequence:
            sequence = engine.sequence
            idle_end_ns = now_ns + engine.busy_poll_ns
            push(engine, completed)
        if engine.slow_head != NULL or engine.attention:
            return more
    return more


cdef bint receive_all(Engine *engine, int64_t stale_age_ns) noexcept nogil:
    # Frames of all links in order of arrival, as far as it is certain: what came after the turn's
    # beginning waits for the next, and so does what is newer than the last one taken from a link
    # that has more than one turn's worth. True where frames are left.
    cdef timespec now
    cdef int64_t real_ns, newest_ns, horizon_ns, now_ns
    cdef Link *link
    cdef Link *oldest
    cdef Request *request
    cdef uint32_t i
    cdef bint several = engine.links != NULL and engine.links.next != NULL
    cdef bint more = False
    cdef bint waits = False
    clock_gettime(CLOCK_REALTIME, &now)
    real_ns = <int64_t>now.tv_sec * 1000000000 + now.tv_nsec
    now_ns = monotonic_ns()
    horizon_ns = real_ns
    link = engine.links
    while link != NULL:
        link.is_drained = not receive(link, real_ns)
        if not link.is_drained:
            more = True
        if several and link.received_count:
            clock_gettime(CLOCK_REALTIME, &now)
            newest_ns = <int64_t>now.tv_sec * 1000000000 + now.tv_nsec
            i = link.received_count
            while i > 0:  # a clock that was set back must not turn the order around
                i -= 1
                if link.received[i].arrival_ns > newest_ns:
                    link.received[i].arrival_ns = newest_ns
                newest_ns = link.received[i].arrival_ns
            newest_ns = link.received[link.received_count - 1].arrival_ns
            if not link.is_drained and newest_ns < horizon_ns:
                horizon_ns = newest_ns
        link = link.next
    while not waits:
        oldest = NULL
        link = engine.links
        while link != NULL:
            if link.received_count and (
                not several or link.received[0].arrival_ns <= horizon_ns
            ) and (
                oldest == NULL or link.received[0].arrival_ns < oldest.received[0].arrival_ns
            ):
                oldest = link
            link = link.next
        if oldest == NULL:
            break
        i = 0
        while i < oldest.received_count:
            request = oldest.received[i]
            if waits or (i and several):
                break
            i += 1
            if request.arrival_ns < real_ns - stale_age_ns:
                oldest.stats.stale += 1
                slot_free(request)
            else:
                waits = dispatch(engine, oldest, request, now_ns)
        oldest.received_count -= i
        if oldest.received_count:
            memmove(
                &oldest.received[0], &oldest.received[i], oldest.received_count * sizeof(Request *)
            )
    link = engine.links
    while link != NULL:
        more = more or link.received_count > 0
        link = link.next
    return more


cdef void push(Engine *engine, bint after_completion) noexcept nogil:
    # Submit once per device that has news, then send once per link that has replies.
    cdef Device *device
    cdef Link *link
    while engine.active_devices != NULL:
        device = engine.active_devices
        engine.active_devices = device.active_next_device
        device.is_active = False
        if device.fd > 0:
            submit(device, after_completion)
    link = engine.links
    while link != NULL:
        if link.send_head != NULL and not link.is_blocked:
            transmit(link)
        link = link.next
