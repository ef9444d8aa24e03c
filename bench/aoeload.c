/* aoeload: a load generator for ATA-over-Ethernet targets, and a reflector that shows its ceiling.
 *
 *   aoeload load [OPTIONS] eSHELF.SLOT@INTERFACE ...   requests in a closed loop; JSON to stdout
 *   aoeload reflect [OPTIONS] INTERFACE ...            answers for every address, without storage
 *
 * Owns: packet sockets, requests in flight, latencies, the contents of what it writes. Must not
 * know: which target answers, namespaces, other runs (bench/run.py does).
 *
 * One thread, one socket for each interface, recvmmsg and sendmmsg. By default it never sleeps,
 * so that it measures the target and not its own waking up: give it a core of its own.
 *
 * Every sector that it writes begins with its own number (64 bits, little-endian), so reads are
 * checked at almost no cost. With --check all, whole sectors carry number, generation and device,
 * and every read must return exactly what the last write of that block had put there.
 *
 * Exit status: 0 done, 1 no answer, error replies, wrong data or requests lost, 2 usage.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    ETHERTYPE_AOE = 0x88a2,
    SECTOR_BYTES = 512,
    SECTOR_WORDS = SECTOR_BYTES / 8,
    HEAD_BYTES = 36,          /* Ethernet, AoE and ATA headers */
    CONFIG_HEAD_BYTES = 32,   /* Ethernet, AoE and config headers */
    FRAME_BYTES_MIN = 60,
    SECTORS_MAX = 255,        /* of one ATA command over AoE */

    COMMAND_ATA = 0,
    COMMAND_CONFIG = 1,
    VERSION_1 = 0x10,
    FLAG_RESPONSE = 0x08,
    FLAG_ERROR = 0x04,
    AFLAG_EXTENDED = 0x40,
    AFLAG_WRITE = 0x01,
    ATA_READ = 0x20,
    ATA_READ_EXT = 0x24,
    ATA_WRITE = 0x30,
    ATA_WRITE_EXT = 0x34,
    ATA_IDENTIFY = 0xec,
    STATUS_READY = 0x40,
    STATUS_BAD = 0x21,        /* ERR or DF */

    LINKS_MAX = 16,
    DEVICES_MAX = 1024,
    DEPTH_MAX = 1024,
    SEQUENCES = 2048,         /* of one slot, until its tags repeat */
    BATCH = 64,               /* frames in one system call */
    RETRIES_MAX = 8,
    RECEIVE_BUFFER_BYTES = 32 << 20,

    SUBBUCKET_BITS = 6,       /* a latency is known to 1/64 */
    SUBBUCKETS = 1 << SUBBUCKET_BITS,
    BUCKETS = (64 - SUBBUCKET_BITS + 1) * SUBBUCKETS,
};

#define US 1000ull
#define MS (1000 * US)
#define S (1000 * MS)
#define SCAN_NS (10 * MS)      /* between looks for requests that are overdue; longest sleep */
#define ASK_NS (20 * MS)       /* between two questions for a device that has not answered */
#define DISCOVERY_NS (20 * S)

struct header {
    uint8_t destination[6], source[6];
    uint16_t ethertype;
    uint8_t flags, error;
    uint16_t shelf;
    uint8_t slot, command;
    uint32_t tag;
    union {
        struct {
            uint8_t aflags, feature, count, status, lba[6], reserved[2];
        } ata;
        struct {
            uint16_t buffers, firmware;
            uint8_t sectors, version, length[2], padding[4];
        } config;
    };
} __attribute__((packed));
_Static_assert(sizeof(struct header) == HEAD_BYTES, "the header is as on the wire");

/* Room for a header and the data of the largest request of this run; see frame_bytes. */
struct link {
    const char *name;
    int fd, mtu_bytes;
    uint8_t mac[6];
    uint8_t *frames;
    struct mmsghdr in[BATCH], out[BATCH];
    struct iovec in_parts[BATCH], out_parts[BATCH][2];
    int queued;
};

struct request {
    struct device *device;
    struct header *frame; /* followed by the data of a write */
    uint64_t block, started_ns, sent_ns;
    uint32_t tag, generation;
    int retries;
    bool active, write;
};

struct device {
    unsigned shelf, slot;
    struct link *link;
    uint8_t mac[6];
    bool found;
    uint64_t sectors, blocks, cursor, random;
    uint32_t *generations; /* of each block, only with --check all */
    bool *busy;            /* a request for the block is in flight, likewise */
    struct request *requests;
    uint64_t completed;
};

enum check { CHECK_NONE, CHECK_NUMBER, CHECK_ALL };

struct job {
    uint64_t duration_ns; /* until then, or 0: every block once, in order */
    int write_percent;
    bool random;
};

static struct {
    int depth, sectors, write_percent;
    bool random, sleeping;
    enum check check;
    uint64_t duration_ns, warmup_ns, timeout_ns, region_sectors, seed;
} options = {
    .depth = 32, .sectors = 2, .random = true, .check = CHECK_NUMBER,
    .duration_ns = 2 * S, .warmup_ns = S / 5, .timeout_ns = S, .seed = 1,
};

static struct {
    uint64_t histogram[BUCKETS], latency_sum_ns, latency_max_ns, completed, elapsed_ns;
    uint64_t polls, empty_polls;
} measured; /* in the measured interval */

static struct {
    uint64_t completed, retransmissions, late, errors, wrong_data, lost;
    char first_trouble[200];
} totals; /* of the whole run */

static struct link links[LINKS_MAX];
static struct device devices[DEVICES_MAX];
static int link_count, device_count, outstanding;
static size_t frame_bytes;
static const uint8_t zeros[SECTORS_MAX * SECTOR_BYTES];

static void __attribute__((noreturn, format(printf, 1, 2))) die(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("aoeload: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    exit(1);
}

static void *allocate(size_t count, size_t size)
{
    size_t bytes = (count * size + 4095) & ~(size_t)4095;
    void *memory = aligned_alloc(4096, bytes);
    if (!memory)
        die("no memory for %zu bytes", bytes);
    return memset(memory, 0, bytes);
}

static uint64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * S + (uint64_t)time.tv_nsec;
}

/* ---- Links ---------------------------------------------------------------------------------- */

/* Frames of one direction only: the flag of a response is bit 3 of byte 14. */
static void open_link(struct link *link, const char *name, bool responses)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 14),
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, FLAG_RESPONSE, responses ? 0 : 1, responses ? 1 : 0),
        BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog filter = {.len = sizeof code / sizeof *code, .filter = code};
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET,
        .sll_protocol = htons(ETHERTYPE_AOE),
        .sll_ifindex = (int)if_nametoindex(name),
    };
    struct ifreq interface = {0};
    int receive_bytes = RECEIVE_BUFFER_BYTES;
    struct timeval patience = {.tv_usec = SCAN_NS / US};

    link->name = name;
    /* Protocol 0: nothing arrives before the filter is in place. */
    link->fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (link->fd < 0)
        die("packet socket: %m; run it as root");
    snprintf(interface.ifr_name, sizeof interface.ifr_name, "%s", name);
    if (address.sll_ifindex == 0 || ioctl(link->fd, SIOCGIFHWADDR, &interface) < 0)
        die("interface %s: %m", name);
    memcpy(link->mac, interface.ifr_hwaddr.sa_data, 6);
    if (ioctl(link->fd, SIOCGIFMTU, &interface) < 0)
        die("MTU of %s: %m", name);
    link->mtu_bytes = interface.ifr_mtu;
    if (setsockopt(link->fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) < 0 ||
        setsockopt(link->fd, SOL_SOCKET, SO_RCVBUFFORCE, &receive_bytes, sizeof receive_bytes) < 0 ||
        setsockopt(link->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
        bind(link->fd, (struct sockaddr *)&address, sizeof address) < 0)
        die("packet socket on %s: %m", name);

    link->frames = allocate(BATCH, frame_bytes);
    for (int i = 0; i < BATCH; i++) {
        link->in_parts[i] = (struct iovec){link->frames + i * frame_bytes, frame_bytes};
        link->in[i].msg_hdr = (struct msghdr){.msg_iov = &link->in_parts[i], .msg_iovlen = 1};
        link->out[i].msg_hdr = (struct msghdr){.msg_iov = link->out_parts[i], .msg_iovlen = 2};
    }
}

static void flush(struct link *link)
{
    for (int sent = 0; sent < link->queued;) {
        int count = sendmmsg(link->fd, link->out + sent, (unsigned)(link->queued - sent), 0);
        if (count > 0)
            sent += count;
        else if (errno == ENOBUFS || errno == EAGAIN)
            sent++; /* as lost as a frame on a wire: whoever needs it asks again */
        else if (errno != EINTR)
            die("sending on %s: %m", link->name);
    }
    link->queued = 0;
}

/* Both parts must stay as they are until the next flush. */
static void enqueue(struct link *link, void *head, size_t head_bytes, const void *data, size_t bytes)
{
    if (link->queued == BATCH)
        flush(link);
    link->out_parts[link->queued][0] = (struct iovec){head, head_bytes};
    link->out_parts[link->queued][1] = (struct iovec){(void *)data, bytes};
    link->queued++;
}

static int receive(struct link *link)
{
    /* With one link, its own call can do the sleeping. */
    int flags = options.sleeping && link_count == 1 ? MSG_WAITFORONE : MSG_DONTWAIT;
    int count = recvmmsg(link->fd, link->in, BATCH, flags, NULL);
    if (count >= 0)
        return count;
    if (errno != EAGAIN && errno != EINTR)
        die("receiving on %s: %m", link->name);
    return 0;
}

static void sleep_until_readable(void)
{
    struct pollfd waits[LINKS_MAX];
    if (!options.sleeping || link_count == 1)
        return;
    for (int i = 0; i < link_count; i++)
        waits[i] = (struct pollfd){.fd = links[i].fd, .events = POLLIN};
    if (poll(waits, (nfds_t)link_count, SCAN_NS / MS) < 0 && errno != EINTR)
        die("poll: %m");
}

/* ---- What is written, and what is read back ------------------------------------------------- */

static uint64_t scramble(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
}

static uint64_t pattern_of(const struct device *device, uint64_t lba, uint64_t generation)
{
    return scramble(lba ^ generation << 40 ^ (uint64_t)(device->shelf << 8 | device->slot) << 16);
}

static void stamp(const struct request *request, uint8_t *data)
{
    for (int i = 0; i < options.sectors; i++, data += SECTOR_BYTES) {
        uint64_t lba = request->block * (uint64_t)options.sectors + (uint64_t)i;
        uint64_t words[SECTOR_WORDS] = {htole64(lba), htole64(request->generation)};
        if (options.check != CHECK_ALL) {
            memcpy(data, words, 2 * sizeof *words);
            continue;
        }
        uint64_t pattern = pattern_of(request->device, lba, request->generation);
        for (uint64_t word = 2; word < SECTOR_WORDS; word++)
            words[word] = pattern + word;
        memcpy(data, words, SECTOR_BYTES);
    }
}

static void __attribute__((format(printf, 3, 4)))
trouble(uint64_t *counter, const struct request *request, const char *format, ...)
{
    if ((*counter)++ || totals.first_trouble[0])
        return;
    va_list arguments;
    int used = snprintf(
        totals.first_trouble, sizeof totals.first_trouble, "e%u.%u %s of sector %llu: ",
        request->device->shelf, request->device->slot, request->write ? "write" : "read",
        (unsigned long long)(request->block * (uint64_t)options.sectors));
    va_start(arguments, format);
    vsnprintf(totals.first_trouble + used, sizeof totals.first_trouble - (size_t)used, format,
              arguments);
    va_end(arguments);
}

static void check_data(const struct request *request, const uint8_t *data)
{
    for (int i = 0; i < options.sectors && options.check != CHECK_NONE; i++, data += SECTOR_BYTES) {
        uint64_t lba = request->block * (uint64_t)options.sectors + (uint64_t)i;
        uint64_t words[SECTOR_WORDS];
        memcpy(words, data, options.check == CHECK_ALL ? SECTOR_BYTES : 2 * sizeof *words);
        if (le64toh(words[0]) != lba) {
            trouble(&totals.wrong_data, request, "sector %llu came back",
                    (unsigned long long)le64toh(words[0]));
            return;
        }
        if (options.check != CHECK_ALL)
            continue;
        uint64_t pattern = pattern_of(request->device, lba, request->generation);
        bool same = le64toh(words[1]) == request->generation;
        for (uint64_t word = 2; word < SECTOR_WORDS; word++)
            same = same && words[word] == pattern + word;
        if (!same) {
            trouble(&totals.wrong_data, request, "generation %llu or torn, instead of %u",
                    (unsigned long long)le64toh(words[1]), request->generation);
            return;
        }
    }
}

/* ---- Discovery ------------------------------------------------------------------------------ */

static struct header header_for(const struct device *device, uint8_t command, uint32_t tag)
{
    struct header header = {
        .ethertype = htons(ETHERTYPE_AOE), .flags = VERSION_1, .shelf = htons((uint16_t)device->shelf),
        .slot = (uint8_t)device->slot, .command = command, .tag = htonl(tag),
    };
    memcpy(header.source, device->link->mac, 6);
    memcpy(header.destination, device->mac, 6);
    return header;
}

/* Tags have bit 31 set (user space's range), then 10 bits of device, 10 of slot, 11 of sequence,
 * which is 0 only in discovery. */
static uint32_t tag_of(const struct device *device, int slot, uint32_t sequence)
{
    return 1u << 31 | (uint32_t)(device - devices) << 21 | (uint32_t)slot << 11 | sequence;
}

static bool is_reply(const struct header *reply, const struct device *device)
{
    return reply->flags & FLAG_RESPONSE && ntohs(reply->shelf) == device->shelf &&
           reply->slot == device->slot;
}

static void discovered(struct device *device, const struct header *reply, size_t bytes)
{
    const uint8_t *identity = (const uint8_t *)reply + HEAD_BYTES;
    if (ntohl(reply->tag) != tag_of(device, 0, 0) || !is_reply(reply, device))
        return;
    if (reply->command == COMMAND_CONFIG && bytes >= CONFIG_HEAD_BYTES) {
        if (reply->config.sectors && reply->config.sectors < options.sectors)
            die("e%u.%u takes %u sectors a request, not %d", device->shelf, device->slot,
                reply->config.sectors, options.sectors);
        memcpy(device->mac, reply->source, 6);
        device->found = true;
    } else if (reply->command == COMMAND_ATA && bytes >= HEAD_BYTES + SECTOR_BYTES &&
               !(reply->flags & FLAG_ERROR) && !(reply->ata.status & STATUS_BAD)) {
        memcpy(&device->sectors, identity + 2 * 100, 8); /* words 100 to 103 */
        device->sectors = le64toh(device->sectors);
    }
}

/* Learn the MAC address and the size of every device. */
static void discover(void)
{
    static struct header questions[DEVICES_MAX];
    uint64_t deadline_ns = now_ns() + DISCOVERY_NS;

    for (;;) {
        struct device *silent = NULL;
        for (struct device *device = devices; device < devices + device_count; device++) {
            struct header *question = &questions[device - devices];
            if (device->sectors)
                continue;
            silent = device;
            *question = header_for(device, device->found ? COMMAND_ATA : COMMAND_CONFIG,
                                   tag_of(device, 0, 0));
            if (device->found) {
                question->ata.count = 1;
                question->ata.status = ATA_IDENTIFY;
            } else {
                memset(question->destination, 0xff, 6);
            }
            enqueue(device->link, question, sizeof *question, zeros, FRAME_BYTES_MIN - HEAD_BYTES);
        }
        if (!silent)
            return;
        if (now_ns() > deadline_ns)
            die("e%u.%u does not answer on %s", silent->shelf, silent->slot, silent->link->name);
        for (int i = 0; i < link_count; i++)
            flush(&links[i]);
        for (uint64_t again_ns = now_ns() + ASK_NS; now_ns() < again_ns;)
            for (int i = 0; i < link_count; i++) {
                int count = receive(&links[i]);
                for (int j = 0; j < count; j++) {
                    struct header *reply = links[i].in_parts[j].iov_base;
                    size_t device = ntohl(reply->tag) >> 21 & (DEVICES_MAX - 1);
                    if (links[i].in[j].msg_len >= CONFIG_HEAD_BYTES && device < (size_t)device_count)
                        discovered(&devices[device], reply, links[i].in[j].msg_len);
                }
            }
    }
}

static void prepare(struct device *device, uint64_t seed)
{
    uint64_t sectors = device->sectors;
    if (options.region_sectors && options.region_sectors < sectors)
        sectors = options.region_sectors;
    device->blocks = sectors / (uint64_t)options.sectors;
    device->random = scramble(seed);
    /* More blocks than requests in flight, or --check all finds none that is free. */
    if (device->blocks <= (uint64_t)options.depth)
        die("e%u.%u: %llu sectors are too few", device->shelf, device->slot,
            (unsigned long long)sectors);
    if (options.check == CHECK_ALL) {
        device->generations = allocate(device->blocks, sizeof *device->generations);
        device->busy = allocate(device->blocks, sizeof *device->busy);
    }
    device->requests = allocate((size_t)options.depth, sizeof *device->requests);
    for (int slot = 0; slot < options.depth; slot++) {
        struct request *request = &device->requests[slot];
        request->device = device;
        request->tag = tag_of(device, slot, 0);
        request->frame = allocate(1, frame_bytes);
    }
}

/* ---- Requests ------------------------------------------------------------------------------- */

static uint64_t next_random(struct device *device)
{
    return scramble(device->random += 0x9e3779b97f4a7c15ull);
}

/* False: there is none left. */
static bool choose_block(struct device *device, const struct job *job, uint64_t *block)
{
    if (!job->duration_ns && device->cursor == device->blocks)
        return false;
    do {
        if (job->random)
            *block = (uint64_t)((unsigned __int128)next_random(device) * device->blocks >> 64);
        else
            *block = device->cursor++ % device->blocks;
    } while (device->busy && device->busy[*block]);
    return true;
}

static void send_request(struct request *request, uint64_t time_ns)
{
    size_t bytes = HEAD_BYTES;
    if (request->write)
        bytes += (size_t)options.sectors * SECTOR_BYTES;
    request->sent_ns = time_ns;
    enqueue(request->device->link, request->frame, bytes, zeros, 0);
}

static void start_request(struct request *request, const struct job *job, uint64_t time_ns)
{
    struct device *device = request->device;
    uint32_t sequence = (request->tag + 1) % SEQUENCES;
    uint64_t lba;

    if (!choose_block(device, job, &request->block))
        return;
    request->write = job->write_percent == 100 ||
                     (job->write_percent && next_random(device) % 100 < (uint64_t)job->write_percent);
    request->tag = request->tag / SEQUENCES * SEQUENCES + (sequence ? sequence : 1);
    request->started_ns = time_ns;
    request->retries = 0;
    request->active = true;
    outstanding++;
    if (device->busy) {
        device->busy[request->block] = true;
        request->generation = device->generations[request->block] + request->write;
    }
    *request->frame = header_for(device, COMMAND_ATA, request->tag);
    request->frame->ata.aflags = AFLAG_EXTENDED | (request->write ? AFLAG_WRITE : 0);
    request->frame->ata.count = (uint8_t)options.sectors;
    request->frame->ata.status = request->write ? ATA_WRITE_EXT : ATA_READ_EXT;
    lba = htole64(request->block * (uint64_t)options.sectors);
    memcpy(request->frame->ata.lba, &lba, sizeof request->frame->ata.lba);
    if (request->write)
        stamp(request, (uint8_t *)(request->frame + 1));
    send_request(request, time_ns);
}

static size_t bucket_of(uint64_t ns)
{
    if (ns < SUBBUCKETS)
        return ns;
    int shift = 63 - __builtin_clzll(ns) - SUBBUCKET_BITS;
    return (size_t)shift * SUBBUCKETS + (ns >> shift);
}

static void record(struct device *device, uint64_t latency_ns)
{
    measured.histogram[bucket_of(latency_ns)]++;
    measured.latency_sum_ns += latency_ns;
    if (latency_ns > measured.latency_max_ns)
        measured.latency_max_ns = latency_ns;
    measured.completed++;
    device->completed++;
}

/* The request that a frame answers, which is over then; NULL if it answers none. */
static struct request *completed(const struct header *reply, size_t bytes)
{
    uint32_t tag = ntohl(reply->tag);
    size_t device = tag >> 21 & (DEVICES_MAX - 1), slot = tag >> 11 & (DEPTH_MAX - 1);

    if (bytes < HEAD_BYTES || device >= (size_t)device_count || slot >= (size_t)options.depth)
        return NULL;
    struct request *request = &devices[device].requests[slot];
    if (!request->active || request->tag != tag || !is_reply(reply, request->device)) {
        totals.late++;
        return NULL;
    }
    request->active = false;
    outstanding--;
    totals.completed++;
    if (reply->flags & FLAG_ERROR)
        trouble(&totals.errors, request, "AoE error %u", reply->error);
    else if (reply->command != COMMAND_ATA || reply->ata.status & STATUS_BAD)
        trouble(&totals.errors, request, "ATA status %#x, error %#x", reply->ata.status,
                reply->ata.feature);
    else if (!request->write && bytes < HEAD_BYTES + (size_t)options.sectors * SECTOR_BYTES)
        trouble(&totals.wrong_data, request, "a reply of %zu bytes", bytes);
    else if (!request->write)
        check_data(request, (const uint8_t *)(reply + 1));
    if (request->device->busy) {
        request->device->busy[request->block] = false;
        request->device->generations[request->block] = request->generation;
    }
    return request;
}

/* Send again what is overdue, under the same tag; false once a request has had enough tries. */
static bool retransmit(uint64_t time_ns)
{
    for (int i = 0; i < device_count * options.depth; i++) {
        struct request *request = &devices[i / options.depth].requests[i % options.depth];
        if (!request->active || time_ns - request->sent_ns < options.timeout_ns)
            continue;
        if (request->retries++ == RETRIES_MAX) {
            trouble(&totals.lost, request, "no reply to %d tries", RETRIES_MAX + 1);
            return false;
        }
        totals.retransmissions++;
        send_request(request, time_ns);
    }
    for (int i = 0; i < link_count; i++)
        flush(&links[i]);
    return true;
}

/* Run one job to its end; nothing is in flight after it, unless a request was lost (false). */
static bool run(const struct job *job)
{
    uint64_t begin_ns = now_ns(), time_ns = begin_ns, scanned_ns = begin_ns;
    bool open = true;

    memset(&measured, 0, sizeof measured);
    for (struct device *device = devices; device < devices + device_count; device++) {
        device->completed = device->cursor = 0;
        for (int slot = 0; slot < options.depth; slot++)
            start_request(&device->requests[slot], job, time_ns);
        flush(device->link);
    }
    while (outstanding) {
        bool empty = true;
        sleep_until_readable();
        for (int i = 0; i < link_count; i++) {
            struct link *link = &links[i];
            int count = receive(link);
            time_ns = now_ns();
            if (open && job->duration_ns && time_ns - begin_ns >= job->duration_ns) {
                open = false;
                measured.elapsed_ns = time_ns - begin_ns;
            }
            empty = empty && count == 0;
            for (int j = 0; j < count; j++) {
                struct request *request = completed(link->in_parts[j].iov_base, link->in[j].msg_len);
                if (!request || !open)
                    continue;
                record(request->device, time_ns - request->started_ns);
                start_request(request, job, time_ns);
            }
            flush(link);
        }
        measured.polls += open;
        measured.empty_polls += open && empty;
        if (time_ns - scanned_ns > SCAN_NS) {
            scanned_ns = time_ns;
            if (!retransmit(time_ns))
                return false;
        }
    }
    if (open)
        measured.elapsed_ns = time_ns - begin_ns;
    return true;
}

/* ---- Report --------------------------------------------------------------------------------- */

static double percentile_us(double percent)
{
    uint64_t wanted = (uint64_t)((double)measured.completed * percent / 100), seen = 0;
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        seen += measured.histogram[bucket];
        if (seen <= wanted)
            continue;
        size_t shift = bucket < 2 * SUBBUCKETS ? 0 : bucket / SUBBUCKETS - 1;
        uint64_t edge_ns = ((bucket - shift * SUBBUCKETS + 1) << shift) - 1;
        return (double)(edge_ns < measured.latency_max_ns ? edge_ns : measured.latency_max_ns) / US;
    }
    return (double)measured.latency_max_ns / US;
}

static void report(void)
{
    double seconds = (double)measured.elapsed_ns / S;
    double rate = seconds > 0 ? (double)measured.completed / seconds : 0;
    double count = measured.completed ? (double)measured.completed : 1;

    printf("{\"seconds\": %.6f, \"requests\": %llu, \"iops\": %.1f, \"mb_per_s\": %.3f,\n", seconds,
           (unsigned long long)measured.completed, rate, rate * options.sectors * SECTOR_BYTES / 1e6);
    printf(" \"mean_us\": %.3f, \"p50_us\": %.3f, \"p90_us\": %.3f, \"p99_us\": %.3f,"
           " \"p99_9_us\": %.3f, \"max_us\": %.3f,\n",
           (double)measured.latency_sum_ns / count / US, percentile_us(50), percentile_us(90),
           percentile_us(99), percentile_us(99.9), (double)measured.latency_max_ns / US);
    printf(" \"empty_polls\": %.4f, \"requests_in_all\": %llu, \"retransmissions\": %llu,"
           " \"late\": %llu,\n",
           measured.polls ? (double)measured.empty_polls / (double)measured.polls : 0,
           (unsigned long long)totals.completed, (unsigned long long)totals.retransmissions,
           (unsigned long long)totals.late);
    printf(" \"errors\": %llu, \"wrong_data\": %llu, \"lost\": %llu, \"first_trouble\": \"%s\",\n"
           " \"devices\": [",
           (unsigned long long)totals.errors, (unsigned long long)totals.wrong_data,
           (unsigned long long)totals.lost, totals.first_trouble);
    for (int i = 0; i < device_count; i++)
        printf("%s\n  {\"device\": \"e%u.%u\", \"interface\": \"%s\", \"requests\": %llu}",
               i ? "," : "", devices[i].shelf, devices[i].slot, devices[i].link->name,
               (unsigned long long)devices[i].completed);
    puts("]}");
}

static bool load(void)
{
    struct job warmup = {options.warmup_ns, options.write_percent, options.random};
    struct job main_job = {options.duration_ns, options.write_percent, options.random};
    struct job fill = {.write_percent = 100}, read_back = {.write_percent = 0};

    discover();
    if (!options.duration_ns)
        return true;
    for (int i = 0; i < device_count; i++)
        prepare(&devices[i], options.seed + (uint64_t)i);
    if (options.check == CHECK_ALL && !run(&fill))
        return false;
    if (options.warmup_ns && !run(&warmup))
        return false;
    if (!run(&main_job))
        return false;
    if (options.check == CHECK_ALL) {
        __typeof__(measured) *kept = allocate(1, sizeof measured);
        uint64_t *counts = allocate(DEVICES_MAX, sizeof *counts);
        *kept = measured;
        for (int i = 0; i < device_count; i++)
            counts[i] = devices[i].completed;
        bool done = run(&read_back);
        measured = *kept;
        for (int i = 0; i < device_count; i++)
            devices[i].completed = counts[i];
        return done;
    }
    return true;
}

/* ---- Reflector ------------------------------------------------------------------------------ */

static void reflect_frame(struct link *link, struct header *frame, size_t bytes,
                          const uint8_t *identity)
{
    const uint8_t *data = zeros;
    size_t head_bytes = HEAD_BYTES, data_bytes = FRAME_BYTES_MIN - HEAD_BYTES;

    if (bytes < CONFIG_HEAD_BYTES || frame->shelf == 0xffff || frame->slot == 0xff)
        return;
    if (frame->command == COMMAND_CONFIG) {
        head_bytes = CONFIG_HEAD_BYTES;
        data_bytes = FRAME_BYTES_MIN - CONFIG_HEAD_BYTES;
        frame->config.buffers = htons(DEPTH_MAX);
        frame->config.firmware = 0;
        frame->config.sectors = (uint8_t)((link->mtu_bytes - (HEAD_BYTES - 14)) / SECTOR_BYTES);
        frame->config.version = 0x10;
        memset(frame->config.length, 0, sizeof frame->config.length);
    } else if (frame->command == COMMAND_ATA && bytes >= HEAD_BYTES) {
        switch (frame->ata.status) {
        case ATA_IDENTIFY:
            data = identity;
            data_bytes = SECTOR_BYTES;
            break;
        case ATA_READ:
        case ATA_READ_EXT:
            data_bytes = (size_t)frame->ata.count * SECTOR_BYTES;
            break;
        case ATA_WRITE:
        case ATA_WRITE_EXT:
            break;
        default:
            return;
        }
        frame->ata.status = STATUS_READY;
        frame->ata.feature = frame->ata.count = 0;
    } else {
        return;
    }
    memcpy(frame->destination, frame->source, 6);
    memcpy(frame->source, link->mac, 6);
    frame->flags |= FLAG_RESPONSE;
    enqueue(link, frame, head_bytes, data, data_bytes);
}

static void __attribute__((noreturn)) reflect(void)
{
    uint64_t sectors = htole64(options.region_sectors);
    uint8_t identity[SECTOR_BYTES] = {0};

    memcpy(identity + 2 * 100, &sectors, sizeof sectors);
    for (;;) {
        sleep_until_readable();
        for (int i = 0; i < link_count; i++) {
            int count = receive(&links[i]);
            for (int j = 0; j < count; j++)
                reflect_frame(&links[i], links[i].in_parts[j].iov_base, links[i].in[j].msg_len,
                              identity);
            if (count)
                flush(&links[i]);
        }
    }
}

/* ---- Command line --------------------------------------------------------------------------- */

static const char USAGE[] =
    "usage: aoeload load [OPTIONS] eSHELF.SLOT@INTERFACE ...\n"
    "       aoeload reflect [--sleep] [--region SECTORS] INTERFACE ...\n"
    "\n"
    "  --depth N            requests in flight, of each device (32)\n"
    "  --sectors N          in a request (2)\n"
    "  --write-percent N    share of writes (0)\n"
    "  --sequential         in order, instead of at random\n"
    "  --region SECTORS     use only so many of a device; the reflector pretends so many (2097152)\n"
    "  --seconds S          measured time (2); 0 only waits until every device answers\n"
    "  --warmup S           time before that (0.2)\n"
    "  --timeout S          until a request is sent again (1)\n"
    "  --seed N             of addresses and of the order of reads and writes (1)\n"
    "  --check LEVEL        none; number: a sector read carries its number (the default); all:\n"
    "                       fill the region first, compare every byte read, read all at the end\n"
    "  --sleep              sleep until something arrives, instead of polling\n";

static void __attribute__((noreturn, format(printf, 1, 2))) usage(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("aoeload: ", stderr);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n\n%s", USAGE);
    exit(2);
}

static double number(const char *name, const char *text, double low, double high)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= low && value <= high))
        usage("--%s %s: not from %g to %g", name, text, low, high);
    return value;
}

static void parse_options(int argc, char **argv)
{
    static const struct option table[] = {
        {"depth", 1, 0, 'd'},    {"sectors", 1, 0, 'n'},      {"write-percent", 1, 0, 'w'},
        {"sequential", 0, 0, 'q'}, {"region", 1, 0, 'r'},     {"seconds", 1, 0, 's'},
        {"warmup", 1, 0, 'u'},   {"timeout", 1, 0, 't'},      {"seed", 1, 0, 'e'},
        {"check", 1, 0, 'c'},    {"sleep", 0, 0, 'p'},        {0},
    };
    for (int option, index; (option = getopt_long(argc, argv, "", table, &index)) != -1;) {
        const char *name = option == '?' ? "" : table[index].name;
        switch (option) {
        case 'd': options.depth = (int)number(name, optarg, 1, DEPTH_MAX); break;
        case 'n': options.sectors = (int)number(name, optarg, 1, SECTORS_MAX); break;
        case 'w': options.write_percent = (int)number(name, optarg, 0, 100); break;
        case 'q': options.random = false; break;
        case 'r': options.region_sectors = (uint64_t)number(name, optarg, 1, 1e15); break;
        case 's': options.duration_ns = (uint64_t)(number(name, optarg, 0, 1e6) * S); break;
        case 'u': options.warmup_ns = (uint64_t)(number(name, optarg, 0, 1e6) * S); break;
        case 't': options.timeout_ns = (uint64_t)(number(name, optarg, 0.001, 1e3) * S); break;
        case 'e': options.seed = (uint64_t)number(name, optarg, 0, 1e15); break;
        case 'p': options.sleeping = true; break;
        case 'c':
            if (!strcmp(optarg, "none"))
                options.check = CHECK_NONE;
            else if (!strcmp(optarg, "number"))
                options.check = CHECK_NUMBER;
            else if (!strcmp(optarg, "all"))
                options.check = CHECK_ALL;
            else
                usage("--check %s: not none, number or all", optarg);
            break;
        default: usage("unknown option, or its value is missing");
        }
    }
    if (optind == argc)
        usage("nothing to work on");
}

static struct link *link_named(const char *name, bool responses)
{
    for (int i = 0; i < link_count; i++)
        if (!strcmp(links[i].name, name))
            return &links[i];
    if (link_count == LINKS_MAX)
        usage("more than %d interfaces", LINKS_MAX);
    open_link(&links[link_count], name, responses);
    return &links[link_count++];
}

static void add_device(char *text)
{
    char *interface = strchr(text, '@'), rest;
    struct device *device = &devices[device_count];

    if (device_count == DEVICES_MAX)
        usage("more than %d devices", DEVICES_MAX);
    if (interface)
        *interface++ = 0;
    if (!interface || sscanf(text, "e%u.%u%c", &device->shelf, &device->slot, &rest) != 2 ||
        device->shelf >= 0xffff || device->slot >= 0xff)
        usage("%s: not eSHELF.SLOT@INTERFACE", text);
    device->link = link_named(interface, true);
    if (device->link->mtu_bytes < HEAD_BYTES - 14 + options.sectors * SECTOR_BYTES)
        usage("%d sectors do not fit the MTU of %s", options.sectors, interface);
    device_count++;
}

int main(int argc, char **argv)
{
    bool reflecting = argc > 1 && !strcmp(argv[1], "reflect");

    if (!reflecting && (argc < 2 || strcmp(argv[1], "load")))
        usage("say load or reflect");
    if (reflecting)
        options.region_sectors = 1 << 21;
    parse_options(--argc, ++argv);
    /* The reflector does not know how long requests will be. */
    frame_bytes = HEAD_BYTES + (size_t)(reflecting ? SECTORS_MAX : options.sectors) * SECTOR_BYTES;
    frame_bytes = (frame_bytes + SECTOR_BYTES + 63) & ~(size_t)63; /* IDENTIFY fits, too */
    for (int i = optind; i < argc; i++)
        if (reflecting)
            link_named(argv[i], false);
        else
            add_device(argv[i]);
    if (reflecting)
        reflect();
    bool finished = load();
    report();
    return !finished || totals.errors || totals.wrong_data || totals.lost;
}
