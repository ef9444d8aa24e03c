# Frames in and out of one packet socket, in batches; which of them need no Python. They come in by a
# ring that the kernel shares with us, or where there is none by recvmmsg.

cdef Request *slot_new(Link *link) noexcept nogil:
    # A request with its buffer, NULL where there is no memory. The request is at the beginning of a
    # page, the frame's head at its end, and the data in the following ones.
    cdef Request *request = link.free
    cdef void *pages
    if request != NULL:
        link.free = request.next
        link.slots_kept -= 1
    else:
        if posix_memalign(&pages, PAGE_BYTES, PAGE_BYTES + link.payload_bytes) != 0:
            return NULL
        request = <Request *>pages
        request.data = <uint8_t *>pages + PAGE_BYTES
        request.head = request.data - HEAD_BYTES
        request.link = link
    link.slots_out += 1
    request.send_bytes = 0
    request.is_short = False
    request.only_for = ADDRESSED
    request.buffer = NULL
    request.next = NULL
    return request


cdef Request *slot_of_its_size(Request *request) noexcept nogil:
    # What waits for Python may be many frames, most of them short: such a one moves to a slot that
    # is no larger than it has to be. `request` itself where it is long, or memory is short.
    cdef Request *short = request
    if request.length <= SHORT_BYTES:
        short = shortened(request)
    if short != request:
        slot_free(request)
    return short


cdef Request *shortened(Request *request) noexcept nogil:
    # The same request in a short slot, with as much of its frame as fits; it itself where memory is
    # short.
    cdef Engine *engine = request.link.engine
    cdef Request *short = engine.free_short
    if short != NULL:
        engine.free_short = short.next
        engine.short_kept -= 1
    else:
        short = <Request *>malloc(sizeof(Request) + SHORT_BYTES)
        if short == NULL:
            return request
    memcpy(short, request, sizeof(Request))
    short.head = <uint8_t *>short + sizeof(Request)
    short.data = short.head + HEAD_BYTES
    short.is_short = True
    memcpy(short.head, request.head, min(request.length, <uint32_t>SHORT_BYTES))
    short.link.slots_out += 1
    short.link.short_out += 1
    return short


cdef bint take_buffer(Request *request) noexcept nogil:
    # Give a short request, which starts, a slot of its link's for its data; False where memory is
    # short.
    cdef Request *buffer
    if not request.is_short or request.buffer != NULL:
        return True
    buffer = slot_new(request.link)
    if buffer == NULL:
        return False
    memcpy(buffer.head, request.head, HEAD_BYTES)
    request.head = buffer.head
    request.data = buffer.data
    request.buffer = buffer
    return True


cdef void return_buffer(Request *request) noexcept nogil:
    # The reverse: it waits again.
    cdef Request *buffer = request.buffer
    if buffer == NULL:
        return
    request.buffer = NULL
    request.head = <uint8_t *>request + sizeof(Request)
    request.data = request.head + HEAD_BYTES
    slot_free(buffer)


cdef inline uint32_t slow_weight(Request *request) noexcept nogil:
    return 1 if request.is_short else LONG_AS_SHORT


cdef void slot_free(Request *request) noexcept nogil:
    cdef Link *link = request.link
    cdef Engine *engine = link.engine
    if request.buffer != NULL:
        slot_free(request.buffer)
        request.buffer = NULL
    link.slots_out -= 1
    if request.is_short:
        link.short_out -= 1
        if engine.short_kept < SHORT_KEPT_MAX:
            request.next = engine.free_short
            engine.free_short = request
            engine.short_kept += 1
            request = NULL
    elif link.is_open and link.slots_kept < SLOTS_KEPT_MAX:
        request.next = link.free
        link.free = request
        link.slots_kept += 1
        request = NULL
    free(request)
    if not link.is_open and link.slots_out == 0:
        free(link)


cdef inline uint64_t mac_at(const uint8_t *bytes) noexcept nogil:
    return (
        <uint64_t>bytes[0] << 40 | <uint64_t>bytes[1] << 32 | <uint64_t>bytes[2] << 24
        | <uint64_t>bytes[3] << 16 | <uint64_t>bytes[4] << 8 | <uint64_t>bytes[5]
    )


cdef bint holds(MacSet *macs, uint64_t mac) noexcept nogil:
    cdef uint32_t low = 0
    cdef uint32_t high = macs.count
    cdef uint32_t middle
    while low < high:
        middle = (low + high) // 2
        if macs.macs[middle] < mac:
            low = middle + 1
        else:
            high = middle
    return low < macs.count and macs.macs[low] == mac


cdef inline bint permits(MacSet *macs, uint64_t mac) noexcept nogil:
    if macs.count == 0:
        return macs.others
    return holds(macs, mac) != macs.others


cdef Route *route_of(Link *link, uint32_t address) noexcept nogil:
    cdef uint32_t low = 0
    cdef uint32_t high = link.route_count
    cdef uint32_t middle
    while low < high:
        middle = (low + high) // 2
        if link.routes[middle].address < address:
            low = middle + 1
        else:
            high = middle
    if low < link.route_count and link.routes[low].address == address:
        return &link.routes[low]
    return NULL


cdef inline Device *routed(Link *link, uint32_t address) noexcept nogil:
    cdef Route *route = route_of(link, address)
    return route.device if route != NULL else NULL


cdef bint receive(Link *link, int64_t began_ns) noexcept nogil:
    # Fill up `received`; False where the socket has given all it had.
    link.received_count -= link.received_first
    if link.received_first and link.received_count:
        memmove(
            &link.received[0],
            &link.received[link.received_first],
            link.received_count * sizeof(Request *),
        )
    link.received_first = 0
    if link.in_memory:
        return receive_delivered(link)
    return receive_by_ring(link) if link.ring != NULL else receive_by_call(link, began_ns)


cdef void starve(Engine *engine) noexcept nogil:
    # Memory is short: ask again in a while, not at once and for ever.
    engine.starved_until_ns = monotonic_ns(engine) + STARVED_NS


cdef bint receive_by_ring(Link *link) noexcept nogil:
    cdef tpacket2_hdr *slot
    cdef tpacket2_hdr *following = slot_at(link, link.ring_at)
    cdef uint32_t before = link.received_count
    cdef bint more = True
    while link.received_count < BATCH:
        slot = following
        following = slot_at(link, link.ring_at + 1)
        prefetch(following)  # another processor has just written it
        prefetch(<uint8_t *>following + 64)
        if not load_acquire(&slot.tp_status) & TP_STATUS_USER:
            more = False
            break
        if not take_slot(link, slot):
            starve(link.engine)
            break
        store_release(&slot.tp_status, TP_STATUS_KERNEL)
        link.ring_at += 1
        if link.ring_at == link.ring_slots:
            link.ring_at = 0
    if link.received_count > before:
        link.stats.rx_batches += 1
    return more


cdef inline tpacket2_hdr *slot_at(Link *link, uint32_t at) noexcept nogil:
    if at == link.ring_slots:
        at = 0
    return <tpacket2_hdr *>(
        link.ring
        + <size_t>(at // link.slots_per_block) * link.block_bytes
        + <size_t>(at % link.slots_per_block) * link.slot_bytes
    )


cdef bint take_slot(Link *link, tpacket2_hdr *slot) noexcept nogil:
    # Copied, so that the ring never waits for a disk. False where memory is short.
    cdef Request *request
    cdef uint8_t *frame = <uint8_t *>slot + slot.tp_mac
    cdef sockaddr_ll *name = <sockaddr_ll *>(<uint8_t *>slot + TPACKET_ALIGN(sizeof(tpacket2_hdr)))
    cdef uint32_t length = slot.tp_snaplen
    cdef bint is_tagged = slot.tp_status & TP_STATUS_VLAN_VALID
    if is_tagged or name.sll_pkttype >= PACKET_OTHERHOST:
        stray(link, frame, length, slot.tp_len, stray_reason(link, frame, is_tagged))
    elif length < slot.tp_len or length > HEAD_BYTES + link.payload_bytes:
        link.stats.truncated += 1
        stray(link, frame, length, slot.tp_len, STRAY_TRUNCATED)
    else:
        request = slot_new(link)
        if request == NULL:
            return False
        memcpy(request.head, frame, length)
        request.length = length
        request.arrival_ns = <int64_t>slot.tp_sec * 1000000000 + slot.tp_nsec
        link.stats.rx_frames += 1
        link.stats.rx_bytes += length
        link.received[link.received_count] = request
        link.received_count += 1
    return True


cdef bint receive_by_call(Link *link, int64_t began_ns) noexcept nogil:
    cdef int wanted = BATCH - <int>link.received_count
    cdef int i, count
    cdef msghdr *message
    for i in range(wanted):
        if link.slots[i] == NULL:
            link.slots[i] = slot_new(link)
            if link.slots[i] == NULL:
                if i == 0:
                    starve(link.engine)
                wanted = i
                break
        link.parts[i].iov_base = link.slots[i].head
        link.parts[i].iov_len = HEAD_BYTES + link.payload_bytes
        message = &link.messages[i].msg_hdr
        message.msg_name = &link.names[i]
        message.msg_namelen = sizeof(sockaddr_ll)
        message.msg_iov = &link.parts[i]
        message.msg_iovlen = 1
        message.msg_control = link.control[i]
        message.msg_controllen = CONTROL_BYTES
        message.msg_flags = 0
    if wanted <= 0:
        return True  # there may be more, for which there is no room
    count = recvmmsg(link.fd, link.messages, wanted, MSG_DONTWAIT, NULL)
    if count <= 0:
        return False
    link.stats.rx_batches += 1
    for i in range(count):
        take_frame(link, i, began_ns)
    return count == wanted


cdef void take_frame(Link *link, int i, int64_t began_ns) noexcept nogil:
    cdef Request *request = link.slots[i]
    cdef msghdr *message = &link.messages[i].msg_hdr
    cdef cmsghdr *part = CMSG_FIRSTHDR(message)
    cdef timespec stamp
    cdef tpacket_auxdata auxiliary
    cdef uint32_t length = link.messages[i].msg_len
    cdef uint32_t whole_length = length
    cdef uint32_t status = 0
    cdef bint is_tagged
    request.arrival_ns = began_ns
    while part != NULL:
        if part.cmsg_level == SOL_SOCKET and part.cmsg_type == SO_TIMESTAMPNS:
            memcpy(&stamp, CMSG_DATA(part), sizeof(stamp))
            request.arrival_ns = <int64_t>stamp.tv_sec * 1000000000 + stamp.tv_nsec
        elif part.cmsg_type == PACKET_AUXDATA:
            memcpy(&auxiliary, CMSG_DATA(part), sizeof(auxiliary))
            status = auxiliary.tp_status
            whole_length = auxiliary.tp_len
        part = CMSG_NXTHDR(message, part)
    is_tagged = status & TP_STATUS_VLAN_VALID
    if is_tagged or link.names[i].sll_pkttype >= PACKET_OTHERHOST:
        stray(link, request.head, length, length, stray_reason(link, request.head, is_tagged))
    elif message.msg_flags & MSG_TRUNC:
        link.stats.truncated += 1
        stray(link, request.head, length, whole_length, STRAY_TRUNCATED)
    else:
        request.length = length
        link.stats.rx_frames += 1
        link.stats.rx_bytes += request.length
        link.received[link.received_count] = request
        link.received_count += 1
        link.slots[i] = NULL


cdef void dispatch(Engine *engine, Link *link, Request *request, int64_t now_ns) noexcept nogil:
    # A flawless READ, WRITE, VERIFY or FLUSH goes to its device's queue, everything else to Python.
    cdef Device *device = flawless(link, request)
    if device != NULL:
        trace(device, link, request.arrival_ns, request.head, request.length)
        if not arrive(device, request, now_ns):
            slot_free(request)
        return
    if is_for_nobody(link, request):
        link.stats.address += 1
        drop(request, STRAY_ADDRESS)
    elif is_sound(link, request) and is_wildcard(request.head) and (
        is_transfer(request.head, request.length)
    ):
        spread(engine, link, request, now_ns)
    else:
        leave_to_python(engine, request, is_refused(link, request), now_ns)


cdef void drop(Request *request, int reason) noexcept nogil:
    stray(request.link, request.head, request.length, request.length, reason)
    slot_free(request)


cdef void spread(Engine *engine, Link *link, Request *request, int64_t now_ns) noexcept nogil:
    # A transfer by wildcard: each device that it is for has a frame of its own, in its place among
    # the others. A short frame leads to many replies, so that there is a limit.
    cdef Route *route
    cdef Request *copy
    cdef uint32_t i
    cdef int64_t count = 0
    for i in range(link.route_count):
        count += matches(request.head, link.routes[i].address)
    if count == 0:
        link.stats.address += 1
        drop(request, STRAY_ADDRESS)
        return
    if free_ns(&link.wildcards, &link.wildcard_rate, count, now_ns) > now_ns:
        link.stats.rate_limited += 1
        drop(request, STRAY_RATE_LIMITED)
        return
    link.wildcards.owed += count * NANO
    for i in range(link.route_count):
        route = &link.routes[i]
        if not matches(request.head, route.address):
            continue
        copy = slot_new(link)
        if copy == NULL:
            break
        memcpy(copy.head, request.head, request.length)
        copy.length = request.length
        copy.arrival_ns = request.arrival_ns
        copy.only_for = route.address
        if not is_flawless(link, route.device, copy):
            leave_to_python(
                engine, copy, refuses(route.device, mac_at(&copy.head[6]), copy.head, copy.length),
                now_ns,
            )
            continue
        trace(route.device, link, copy.arrival_ns, copy.head, copy.length)
        if not arrive(route.device, copy, now_ns):
            slot_free(copy)
    slot_free(request)


cdef void leave_to_python(
    Engine *engine, Request *request, bint refused, int64_t now_ns
) noexcept nogil:
    # Of what is refused Python has only some: it can lead to nothing but errors.
    cdef Link *link = request.link
    request.is_refused = refused
    if (
        engine.slow_refused >= SLOW_REFUSED_MAX
        or free_ns(&link.refused, &link.refused_rate, 1, now_ns) > now_ns
        if refused
        else engine.slow_count >= SLOW_FRAMES_MAX
    ):
        link.stats.slow_full += 1
        drop(request, STRAY_SLOW_FULL)
        return
    request = slot_of_its_size(request)
    request.next = NULL
    if engine.slow_tail != NULL:
        engine.slow_tail.next = request
    else:
        engine.slow_head = request
    engine.slow_tail = request
    if refused:
        link.refused.owed += NANO
        engine.slow_refused += 1
    else:
        engine.slow_count += slow_weight(request)


cdef bint is_for_nobody(Link *link, Request *request) noexcept nogil:
    # True for a request from somebody else to an address that is not known here: a flood of them
    # must not come to Python.
    return (
        is_sound(link, request)
        and not is_wildcard(request.head)
        and route_of(link, address_at(request.head)) == NULL
    )


cdef inline bint is_sound(Link *link, Request *request) noexcept nogil:
    # A request, and from somebody else. What an address of nobody asks for, or a loop, holds up
    # nobody.
    cdef uint8_t *head = request.head
    cdef uint64_t mac
    if request.length < 24 or head[12] != 0x88 or head[13] != 0xA2 or head[14] & 0x08:
        return False
    mac = mac_at(&head[6])
    return not head[6] & 1 and (mac != link.mac_number or mac == 0)


cdef bint is_refused(Link *link, Request *request) noexcept nogil:
    # True where it is certain that Python queues it nowhere: all it may lead to is an answer. Where it
    # is a transfer, Python must not queue it later, either, when what has come after it may be done.
    cdef uint8_t *head = request.head
    cdef uint64_t mac
    cdef uint32_t i
    if not is_sound(link, request):
        return True
    mac = mac_at(&head[6])
    if not is_wildcard(head):
        return refuses(route_of(link, address_at(head)).device, mac, head, request.length)
    for i in range(link.route_count):
        if matches(head, link.routes[i].address) and (
            not refuses(link.routes[i].device, mac, head, request.length)
        ):
            return False
    return True


cdef inline bint matches(const uint8_t *head, uint32_t address) noexcept nogil:
    # Whether the frame, which is for several devices, is for the one at `address`, too.
    return (head[18] == 0xFF or head[18] == <uint8_t>address) and (
        head[16] == 0xFF and head[17] == 0xFF or address >> 8 == address_at(head) >> 8
    )


cdef bint refuses(Device *device, uint64_t mac, const uint8_t *head, uint32_t length) noexcept nogil:
    # Whether `device` refuses what is not flawless, as far as lists and kinds of requests tell.
    cdef uint8_t opcode
    if (
        not permits(&device.lists[LIST_ACCEPT], mac)
        or not permits(&device.lists[LIST_DENY], mac)
        or not permits(&device.lists[LIST_MASK], mac)
    ):
        return True
    if not is_transfer(head, length):
        return not permits(&device.lists[LIST_DISCOVER], mac) or (
            is_change(head, length) and not permits(&device.lists[LIST_CHANGE], mac)
        )
    opcode = head[27]
    return (
        not device.serving
        or not permits(&device.lists[LIST_RESERVED], mac)
        or not permits(&device.lists[LIST_READ if is_reading(opcode) else LIST_WRITE], mac)
        or is_writing(opcode) and is_wildcard(head)
        # A device that takes flawless frames here would have taken it.
        or device.fast
    )


cdef inline bint is_wildcard(const uint8_t *head) noexcept nogil:
    return head[18] == 0xFF or head[16] == 0xFF and head[17] == 0xFF


cdef inline uint32_t address_at(const uint8_t *head) noexcept nogil:
    return <uint32_t>head[16] << 16 | <uint32_t>head[17] << 8 | head[18]


cdef inline bint is_transfer(const uint8_t *head, uint32_t length) noexcept nogil:
    return (
        length >= HEAD_BYTES and head[14] & 0xF0 == 0x10 and head[19] == 0
        and (
            is_reading(head[27]) or is_writing(head[27]) or head[27] == 0xE7 or head[27] == 0xEA
        )
    )


cdef inline bint is_reading(uint8_t opcode) noexcept nogil:
    return (
        opcode == 0x24 or opcode == 0x20 or opcode == 0x25 or opcode == 0xC8 or is_verifying(opcode)
    )


cdef inline bint is_verifying(uint8_t opcode) noexcept nogil:
    return opcode == 0x40 or opcode == 0x42


cdef inline bint is_writing(uint8_t opcode) noexcept nogil:
    return opcode == 0x34 or opcode == 0x30 or opcode == 0x35 or opcode == 0xCA


cdef inline bint is_change(const uint8_t *head, uint32_t length) noexcept nogil:
    # Of config string, mask list or reservation (proto/operation.py).
    if length < HEAD_BYTES:
        return False
    return (
        head[19] == 1 and (head[29] & 0x0F == 3 or head[29] & 0x0F == 4)
        or head[19] == 2 and head[25] == 1
        or head[19] == 3 and (head[24] == 1 or head[24] == 2)
    )


cdef Device *flawless(Link *link, Request *request) noexcept nogil:
    # The device that it is for, whose every check it passes; NULL where there is none.
    cdef Device *device
    if request.length < HEAD_BYTES:
        return NULL
    device = routed(link, address_at(request.head))
    return device if device != NULL and is_flawless(link, device, request) else NULL


cdef bint is_flawless(Link *link, Device *device, Request *request) noexcept nogil:
    # Whether `request` passes every check of `device` (proto/target.py); its fields are set then.
    cdef uint8_t *head = request.head
    cdef uint64_t sector
    cdef uint32_t sectors
    cdef uint8_t opcode
    if head[12] != 0x88 or head[13] != 0xA2:
        return False
    if head[14] & 0xF8 != 0x10 or head[19] != 0 or head[6] & 1:
        return False
    request.mac = mac_at(&head[6])
    if request.mac == link.mac_number and request.mac != 0:
        return False
    if not device.serving or not device.fast:
        return False
    if (
        not permits(&device.lists[LIST_ACCEPT], request.mac)
        or not permits(&device.lists[LIST_DENY], request.mac)
        or not permits(&device.lists[LIST_MASK], request.mac)
        or not permits(&device.lists[LIST_RESERVED], request.mac)
    ):
        return False
    opcode = head[27]
    if opcode == 0x24 or opcode == 0x20 or opcode == 0x25 or opcode == 0xC8:
        request.op = READ
    elif opcode == 0x34 or opcode == 0x30 or opcode == 0x35 or opcode == 0xCA:
        request.op = WRITE
    elif opcode == 0xE7 or opcode == 0xEA:
        request.op = FLUSH
    elif is_verifying(opcode):
        request.op = VERIFY
    else:
        return False
    if device.has_operation_lists and not permits(
        &device.lists[LIST_READ if request.op == READ or request.op == VERIFY else LIST_WRITE],
        request.mac,
    ):
        return False
    if request.op == FLUSH:
        request.offset = 0
        request.bytes = 0
        return True
    sectors = head[26]
    sector = (
        <uint64_t>head[28] | <uint64_t>head[29] << 8 | <uint64_t>head[30] << 16
        | <uint64_t>head[31] << 24
    )
    if opcode == 0x20 or opcode == 0x30 or opcode == 0xC8 or opcode == 0xCA or opcode == 0x40:
        sector &= 0x0FFFFFFF
    else:
        sector |= <uint64_t>head[32] << 32 | <uint64_t>head[33] << 40
    request.offset = sector * 512
    request.bytes = sectors * 512
    if sectors == 0 or request.offset + request.bytes > device.size_bytes:
        return False
    if request.op == READ:
        return sectors <= link.sectors_max
    if request.op == VERIFY:
        return True
    return (
        not device.read_only
        and request.length >= HEAD_BYTES + request.bytes
        and not is_wildcard(head)
    )


cdef void queue_send(Link *link, Request *request) noexcept nogil:
    if not link.is_open or link.send_count >= SENDS_HELD_MAX:
        if link.is_open:
            link.stats.replies_held += 1
        slot_free(request)
        return
    request.next = NULL
    if link.send_tail != NULL:
        link.send_tail.next = request
    else:
        link.send_head = request
    link.send_tail = request
    link.send_count += 1


cdef void transmit(Link *link) noexcept nogil:
    # Send what is queued, until the kernel has no more room for it.
    cdef int count, i, sent
    cdef Request *request
    cdef msghdr *message
    link.is_full = False
    link.paused_until_ns = 0
    if link.in_memory:
        transmit_in_memory(link)
        return
    while link.send_head != NULL:
        count = 0
        request = link.send_head
        while request != NULL and count < BATCH:
            link.send_parts[count].iov_base = request.head
            link.send_parts[count].iov_len = HEAD_BYTES + request.send_bytes
            message = &link.send_messages[count].msg_hdr
            memset(message, 0, sizeof(msghdr))
            message.msg_iov = &link.send_parts[count]
            message.msg_iovlen = 1
            count += 1
            request = request.next
        sent = sendmmsg(link.fd, link.send_messages, count, MSG_DONTWAIT)
        if sent < 0:
            if errno == EAGAIN:
                link.stats.tx_held += 1
                link.is_full = True
                return
            if errno == ENOBUFS and may_be_full(link):
                link.stats.tx_held += 1
                pause(link)
                return
            link.stats.tx_refused += 1
            release_sent(link)
            continue
        link.stats.tx_batches += 1
        for i in range(sent):
            link.stats.tx_frames += 1
            link.stats.tx_bytes += link.send_messages[i].msg_len
            release_sent(link)


cdef void pause(Link *link) noexcept nogil:
    # Nothing tells when the device has room again: the next attempt comes after a while.
    link.pause_ns = min(<int64_t>SEND_PAUSE_NS_MAX, max(<int64_t>SEND_PAUSE_NS_MIN, 2 * link.pause_ns))
    link.paused_until_ns = monotonic_ns(link.engine) + link.pause_ns


cdef bint may_be_full(Link *link) noexcept nogil:
    # Whether the device may soon have room for the first frame.
    cdef int64_t now_ns = monotonic_ns(link.engine)
    if link.refused_since_ns == 0:
        link.refused_since_ns = now_ns
    return now_ns - link.refused_since_ns < REFUSED_NS_MAX


cdef inline void release_sent(Link *link) noexcept nogil:
    cdef Request *request = link.send_head
    link.refused_since_ns = 0
    link.pause_ns = 0
    link.send_head = request.next
    if link.send_head == NULL:
        link.send_tail = NULL
    link.send_count -= 1
    slot_free(request)


cdef bint concerns_no_other(Link *link, Request *request) noexcept nogil:
    # Whether no link that may have more frames serves the device that `request` is for.
    cdef Link *other = link.engine.links
    while other != NULL:
        if other != link and not other.is_drained and (
            request.length < HEAD_BYTES
            or is_wildcard(request.head)
            or route_of(other, address_at(request.head)) != NULL
        ):
            return False
        other = other.next
    return True


cdef bint receive_all(Engine *engine) noexcept nogil:
    # Frames of all links in order of arrival, as far as it is certain: what came after the turn's
    # beginning waits for the next, and so does what is newer than the last one taken from a link
    # that has more than one turn's worth and serves the same device. True where frames are left.
    cdef int64_t began_ns = real_ns(engine)
    cdef int64_t horizon_ns = began_ns
    cdef int64_t newest_ns, now_ns
    cdef Link *link
    cdef Link *oldest
    cdef Request *request
    cdef int64_t oldest_ns = 0
    cdef uint32_t i
    cdef bint several = engine.links != NULL and engine.links.next != NULL
    cdef bint more = False
    link = engine.links
    if engine.starved_until_ns and engine.starved_until_ns <= monotonic_ns(engine):
        engine.starved_until_ns = 0
    while link != NULL:
        link.is_drained = engine.starved_until_ns == 0 and not receive(link, began_ns)
        if not link.is_drained:
            more = True
        if several and link.received_count > link.received_first:
            newest_ns = real_ns(engine)
            i = link.received_count
            while i > link.received_first:  # a clock that was set back must not turn the order around
                i -= 1
                if link.received[i].arrival_ns > newest_ns:
                    link.received[i].arrival_ns = newest_ns
                newest_ns = link.received[i].arrival_ns
            newest_ns = link.received[link.received_count - 1].arrival_ns
            if not link.is_drained and newest_ns < horizon_ns:
                horizon_ns = newest_ns
        link = link.next
    now_ns = monotonic_ns(engine)
    while True:
        oldest = NULL
        link = engine.links
        while link != NULL:
            if link.received_first < link.received_count:
                request = link.received[link.received_first]
                if (oldest == NULL or request.arrival_ns < oldest_ns) and (
                    not several
                    or request.arrival_ns <= horizon_ns
                    or request.arrival_ns <= began_ns and concerns_no_other(link, request)
                ):
                    oldest = link
                    oldest_ns = request.arrival_ns
            link = link.next
        if oldest == NULL:
            break
        while oldest.received_first < oldest.received_count:
            request = oldest.received[oldest.received_first]
            oldest.received_first += 1
            if request.arrival_ns < began_ns - engine.stale_age_ns:
                oldest.stats.stale += 1
                stray(oldest, request.head, request.length, request.length, STRAY_STALE)
                slot_free(request)
            else:
                dispatch(engine, oldest, request, now_ns)
            if several:
                break
    link = engine.links
    while link != NULL:
        more = more or link.received_first < link.received_count
        link = link.next
    return more
