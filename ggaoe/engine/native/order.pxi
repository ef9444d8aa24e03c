# Overlap order, the twin of sched/order.py: active requests stand in the buckets of the bytes that
# they touch. A newer one counts the older ones that it has to wait for, and hears as they leave.

cdef inline bint _conflict(Node *one, Node *other) noexcept nogil:
    # Two requests may share several buckets; they are counted in the first of those.
    cdef Request *a = one.request
    cdef Request *b = other.request
    cdef uint64_t first_a = a.nodes[0].bucket
    cdef uint64_t first_b = b.nodes[0].bucket
    return (
        one.bucket == other.bucket
        and (a.op == WRITE or b.op == WRITE)
        and a.begin < b.end
        and b.begin < a.end
        and one.bucket == (first_a if first_a > first_b else first_b)
    )


cdef void order_granule(Device *device, uint64_t granule, uint64_t origin) noexcept nogil:
    # Nothing is in the order. 255 sectors in whole granules lie in three buckets at most, see Request.nodes:
    # buckets of 64 KiB are enough for granules of a sector, larger ones need 128 KiB and eight granules.
    device.granule = granule
    device.origin = origin
    device.bucket_shift = BUCKET_SHIFT if granule <= 512 else BUCKET_SHIFT + 1
    while <uint64_t>1 << device.bucket_shift < 8 * granule:
        device.bucket_shift += 1


cdef bint order_enter(Device *device, Request *request) noexcept nogil:
    # Take in the newest request; True where it may start at once.
    cdef uint64_t first
    cdef Bucket *bucket
    cdef Node *node
    cdef Node *other
    cdef int i
    request.blockers = 0
    request.node_count = 0
    if request.op == FLUSH:
        return True
    request.begin = (request.offset + device.origin) // device.granule
    request.end = (request.offset + device.origin + request.bytes + device.granule - 1) // device.granule
    request.begin *= device.granule
    request.end *= device.granule
    first = request.begin >> device.bucket_shift
    request.node_count = <int>(((request.end - 1) >> device.bucket_shift) - first + 1)
    for i in range(request.node_count):
        request.nodes[i].request = request
        request.nodes[i].bucket = first + i
    for i in range(request.node_count):
        node = &request.nodes[i]
        bucket = &device.buckets[node.bucket & (BUCKETS - 1)]
        other = bucket.head
        while other != NULL:
            if _conflict(node, other):
                request.blockers += 1
            other = other.next
        node.next = NULL
        node.prev = bucket.tail
        if bucket.tail != NULL:
            bucket.tail.next = node
        else:
            bucket.head = node
        bucket.tail = node
    return request.blockers == 0


cdef void order_leave(Device *device, Request *request) noexcept nogil:
    # Take out a finished request, and make those ready that waited for nobody else.
    cdef Bucket *bucket
    cdef Node *node
    cdef Node *other
    cdef int i
    for i in range(request.node_count):
        node = &request.nodes[i]
        bucket = &device.buckets[node.bucket & (BUCKETS - 1)]
        other = node.next  # all newer ones stand behind it
        while other != NULL:
            if _conflict(node, other):
                other.request.blockers -= 1
                if other.request.blockers == 0:
                    make_ready(device, other.request)
            other = other.next
        if node.prev != NULL:
            node.prev.next = node.next
        else:
            bucket.head = node.next
        if node.next != NULL:
            node.next.prev = node.prev
        else:
            bucket.tail = node.prev
    request.node_count = 0
