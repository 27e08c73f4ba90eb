/* Mappings that are not like others: guards, huge pages, private views of shared memory. */
#include "common.h"

#include <linux/aio_abi.h>
#include <setjmp.h>

enum { PAGE = 4096 };
#define HUGE (2UL << 20)

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#define MADV_GUARD_REMOVE 103
#endif
#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

static sigjmp_buf fault;

static void on_fault(int signal) {
    (void)signal;
    siglongjmp(fault, 1);
}

/* Whether touching a byte is a fault. */
static bool faults(volatile uint8_t *address) {
    struct sigaction action = {.sa_handler = on_fault}, before;
    sigaction(SIGSEGV, &action, &before);
    bool result = true;
    if (sigsetjmp(fault, 1) == 0) {
        (void)*address;
        result = false;
    }
    sigaction(SIGSEGV, &before, NULL);
    return result;
}

TARGET(guards) {
    uint8_t *memory = MUST(mmap(NULL, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    fill(memory, 64 * PAGE, 1);
    if (madvise(memory + 4 * PAGE, 3 * PAGE, MADV_GUARD_INSTALL) != 0)
        skip("MADV_GUARD_INSTALL: %s", strerror(errno));
    MUST(madvise(memory, PAGE, MADV_GUARD_INSTALL));
    MUST(madvise(memory + 63 * PAGE, PAGE, MADV_GUARD_INSTALL));
    pid_t pid = MUST(fork());
    if (pid == 0) {
        /* The child has taken one away and has one of its own. */
        MUST(madvise(memory + 5 * PAGE, PAGE, MADV_GUARD_REMOVE));
        MUST(madvise(memory + 20 * PAGE, PAGE, MADV_GUARD_INSTALL));
        fill(memory + 5 * PAGE, PAGE, 7);
        MUST(close(MUST(open(in_directory("settled"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600))));
        await_go();
        CHECK(faults(memory) && faults(memory + 4 * PAGE) && !faults(memory + 5 * PAGE) && faults(memory + 6 * PAGE));
        CHECK(faults(memory + 20 * PAGE) && faults(memory + 63 * PAGE));
        CHECK(filled(memory + 5 * PAGE, PAGE, 7));
        CHECK(filled(memory + 7 * PAGE, 13 * PAGE, 1 + 7 * PAGE / 8));
        _exit(0);
    }
    while (access(in_directory("settled"), F_OK) != 0)
        pause_ms(2);
    ready();
    await_go();
    CHECK(faults(memory) && faults(memory + 4 * PAGE) && faults(memory + 6 * PAGE) && faults(memory + 63 * PAGE));
    CHECK(filled(memory + PAGE, 3 * PAGE, 1 + PAGE / 8));
    CHECK(filled(memory + 7 * PAGE, 56 * PAGE, 1 + 7 * PAGE / 8));
    WORKS(madvise(memory + 4 * PAGE, 3 * PAGE, MADV_GUARD_REMOVE));
    CHECK(!faults(memory + 4 * PAGE) && memory[4 * PAGE] == 0);
    expect_exit(pid, 0);
    return done();
}

/* A private mapping of shared memory: its own pages are private, the others follow the shared ones. */
TARGET(private_view) {
    uint8_t *shared = share(4 * PAGE);
    fill(shared, 4 * PAGE, 1);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", (unsigned long)shared, (unsigned long)shared + 4 * PAGE);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        skip("%s: %s", path, strerror(errno));
    uint8_t *view = MUST(mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
    close(fd);
    fill(view + PAGE, PAGE, 50);
    /* The same of /dev/zero. */
    int zero = MUST(open("/dev/zero", O_RDWR | O_CLOEXEC));
    uint8_t *common = MUST(mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, zero, 0));
    close(zero);
    fill(common, PAGE, 9);
    pid_t pid = MUST(fork());
    if (pid == 0) {
        await_go();
        shared[2 * PAGE] = 77;
        common[2 * PAGE] = 78;
        shared[3 * PAGE] = 1;
        _exit(0);
    }
    shared[3 * PAGE] = 0;
    ready();
    await_go();
    expect_exit(pid, 0);
    EQUAL(shared[3 * PAGE], 1);
    EQUAL(view[2 * PAGE], 77);
    EQUAL(common[2 * PAGE], 78);
    CHECK(filled(common, PAGE, 9));
    CHECK(filled(view + PAGE, PAGE, 50) && filled(view, PAGE, 1) && filled(shared, 2 * PAGE, 1));
    shared[0] = 99, shared[PAGE] = 99;
    EQUAL(view[0], 99);
    CHECK(view[PAGE] != 99);
    return done();
}

TARGET(huge_pages) {
    int huge = MAP_HUGETLB | MAP_ANONYMOUS;
    uint8_t *private = mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | huge, -1, 0);
    if (private == MAP_FAILED)
        skip("huge pages: %s", strerror(errno));
    uint8_t *shared = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED | huge, -1, 0);
    uint8_t *fixed = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | huge, -1, 0);
    int fd = memfd_create("huge", MFD_HUGETLB | MFD_HUGE_2MB | MFD_ALLOW_SEALING | MFD_CLOEXEC);
    uint8_t *file = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, 2 * HUGE) == 0)
        file = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, HUGE);
    if (shared == MAP_FAILED || fixed == MAP_FAILED || file == MAP_FAILED)
        skip("too few huge pages: %s", strerror(errno));
    fill(private, HUGE, 1);
    fill(shared + HUGE / 2, PAGE, 2);
    fill(fixed, HUGE, 3);
    MUST(mprotect(fixed, HUGE, PROT_READ));
    fill(file, HUGE, 4);
    MUST(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK));
    /* One page that the child has of its own, so that the parent's must not be what it gets. */
    pid_t pid = MUST(fork());
    if (pid == 0) {
        private[5 * PAGE] = 200;
        MUST(close(MUST(open(in_directory("settled"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600))));
        await_go();
        EQUAL(private[5 * PAGE], 200);
        CHECK(filled(private, 5 * PAGE, 1) && filled(fixed, HUGE, 3));
        shared[0] = 22;
        file[0] = 23;
        _exit(0);
    }
    while (access(in_directory("settled"), F_OK) != 0)
        pause_ms(2);
    ready();
    await_go();
    expect_exit(pid, 0);
    CHECK(filled(private, HUGE, 1));
    CHECK(filled(fixed, HUGE, 3));
    EQUAL(shared[0], 22);
    CHECK(filled(shared + HUGE / 2, PAGE, 2));
    EQUAL(shared[HUGE - 1], 0);
    EQUAL(file[0], 23);
    CHECK(filled(file + PAGE, HUGE - PAGE, 4 + PAGE / 8));
    EQUAL(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK);
    struct stat status;
    WORKS(fstat(fd, &status));
    EQUAL(status.st_size, 2 * HUGE);
    EQUAL(status.st_blksize, HUGE);
    private[HUGE] = 1;
    return done();
}

/* Asynchronous I/O: events that nobody has collected, in a ring that has gone over its end. */

static int submit(aio_context_t context, int fd, void *buffer, uint64_t data) {
    struct iocb request = {.aio_data = data, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = (uint32_t)fd,
                           .aio_buf = (uintptr_t)buffer, .aio_nbytes = 8, .aio_offset = 0};
    struct iocb *list[] = {&request};
    return (int)syscall(SYS_io_submit, context, 1L, list);
}

static long collect(aio_context_t context, struct io_event *events, long most) {
    struct timespec none = {0};
    return syscall(SYS_io_getevents, context, 0L, most, events, &none);
}

TARGET(aio) {
    aio_context_t context = 0, empty = 0;
    if (syscall(SYS_io_setup, 10, &context) != 0)
        skip("io_setup: %s", strerror(errno));
    MUST(syscall(SYS_io_setup, 1000, &empty));
    int fd = MUST(open(in_directory("data"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    MUST(write(fd, "eight by", 8));
    char buffer[8];
    struct io_event events[16];
    /* Until the ring has been full once, and a little more; five are left in it. */
    unsigned ring = ((unsigned *)context)[1];
    for (uint64_t i = 0; i < ring + 7; i++) {
        ASSURE(submit(context, fd, buffer, i) == 1);
        if (i < ring + 2)
            ASSURE(collect(context, events, 1) == 1 && events[0].data == i);
    }
    /* A child has the mapping and nothing behind it. */
    pid_t pid = MUST(fork());
    if (pid == 0) {
        await_go();
        FAILS(collect(context, events, 1), EINVAL);
        CHECK(((unsigned *)context)[1] == ring);
        _exit(0);
    }
    ready();
    await_go();
    expect_exit(pid, 0);
    EQUAL(collect(context, events, 16), 5);
    for (uint64_t i = 0; i < 5; i++) {
        EQUAL(events[i].data, ring + 2 + i);
        EQUAL(events[i].res, 8);
    }
    /* Both go on. */
    for (uint64_t i = 0; i < 3 * ring; i++) {
        EQUAL(submit(context, fd, buffer, i), 1);
        EQUAL(collect(context, events, 16), 1);
        EQUAL(events[0].data, i);
    }
    EQUAL(submit(empty, fd, buffer, 77), 1);
    EQUAL(collect(empty, events, 16), 1);
    EQUAL(events[0].data, 77);
    WORKS(syscall(SYS_io_destroy, context));
    WORKS(syscall(SYS_io_destroy, empty));
    return done();
}
