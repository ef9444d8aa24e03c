# Frames that came to a link and to no device: the last one of each host, the twin of net/strays.py.

cdef void stray(
    Link *link, const uint8_t *frame, uint32_t kept, uint32_t length, int reason
) noexcept nogil:
    # `kept` bytes of it are at `frame`, which is `length` bytes long.
    cdef uint64_t mac
    cdef Stray *places
    cdef Stray *chosen
    cdef int i
    if kept < 12:
        return
    mac = mac_at(&frame[6])
    places = &link.strays[((mac ^ mac >> 17) & (STRAY_SETS - 1)) * STRAY_WAYS]
    chosen = places
    for i in range(STRAY_WAYS):
        if places[i].time_ns and places[i].mac == mac:
            chosen = &places[i]
            break
        if places[i].time_ns < chosen.time_ns:
            chosen = &places[i]
    chosen.time_ns = monotonic_ns(link.engine)
    chosen.mac = mac
    chosen.reason = reason
    chosen.length = length
    memset(chosen.head, 0, HEAD_BYTES)
    memcpy(chosen.head, frame, kept if kept < <uint32_t>HEAD_BYTES else HEAD_BYTES)


cdef inline int stray_reason(Link *link, const uint8_t *frame, bint is_tagged) noexcept nogil:
    # Of what the kernel has shown as another host's: see PlainLink._is_tagged.
    if is_tagged or frame[0] & 1 or mac_at(frame) == link.mac_number:
        link.stats.vlan += 1
        return STRAY_VLAN
    link.stats.foreign_host += 1
    return STRAY_FOREIGN_HOST
