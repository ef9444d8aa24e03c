# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
# cython: initializedcheck=False, embedsignature=False
"""The compiled core: READ, WRITE, VERIFY and FLUSH from packet socket to store and back, in batches.

Owns the data path of links and devices, in threads of its own that never need Python (carrier.pxi); a
device that is no file has its transfers carried out by Python. Knows nothing of configuration, interfaces or state: `engine/native/__init__.py` tells
it what to admit, and gets every frame that is not flawless. All methods are called in the event loop's
thread, and hold the engine's lock for the moment that they need. Objects may be collected in any.
"""

from os import urandom

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBUF_WRITE, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memmove, memset, strerror

from ggaoe.engine.native.kernel cimport *

include "structs.pxi"

include "histogram.pxi"
include "trace.pxi"
include "order.pxi"
include "throttle.pxi"
include "queue.pxi"
include "pace.pxi"
include "disk.pxi"
include "uring.pxi"
include "device.pxi"
include "memory.pxi"
include "stray.pxi"
include "link.pxi"
include "carrier.pxi"

AIO_EVENTS_MAX = AIO_EVENTS
"""Requests of an engine that Linux AIO has room for, as counted by the system."""


_STRAYS = (
    "vlan", "foreign_host", "truncated", "stale", "slow_path_full", "address", "rate_limited",
)
"""Counters' names, as STRAY_VLAN and those after it count them."""


@cython.no_gc_clear
cdef class CoreLink:
    """One packet socket, or a link in memory. `payload_bytes` is what follows the first 36 bytes of the largest frame."""

    cdef Link *c
    cdef Core core
    cdef Py_buffer ring

    def counters(self):
        """What has happened since the last call, by counter's name; drops have their own mapping."""
        cdef LinkStats stats
        memset(&stats, 0, sizeof(LinkStats))
        if self.c != NULL:
            with nogil:
                enter(self.core.c)
                stats = self.c.stats
                memset(&self.c.stats, 0, sizeof(LinkStats))
                leave(self.core.c)
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
                "slow_path_full": stats.slow_full, "address": stats.address,
                "rate_limited": stats.rate_limited,
            },
        )

    def strays(self):
        """(seconds of the monotonic clock, length, first bytes, counter's name) of the last frame
        of each host that has come to no device since the last call, in order of time."""
        cdef Stray *copies
        cdef Stray *found
        cdef int i
        if self.c == NULL:
            return []
        copies = <Stray *>malloc(sizeof(self.c.strays))
        if copies == NULL:
            raise MemoryError
        with nogil:
            enter(self.core.c)
            memcpy(copies, self.c.strays, sizeof(self.c.strays))
            memset(self.c.strays, 0, sizeof(self.c.strays))
            leave(self.core.c)
        strays = []
        for i in range(STRAY_SETS * STRAY_WAYS):
            found = &copies[i]
            if found.time_ns:
                head = found.head[:min(<uint32_t>HEAD_BYTES, found.length)]
                strays.append((found.time_ns / 1e9, found.length, head, _STRAYS[found.reason]))
        free(copies)
        strays.sort()
        return strays

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
        with nogil:
            enter(self.core.c)
            free(self.c.routes)
            self.c.routes = table
            self.c.route_count = count
            leave(self.core.c)

    def send(self, list frames):
        """Queue frames of at least 60 bytes each; without effect where memory is short. They leave
        with `Core.kick`."""
        cdef Request *request
        cdef size_t count = 0
        cdef size_t i, size
        cdef bytes frame
        cdef iovec *parts = <iovec *>malloc(len(frames) * sizeof(iovec))
        if parts == NULL:
            return
        for frame in frames:
            parts[count].iov_base = <uint8_t *>frame
            parts[count].iov_len = len(frame)
            count += 1
        with nogil:
            enter(self.core.c)
            for i in range(count):
                size = parts[i].iov_len
                if size < HEAD_BYTES + PADDING_BYTES or size - HEAD_BYTES > self.c.payload_bytes:
                    self.c.stats.tx_refused += 1
                    continue
                request = slot_new(self.c)
                if request == NULL:
                    break
                memcpy(request.head, parts[i].iov_base, size)
                request.send_bytes = <uint32_t>(size - HEAD_BYTES)
                queue_send(self.c, request)
            leave(self.core.c)
        free(parts)


    # --- links in memory ---

    def deliver(self, bytes frame, int64_t arrival_ns):
        """`frame` arrives behind those that wait; without effect where memory is short."""
        cdef Request *request
        cdef size_t size = len(frame)
        cdef const uint8_t *bytes_of = frame
        if size > self.c.frame_bytes_max:
            self.c.stats.truncated += 1
            return
        with nogil:
            enter(self.core.c)
            request = slot_new(self.c)
            if request != NULL:
                memcpy(request.head, bytes_of, size)
                request.length = <uint32_t>size
                request.arrival_ns = arrival_ns
                if self.c.delivered_head == NULL:
                    self.c.delivered_head = request
                else:
                    self.c.delivered_tail.next = request
                self.c.delivered_tail = request
                self.c.delivered_count += 1
            leave(self.core.c)
        wake(self.core.c.event_fd)

    def forget_delivered(self):
        """What was delivered and not received has never arrived."""
        with nogil:
            enter(self.core.c)
            drop_chain(self.c.delivered_head)
            self.c.delivered_head = NULL
            self.c.delivered_count = 0
            leave(self.core.c)

    @property
    def frame_buffers(self):
        """How many are in use; a READ that has not started needs none while it waits."""
        cdef uint32_t count
        with nogil:
            enter(self.core.c)
            count = self.c.slots_out - self.c.short_out
            leave(self.core.c)
        return count

    @property
    def backlog_frames(self):
        return self.c.delivered_count

    @property
    def room_frames(self):
        """How many more frames fit into the transmit queue; -1: any number."""
        return self.c.room_frames

    @room_frames.setter
    def room_frames(self, int64_t frames):
        self.c.room_frames = frames

    def sent(self):
        """What was sent since the last call, oldest first."""
        cdef Request *first
        cdef Request *request
        with nogil:
            enter(self.core.c)
            first = request = self.c.sent_head
            self.c.sent_head = NULL
            leave(self.core.c)
        frames = []
        while request != NULL:
            frames.append(request.head[:HEAD_BYTES + request.send_bytes])
            request = request.next
        with nogil:
            enter(self.core.c)
            drop_chain(first)
            leave(self.core.c)
        return frames


def _address_of(route):
    return route[0]


cdef MacSet mac_set(object wanted, bint others) except *:
    cdef MacSet macs
    cdef uint32_t count = 0
    macs.others = others
    macs.macs = NULL
    numbers = sorted(int.from_bytes(mac, "big") for mac in wanted)
    if numbers:
        macs.macs = <uint64_t *>malloc(sizeof(uint64_t) * len(numbers))
        if macs.macs == NULL:
            raise MemoryError
        for number in numbers:
            macs.macs[count] = number
            count += 1
    macs.count = count
    return macs


@cython.no_gc_clear
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
        self.c.owner = <void *>self
        self.c.flushes = self.c.stable = 1  # nothing was written: a lower number
        order_granule(self.c, 512, 0)
        for i in range(LISTS):
            self.c.lists[i].others = True

    def __dealloc__(self):
        cdef Source *source
        cdef Source *following
        cdef Device **place
        if self.c == NULL:
            return
        with nogil:  # in any thread: whoever has the lock may be waiting for the GIL
            enter(self.c.engine)
            place = &self.c.engine.active_devices
            while place[0] != NULL and place[0] != self.c:
                place = &place[0].active_next_device
            if place[0] != NULL:
                place[0] = self.c.active_next_device
            place = &self.c.engine.holding
            while place[0] != NULL and place[0] != self.c:
                place = &place[0].holding_next
            if place[0] != NULL:
                place[0] = self.c.holding_next
            self.c.owner = NULL
            leave(self.c.engine)
        free(self.c.trace)
        self.c.trace = NULL
        if self.c.is_given_up or self.c.is_attached:
            return  # the kernel or a thread may still use what it points to
        for i in range(SOURCES):
            source = self.c.sources[i]
            while source != NULL:
                following = source.next
                free(source)
                source = following
        for i in range(LISTS):
            free(self.c.lists[i].macs)
        free(self.c)

    def admit(self, int shelf, int slot, lists, bint read_only, bint write_cache, bint fast):
        """What the checks of a flawless request need to know. `lists` are those of accept, deny,
        mask, reservation, read, write, discover and change, each as (MACs of 6 bytes, whether
        others are permitted); for a MAC in it the opposite holds."""
        cdef MacSet new[LISTS]
        cdef MacSet old[LISTS]
        cdef int i = 0
        for macs, others in lists:
            new[i] = mac_set(macs, others)
            i += 1
        with nogil:
            enter(self.core.c)
            for i in range(LISTS):
                old[i] = self.c.lists[i]
                self.c.lists[i] = new[i]
            self.c.has_operation_lists = (
                new[LIST_READ].count > 0 or not new[LIST_READ].others
                or new[LIST_WRITE].count > 0 or not new[LIST_WRITE].others
            )
            self.c.shelf = shelf
            self.c.slot = slot
            self.c.read_only = read_only
            self.c.write_cache = write_cache
            if fast and not self.c.fast:
                refuse_waiting(self.core.c, <uint32_t>shelf << 8 | <uint32_t>slot)
            self.c.fast = fast
            leave(self.core.c)
        for i in range(LISTS):
            free(old[i].macs)

    def limit(self, uint32_t queue_length, int64_t max_delay_ns, int64_t merge_delay_ns):
        """The queue's policy."""
        with nogil:
            enter(self.core.c)
            self.c.queue_length = queue_length
            self.c.max_delay_ns = max_delay_ns
            self.c.merge_delay_ns = merge_delay_ns
            activate(self.c)
            leave(self.core.c)

    def throttle(self, limits):
        """(requests or bytes per second or 0, how many at once) each for the device's requests and
        bytes and an initiator's requests and bytes."""
        cdef Rate rates[LIMITS]
        cdef int i
        for i in range(LIMITS):
            per_s, burst = limits[i]
            rates[i].per_s = per_s
            rates[i].burst = burst * <int64_t>NANO
        with nogil:
            enter(self.core.c)
            set_limits(self.c, rates)
            leave(self.core.c)

    def resize(self, uint64_t size_bytes):
        """How much of the file is served."""
        with nogil:
            enter(self.core.c)
            self.c.size_bytes = size_bytes
            leave(self.core.c)

    def attach(self, int fd, int64_t file_offset, bint direct, bint nowait,
               uint64_t granule, uint64_t origin):
        """Serve from the open file `fd`, which stays the caller's."""
        with nogil:
            enter(self.core.c)
            self.c.fd = fd
            self.c.file_offset = file_offset
            self.c.direct = direct
            self.c.nowait = nowait
            self.c.tries_cache = not direct
            self.c.uring_file = uring_add_file(self.core.c, fd) if direct else -1
            self.c.medium_failed = False
            self.c.by_python = False
            pool_open(&self.c.readers, self.core.c, WORKERS_MAX)
            # Buffered writes to one file exclude each other in the kernel: threads would only fight.
            pool_open(&self.c.writers, self.core.c, WORKERS_MAX if direct else 1)
            pool_open(&self.c.flushers, self.core.c, 1)
            serve(self.c, granule, origin)
            leave(self.core.c)

    def attach_to_python(self, uint64_t granule, uint64_t origin):
        """Serve from whatever carries out the transfers that `Core.take` gives."""
        with nogil:
            enter(self.core.c)
            self.c.file_offset = 0
            self.c.medium_failed = False
            self.c.by_python = True
            serve(self.c, granule, origin)
            leave(self.core.c)

    def suspend(self):
        """Start nothing new until the next `attach`, but go on taking in requests."""
        with nogil:
            enter(self.core.c)
            self.c.suspended = True
            leave(self.core.c)

    def stop(self):
        """Start nothing new, and take in nothing."""
        with nogil:
            enter(self.core.c)
            self.c.serving = self.c.suspended = False
            leave(self.core.c)

    def drop_waiting(self, bint only_locked_out):
        """Drop what has not started, or only that of hosts that a reservation locks out; returns
        how many requests that were."""
        cdef int dropped
        with nogil:
            enter(self.core.c)
            dropped = drop_unstarted(self.c, DROP_LOCKED_OUT if only_locked_out else DROP_ALL)
            leave(self.core.c)
        return dropped

    def detach(self):
        """Nothing is in flight any more: let the file go."""
        cdef Device *device = self.c
        if not device.is_attached:
            return
        if not device.by_python:
            with nogil:
                pool_close(&device.readers)
                pool_close(&device.writers)
                pool_close(&device.flushers)
        with nogil:
            enter(self.core.c)
            if not device.by_python:
                uring_remove_file(self.core.c, device.uring_file)
            device.is_attached = False
            leave(self.core.c)

    def give_up(self):
        """Answer nothing any more, and touch nothing that the store may still use."""
        with nogil:
            enter(self.core.c)
            self.c.is_given_up = True
            self.c.is_attached = False
            leave(self.core.c)

    def last_io(self, bytes mac):
        """(monotonic_ns, interface index, length, first 36 bytes, what became of it, errno) of the
        last request of a host that was taken in, or found no room; None where there was none."""
        cdef uint64_t number = mac_at(<const uint8_t *>mac)
        cdef Source *source
        cdef Sighting last
        last.time_ns = 0
        with nogil:
            enter(self.core.c)
            source = source_chain(self.c, number)[0]
            while source != NULL and source.mac != number:
                source = source.next
            if source != NULL:
                last = source.last
            leave(self.core.c)
        if last.time_ns == 0:
            return None
        return last.time_ns, last.link_index, last.length, last.head[:HEAD_BYTES], last.fate, last.error

    def watch(self, bint wanted):
        """Keep frames from and to the device from now on, or keep none."""
        cdef Trace *unused = NULL
        if wanted:
            unused = <Trace *>calloc(1, sizeof(Trace))
            if unused == NULL:
                raise MemoryError
        with nogil:
            enter(self.core.c)
            self.c.trace, unused = unused, self.c.trace
            leave(self.core.c)
        free(unused)

    def traced(self):
        """(wall_ns, interface index, length, first bytes) of frames since the last call while it is
        watched, and how many more were lost."""
        cdef Trace *records
        cdef Trace *fresh
        if self.c.trace == NULL:
            return [], 0
        fresh = <Trace *>calloc(1, sizeof(Trace))
        if fresh == NULL:
            raise MemoryError
        with nogil:
            enter(self.core.c)
            records = self.c.trace
            self.c.trace = fresh
            leave(self.core.c)
        found = [
            (
                records.records[i].time_ns,
                records.records[i].link_index,
                records.records[i].length,
                records.records[i].frame[:min(<uint32_t>SNAP_BYTES, records.records[i].length)],
            )
            for i in range(records.count)
        ]
        lost = records.lost
        free(records)
        return found, lost

    @property
    def load(self):
        """(requests that have started, requests that wait); no reply to others is still to come."""
        cdef uint32_t in_flight, active
        with nogil:
            enter(self.core.c)
            in_flight = self.c.in_flight
            active = self.c.active_count
            leave(self.core.c)
        return in_flight, active - in_flight

    @property
    def longest_chain(self):
        """How many active requests, or pieces of the disk, a search in a table goes through."""
        cdef Request *request
        cdef Cell *cell
        cdef int i, length
        cdef int longest = 0
        with nogil:
            enter(self.core.c)
            for i in range(CHAINS):
                length = 0
                request = self.c.tags[i]
                while request != NULL:
                    length += 1
                    request = request.tag_next
                longest = max(longest, length)
                length = 0
                cell = self.c.cells[i]
                while cell != NULL:
                    length += 1
                    cell = cell.next
                longest = max(longest, length)
            leave(self.core.c)
        return longest

    @property
    def oldest(self):
        """The sequence number of the oldest active request, or None."""
        cdef uint64_t sequence = 0
        with nogil:
            enter(self.core.c)
            if self.c.active_head != NULL:
                sequence = self.c.active_head.sequence
            leave(self.core.c)
        return sequence or None

    @property
    def medium_failed(self):
        return self.c.medium_failed

    def failures(self):
        """(op, sector, sectors, errno, the host's MAC) of requests that have failed since the last
        call, and how many more there were than are remembered."""
        cdef Failure found[FAILURES_KEPT_MAX]
        cdef uint32_t count
        cdef uint64_t lost
        with nogil:
            enter(self.core.c)
            count = self.c.failure_count
            memcpy(found, self.c.failures, count * sizeof(Failure))
            lost = self.c.failures_lost
            self.c.failure_count = 0
            self.c.failures_lost = 0
            leave(self.core.c)
        return [(found[i].op, found[i].sector, found[i].sectors, found[i].error,
                 found[i].mac.to_bytes(6, "big")) for i in range(count)], lost

    def counters(self):
        """What has happened since the last call, by counter's name; drops of a full queue; and
        histograms by name, None where no request has finished."""
        cdef Stats stats
        cdef Histograms histograms
        cdef bint any_finished
        with nogil:
            enter(self.core.c)
            stats = self.c.stats
            any_finished = stats.read_requests + stats.write_requests + stats.flush_requests > 0
            memset(&self.c.stats, 0, sizeof(Stats))
            if any_finished:
                histograms = self.c.histograms
                memset(&self.c.histograms, 0, sizeof(Histograms))
            leave(self.core.c)
        values = dict(stats)
        queue_full = values.pop("queue_full")
        return values, queue_full, dict(histograms) if any_finished else None

    def initiators(self):
        """What hosts have done since the last call, in order of when they were seen last; nothing
        of those that have done nothing."""
        cdef Source copies[SOURCES_MAX]
        cdef Source *source
        cdef int i, count = 0
        with nogil:
            enter(self.core.c)
            for i in range(SOURCES):
                source = self.c.sources[i]
                while source != NULL:
                    if source.told_seen_ns == source.last_seen_ns and source.told_active == source.active:
                        source = source.next
                        continue
                    copies[count] = source[0]
                    count += 1
                    source.told_seen_ns = source.last_seen_ns
                    source.told_active = source.active
                    source.read_requests = source.read_bytes = 0
                    source.write_requests = source.write_bytes = 0
                    source.other_requests = source.errors = 0
                    source.absorbed = source.waits = source.throttled = source.dropped = 0
                    source = source.next
            leave(self.core.c)
        found = []
        for i in range(count):
            source = &copies[i]
            found.append((
                source.last_seen_ns, source.mac.to_bytes(6, "big"), source.link_index,
                source.active,
                {
                    "read_requests": source.read_requests, "read_bytes": source.read_bytes,
                    "write_requests": source.write_requests, "write_bytes": source.write_bytes,
                    "other_requests": source.other_requests, "errors": source.errors,
                    "absorbed": source.absorbed, "waits": source.waits,
                    "throttled": source.throttled,
                },
                source.dropped,
            ))
        found.sort()
        return found


cdef class Core:
    """All links and devices of one engine. `python_fd` becomes readable when `take` has something
    to give. Unless `start` was called, `turn` has to be called whenever `event_fd` is readable.
    Raises OSError where the system has no more descriptors."""

    cdef Engine *c
    cdef list _links
    cdef bint _is_closed

    def __cinit__(self, int64_t stale_age_ns, bint is_alone):
        cdef pthread_condattr_t attributes
        self._links = []
        self.c = <Engine *>calloc(1, sizeof(Engine))
        if self.c == NULL:
            raise MemoryError
        self.c.stale_age_ns = stale_age_ns
        self.c.seed = int.from_bytes(urandom(8), "little") | 1
        self.c.is_alone = is_alone
        pthread_mutex_init(&self.c.gate, NULL)
        pthread_mutex_init(&self.c.lock, NULL)
        pthread_mutex_init(&self.c.done_lock, NULL)
        pthread_condattr_init(&attributes)
        pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC)
        pthread_cond_init(&self.c.watch, &attributes)
        pthread_condattr_destroy(&attributes)
        pthread_cond_init(&self.c.spare, NULL)
        self.c.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        self.c.python_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)
        if self.c.event_fd < 0 or self.c.python_fd < 0:
            raise OSError(errno, "no descriptor for the engine")

    def start(self):
        """Have threads from now on; raises OSError where the system has no more."""
        cdef bint started
        with nogil:
            enter(self.c)
            started = start_carrier(self.c) and start_carrier(self.c)
            leave(self.c)
        if not started:
            raise OSError(EAGAIN, "no thread for the engine")

    def __dealloc__(self):
        if self.c != NULL:
            self.close()
            if is_quiet(self.c):
                free(self.c)

    def close(self):
        """Every device is detached or given up, every link closed."""
        if self._is_closed:
            return
        self._is_closed = True
        with nogil:
            stop_carriers(self.c)
        if not is_quiet(self.c):
            return  # what comes back late is to find everything in its place
        if self.c.aio:
            syscall(SYS_io_destroy, self.c.aio)
            self.c.aio = 0
        uring_close(self.c)
        free_kept(self.c)
        close(self.c.event_fd)
        close(self.c.python_fd)

    def open_uring(self):
        """Have direct I/O of devices that are attached from now on go through io_uring; returns
        None, or why that cannot be."""
        cdef int error
        with nogil:
            enter(self.c)
            error = -uring_open(self.c, URING_ENTRIES)
            leave(self.c)
        if error == ENOSYS:
            return "not in this kernel, or too old (before Linux 5.12)"
        if error == EPERM or error == EACCES:
            return "not permitted: see sysctl kernel.io_uring_disabled, and seccomp filters"
        if error == ENOMEM:
            return "no memory for its rings: see ulimit -l"
        return strerror(error).decode() if error else None

    def open_aio(self):
        """The same by Linux AIO."""
        cdef long result
        cdef int error
        with nogil:
            enter(self.c)
            result = syscall(SYS_io_setup, <long>AIO_EVENTS, &self.c.aio)
            error = errno if result < 0 else 0
            if error:
                self.c.aio = 0
            leave(self.c)
        if error == EAGAIN:
            return "no room for it: see sysctl fs.aio-max-nr"
        return strerror(error).decode() if error else None

    @property
    def event_fd(self):
        return self.c.event_fd

    @property
    def python_fd(self):
        return self.c.python_fd

    @property
    def sequence(self):
        """The number of the request that was taken in last."""
        return self.c.sequence

    def open_link(self, int fd, int index, bytes mac, uint32_t sectors_max, uint32_t payload_bytes,
                  ring, wildcards, refused):
        """Carry the frames of the packet socket `fd`, which stays the caller's; -1: the link is in
        memory. `ring` is its mapped receive ring with slot size in bytes, slots per block and
        block size in bytes, or None. `wildcards` and `refused` are (number per second, how many at
        once) of requests to devices by wildcard, and of refused requests that come to Python.
        Raises OSError where there are too many links."""
        cdef CoreLink link = CoreLink.__new__(CoreLink)
        cdef Link *made
        if len(self._links) == LINKS_MAX:
            raise OSError(EMFILE, f"more than {LINKS_MAX} interfaces are served")
        made = <Link *>calloc(1, sizeof(Link))
        if made == NULL:
            raise MemoryError
        link.core = self
        made.engine = self.c
        made.fd = fd
        made.index = index
        made.is_open = True
        made.is_drained = True
        memcpy(made.mac, <const uint8_t *>mac, 6)
        made.mac_number = mac_at(made.mac)
        made.sectors_max = sectors_max
        made.in_memory = fd < 0
        made.frame_bytes_max = HEAD_BYTES + payload_bytes
        made.room_frames = -1
        made.wildcard_rate.per_s, burst = wildcards
        made.wildcard_rate.burst = burst * <int64_t>NANO
        made.refused_rate.per_s, burst = refused
        made.refused_rate.burst = burst * <int64_t>NANO
        made.payload_bytes = (payload_bytes + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES
        if ring is not None:
            memory, slot_bytes, slots_per_block, block_bytes = ring
            try:
                PyObject_GetBuffer(memory, &link.ring, PyBUF_WRITABLE)
            except BaseException:
                free(made)
                raise
            made.ring = <uint8_t *>link.ring.buf
            made.slot_bytes = slot_bytes
            made.slots_per_block = slots_per_block
            made.block_bytes = block_bytes
            made.ring_slots = <uint32_t>(link.ring.len // block_bytes * slots_per_block)
        with nogil:
            enter(self.c)
            made.next = self.c.links
            self.c.links = made
            leave(self.c)
        wake(self.c.event_fd)
        link.c = made
        self._links.append(link)
        return link

    def close_link(self, CoreLink link):
        """Send what is to be sent, forget the rest; requests in flight go on without a reply."""
        self._links.remove(link)
        with nogil:
            enter(self.c)
            unlink(self.c, link.c)
            leave(self.c)
            wake(self.c.event_fd)
        link.c = NULL
        if link.ring.buf != NULL:
            PyBuffer_Release(&link.ring)

    def submit(self, CoreDevice device, CoreLink link, bytes head, int64_t arrival_ns, int op,
               uint64_t sector, uint32_t sectors, data):
        """Queue a request that Python has checked; False where it is dropped."""
        cdef Request *request
        cdef Py_buffer payload
        cdef bint fits, taken
        if len(head) != HEAD_BYTES:
            return False
        with nogil:
            enter(self.c)
            request = slot_new(link.c) if device.c.serving else NULL
            leave(self.c)
        if request == NULL:
            return False
        memcpy(request.head, <const uint8_t *>head, HEAD_BYTES)
        request.mac = mac_at(&request.head[6])
        request.length = <uint32_t>(HEAD_BYTES + len(data))
        request.arrival_ns = arrival_ns
        request.op = op
        request.offset = sector * 512
        request.bytes = sectors * 512
        fits = True
        if op == WRITE:
            PyObject_GetBuffer(data, &payload, PyBUF_SIMPLE)
            fits = <uint64_t>payload.len >= request.bytes <= link.c.payload_bytes
            if fits:
                memcpy(request.data, payload.buf, request.bytes)
            PyBuffer_Release(&payload)
        with nogil:
            enter(self.c)
            taken = fits and arrive(device.c, request, monotonic_ns(self.c))
            if not taken:
                slot_free(request)
            leave(self.c)
        return taken

    def take(self):
        """What Python has to look at, once `python_fd` is readable: frames, (CoreLink, frame,
        arrival_ns, whether it has been refused here, shelf and slot of the one device that is to have
        it or None) each; transfers of devices that are no files, (CoreDevice, handle, op, offset,
        length, buffers) each; and whether requests have failed. `kick` is due afterwards."""
        cdef Request *first
        cdef Request *request
        cdef Vector *vector
        cdef Vector *untold
        cdef CoreLink link
        cdef uint64_t counter
        cdef bint attention
        cdef int count = 0
        read(self.c.python_fd, &counter, sizeof(counter))
        with nogil:
            enter(self.c)
            self.c.is_told = False
            attention = self.c.attention
            self.c.attention = False
            vector = self.c.for_python.head
            self.c.for_python.head = NULL
            first = self.c.slow_head
            request = NULL
            while self.c.slow_head != NULL and count < SLOW_FRAMES_PER_CALL:
                request = self.c.slow_head
                self.c.slow_head = request.next
                count += 1
                if request.is_refused:
                    self.c.slow_refused -= 1
                else:
                    self.c.slow_count -= slow_weight(request)
            if self.c.slow_head != NULL:
                tell_python(self.c)
            else:
                self.c.slow_tail = NULL
            if request != NULL:
                request.next = NULL
            leave(self.c)
        try:
            frames = []
            request = first
            while request != NULL:
                frame = request.head[:request.length]
                for link in self._links:
                    if link.c == request.link:
                        address = None
                        if request.only_for != ADDRESSED:
                            address = request.only_for >> 8, request.only_for & 0xFF
                        frames.append(
                            (link, frame, request.arrival_ns, bool(request.is_refused), address)
                        )
                        break
                request = request.next
            transfers = []
            untold = vector
            while untold != NULL:
                if untold.device.owner != NULL:
                    transfers.append(_transfer(untold))
                untold = untold.next
        except BaseException:  # nobody has the transfers
            while vector != NULL:
                untold = vector.next
                vector.result = -ENOMEM
                report(self.c, vector)
                vector = untold
            raise
        finally:
            with nogil:
                enter(self.c)
                drop_chain(first)
                leave(self.c)
        return frames, transfers, attention

    @property
    def has_newcomers(self):
        """Whether hosts have come that were not known when `meet` was called last."""
        return bool(self.c.has_newcomers)

    def meet(self):
        """`CoreDevice.initiators` is about to be called for every device."""
        with nogil:
            enter(self.c)
            self.c.has_newcomers = False
            leave(self.c)

    def complete(self, results):
        """The results of transfers that `take` gave: (handle, bytes or negated errno) each."""
        cdef Vector *vector
        for handle, result in results:
            vector = <Vector *><size_t>handle
            vector.result = result
            report(self.c, vector)

    def turn(self, int64_t monotonic_ns_now, int64_t real_ns_now):
        """Without threads: one turn in the caller's, at the time that the caller says. Returns in
        how many ns the next one is due: 0: at once, -1: when `event_fd` is readable."""
        cdef uint64_t before, counter
        cdef int64_t wait_ns = 0
        read(self.c.event_fd, &counter, sizeof(counter))
        with nogil:
            enter(self.c)
            self.c.told_monotonic_ns = monotonic_ns_now
            self.c.told_real_ns = real_ns_now
            self.c.leader = &self.c.carriers[0]
            before = self.c.sequence + self.c.finished
            if not take_turn(self.c, self.c.leader):
                wait_ns = time_to_wait(self.c, monotonic_ns(self.c))
            report_to_python(self.c, before)
            leave(self.c)
        return wait_ns

    def kick(self):
        """Start what has been queued, and send what there is to say."""
        wake(self.c.event_fd)

    def busy_poll(self, int64_t wait_ns):
        """Wait actively for `wait_ns` after each batch; 0: never."""
        with nogil:
            enter(self.c)
            self.c.busy_poll_ns = wait_ns
            leave(self.c)

    def is_fenced(self, bint wanted):
        """Make `python_fd` readable whenever requests have finished."""
        with nogil:
            enter(self.c)
            self.c.is_fenced = wanted
            if wanted:
                tell_python(self.c)  # they may have finished already
            leave(self.c)


cdef void refuse_waiting(Engine *engine, uint32_t address) noexcept nogil:
    # From now on the core queues what the device at `address` is asked for. What Python still has in
    # front of it came before, and must not come after: hosts send it again.
    cdef Request *request = engine.slow_head
    while request != NULL:
        if (
            not request.is_refused
            and is_transfer(request.head, request.length)
            and (
                request.only_for == address
                or request.only_for == ADDRESSED and address_at(request.head) == address
            )
        ):
            request.is_refused = True
            engine.slow_count -= slow_weight(request)
            engine.slow_refused += 1
        request = request.next


def read_debt(int64_t debt_ns, int64_t blocked_ns, bint is_alone, bint has_stalled):
    """The debt of a device after a read; see pace.pxi."""
    return debt_after(debt_ns, blocked_ns, is_alone, has_stalled)


def offloads_reads(int64_t debt_ns, bint offloads):
    """Whether a device with that debt has its reads offloaded, where they were or were not before."""
    return bool(offloads_with(debt_ns, offloads))


def end_of_spin_rest(int64_t rests_until_ns, int64_t yielded_ns, int64_t back_ns):
    """Until when the engine thread does not spin; see pace.pxi."""
    return end_of_rest(rests_until_ns, yielded_ns, back_ns)


cdef void free_kept(Engine *engine) noexcept nogil:
    # What is ready for reuse.
    cdef Vector *vector
    cdef Cell *cell
    cdef Waiter *waiter
    cdef Request *request
    while engine.free_vectors != NULL:
        vector = engine.free_vectors
        engine.free_vectors = vector.next
        free(vector)
    while engine.free_cells != NULL:
        cell = engine.free_cells
        engine.free_cells = cell.next
        free(cell)
    while engine.free_waiters != NULL:
        waiter = engine.free_waiters
        engine.free_waiters = waiter.next
        free(waiter)
    while engine.free_short != NULL:
        request = engine.free_short
        engine.free_short = request.next
        free(request)
    engine.free_cell_count = engine.free_waiter_count = engine.short_kept = 0


cdef inline bint is_quiet(Engine *engine) noexcept nogil:
    # No store has anything of ours any more.
    return (
        engine.held_up == 0
        and engine.aio_in_flight == 0
        and engine.with_workers == 0
        and not engine.left_behind
        and (engine.uring == NULL or engine.uring.in_flight == 0)
    )


cdef object _transfer(Vector *vector):
    cdef int i
    cdef CoreDevice device = <CoreDevice>vector.device.owner
    if vector.op == FLUSH:
        return device, <size_t>vector, <int>FLUSH, 0, 0, []
    buffers = []
    if vector.op != VERIFY:
        for i in range(vector.count):
            buffers.append(PyMemoryView_FromMemory(
                <char *>vector.parts[i].iov_base, vector.parts[i].iov_len, PyBUF_WRITE
            ))
    return device, <size_t>vector, vector.op, position_of(vector), vector.bytes, buffers


cdef void stop_carriers(Engine *engine) noexcept nogil:
    # Those that a store holds up stay behind, and those whose threads in the kernel it may hold up.
    cdef int i
    cdef bint ends[CARRIERS_MAX]
    cdef bint waits
    cdef timespec pause
    pause.tv_sec = 0
    pause.tv_nsec = STALL_NS
    enter(engine)
    engine.stopping = True
    pthread_cond_broadcast(&engine.watch)
    pthread_cond_broadcast(&engine.spare)
    wake(engine.event_fd)
    for i in range(STOP_LOOKS_MAX):  # a call that has just begun is most often about to end
        if engine.in_store == NULL:
            break
        leave(engine)
        nanosleep(&pause, NULL)
        enter(engine)
    waits = engine.uring == NULL or engine.uring.in_flight == 0
    for i in range(engine.carrier_count):
        ends[i] = waits and not engine.carriers[i].is_held_up and (
            engine.in_store == NULL or engine.leader != &engine.carriers[i]
        )
        engine.left_behind = engine.left_behind or not ends[i]
    leave(engine)
    for i in range(engine.carrier_count):
        if ends[i]:
            pthread_join(engine.carriers[i].thread, NULL)
    engine.carrier_count = 0


cdef void unlink(Engine *engine, Link *link) noexcept nogil:
    cdef Link **place = &engine.links
    cdef Request *request
    cdef uint32_t i
    if link.send_head != NULL:
        transmit(link)
    while place[0] != link:
        place = &place[0].next
    place[0] = link.next
    link.is_open = False
    link.slots_out += 1  # so that it lives until the end of this function
    for i in range(link.received_first, link.received_count):
        slot_free(link.received[i])
    for i in range(BATCH):
        if link.slots[i] != NULL:
            slot_free(link.slots[i])
    drop_chain(link.send_head)
    drop_chain(link.delivered_head)
    drop_chain(link.sent_head)
    link.send_head = link.delivered_head = link.sent_head = NULL
    while link.free != NULL:
        request = link.free
        link.free = request.next
        free(request)
    free(link.routes)
    link.routes = NULL
    link.route_count = 0
    link.ring = NULL
    link.slots_out -= 1
    if link.slots_out == 0:
        free(link)
