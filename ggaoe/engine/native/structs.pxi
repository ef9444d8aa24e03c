# The layout of everything that lives per frame, per request, per device and per link.

cdef enum:
    BATCH = 64                       # frames per link and turn
    HEAD_BYTES = 36
    PAGE_BYTES = 4096
    PADDING_BYTES = 24               # the shortest Ethernet frame has 60
    CONTROL_BYTES = 128
    LINE_BYTES = 64
    CELL_GRANULES = 16
    WRITER = -1                      # the holder of a granule
    CHAINS = 4096                    # of the tables of tags and of cells
    CHAIN_SHIFT = 52                 # 64 less the bits of a chain's number
    SOURCES = 256                    # chains of the table of hosts
    SOURCES_SHIFT = 56
    SOURCES_MAX = 256                # hosts remembered per device
    MEMBERS_MAX = 32
    VECTOR_BYTES_MAX = 1 << 20
    SLOTS_KEPT_MAX = 2048            # per link, ready for reuse
    SENDS_HELD_MAX = 16384
    WORKERS_MAX = 8                  # threads per device for reads, and as many for direct writes
    FAILURES_KEPT_MAX = 64
    AIO_EVENTS = 1024
    WAITING_BYTES_MAX = 64 << 20     # these and the next ones as in sched/queue.py
    WAITING_BYTES_PER_SOURCE_MAX = 8 << 20
    WAITING_BYTES_TOTAL_MAX = 256 << 20
    WAITING_BYTES_PER_DEVICE_MIN = 1 << 20
    WAITING_PER_SOURCE_MIN = 256
    WAITING_PER_BUFFER = 4
    REQUEST_BYTES = PAGE_BYTES
    SHORT_KEPT_MAX = 4096            # short slots of an engine, ready for reuse
    LINKS_MAX = 256
    SUBMIT_MAX = 64                  # vectors in one io_submit
    SPIN_IN_FLIGHT_MAX = 4           # vectors at the disk beside which waiting actively pays
    SPIN_BATCH_MAX = 8               # requests that have come or gone in a turn, likewise
    CARRIERS_MAX = 16                # threads: the leader, the watcher, those that a store holds up
    STALL_NS = 1000000               # a call that takes longer is waited for by nobody else
    CAREFUL_TIMES = 10               # for so many times as long its device writes by worker threads
    STARVED_NS = 10000000            # between attempts to receive where memory is short
    STOP_LOOKS_MAX = 20              # at a call of a store that has begun before the end, one each STALL_NS
    READ_BUDGET_NS = 20000           # what offloading a read costs, about
    LONE_READ_BUDGET_NS = 50000      # where no other request of its device could use the time
    READ_DEBT_HIGH_NS = 320000       # from here on a device's reads are offloaded, until it is 0
    READ_DEBT_MAX_NS = 20000000      # what reads that no other device had to wait for add up to
    STALL_TIMES = 100                # so many times as much a read adds that stalled the engine
    STALL_DEBT_MAX_NS = 1000000000
    AWAY_NS_MAX = 50000              # a thread that spins and is away longer has met somebody else
    REST_TIMES = 100                 # so many times as long it does not spin
    REST_NS_MAX = 1000000000
    TOLD_S = 30                      # as in sched/commit.py
    SEND_PAUSE_NS_MIN = 100000       # after ENOBUFS, of which no descriptor tells the end
    SEND_PAUSE_NS_MAX = 1000000      # as long as nothing leaves, each pause is twice the last one
    REFUSED_NS_MAX = 20000000        # as REFUSED_S_MAX in net/plain.py has it
    SLOW_FRAMES_MAX = 32768          # short ones that wait for Python; the newest is dropped
    SLOW_REFUSED_MAX = 128           # beside them, what is refused, so that it keeps nobody else out
    SHORT_BYTES = 64                 # such a frame waits in a slot of its own size
    LONG_AS_SHORT = 32               # as so many short ones counts a frame that is longer
    SLOW_FRAMES_PER_CALL = 64
    ADDRESSED = 0xFFFFFFFF
    LATENCY_SHIFT_MIN = 10
    LATENCY_SHIFT_MAX = 34
    LATENCY_BUCKETS = 97
    SIZE_BUCKETS = 8
    SNAP_BYTES = 60
    NANO = 1000000000
    TRACED_MAX = 4096
    STRAY_SETS = 64                  # hosts remembered per link whose frames came to no device
    STRAY_WAYS = 4                   # in each set; of those the oldest gives way

cdef enum Op:
    READ = 0
    WRITE = 1
    FLUSH = 2
    VERIFY = 3
    COMMIT = 4                       # in failures only: the flush that answers writes

cdef enum:                           # limits of a device
    LIMIT_IOPS = 0
    LIMIT_BANDWIDTH = 1
    LIMIT_INITIATOR_IOPS = 2
    LIMIT_INITIATOR_BANDWIDTH = 3
    LIMITS = 4

ctypedef struct Rate:                # of requests or bytes
    int64_t per_s                    # 0: there is no limit
    int64_t burst                    # in billionths

ctypedef struct Meter:               # what has been used of one rate, in billionths
    int64_t owed
    int64_t since_ns

ctypedef struct Request:
    uint8_t *head                    # 36 bytes, followed by `data`
    uint8_t *data                    # page-aligned, the link's payload size
    uint32_t length                  # bytes of the received frame
    Link *link
    Device *device
    Source *source
    uint64_t mac
    int64_t arrival_ns
    int64_t received_ns
    uint64_t sequence
    int op
    bint is_refused                  # by every device that it is for, or by what a host is
    uint32_t only_for                # shelf and slot of the one device that is to have it; ADDRESSED: as its head says
    bint is_short                    # no slot of its link's: head and data have SHORT_BYTES
    Request *buffer                  # the slot that a short READ or VERIFY uses while it has started
    bint started
    uint64_t ready_number
    int lost                         # errno of a flush that failed while this write was under way,
                                     # or this FLUSH waited
    uint32_t blockers                # granules at which it waits
    uint64_t offset
    uint32_t bytes
    uint32_t verified                # bytes of a VERIFY that have been read
    uint64_t begin                   # in granules
    uint64_t end
    Request *tag_next
    Request *active_next
    Request *active_prev
    Request *next                    # in whichever one list it stands: ready, joined, sending, free
    uint32_t send_bytes              # data behind the head

ctypedef struct Waiter:              # a request that waits at one granule
    Request *request
    Waiter *next                     # the next newer one; of the newest: the oldest

ctypedef struct Cell:                # granules in a row
    int32_t holders[16]              # readers, or WRITER
    Cell *next                       # in its chain
    uint64_t number
    uint32_t requests                # active ones that touch it
    uint32_t waited                  # bits of those granules at which requests wait
    Waiter *newest[16]               # of these

cdef enum:                           # which requests are dropped of those that have not started
    DROP_NONE = 0
    DROP_LOCKED_OUT = 1              # those of hosts that a reservation locks out
    DROP_ALL = 2

cdef enum:                           # what became of a request
    UNDER_WAY = 0
    ANSWERED = 1
    FAILED = 2
    NO_ROOM = 3
    NOT_STARTED = 4
    LOCKED_OUT = 5

ctypedef struct Sighting:            # the last request of a host
    int64_t time_ns                  # 0: there was none
    uint64_t sequence                # 0: it was not taken in
    int link_index
    uint32_t length                  # of the frame
    int fate
    int error
    uint8_t head[36]

cdef enum:                           # why a frame came to no device
    STRAY_VLAN = 0
    STRAY_FOREIGN_HOST = 1
    STRAY_TRUNCATED = 2
    STRAY_STALE = 3
    STRAY_SLOW_FULL = 4
    STRAY_ADDRESS = 5
    STRAY_RATE_LIMITED = 6

ctypedef struct Stray:
    int64_t time_ns                  # 0: this place is free
    uint64_t mac
    int reason
    uint32_t length                  # of the whole frame
    uint8_t head[36]

ctypedef struct Source:
    uint64_t mac
    Source *next                     # in its chain
    Source *turn_next                # in the round of those that have something ready, or parked
    int64_t parked_until_ns
    Meter meters[2]
    Request *ready_head
    Request *ready_tail
    uint64_t waiting_bytes
    uint32_t waiting
    uint32_t active
    int link_index
    int64_t last_seen_ns
    int64_t told_seen_ns             # what Python knows of it
    uint32_t told_active
    uint64_t read_requests
    uint64_t read_bytes
    uint64_t write_requests
    uint64_t write_bytes
    uint64_t other_requests
    uint64_t errors
    uint64_t absorbed
    uint64_t waits
    uint64_t throttled
    uint64_t dropped
    bint has_written                 # and was answered from the cache
    int lost                         # errno of a flush that should have saved such a write
    int64_t lost_told_ns             # 0: it has not heard of it yet
    Sighting last

ctypedef struct Vector:
    Device *device
    int op
    int count
    uint32_t done_bytes
    uint64_t bytes
    int64_t result
    bint is_timed                    # a read that does not know RWF_NOWAIT
    bint is_alone                    # nothing else of its device was in flight when it started
    bint has_stalled                 # the watchdog made another thread the leader meanwhile
    int64_t blocked_ns               # how long such a read was blocked
    Request *members[32]
    iovec parts[32]
    iocb control
    Vector *next

ctypedef struct Vectors:
    Vector *head
    Vector *tail

ctypedef struct Pool:
    pthread_mutex_t lock
    pthread_cond_t wanted
    Vector *head
    Vector *tail
    Engine *engine
    int threads_max
    int threads
    int idle
    bint stopping
    pthread_t thread[8]

ctypedef struct Failure:
    int op
    int error
    uint64_t mac
    uint64_t sector
    uint32_t sectors

ctypedef struct Stats:
    uint64_t read_requests
    uint64_t read_bytes
    uint64_t read_ns
    uint64_t write_requests
    uint64_t write_bytes
    uint64_t write_ns
    uint64_t verify_requests
    uint64_t flush_requests
    uint64_t flush_ns
    uint64_t merged_requests
    uint64_t vectors
    uint64_t batches
    uint64_t in_flight_sum
    uint64_t waits
    uint64_t throttled
    uint64_t overlaps
    uint64_t absorbed
    uint64_t commits
    uint64_t retries
    uint64_t ata_errors
    uint64_t queue_full

ctypedef struct Histograms:
    uint64_t read_latency[97]
    uint64_t write_latency[97]
    uint64_t flush_latency[97]
    uint64_t read_sectors[8]
    uint64_t write_sectors[8]

ctypedef struct Traced:
    int64_t time_ns
    int link_index
    uint32_t length                  # of the whole frame
    uint8_t frame[60]

ctypedef struct Trace:
    uint32_t count
    uint64_t lost
    Traced records[4096]

cdef enum:                           # lists of a device
    LIST_ACCEPT = 0
    LIST_DENY = 1
    LIST_MASK = 2
    LIST_RESERVED = 3
    LIST_READ = 4
    LIST_WRITE = 5
    LIST_DISCOVER = 6
    LIST_CHANGE = 7
    LISTS = 8

ctypedef struct MacSet:
    bint others                      # whether those are permitted that are not in it
    uint32_t count
    uint64_t *macs                   # ascending

ctypedef struct Device:
    Engine *engine
    void *owner                      # its CoreDevice
    bint serving
    bint suspended                   # what is taken in waits for the next store
    bint is_attached
    bint is_given_up                 # what is still under way is not to be answered any more
    bint by_python                   # no file: vectors are Python's to carry out
    bint fast                        # frames need not pass through Python
    uint32_t shelf
    uint32_t slot
    int fd
    int uring_file                   # the ring's name for `fd`; -1: it has none
    int64_t file_offset
    bint direct
    bint nowait                      # AIO may be used
    bint tries_cache
    uint64_t granule
    uint64_t origin
    uint64_t size_bytes
    uint32_t queue_length
    int64_t max_delay_ns
    int64_t merge_delay_ns
    int stalled                      # calls that hold up a carrier
    int64_t careful_until_ns
    int64_t read_debt_ns             # see pace.pxi
    bint offloads_reads
    bint is_limited
    Rate limits[4]
    Meter meters[2]
    bint is_holding                  # in the engine's list, until wake_ns
    int64_t wake_ns                  # of what is ready nothing starts before, if there is room
    Device *holding_next
    bint write_cache
    bint read_only
    bint has_more_to_verify          # a VERIFY has had a piece, and not its last
    uint64_t verify_turn             # of the engine, in which that was so last: no more starts in it
    bint has_operation_lists         # LIST_READ or LIST_WRITE refuses somebody
    MacSet lists[8]
    Request *active_head
    Request *active_tail
    uint32_t active_count
    uint32_t in_flight
    Request *tags[4096]
    Cell *cells[4096]
    Source *sources[256]
    uint32_t source_count
    bint forgot_writer               # a host with has_written is not in `sources` any more
    int forgotten_lost               # errno of a flush that should have saved such a host's writes
    Source *turn_head
    Source *turn_tail
    Source *parked_head              # outside the round: they have used up their own limits
    Source *parked_tail
    uint64_t ready_number
    uint64_t throttled_number        # who became ready with this or a lower one was delayed by limits
    uint32_t ready_count
    uint64_t waiting_bytes
    int64_t hold_until_ns
    Request *joined_head
    Request *joined_tail
    Request *covered
    bint flushing
    uint64_t flushes                 # begun
    uint64_t wrote                   # as many had when a write was answered last from the cache
    uint64_t stable                  # of what was answered before so many it is known if it is saved
    Vector *again
    bint is_active
    Device *active_next_device
    Pool readers
    Pool writers
    Pool flushers
    Stats stats
    Histograms histograms
    Trace *trace                     # NULL: nobody watches
    Failure failures[64]
    uint32_t failure_count
    uint64_t failures_lost
    bint medium_failed

ctypedef struct Route:
    uint32_t address                 # shelf and slot
    Device *device

ctypedef struct LinkStats:
    uint64_t rx_frames
    uint64_t rx_bytes
    uint64_t rx_batches
    uint64_t tx_frames
    uint64_t tx_bytes
    uint64_t tx_batches
    uint64_t tx_held
    uint64_t vlan
    uint64_t foreign_host
    uint64_t truncated
    uint64_t tx_refused
    uint64_t stale
    uint64_t replies_held
    uint64_t slow_full
    uint64_t address
    uint64_t rate_limited

ctypedef struct Link:
    Engine *engine
    int fd
    int index
    bint is_open
    uint8_t mac[6]
    uint64_t mac_number
    uint32_t sectors_max
    uint32_t payload_bytes
    uint32_t slots_out               # with short ones
    uint32_t short_out
    uint32_t slots_kept
    Request *free
    Request *received[64]
    uint32_t received_first          # before it they have been dispatched
    uint32_t received_count
    bint is_drained
    bint in_memory                   # no socket: see memory.pxi
    uint32_t frame_bytes_max
    int64_t room_frames              # -1: any number
    Request *delivered_head
    Request *delivered_tail
    uint32_t delivered_count
    Request *sent_head
    Request *sent_tail
    uint8_t *ring                    # mapped; NULL: recvmmsg
    uint32_t slot_bytes
    uint32_t slots_per_block
    uint32_t block_bytes
    uint32_t ring_slots
    uint32_t ring_at
    mmsghdr messages[64]
    iovec parts[64]
    sockaddr_ll names[64]
    uint8_t control[64][128]
    Request *slots[64]
    mmsghdr send_messages[64]
    iovec send_parts[64]
    Request *send_head
    Request *send_tail
    uint32_t send_count
    bint is_full                     # the send buffer; the descriptor becomes writable
    int64_t paused_until_ns          # the device had no room; 0: it has
    int64_t pause_ns                 # how long the last such pause was; 0: frames have left since
    int64_t refused_since_ns         # the first of send_head, which it may never take; 0: it was not
    Route *routes
    uint32_t route_count
    Rate wildcard_rate               # of transfers to devices by wildcard
    Meter wildcards
    Rate refused_rate                # of refused requests on their way to Python
    Meter refused
    LinkStats stats
    Stray strays[256]                # STRAY_SETS * STRAY_WAYS
    Link *next

ctypedef struct Carrier:
    Engine *engine
    pthread_t thread
    bint is_held_up
    int64_t held_up_ns               # since when another one leads
    long switches                    # voluntary ones of this thread, where it has not slept since
    bint has_slept

ctypedef struct Engine:
    pthread_mutex_t gate             # so that whoever waits for `lock` gets it next
    pthread_mutex_t lock             # of everything here, and of all devices and links
    pthread_cond_t watch
    pthread_cond_t spare
    Carrier carriers[16]
    int carrier_count
    int held_up                      # of them
    Carrier *leader
    Carrier *watcher
    bint watcher_sleeps
    bint stopping
    uint64_t turns
    uint64_t stores                  # calls of stores by the leader so far
    Device *in_store                 # whose call goes on
    Vectors inlined                  # reads and writes that the leader does itself
    Vectors prepared                 # for io_submit
    Vectors for_python
    Link *links
    Device *active_devices
    Device *holding
    Request *slow_head
    Request *slow_tail
    uint32_t slow_count              # of them that are not refused, in terms of short ones
    uint32_t slow_refused            # and that are
    bint attention                   # Python has something else to look after
    bint has_newcomers               # such as hosts that it has not heard of
    int64_t starved_until_ns         # memory was short: no frame is received before; 0: it was not
    bint left_behind                 # a thread that a store holds up, and that nobody waits for
    bint is_fenced                   # Python wants to know when requests finish
    bint is_told                     # Python knows
    uint64_t seed                    # of the hash tables; odd
    Vector *free_vectors
    Cell *free_cells
    uint64_t free_cell_count
    Waiter *free_waiters
    uint64_t free_waiter_count
    Request *free_short
    uint32_t short_kept
    uint64_t waiting_bytes           # of all devices
    uint64_t sequence
    uint64_t finished
    int64_t told_monotonic_ns        # without threads: what time it is; 0: ask the kernel
    int64_t told_real_ns
    int64_t stale_age_ns
    int64_t busy_poll_ns             # how long to wait actively for the next frame
    bint is_alone                    # there is but one processor
    bint has_error                   # a socket has an error to be taken
    int event_fd                     # wakes the leader; completions do, too
    int python_fd                    # wakes Python
    uint64_t aio
    int aio_in_flight
    Uring *uring                     # for what is direct, in place of AIO; NULL: not used
    int with_workers                 # vectors that threads have, or have done
    pthread_mutex_t done_lock
    Vector *done_head
    Vector *done_tail
