/* Address spaces. That /proc/PID/smaps stays the same is the test's business; here are contents and behaviour. */
#include "common.h"

#include <elf.h>
#include <sys/auxv.h>

#define MIB (1024UL * 1024)
enum { PAGE = 4096 };

static void *map(size_t size, int protection, int flags) {
    return MUST(mmap(NULL, size, protection, flags | MAP_ANONYMOUS, -1, 0));
}

static void *map_private(size_t size) {
    return map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE);
}

/* Whether a byte can be read there: the kernel is asked, so that nothing has to be caught. */
static bool readable(const void *address) {
    int fds[2];
    if (pipe2(fds, O_CLOEXEC) != 0)
        return false;
    bool result = write(fds[1], address, 1) == 1;
    close(fds[0]);
    close(fds[1]);
    return result;
}

static bool zeroes(const uint8_t *memory, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (memory[i] != 0)
            return false;
    return true;
}

TARGET(anonymous) {
    /* Pages with content, with zeroes, and never touched, in turns. */
    uint8_t *mixed = map_private(300 * PAGE);
    for (unsigned i = 0; i < 300; i += 3) {
        fill(mixed + i * PAGE, PAGE, i);
        mixed[(i + 1) * PAGE] = 0;
    }
    /* One mapping that is cut into pieces of every protection, each with content. */
    static const int protections[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC,
                                      PROT_READ | PROT_WRITE | PROT_EXEC, PROT_EXEC, PROT_WRITE, PROT_NONE};
    enum { PIECES = sizeof protections / sizeof *protections };
    uint8_t *pieces = map_private(PIECES * 2 * PAGE);
    fill(pieces, PIECES * 2 * PAGE, 77);
    for (int i = 0; i < PIECES; i++)
        MUST(mprotect(pieces + i * 2 * PAGE, 2 * PAGE, protections[i]));
    /* Two mappings side by side that could be one, and one with a hole in it. */
    uint8_t *area = map(16 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
    for (int i = 0; i < 2; i++)
        MUST(mmap(area + (4 + i * 2) * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    fill(area + 4 * PAGE, 4 * PAGE, 5);
    /* Low, below 2 GiB, at the very top, and huge without being there. */
    uint8_t *low = MUST(mmap((void *)0x10000, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    uint8_t *below = map(3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_32BIT);
    uint8_t *top = MUST(mmap((void *)0x7ffffffee000, PAGE, PROT_READ | PROT_WRITE,
                             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0));
    uint8_t *vast = map(4UL << 40, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE);
    fill(low, PAGE, 10), fill(below, 3 * PAGE, 11), fill(top, PAGE, 12);
    fill(vast, PAGE, 13), fill(vast + (3UL << 40), PAGE, 14), fill(vast + (4UL << 40) - PAGE, PAGE, 15);
    /* Code that was written at run time. */
    uint8_t *code = map_private(PAGE);
    memcpy(code, "\xb8\x2a\x00\x00\x00\xc3", 6);
    MUST(mprotect(code, PAGE, PROT_READ | PROT_EXEC));
    /* /dev/zero, mapped privately, is private memory with a name. */
    int zero = MUST(open("/dev/zero", O_RDWR | O_CLOEXEC));
    uint8_t *device = MUST(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0));
    close(zero);
    fill(device, PAGE, 21);
    /* The heap, by brk. */
    uint8_t *heap = sbrk(20 * PAGE);
    ASSURE(heap != (void *)-1);
    fill(heap, 20 * PAGE, 30);
    /* Last of all, or the kernel would put something else there. */
    MUST(munmap(area + 10 * PAGE, PAGE));
    ready();
    await_go();
    for (unsigned i = 0; i < 300; i += 3) {
        CHECK(filled(mixed + i * PAGE, PAGE, i));
        CHECK(zeroes(mixed + (i + 1) * PAGE, 2 * PAGE));
    }
    for (int i = 0; i < PIECES; i++)
        CHECK(readable(pieces + i * 2 * PAGE) == ((protections[i] & (PROT_READ | PROT_WRITE)) != 0) ||
              protections[i] == PROT_EXEC);
    WORKS(mprotect(pieces, PIECES * 2 * PAGE, PROT_READ));
    CHECK(filled(pieces, PIECES * 2 * PAGE, 77));
    CHECK(filled(area + 4 * PAGE, 4 * PAGE, 5));
    CHECK(!readable(area + 10 * PAGE) && !readable(area));
    CHECK(filled(low, PAGE, 10) && filled(below, 3 * PAGE, 11) && filled(top, PAGE, 12));
    CHECK(filled(vast, PAGE, 13) && filled(vast + (3UL << 40), PAGE, 14) && filled(vast + (4UL << 40) - PAGE, PAGE, 15));
    CHECK(zeroes(vast + (1UL << 40), PAGE));
    EQUAL(((int (*)(void))code)(), 42);
    CHECK(filled(device, PAGE, 21) && zeroes(device + PAGE, PAGE));
    CHECK(filled(heap, 20 * PAGE, 30));
    EQUAL(sbrk(0), heap + 20 * PAGE);
    /* Private memory is anonymous: what is given back comes back as zeroes. */
    WORKS(madvise(mixed, 300 * PAGE, MADV_DONTNEED));
    CHECK(zeroes(mixed, 300 * PAGE));
    WORKS(madvise(device, 2 * PAGE, MADV_DONTNEED));
    CHECK(zeroes(device, 2 * PAGE));
    CHECK(sbrk(PAGE) != (void *)-1);
    WORKS(brk(heap));
    return done();
}

/* Memory that grows downwards: the stack, and a mapping that does the same. */
static int descend(int depth) {
    volatile char frame[PAGE];
    frame[0] = frame[PAGE - 1] = (char)depth;
    return depth == 0 ? frame[0] : descend(depth - 1) + frame[PAGE - 1] - (char)depth;
}

TARGET(growing_down) {
    /* The kernel keeps a gap of 256 pages between such a mapping and what lies below. */
    uint8_t *area = map(2048 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE);
    uint8_t *top = area + 2040 * PAGE;
    MUST(munmap(area, 2048 * PAGE));
    uint8_t *growing = MUST(mmap(top - 2 * PAGE, 2 * PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_GROWSDOWN | MAP_FIXED_NOREPLACE, -1, 0));
    /* Touched page by page below its start, it follows. */
    for (int i = 0; i < 20; i++)
        growing[-i * PAGE] = (uint8_t)(i + 1);
    fill(growing - 3 * PAGE, 2 * PAGE, 3);
    EQUAL(descend(100), 0);
    ready();
    await_go();
    CHECK(filled(growing - 3 * PAGE, 2 * PAGE, 3));
    for (int i = 4; i < 20; i++)
        EQUAL(growing[-i * PAGE], i + 1);
    for (int i = 20; i < 40; i++)
        growing[-i * PAGE] = 1;
    EQUAL(descend(1000), 0);
    return done();
}

TARGET(file_mappings) {
    /* A file of ten pages, mapped in many ways; its descriptor is closed. */
    static uint8_t content[10 * PAGE];
    fill(content, sizeof content, 1);
    int fd = MUST(open(in_directory("mapped"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    MUST(write(fd, content, sizeof content));
    uint8_t *clean = MUST(mmap(NULL, sizeof content, PROT_READ, MAP_PRIVATE, fd, 0));
    uint8_t *dirty = MUST(mmap(NULL, sizeof content, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0));
    uint8_t *common = MUST(mmap(NULL, sizeof content, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    uint8_t *tail = MUST(mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 7 * PAGE));
    uint8_t *later = MUST(mmap(NULL, 2 * PAGE, PROT_NONE, MAP_SHARED, fd, 2 * PAGE));
    int reading = MUST(open(in_directory("mapped"), O_RDONLY | O_CLOEXEC));
    uint8_t *unwritable = MUST(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, reading, 0));
    uint8_t *hidden = MUST(mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, reading, 0));
    close(reading);
    close(fd);
    ASSURE(clean[0] == content[0]);
    for (int i = 0; i < 10; i += 2)
        fill(dirty + i * PAGE, PAGE, 100 + (unsigned)i);
    fill(common + 3 * PAGE, PAGE, 3), memcpy(content + 3 * PAGE, common + 3 * PAGE, PAGE);
    tail[0] = 7;
    fill(hidden, 2 * PAGE, 50);
    MUST(mprotect(hidden, 2 * PAGE, PROT_NONE));
    ready();
    await_go();
    for (int i = 0; i < 10; i++)
        CHECK(i % 2 == 0 ? filled(dirty + i * PAGE, PAGE, 100 + (unsigned)i)
                         : memcmp(dirty + i * PAGE, content + i * PAGE, PAGE) == 0);
    CHECK(memcmp(common, content, sizeof content) == 0);
    CHECK(memcmp(clean, content, sizeof content) == 0);
    EQUAL(tail[0], 7);
    CHECK(memcmp(tail + PAGE, content + 8 * PAGE, 2 * PAGE) == 0);
    /* Writing to the file is seen through the shared mapping and through pages nobody has written to, and back. */
    fd = WORKS(open(in_directory("mapped"), O_RDWR | O_CLOEXEC));
    EQUAL(pwrite(fd, "new", 3, 5 * PAGE), 3);
    CHECK(memcmp(common + 5 * PAGE, "new", 3) == 0);
    CHECK(memcmp(clean + 5 * PAGE, "new", 3) == 0);
    CHECK(memcmp(dirty + 5 * PAGE, "new", 3) == 0);
    memcpy(common + 6 * PAGE, "back", 4);
    char text[4];
    EQUAL(pread(fd, text, 4, 6 * PAGE), 4);
    CHECK(memcmp(text, "back", 4) == 0);
    close(fd);
    /* The rights that a mapping was made with are still there, and no others. */
    WORKS(mprotect(later, 2 * PAGE, PROT_READ | PROT_WRITE));
    later[0] = 99;
    EQUAL(common[2 * PAGE], 99);
    FAILS(mprotect(unwritable, PAGE, PROT_READ | PROT_WRITE), EACCES);
    WORKS(mprotect(hidden, 2 * PAGE, PROT_READ));
    CHECK(filled(hidden, 2 * PAGE, 50));
    /* Dirty pages that are given back become the file's again. */
    WORKS(madvise(dirty, sizeof content, MADV_DONTNEED));
    CHECK(memcmp(dirty, common, sizeof content) == 0);
    return done();
}

/* Shared memory without a name, between processes and mapped twice in one. */
static struct {
    atomic_int settled, step;
} *board;

TARGET(shared_memory) {
    board = share(PAGE);
    uint8_t *whole = share(64 * PAGE), *untouched = share(1000 * PAGE), *other = share(3 * PAGE);
    fill(whole, 64 * PAGE, 1);
    untouched[500 * PAGE] = 5;
    /* A second view of one part, and a part that only the child keeps. */
    uint8_t *view = MUST(mremap(whole + 8 * PAGE, 0, 4 * PAGE, MREMAP_MAYMOVE));
    pid_t pid = MUST(fork());
    if (pid == 0) {
        MUST(munmap(whole, 32 * PAGE));
        MUST(munmap(other, PAGE));
        fill(other + PAGE, PAGE, 9);
        MUST(mprotect(whole + 40 * PAGE, PAGE, PROT_READ));
        board->settled = 1;
        await_go();
        await_count(&board->step, 1);
        CHECK(filled(whole + 32 * PAGE, 32 * PAGE, 1 + 32 * PAGE / 8));
        CHECK(!readable(whole) && readable(whole + 32 * PAGE));
        EQUAL(view[0], 200);
        view[1] = 201;
        fill(other + 2 * PAGE, PAGE, 10);
        untouched[999 * PAGE] = 6;
        board->step = 2;
        _exit(0);
    }
    await_count(&board->settled, 1);
    ready();
    await_go();
    CHECK(filled(whole, 64 * PAGE, 1));
    CHECK(filled(other + PAGE, PAGE, 9));
    CHECK(zeroes(other, PAGE));
    whole[8 * PAGE] = 200;
    EQUAL(view[0], 200);
    EQUAL(untouched[500 * PAGE], 5);
    CHECK(zeroes(untouched, 500 * PAGE));
    board->step = 1;
    await_count(&board->step, 2);
    EQUAL(whole[8 * PAGE + 1], 201);
    CHECK(filled(other + 2 * PAGE, PAGE, 10));
    EQUAL(untouched[999 * PAGE], 6);
    expect_exit(pid, 0);
    return done();
}

TARGET(advice) {
    static const struct {
        const char *name;
        int advice;
    } kinds[] = {
        {"MADV_DONTFORK", MADV_DONTFORK},     {"MADV_WIPEONFORK", MADV_WIPEONFORK}, {"MADV_DONTDUMP", MADV_DONTDUMP},
        {"MADV_HUGEPAGE", MADV_HUGEPAGE},     {"MADV_NOHUGEPAGE", MADV_NOHUGEPAGE}, {"MADV_MERGEABLE", MADV_MERGEABLE},
        {"MADV_SEQUENTIAL", MADV_SEQUENTIAL}, {"MADV_RANDOM", MADV_RANDOM},
    };
    enum { KINDS = sizeof kinds / sizeof *kinds };
    uint8_t *areas[KINDS];
    for (int i = 0; i < KINDS; i++) {
        areas[i] = map_private(3 * MIB);
        fill(areas[i], 3 * MIB, (unsigned)i);
        if (madvise(areas[i], 3 * MIB, kinds[i].advice) != 0 && errno == EINVAL)
            continue;
        /* Protection and advice together. */
        MUST(mprotect(areas[i] + MIB, MIB, PROT_READ));
    }
    uint8_t *locked = map_private(8 * PAGE), *on_fault = map_private(64 * PAGE);
    MUST(mlock(locked + PAGE, 5 * PAGE));
    on_fault[3 * PAGE] = 1;
    MUST(mlock2(on_fault, 64 * PAGE, 1 /* MLOCK_ONFAULT */));
    uint8_t *populated = map(16 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_LOCKED | MAP_POPULATE);
    fill(populated, 16 * PAGE, 8);
    ready();
    await_go();
    for (int i = 0; i < KINDS; i++)
        CHECK(filled(areas[i], 3 * MIB, (unsigned)i));
    CHECK(filled(populated, 16 * PAGE, 8));
    EQUAL(on_fault[3 * PAGE], 1);
    /* What a child gets of the areas. */
    pid_t pid = WORKS(fork());
    if (pid == 0) {
        CHECK(!readable(areas[0]));
        CHECK(zeroes(areas[1], 3 * MIB));
        CHECK(filled(areas[2], 3 * MIB, 2));
        _exit(0);
    }
    expect_exit(pid, 0);
    return done();
}

/* mlockall(2), also for mappings to come. */
TARGET(all_locked) {
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        skip("mlockall: %s", strerror(errno));
    uint8_t *memory = map_private(16 * PAGE);
    fill(memory, 8 * PAGE, 1);
    ready();
    await_go();
    CHECK(filled(memory, 8 * PAGE, 1) && zeroes(memory + 8 * PAGE, 8 * PAGE));
    unsigned char present[4] = {0};
    uint8_t *later = map_private(4 * PAGE);
    WORKS(mincore(later, 4 * PAGE, present));
    for (int i = 0; i < 4; i++)
        EQUAL(present[i] & 1, 1);
    return done();
}

/* Copy-on-write: children that have written little share the rest with their parent. `cow MIB CHILDREN`. */
TARGET(cow) {
    size_t size = (size_t)(argc > 1 ? atoi(argv[1]) : 8) * MIB;
    int count = argc > 2 ? atoi(argv[2]) : 3;
    pid_t pids[16];
    ASSURE(size > 0 && count > 0 && count <= 16);
    board = share(PAGE);
    uint8_t *memory = map_private(size);
    fill(memory, size, 1);
    for (int i = 0; i < count; i++) {
        pids[i] = MUST(fork());
        if (pids[i] != 0)
            continue;
        /* Each writes to a sixteenth of its own; the last one is somebody else's child as well. */
        uint8_t *own = memory + size / 16 * (size_t)(i + 1);
        fill(own, size / 16, 1000 + (unsigned)i);
        pid_t below = i + 1 == count ? MUST(fork()) : 0;
        board->settled++;
        await_go();
        CHECK(filled(own, size / 16, 1000 + (unsigned)i));
        CHECK(filled(memory, (size_t)(own - memory), 1));
        CHECK(filled(own + size / 16, size - (size_t)(own - memory) - size / 16,
                     1 + (uint64_t)(own - memory + (ssize_t)size / 16) / 8));
        if (below != 0)
            expect_exit(below, 0);
        _exit(0);
    }
    await_count(&board->settled, count + 1);
    ready();
    await_go();
    CHECK(filled(memory, size, 1));
    for (int i = 0; i < count; i++)
        expect_exit(pids[i], 0);
    return done();
}

/* `zeroes MIB`: as much memory three times: read but never written, written with zeroes, never touched. */
TARGET(zeroes) {
    size_t size = (size_t)(argc > 1 ? atoi(argv[1]) : 8) * MIB;
    volatile uint8_t *read = map_private(size), *written = map_private(size), *untouched = map_private(size);
    uint8_t *common = share(size);
    unsigned sum = 0;
    for (size_t i = 0; i < size; i += PAGE)
        sum += read[i];
    memset((void *)written, 0, size);
    ASSURE(sum == 0);
    ready();
    await_go();
    CHECK(zeroes((const uint8_t *)read, size));
    CHECK(zeroes((const uint8_t *)written, size));
    CHECK(zeroes((const uint8_t *)untouched, size));
    CHECK(zeroes(common, size));
    return done();
}

/* `ballast MIB`: memory with incompressible content, part of it in huge pages where the kernel gives them. */
TARGET(ballast) {
    size_t size = (size_t)(argc > 1 ? atoi(argv[1]) : 8) * MIB;
    uint8_t *memory = map_private(size);
    madvise(memory + size / 2, size / 2, MADV_HUGEPAGE);
    fill(memory, size, 4711);
    ready();
    await_go();
    CHECK(filled(memory, size, 4711));
    return done();
}

/* The auxiliary vector, by the kernel and on the stack. */
TARGET(auxiliary) {
    static uint64_t before[256], after[256];
    int fd = MUST(open("/proc/self/auxv", O_RDONLY | O_CLOEXEC));
    ssize_t length = MUST(read(fd, before, sizeof before));
    close(fd);
    unsigned long entry = getauxval(AT_ENTRY);
    const char *name = (const char *)getauxval(AT_EXECFN);
    ready();
    await_go();
    fd = WORKS(open("/proc/self/auxv", O_RDONLY | O_CLOEXEC));
    EQUAL(read(fd, after, sizeof after), length);
    close(fd);
    CHECK(memcmp(before, after, sizeof before) == 0);
    EQUAL(getauxval(AT_ENTRY), entry);
    CHECK(name == (const char *)getauxval(AT_EXECFN) && strlen(name) > 0);
    const Elf64_Ehdr *vdso = (const Elf64_Ehdr *)getauxval(AT_SYSINFO_EHDR);
    CHECK(vdso != NULL && memcmp(vdso->e_ident, ELFMAG, SELFMAG) == 0);
    return done();
}
