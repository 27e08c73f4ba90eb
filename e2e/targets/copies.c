/* Memory that a copy of the process does not have, or not as it is. None of it is locked: what is locked is told anyway. */

#include "common.h"

#include <setjmp.h>

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL 102
#endif
#ifndef MAP_DROPPABLE
#define MAP_DROPPABLE 0x08
#endif

enum { PAGE = 4096, MIB = 1 << 20 };

struct board {
    atomic_int settled;
};

static struct board *board;
static sigjmp_buf fault;

static void on_fault(int signal) {
    siglongjmp(fault, signal);
}

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

static uint8_t *map_private(size_t size) {
    return MUST(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

static bool zeroes(const uint8_t *memory, size_t size) {
    return size == 0 || (memory[0] == 0 && memcmp(memory, memory + 1, size - 1) == 0);
}

/* MADV_WIPEONFORK: a copy has the mappings and none of their pages. */
TARGET(wiped) {
    uint8_t *whole = map_private(2 * MIB), *parts = map_private(64 * PAGE), *plain = map_private(2 * MIB);
    fill(whole, 2 * MIB, 1);
    fill(parts, 64 * PAGE, 2);
    fill(plain, 2 * MIB, 3);
    MUST(madvise(whole, 2 * MIB, MADV_WIPEONFORK));
    MUST(madvise(parts + 16 * PAGE, 16 * PAGE, MADV_WIPEONFORK));
    MUST(mprotect(parts + 20 * PAGE, 4 * PAGE, PROT_READ));
    bool guarded = madvise(parts + 28 * PAGE, PAGE, MADV_GUARD_INSTALL) == 0;
    if (guarded)
        MUST(madvise(parts + 40 * PAGE, PAGE, MADV_GUARD_INSTALL));
    /* Its contents may be lost at any time; it is there. */
    uint8_t *droppable = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_DROPPABLE | MAP_ANONYMOUS, -1, 0);
    if (droppable != MAP_FAILED)
        fill(droppable, 4 * PAGE, 4);
    ready();
    await_go();
    CHECK(filled(whole, 2 * MIB, 1));
    CHECK(filled(plain, 2 * MIB, 3));
    CHECK(filled(parts, 28 * PAGE, 2));
    CHECK(filled(parts + 29 * PAGE, 11 * PAGE, 2 + 29 * PAGE / 8));
    CHECK(filled(parts + 41 * PAGE, 23 * PAGE, 2 + 41 * PAGE / 8));
    if (guarded)
        CHECK(faults(parts + 28 * PAGE) && faults(parts + 40 * PAGE));
    if (droppable != MAP_FAILED)
        droppable[0] = 1;
    pid_t pid = WORKS(fork());
    if (pid == 0) {
        CHECK(zeroes(whole, 2 * MIB) && zeroes(parts + 16 * PAGE, 12 * PAGE));
        CHECK(filled(parts, 16 * PAGE, 2) && filled(plain, 2 * MIB, 3));
        _exit(0);
    }
    expect_exit(pid, 0);
    return done();
}

/* MADV_DONTFORK: a copy lacks the mappings. */
TARGET(unforked) {
    uint8_t *whole = map_private(2 * MIB), *parts = map_private(64 * PAGE);
    uint8_t *common = share(8 * PAGE);
    fill(whole, 2 * MIB, 1);
    fill(parts, 64 * PAGE, 2);
    fill(common, 8 * PAGE, 3);
    MUST(madvise(whole, 2 * MIB, MADV_DONTFORK));
    MUST(madvise(parts + 16 * PAGE, 16 * PAGE, MADV_DONTFORK));
    MUST(madvise(common, 8 * PAGE, MADV_DONTFORK));
    bool guarded = madvise(parts + 20 * PAGE, PAGE, MADV_GUARD_INSTALL) == 0;
    ready();
    await_go();
    CHECK(filled(whole, 2 * MIB, 1) && filled(common, 8 * PAGE, 3));
    CHECK(filled(parts, 20 * PAGE, 2) && filled(parts + 21 * PAGE, 43 * PAGE, 2 + 21 * PAGE / 8));
    if (guarded)
        CHECK(faults(parts + 20 * PAGE));
    pid_t pid = WORKS(fork());
    if (pid == 0) {
        CHECK(faults(whole) && faults(common) && faults(parts + 16 * PAGE));
        CHECK(filled(parts, 16 * PAGE, 2));
        _exit(0);
    }
    expect_exit(pid, 0);
    return done();
}

/* `heaps MIB`: a child that shares the heap it was born with. Both have changed theirs since: one is longer, or shorter, or
   has holes. */
TARGET(heaps) {
    size_t size = (size_t)(argc > 1 ? atoi(argv[1]) : 8) * MIB;
    uint8_t *heap = MUST(sbrk((intptr_t)size));
    uint8_t *memory = map_private(size);
    fill(heap, size, 1);
    fill(memory, size, 2);
    board = share(PAGE);
    pid_t longer = MUST(fork());
    if (longer == 0) {
        uint8_t *more = MUST(sbrk(MIB));
        fill(more, MIB, 11);
        fill(heap, PAGE, 12);
        board->settled++;
        await_go();
        CHECK(filled(more, MIB, 11) && filled(heap, PAGE, 12));
        CHECK(filled(heap + PAGE, size - PAGE, 1 + PAGE / 8) && filled(memory, size, 2));
        _exit(0);
    }
    pid_t shorter = MUST(fork());
    if (shorter == 0) {
        MUST(sbrk(-(intptr_t)MIB));
        MUST(munmap(memory + size / 2, MIB));
        MUST(mprotect(memory + size / 4, PAGE, PROT_READ));
        board->settled++;
        await_go();
        CHECK(filled(heap, size - MIB, 1) && faults(memory + size / 2));
        CHECK(filled(memory, size / 2, 2));
        CHECK(filled(memory + size / 2 + MIB, size / 2 - MIB, 2 + (size / 2 + MIB) / 8));
        _exit(0);
    }
    /* Now its own is longer, and has another piece behind it. */
    uint8_t *more = MUST(sbrk(2 * MIB));
    fill(more, 2 * MIB, 21);
    await_count(&board->settled, 2);
    ready();
    await_go();
    CHECK(filled(heap, size, 1) && filled(more, 2 * MIB, 21) && filled(memory, size, 2));
    expect_exit(longer, 0);
    expect_exit(shorter, 0);
    return done();
}
