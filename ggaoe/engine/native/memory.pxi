# Links in memory, for tests and simulations: Python delivers frames and collects what was sent.

cdef bint receive_delivered(Link *link) noexcept nogil:
    cdef Request *request
    cdef uint32_t before = link.received_count
    while link.delivered_head != NULL and link.received_count < BATCH:
        request = link.delivered_head
        link.delivered_head = request.next
        link.delivered_count -= 1
        link.stats.rx_frames += 1
        link.stats.rx_bytes += request.length
        link.received[link.received_count] = request
        link.received_count += 1
    if link.received_count > before:
        link.stats.rx_batches += 1
    return link.received_count == BATCH


cdef void transmit_in_memory(Link *link) noexcept nogil:
    # As sendmmsg does it: in order, as long as there is room.
    cdef Request *request
    cdef uint64_t before = link.stats.tx_frames
    while link.send_head != NULL:
        if link.room_frames == 0:
            link.stats.tx_held += 1
            pause(link)
            break
        request = link.send_head
        link.send_head = request.next
        if link.send_head == NULL:
            link.send_tail = NULL
        link.send_count -= 1
        link.pause_ns = 0
        if HEAD_BYTES + request.send_bytes > link.frame_bytes_max:
            link.stats.tx_refused += 1
            slot_free(request)
            continue
        link.room_frames -= link.room_frames > 0
        request.next = NULL
        if link.sent_head == NULL:
            link.sent_head = request
        else:
            link.sent_tail.next = request
        link.sent_tail = request
        link.stats.tx_frames += 1
        link.stats.tx_bytes += HEAD_BYTES + request.send_bytes
    if link.stats.tx_frames > before:
        link.stats.tx_batches += 1


cdef void drop_chain(Request *request) noexcept nogil:
    cdef Request *following
    while request != NULL:
        following = request.next
        slot_free(request)
        request = following
