# Buckets of durations and sizes, the twin of engine/histogram.py.

cdef inline int latency_bucket(int64_t duration_ns) noexcept nogil:
    cdef int shift
    if duration_ns < 1 << LATENCY_SHIFT_MIN:
        return 0
    shift = 61 - __builtin_clzll(<uint64_t>duration_ns)
    if shift + 2 >= LATENCY_SHIFT_MAX:
        return LATENCY_BUCKETS - 1
    return (shift + 2 - LATENCY_SHIFT_MIN) * 4 + <int>(duration_ns >> shift & 3)


cdef inline int size_bucket(uint32_t sectors) noexcept nogil:
    cdef int bucket = 0 if sectors <= 1 else 32 - __builtin_clz(sectors - 1)
    return bucket if bucket < SIZE_BUCKETS else SIZE_BUCKETS - 1


def latency_bucket_of(int64_t duration_ns):
    return latency_bucket(duration_ns)


def size_bucket_of(uint32_t sectors):
    return size_bucket(sectors)
