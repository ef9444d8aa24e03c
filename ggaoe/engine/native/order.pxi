# Overlap order, the twin of sched/order.py. For each granule that active requests touch, a cell counts
# those that hold it (readers, or one writer) and queues those that have to wait for these, in order
# of arrival. A request may start when it waits at none of its granules. What one request costs does
# not depend on how many others there are.

cdef void order_granule(Device *device, uint64_t granule, uint64_t origin) noexcept nogil:
    # Nothing is in the order.
    device.granule = granule
    device.origin = origin


cdef inline uint64_t hash_of(Engine *engine, uint64_t key) noexcept nogil:
    # In its highest bits. Nobody outside can find keys that meet: the seed is another one each time.
    key *= engine.seed
    key ^= key >> 32
    return key * engine.seed


cdef inline Cell **_cell_chain(Device *device, uint64_t number) noexcept nogil:
    return &device.cells[hash_of(device.engine, number) >> CHAIN_SHIFT]


cdef inline Cell *_cell_at(Device *device, uint64_t number) noexcept nogil:
    # NULL where no active request touches it.
    cdef Cell *cell = _cell_chain(device, number)[0]
    while cell != NULL and cell.number != number:
        cell = cell.next
    return cell


cdef inline int _first_in(Cell *cell, Request *request) noexcept nogil:
    cdef uint64_t begin = cell.number * CELL_GRANULES
    return <int>(request.begin - begin) if request.begin > begin else 0


cdef inline int _end_in(Cell *cell, Request *request) noexcept nogil:
    cdef uint64_t granules = request.end - cell.number * CELL_GRANULES
    return <int>granules if granules < CELL_GRANULES else CELL_GRANULES


cdef bint order_prepare(Device *device, Request *request) noexcept nogil:
    # Find the granules of `request`; False where there is no memory for what order_enter may need.
    cdef Engine *engine = device.engine
    cdef uint64_t cells, granules
    cdef void *memory
    cdef Cell *cell
    cdef Waiter *waiter
    if request.op == FLUSH:  # it overlaps with nothing
        request.begin = request.end = 0
        return True
    request.begin = (request.offset + device.origin) // device.granule
    request.end = (
        request.offset + device.origin + request.bytes + device.granule - 1
    ) // device.granule
    granules = request.end - request.begin
    cells = granules // CELL_GRANULES + 2
    while engine.free_cell_count < cells:
        if posix_memalign(&memory, LINE_BYTES, sizeof(Cell)) != 0:
            return False
        cell = <Cell *>memory
        cell.next = engine.free_cells
        engine.free_cells = cell
        engine.free_cell_count += 1
    while engine.free_waiter_count < granules:
        waiter = <Waiter *>malloc(sizeof(Waiter))
        if waiter == NULL:
            return False
        _free_waiter(engine, waiter)
    return True


cdef bint order_enter(Device *device, Request *request) noexcept nogil:
    # Take in the newest request, which is prepared; True where it may start at once.
    cdef uint64_t number = request.begin // CELL_GRANULES
    cdef Cell *cell
    cdef int i
    request.blockers = 0
    while number * CELL_GRANULES < request.end:
        cell = _cell_at(device, number)
        if cell == NULL:
            cell = _new_cell(device, number)
            for i in range(_first_in(cell, request), _end_in(cell, request)):
                cell.holders[i] = WRITER if request.op == WRITE else 1
        else:
            for i in range(_first_in(cell, request), _end_in(cell, request)):
                if not _takes(cell, i, request):
                    request.blockers += 1
                    _wait(device.engine, cell, i, request)
        cell.requests += 1
        number += 1
    return request.blockers == 0


cdef inline bint _takes(Cell *cell, int i, Request *request) noexcept nogil:
    # Hold a granule, unless somebody is in the way.
    if cell.waited >> i & 1 or cell.holders[i] < 0 or request.op == WRITE and cell.holders[i] > 0:
        return False
    if request.op == WRITE:
        cell.holders[i] = WRITER
    else:
        cell.holders[i] += 1
    return True


cdef inline void _wait(Engine *engine, Cell *cell, int i, Request *request) noexcept nogil:
    cdef Waiter *waiter = engine.free_waiters
    engine.free_waiters = waiter.next
    engine.free_waiter_count -= 1
    waiter.request = request
    if cell.waited >> i & 1:
        waiter.next = cell.newest[i].next
        cell.newest[i].next = waiter
    else:
        waiter.next = waiter
        cell.waited |= <uint32_t>1 << i
    cell.newest[i] = waiter


cdef Cell *_new_cell(Device *device, uint64_t number) noexcept nogil:
    cdef Engine *engine = device.engine
    cdef Cell **chain = _cell_chain(device, number)
    cdef Cell *cell = engine.free_cells
    engine.free_cells = cell.next
    engine.free_cell_count -= 1
    memset(cell.holders, 0, sizeof(cell.holders))
    cell.number = number
    cell.requests = 0
    cell.waited = 0
    cell.next = chain[0]
    chain[0] = cell
    return cell


cdef inline void _free_cell(Engine *engine, Cell **place) noexcept nogil:
    cdef Cell *cell = place[0]
    place[0] = cell.next
    cell.next = engine.free_cells
    engine.free_cells = cell
    engine.free_cell_count += 1


cdef inline void _free_waiter(Engine *engine, Waiter *waiter) noexcept nogil:
    waiter.next = engine.free_waiters
    engine.free_waiters = waiter
    engine.free_waiter_count += 1


cdef void order_leave(Device *device, Request *request) noexcept nogil:
    # Take out a finished request, and make those ready that waited for nobody else, oldest first.
    cdef uint64_t number = request.begin // CELL_GRANULES
    cdef Cell **place
    cdef Cell *cell
    cdef Request *freed = NULL
    cdef Request *following
    cdef int i
    while number * CELL_GRANULES < request.end:
        place = _cell_chain(device, number)
        while place[0].number != number:
            place = &place[0].next
        cell = place[0]
        if cell.requests == 1:  # nobody else touches it
            _free_cell(device.engine, place)
        else:
            cell.requests -= 1
            for i in range(_first_in(cell, request), _end_in(cell, request)):
                cell.holders[i] = 0 if request.op == WRITE else cell.holders[i] - 1
                if cell.holders[i] == 0 and cell.waited >> i & 1:
                    freed = _in_order(freed, _grant(device.engine, cell, i))
        number += 1
    while freed != NULL:
        following = freed.next
        make_ready(device, freed)
        freed = following


cdef Request *_grant(Engine *engine, Cell *cell, int i) noexcept nogil:
    # The oldest of those that wait at a granule hold it now: a writer, or all readers before the next
    # one. Returns those that wait nowhere else, oldest first.
    cdef Waiter *newest = cell.newest[i]
    cdef Waiter *oldest
    cdef Request *request
    cdef Request *freed = NULL
    cdef Request **last = &freed
    cell.waited &= ~(<uint32_t>1 << i)
    while True:
        oldest = newest.next
        request = oldest.request
        if not _takes(cell, i, request):
            cell.waited |= <uint32_t>1 << i
            break
        request.blockers -= 1
        if request.blockers == 0:
            last[0] = request
            last = &request.next
        newest.next = oldest.next
        _free_waiter(engine, oldest)
        if oldest == newest:
            break
    last[0] = NULL
    return freed


cdef Request *_in_order(Request *one, Request *other) noexcept nogil:
    # Two lists in order of arrival as one.
    cdef Request *first = NULL
    cdef Request **last = &first
    while one != NULL and other != NULL:
        if one.sequence < other.sequence:
            last[0] = one
            one = one.next
        else:
            last[0] = other
            other = other.next
        last = &last[0].next
    last[0] = one if one != NULL else other
    return first


cdef void order_moved(Device *device, Request *before, Request *request) noexcept nogil:
    # The newest request, `before`, is now `request`.
    cdef uint64_t number = request.begin // CELL_GRANULES
    cdef Cell *cell
    cdef int i
    if request.blockers == 0:
        return
    while number * CELL_GRANULES < request.end:
        cell = _cell_at(device, number)
        for i in range(_first_in(cell, request), _end_in(cell, request)):
            if cell.waited >> i & 1 and cell.newest[i].request == before:
                cell.newest[i].request = request
        number += 1


cdef void order_clear(Device *device) noexcept nogil:
    # Forget every request.
    cdef Cell *cell
    cdef Waiter *oldest
    cdef Waiter *following
    cdef int chain, i
    for chain in range(CHAINS):
        while device.cells[chain] != NULL:
            cell = device.cells[chain]
            for i in range(CELL_GRANULES):
                if cell.waited >> i & 1:
                    oldest = cell.newest[i].next
                    cell.newest[i].next = NULL
                    while oldest != NULL:
                        following = oldest.next
                        _free_waiter(device.engine, oldest)
                        oldest = following
            _free_cell(device.engine, &device.cells[chain])
