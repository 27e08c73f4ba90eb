/* An instance of io_uring that rests, with whatever a program can have left in it. */
#include "common.h"

#include <linux/io_uring.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>

struct ring {
    int fd;
    _Atomic uint32_t *sq_tail, *cq_head, *cq_tail;
    uint32_t *sq_mask, *cq_mask;
    struct io_uring_sqe *sqes;
    struct io_uring_cqe *cqes;
    /* The program's own counts. */
    uint32_t queued, seen;
};

static struct ring make_ring(unsigned entries) {
    struct io_uring_params params = {.flags = IORING_SETUP_CQSIZE, .cq_entries = 4 * entries};
    struct ring ring = {.fd = (int)syscall(SYS_io_uring_setup, entries, &params)};
    if (ring.fd < 0)
        skip("io_uring_setup: %s", strerror(errno));
    size_t size = params.sq_off.array + params.sq_entries * sizeof(uint32_t);
    char *rings = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring.fd, IORING_OFF_SQ_RING);
    ASSURE(rings != MAP_FAILED);
    ring.sqes = mmap(NULL, params.sq_entries * sizeof *ring.sqes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
                     ring.fd, IORING_OFF_SQES);
    ASSURE(ring.sqes != MAP_FAILED);
    ring.sq_tail = (void *)(rings + params.sq_off.tail);
    ring.sq_mask = (void *)(rings + params.sq_off.ring_mask);
    ring.cq_head = (void *)(rings + params.cq_off.head);
    ring.cq_tail = (void *)(rings + params.cq_off.tail);
    ring.cq_mask = (void *)(rings + params.cq_off.ring_mask);
    ring.cqes = (void *)(rings + params.cq_off.cqes);
    uint32_t *array = (void *)(rings + params.sq_off.array);
    for (uint32_t i = 0; i < params.sq_entries; i++)
        array[i] = i;
    return ring;
}

/* Queues a request; user_data counts. */
static struct io_uring_sqe *queue(struct ring *ring, int opcode) {
    struct io_uring_sqe *sqe = &ring->sqes[ring->queued & *ring->sq_mask];
    *sqe = (struct io_uring_sqe){.opcode = (uint8_t)opcode, .user_data = ring->queued};
    *ring->sq_tail = ++ring->queued;
    return sqe;
}

static long submit(struct ring *ring, unsigned count) {
    return syscall(SYS_io_uring_enter, ring->fd, count, 0, 0, NULL, 0);
}

/* The next completion must be there, and must be the next. */
static bool completed(struct ring *ring) {
    if (*ring->cq_tail == ring->seen)
        return false;
    struct io_uring_cqe cqe = ring->cqes[ring->seen & *ring->cq_mask];
    *ring->cq_head = ring->seen + 1;
    return cqe.user_data == ring->seen++ && cqe.res == 0;
}

/* A child that has the same instance: whoever asks, the next completion is the next. */
static int sharer(void *pointer) {
    struct ring *ring = pointer;
    await_go();
    CHECK(fcntl(ring->fd, F_GETFD) >= 0);
    CHECK(*ring->sq_mask == 7);
    return 0;
}

TARGET(io_uring) {
    struct ring ring = make_ring(8), unused = make_ring(256);
    for (int i = 0; i < 1003; i++) {
        queue(&ring, IORING_OP_NOP);
        ASSURE(submit(&ring, 1) == 1);
        if (i < 1000)
            ASSURE(completed(&ring));
    }
    /* Three completions that nobody has looked at, and two requests that nobody has submitted. */
    queue(&ring, IORING_OP_NOP);
    queue(&ring, IORING_OP_NOP);
    pid_t pid = child(sharer, &ring);
    ready();
    await_go();
    CHECK(*ring.sq_tail == ring.queued);
    CHECK(*ring.cq_head == ring.seen);
    CHECK(*ring.cq_tail == 1003);
    for (int i = 0; i < 3; i++)
        CHECK(completed(&ring));
    CHECK(!completed(&ring));
    CHECK(submit(&ring, 8) == 2);
    CHECK(completed(&ring) && completed(&ring));
    /* It still does what it is asked for. */
    int epoll = MUST(epoll_create1(EPOLL_CLOEXEC)), event = MUST(eventfd(1, EFD_CLOEXEC));
    struct epoll_event wanted = {.events = EPOLLIN, .data.u32 = 7}, got;
    struct io_uring_sqe *sqe = queue(&ring, IORING_OP_EPOLL_CTL);
    sqe->fd = epoll;
    sqe->off = (uint64_t)event;
    sqe->len = EPOLL_CTL_ADD;
    sqe->addr = (uintptr_t)&wanted;
    CHECK(submit(&ring, 1) == 1);
    CHECK(completed(&ring));
    CHECK(epoll_wait(epoll, &got, 1, 0) == 1 && got.data.u32 == 7);
    for (int i = 0; i < 100; i++) {
        queue(&unused, IORING_OP_NOP);
        CHECK(submit(&unused, 1) == 1 && completed(&unused));
    }
    expect_exit(pid, 0);
    return done();
}

/* One that its thread knows by another number. */
TARGET(registered_io_uring) {
    struct ring ring = make_ring(8);
    struct io_uring_rsrc_update update = {.offset = ~0U, .data = (uint64_t)ring.fd};
    if (syscall(SYS_io_uring_register, ring.fd, IORING_REGISTER_RING_FDS, &update, 1) != 1)
        skip("IORING_REGISTER_RING_FDS: %s", strerror(errno));
    queue(&ring, IORING_OP_NOP);
    ready();
    await_go();
    CHECK(syscall(SYS_io_uring_enter, update.offset, 1, 0, IORING_ENTER_REGISTERED_RING, NULL, 0) == 1);
    CHECK(completed(&ring));
    return done();
}

/* One with something under way that is no business of a checkpoint. */
TARGET(busy_io_uring) {
    struct ring ring = make_ring(8);
    int event = MUST(eventfd(0, EFD_CLOEXEC));
    uint64_t value = 0;
    struct io_uring_sqe *sqe = queue(&ring, IORING_OP_READ);
    sqe->fd = event;
    sqe->addr = (uintptr_t)&value;
    sqe->len = sizeof value;
    ASSURE(submit(&ring, 1) == 1);
    ready();
    await_go();
    CHECK(*ring.cq_tail == 0);
    CHECK(write(event, &(uint64_t){5}, 8) == 8);
    CHECK(syscall(SYS_io_uring_enter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 0);
    CHECK(*ring.cq_tail == 1 && value == 5);
    return done();
}
