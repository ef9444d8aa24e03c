# The ring of a device that is watched, the twin of engine/trace.py.

cdef inline void trace(
    Device *device, Link *link, int64_t time_ns, const uint8_t *frame, uint32_t length
) noexcept nogil:
    cdef Traced *record
    if device.trace == NULL:
        return
    if device.trace.count == TRACED_MAX:
        device.trace.lost += 1
        return
    record = &device.trace.records[device.trace.count]
    device.trace.count += 1
    record.time_ns = time_ns
    record.link_index = link.index
    record.length = length
    memcpy(record.frame, frame, length if length < <uint32_t>SNAP_BYTES else SNAP_BYTES)
