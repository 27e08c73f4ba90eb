/* Programs whose memory comes while they run. They do not know that; they do what programs do to memory, at once. */
#include "common.h"

#define MIB (1024UL * 1024)
enum { PAGE = 4096, WORDS = PAGE / 8, THREADS = 3 };

static uint8_t *map_private(size_t size) {
    return MUST(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
}

/* Pages `from` to `to` of memory that was filled as a whole with this seed. */
static bool pages_filled(const uint8_t *memory, size_t from, size_t to, uint64_t seed) {
    return filled(memory + from * PAGE, (to - from) * PAGE, seed + from * WORDS);
}

static bool zeroes(const uint8_t *memory, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (memory[i] != 0)
            return false;
    return true;
}

/* Memory that many look at, in no order. */
static uint8_t *common;
static size_t common_pages;
static const uint64_t COMMON = 1;
static atomic_bool enough;

static bool look_around(uint64_t *state, int count) {
    for (int i = 0; i < count; i++) {
        *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
        size_t page = *state % common_pages;
        if (!pages_filled(common, page, page + 1, COMMON))
            return false;
    }
    return true;
}

static void *looker(void *argument) {
    uint64_t state = (uintptr_t)argument * 0x9e3779b97f4a7c15ULL + 1;
    await_go();
    while (!enough)
        if (!look_around(&state, 16)) {
            CHECK(!"a page is not what it was");
            break;
        }
    return NULL;
}

/* The same area in the parent and in children that are forked while it is being filled. */
static int born_meanwhile(void *argument) {
    uint8_t *area = argument;
    uint64_t state = (uint64_t)getpid();
    CHECK(look_around(&state, 300));
    CHECK(pages_filled(area, 0, 512, 7));
    memset(area, 1, 256 * PAGE);
    MUST(madvise(area + 512 * PAGE, 512 * PAGE, MADV_DONTNEED));
    pid_t below = MUST(fork());
    CHECK(zeroes(area + 512 * PAGE, 512 * PAGE));
    CHECK(pages_filled(area, 256, 512, 7));
    CHECK(pages_filled(area, 1024, 2048, 7));
    if (below != 0)
        expect_exit(below, 0);
    return 0;
}

static void moved(uint8_t *area, uint8_t *place, size_t pages) {
    uint8_t *there = WORKS(mremap(area, pages * PAGE, pages * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, place));
    CHECK(there == place);
    CHECK(pages_filled(there, pages / 2, pages, 2));
    there = WORKS(mremap(there, pages * PAGE, 2 * pages * PAGE, MREMAP_MAYMOVE));
    CHECK(pages_filled(there, 0, pages, 2));
    CHECK(zeroes(there + pages * PAGE, pages * PAGE));
    there = WORKS(mremap(there, 2 * pages * PAGE, pages / 2 * PAGE, 0));
    CHECK(pages_filled(there, 0, pages / 2, 2));
}

static void dropped(uint8_t *area, size_t pages) {
    size_t third = pages / 3;
    WORKS(madvise(area + third * PAGE, third * PAGE, MADV_DONTNEED));
    CHECK(zeroes(area + third * PAGE, third * PAGE));
    fill(area + third * PAGE, third * PAGE, 33);
    CHECK(pages_filled(area, 0, third, 3));
    CHECK(pages_filled(area, 2 * third, pages, 3));
    CHECK(filled(area + third * PAGE, third * PAGE, 33));
}

/* Returns what must still be there at the end. */
static uint8_t *replaced(uint8_t *area, size_t pages) {
    size_t third = pages / 3;
    uint8_t *middle = area + third * PAGE;
    WORKS(munmap(middle, third * PAGE));
    CHECK(WORKS(mmap(middle, third * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)) ==
          middle);
    CHECK(zeroes(middle, third / 2 * PAGE));
    fill(middle, third * PAGE, 44);
    /* Over what is there, in one step. */
    WORKS(mmap(area, third / 2 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
    CHECK(zeroes(area, third / 2 * PAGE));
    CHECK(pages_filled(area, third / 2, third, 4));
    CHECK(pages_filled(area, 2 * third, pages, 4));
    return middle;
}

static void protected(uint8_t *area, size_t pages) {
    static const int kinds[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC};
    for (size_t page = 0; page < pages; page++)
        WORKS(mprotect(area + page * PAGE, PAGE, kinds[page / 3 % 4]));
    for (size_t page = 0; page < pages; page += 5)
        CHECK(page / 3 % 4 == 0 || pages_filled(area, page, page + 1, 5));
    WORKS(mprotect(area, pages * PAGE, PROT_READ | PROT_WRITE));
    CHECK(pages_filled(area, 0, pages, 5));
}

static void heap(uint8_t *start, size_t pages) {
    CHECK(WORKS(sbrk(-(intptr_t)(pages / 2 * PAGE))) == start + pages * PAGE);
    CHECK(WORKS(sbrk(pages * PAGE)) == start + pages / 2 * PAGE);
    CHECK(zeroes(start + pages / 2 * PAGE, pages * PAGE));
    CHECK(pages_filled(start, 0, pages / 2, 6));
}

/* The kernel reads what nobody has touched, and writes to it. */
static void by_the_kernel(uint8_t *area, size_t pages) {
    int fds[2];
    WORKS(pipe2(fds, O_CLOEXEC));
    static uint8_t copy[4 * PAGE];
    for (size_t page = 0; page + 4 <= pages; page += 64) {
        EQUAL(write(fds[1], area + page * PAGE, 4 * PAGE), 4 * PAGE);
        EQUAL(read(fds[0], copy, sizeof copy), 4 * PAGE);
        CHECK(filled(copy, sizeof copy, 8 + page * WORDS));
        EQUAL(write(fds[1], copy, PAGE), PAGE);
        EQUAL(read(fds[0], area + (page + 9) * PAGE + 100, 200), 200);
        CHECK(memcmp(area + (page + 9) * PAGE + 100, copy, 200) == 0);
        EQUAL(read(fds[0], copy, sizeof copy), PAGE - 200);
    }
    for (size_t page = 0; page + 10 <= pages; page += 64)
        CHECK(pages_filled(area, page + 10, page + 64 <= pages ? page + 64 : pages, 8));
}

/* `lazy_busy MIB`: everything at once. */
TARGET(lazy_busy) {
    enum { PAGES = 3072 };
    size_t size = (size_t)(argc > 1 ? atoi(argv[1]) : 64) * MIB;
    uint8_t *moving = map_private(PAGES * PAGE), *place = map_private(2 * PAGES * PAGE);
    uint8_t *dropping = map_private(PAGES * PAGE), *replacing = map_private(PAGES * PAGE);
    uint8_t *protecting = map_private(PAGES * PAGE), *handed_on = map_private(PAGES * PAGE);
    uint8_t *kernels = map_private(PAGES * PAGE);
    uint8_t *start = sbrk(PAGES * PAGE);
    ASSURE(start != (void *)-1);
    MUST(munmap(place, 2 * PAGES * PAGE));
    fill(moving, PAGES * PAGE, 2), fill(dropping, PAGES * PAGE, 3), fill(replacing, PAGES * PAGE, 4);
    fill(protecting, PAGES * PAGE, 5), fill(start, PAGES * PAGE, 6), fill(handed_on, PAGES * PAGE, 7);
    fill(kernels, PAGES * PAGE, 8);
    common = map_private(size), common_pages = size / PAGE;
    fill(common, size, COMMON);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        MUST0(pthread_create(&threads[i], NULL, looker, (void *)(i + 1)));
    ready();
    await_go();
    pid_t first = child(born_meanwhile, handed_on);
    moved(moving, place, PAGES);
    dropped(dropping, PAGES);
    pid_t second = child(born_meanwhile, handed_on);
    uint8_t *fresh = replaced(replacing, PAGES);
    protected(protecting, PAGES);
    heap(start, PAGES);
    by_the_kernel(kernels, PAGES);
    pid_t third = WORKS(vfork());
    if (third == 0) {
        execl("/proc/self/exe", "targets", "nothing", NULL);
        _exit(9);
    }
    expect_exit(first, 0), expect_exit(second, 0), expect_exit(third, 0);
    enough = true;
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    CHECK(pages_filled(common, 0, common_pages, COMMON));
    CHECK(pages_filled(handed_on, 0, PAGES, 7));
    CHECK(filled(fresh, PAGES / 3 * PAGE, 44));
    return done();
}

/* `lazy_tree MIB`: processes with memory of their own, which they never stop looking at once they are told to go. */
TARGET(lazy_tree) {
    size_t size = (size_t)(argc > 1 ? atoi(argv[1]) : 64) * MIB;
    atomic_int *settled = share(PAGE);
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        pids[i] = MUST(fork());
        if (pids[i] == 0)
            break;
    }
    bool parent = pids[0] != 0 && pids[1] != 0;
    /* At places of their own, or they would look as if they had been inherited. */
    for (int i = 0; i < (parent ? 0 : pids[0] == 0 ? 1 : 2); i++)
        MUST(mmap(NULL, 2 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    common = map_private(size), common_pages = size / PAGE;
    fill(common, size, COMMON);
    atomic_fetch_add(settled, 1);
    if (parent) {
        await_count(settled, 3);
        ready();
    }
    await_go();
    /* One more, which outlives its parent: nobody finds it below the tree. */
    pid_t orphan = WORKS(fork());
    if (orphan == 0 && WORKS(fork()) != 0)
        _exit(0);
    uint64_t state = (uint64_t)gettid_();
    CHECK(look_around(&state, 2000));
    CHECK(pages_filled(common, 0, common_pages, COMMON));
    if (!parent || orphan == 0)
        _exit(0);
    expect_exit(orphan, 0);
    expect_exit(pids[0], 0), expect_exit(pids[1], 0);
    return done();
}
