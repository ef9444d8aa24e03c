# Declarations of the C library and of the kernel's interface that the extension uses.

from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int clock_gettime(int clock, timespec *now)
    int nanosleep(const timespec *wanted, timespec *left)
    int CLOCK_MONOTONIC
    int CLOCK_REALTIME

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t
    struct iovec:
        void *iov_base
        size_t iov_len
    struct msghdr:
        void *msg_name
        socklen_t msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags
    struct mmsghdr:
        msghdr msg_hdr
        unsigned int msg_len
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *part)
    unsigned char *CMSG_DATA(cmsghdr *part)
    int recvmmsg(int fd, mmsghdr *messages, unsigned int count, int flags, void *timeout)
    int sendmmsg(int fd, mmsghdr *messages, unsigned int count, int flags)
    int MSG_DONTWAIT
    int MSG_TRUNC
    int SOL_SOCKET
    int getsockopt(int fd, int level, int option, void *value, socklen_t *size)
    int SO_ERROR

cdef extern from "<asm/socket.h>" nogil:
    int SO_TIMESTAMPNS

cdef extern from "<linux/if_packet.h>" nogil:
    struct sockaddr_ll:
        unsigned char sll_pkttype
    struct tpacket_auxdata:
        uint32_t tp_status
        uint32_t tp_len
    struct tpacket2_hdr:
        uint32_t tp_status
        uint32_t tp_len
        uint32_t tp_snaplen
        uint16_t tp_mac
        uint32_t tp_sec
        uint32_t tp_nsec
    size_t TPACKET_ALIGN(size_t size)
    int TP_STATUS_USER
    int TP_STATUS_KERNEL
    int PACKET_OTHERHOST
    int PACKET_AUXDATA
    int TP_STATUS_VLAN_VALID

cdef extern from "<sys/uio.h>" nogil:
    int64_t preadv2(int fd, const iovec *vector, int count, int64_t offset, int flags)
    int64_t pwritev2(int fd, const iovec *vector, int count, int64_t offset, int flags)
    int RWF_NOWAIT

cdef extern from "<unistd.h>" nogil:
    int fdatasync(int fd)
    int64_t read(int fd, void *buffer, size_t size)
    int64_t write(int fd, const void *buffer, size_t size)
    int close(int fd)
    long syscall(long number, ...)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<sys/resource.h>" nogil:
    struct rusage:
        long ru_nvcsw
    int getrusage(int who, rusage *usage)
    int RUSAGE_THREAD

cdef extern from "<fcntl.h>" nogil:
    int posix_fadvise(int fd, int64_t offset, int64_t size, int advice)
    int POSIX_FADV_DONTNEED

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_io_setup
    long SYS_io_destroy
    long SYS_io_submit
    long SYS_io_getevents

cdef extern from "<linux/aio_abi.h>" nogil:
    struct iocb:
        uint64_t aio_data
        uint32_t aio_rw_flags
        uint16_t aio_lio_opcode
        uint32_t aio_fildes
        uint64_t aio_buf
        uint64_t aio_nbytes
        int64_t aio_offset
        uint32_t aio_flags
        uint32_t aio_resfd
    struct io_event:
        uint64_t data
        int64_t res
    int IOCB_CMD_PREADV
    int IOCB_CMD_PWRITEV
    int IOCB_FLAG_RESFD

cdef extern from * nogil:
    """
    /* The mapped ring of completions of Linux AIO (linux fs/aio.c); no header has it. */
    struct aio_ring {
        unsigned id, nr, head, tail;
        unsigned magic, compat_features, incompat_features, header_length;
    };
    #define AIO_RING_MAGIC 0xa10a10a1u
    #define prefetch(place) __builtin_prefetch(place)
    #define load_acquire(place) __atomic_load_n((place), __ATOMIC_ACQUIRE)
    #define store_release(place, value) __atomic_store_n((place), (value), __ATOMIC_RELEASE)
    """
    struct aio_ring:
        uint32_t nr
        uint32_t head
        uint32_t tail
        uint32_t magic
        uint32_t incompat_features
        uint32_t header_length
    uint32_t AIO_RING_MAGIC
    int __builtin_clzll(uint64_t value)
    int __builtin_clz(uint32_t value)
    void prefetch(void *place)
    uint32_t load_acquire(uint32_t *place)
    void store_release(uint32_t *place, uint32_t value)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int ppoll(pollfd *watched, unsigned long count, timespec *timeout, void *mask)
    short POLLIN
    short POLLOUT
    short POLLERR

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t *set)
    int pthread_sigmask(int how, sigset_t *set, sigset_t *old)
    int SIG_SETMASK

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int initial, int flags)
    int EFD_NONBLOCK
    int EFD_CLOEXEC

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    ctypedef struct pthread_condattr_t:
        pass
    int pthread_condattr_init(pthread_condattr_t *attributes)
    int pthread_condattr_setclock(pthread_condattr_t *attributes, int clock)
    int pthread_condattr_destroy(pthread_condattr_t *attributes)
    int pthread_cond_timedwait(pthread_cond_t *condition, pthread_mutex_t *mutex, timespec *until)
    int pthread_create(pthread_t *thread, void *attributes, void *(*run)(void *) noexcept nogil, void *argument)
    int pthread_join(pthread_t thread, void **result)
    int pthread_mutex_init(pthread_mutex_t *mutex, void *attributes)
    int pthread_mutex_lock(pthread_mutex_t *mutex)
    int pthread_mutex_unlock(pthread_mutex_t *mutex)
    int pthread_mutex_destroy(pthread_mutex_t *mutex)
    int pthread_cond_init(pthread_cond_t *condition, void *attributes)
    int pthread_cond_wait(pthread_cond_t *condition, pthread_mutex_t *mutex)
    int pthread_cond_signal(pthread_cond_t *condition)
    int pthread_cond_broadcast(pthread_cond_t *condition)
    int pthread_cond_destroy(pthread_cond_t *condition)

cdef extern from "<errno.h>" nogil:
    int errno
    int EAGAIN, EINTR, EMFILE, EIO, EINVAL, ENOBUFS, EOPNOTSUPP, ENOSYS, EBADMSG, ENODATA, EILSEQ
    int EPERM, EACCES, ENOMEM, ECANCELED, ENOSPC

cdef extern from "<stdlib.h>" nogil:
    int posix_memalign(void **pointer, size_t alignment, size_t size)

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t size, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t size)
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_SHARED

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_io_uring_setup
    long SYS_io_uring_enter
    long SYS_io_uring_register

cdef extern from *:
    """
    #include <linux/io_uring.h>
    /* Headers older than Linux 5.19 lack these. */
    #ifndef IORING_SETUP_COOP_TASKRUN
    #define IORING_SETUP_COOP_TASKRUN (1U << 8)
    #endif
    #ifndef IORING_SETUP_TASKRUN_FLAG
    #define IORING_SETUP_TASKRUN_FLAG (1U << 9)
    #endif
    #ifndef IORING_SQ_TASKRUN
    #define IORING_SQ_TASKRUN (1U << 2)
    #endif
    """

cdef extern from "<linux/io_uring.h>" nogil:
    struct io_sqring_offsets:
        uint32_t head
        uint32_t tail
        uint32_t ring_mask
        uint32_t flags
        uint32_t array
    struct io_cqring_offsets:
        uint32_t head
        uint32_t tail
        uint32_t ring_mask
        uint32_t cqes
    struct io_uring_params:
        uint32_t sq_entries
        uint32_t cq_entries
        uint32_t flags
        uint32_t features
        io_sqring_offsets sq_off
        io_cqring_offsets cq_off
    struct io_uring_sqe:
        uint8_t opcode
        uint8_t flags
        int32_t fd
        uint64_t off
        uint64_t addr
        uint32_t len
        uint64_t user_data
    struct io_uring_cqe:
        uint64_t user_data
        int32_t res
    struct io_uring_files_update:
        uint32_t offset
        uint64_t fds
    struct io_uring_restriction:
        uint16_t opcode
        uint8_t register_op
        uint8_t sqe_op
        uint8_t sqe_flags
    uint64_t IORING_OFF_SQ_RING, IORING_OFF_SQES
    uint32_t IORING_SETUP_CQSIZE, IORING_SETUP_COOP_TASKRUN, IORING_SETUP_TASKRUN_FLAG
    uint32_t IORING_SETUP_R_DISABLED
    uint32_t IORING_FEAT_SINGLE_MMAP, IORING_FEAT_NODROP, IORING_FEAT_SUBMIT_STABLE
    uint32_t IORING_FEAT_NATIVE_WORKERS
    uint32_t IORING_SQ_CQ_OVERFLOW, IORING_SQ_TASKRUN
    long IORING_ENTER_GETEVENTS
    long IORING_REGISTER_EVENTFD, IORING_REGISTER_FILES, IORING_REGISTER_FILES_UPDATE
    long IORING_REGISTER_RESTRICTIONS, IORING_REGISTER_ENABLE_RINGS
    uint16_t IORING_RESTRICTION_REGISTER_OP, IORING_RESTRICTION_SQE_OP
    uint16_t IORING_RESTRICTION_SQE_FLAGS_ALLOWED
    uint8_t IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_READ, IORING_OP_WRITE
    uint8_t IOSQE_FIXED_FILE
