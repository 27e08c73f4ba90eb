/* Memory that changes in every way a program can change it, step by step: the test says when, and what is there after each
 * step is compared with what a checkpoint of that step brings back.
 *
 *   DIR/step-N          made by the test: do step N
 *   DIR/areas-PID       made by each process: `START END` of everything that counts, a line each
 *   DIR/stepped-N-PID   made by each process when it has done step N; the first waits for the others
 */
#include "common.h"

enum { PAGE = 4096, AREAS = 48, CHILDREN = 3, OPERATIONS = 50, LONGEST = 96, HUGE_PAGES = 1024 };

struct area {
    uint8_t *start;
    size_t pages;
    bool is_shared;
};

/* All of it counts too, but for the stack. */
static struct {
    struct area areas[AREAS];
    int count;
    uint64_t random;
    uint8_t *heap;
    size_t heap_pages;
    int file;
    pid_t first;
    pid_t children[CHILDREN];
    int births;
} *world;

static uint64_t below(uint64_t limit) {
    uint64_t x = world->random;
    x ^= x << 13, x ^= x >> 7, x ^= x << 17;
    world->random = x;
    return (x >> 11) % limit;
}

static void scribble(uint8_t *start, size_t pages) {
    for (size_t n = 1 + below(pages); n > 0; n--) {
        uint8_t *page = start + below(pages) * PAGE;
        switch (below(4)) {
        case 0:
            memset(page, 0, PAGE);
            break;
        case 1:
            page[below(PAGE)]++;
            break;
        default:
            fill(page, PAGE, below(UINT64_MAX));
        }
    }
}

static void forget(int index) {
    world->areas[index] = world->areas[--world->count];
}

static void keep(uint8_t *start, size_t pages, bool is_shared) {
    if (pages > 0)
        world->areas[world->count++] = (struct area){start, pages, is_shared};
}

static void add(size_t pages, int flags) {
    if (world->count + 3 > AREAS)
        return;
    /* What is written to a file is there whatever is restored. */
    bool of_file = flags == MAP_PRIVATE && pages <= LONGEST && below(6) == 0;
    int fd = of_file ? world->file : -1;
    uint8_t *start = WORKS(mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, flags | (of_file ? 0 : MAP_ANONYMOUS), fd, 0));
    keep(start, pages, (flags & MAP_SHARED) != 0 || of_file);
    if (below(3) != 0)
        scribble(start, pages);
}

/* Takes a piece out of an area, and gives where it was. */
static uint8_t *cut(int index, size_t *pages) {
    struct area whole = world->areas[index];
    size_t from = below(whole.pages), len = 1 + below(whole.pages - from);
    forget(index);
    keep(whole.start, from, whole.is_shared);
    keep(whole.start + (from + len) * PAGE, whole.pages - from - len, whole.is_shared);
    *pages = len;
    return whole.start + from * PAGE;
}

static void move(int index) {
    struct area *area = &world->areas[index];
    if (area->is_shared)
        return;
    size_t pages = 1 + below(area->pages + 8);
    int flags = MREMAP_MAYMOVE;
    void *place = NULL;
    if (below(2) == 0) {
        /* To a place where something else was, perhaps, a moment ago. */
        place = WORKS(mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        flags |= MREMAP_FIXED;
    }
    uint8_t *start = mremap(area->start, area->pages * PAGE, pages * PAGE, flags, place);
    if (start == MAP_FAILED) {
        /* The area may be of several mappings. */
        if (place != NULL)
            munmap(place, pages * PAGE);
        return;
    }
    *area = (struct area){start, pages, false};
}

static void grow_heap(void) {
    if (world->heap_pages > 64 && below(2) == 0) {
        size_t pages = below(world->heap_pages);
        WORKS(sbrk(-(intptr_t)(pages * PAGE)));
        world->heap_pages -= pages;
    } else {
        size_t pages = 1 + below(40);
        WORKS(sbrk((intptr_t)(pages * PAGE)));
        world->heap_pages += pages;
    }
    if (world->heap_pages > 0)
        scribble(world->heap, world->heap_pages);
}

static void change(void) {
    if (world->count == 0)
        return add(LONGEST, MAP_PRIVATE);
    int index = (int)below((uint64_t)world->count);
    struct area *area = &world->areas[index];
    size_t from = below(area->pages), pages = 1 + below(area->pages - from);
    uint8_t *start = area->start + from * PAGE;
    switch (below(14)) {
    case 0:
    case 1:
    case 2:
        return scribble(start, pages);
    case 3:
        return add(1 + below(LONGEST), MAP_PRIVATE);
    case 4:
        if (world->count + 3 > AREAS)
            return;
        start = cut(index, &pages);
        WORKS(munmap(start, pages * PAGE));
        return;
    case 5:
        return move(index);
    case 6:
    case 7:
        WORKS(madvise(start, pages * PAGE, MADV_DONTNEED));
        if (below(2) == 0)
            scribble(start, pages);
        return;
    case 8:
        WORKS(mprotect(start, pages * PAGE, PROT_READ));
        WORKS(mprotect(area->start, area->pages * PAGE, PROT_READ | PROT_WRITE));
        return scribble(start, pages);
    case 9:
        /* Over what is there, in one step. */
        if (!area->is_shared)
            WORKS(mmap(start, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
        return below(2) == 0 ? scribble(start, pages) : (void)0;
    case 10: {
        /* By the kernel. */
        int fd = WORKS(open("/proc/self/cmdline", O_RDONLY | O_CLOEXEC));
        WORKS(read(fd, start, PAGE));
        close(fd);
        return;
    }
    case 11:
        return grow_heap();
    case 12:
        if (below(8) == 0)
            return add(1 + below(LONGEST), MAP_SHARED);
        return;
    case 13:
        if (below(4) == 0) {
            if (world->count + 3 > AREAS)
                return;
            add(HUGE_PAGES, MAP_PRIVATE);
            struct area *big = &world->areas[world->count - 1];
            madvise(big->start, big->pages * PAGE, MADV_HUGEPAGE);
            scribble(big->start, big->pages / 8);
        }
        return;
    }
}

static void tell_areas(void) {
    char name[64], text[8192];
    size_t length = 0;
    for (int i = 0; i <= world->count; i++) {
        struct area area = i < world->count ? world->areas[i] : (struct area){world->heap, world->heap_pages, false};
        length += (size_t)snprintf(text + length, sizeof text - length, "%lx %lx\n", (unsigned long)area.start,
                                   (unsigned long)(area.start + area.pages * PAGE));
    }
    snprintf(name, sizeof name, "areas-%d", (int)getpid());
    int fd = WORKS(open(in_directory(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    EQUAL(write(fd, text, length), (long)length);
    close(fd);
}

static bool is_there(const char *format, int number, int pid) {
    char name[64];
    snprintf(name, sizeof name, format, number, pid);
    return access(in_directory(name), F_OK) == 0;
}

static void steps(int first);
static void await_children(int step);

/* Only the first process has children, so that it knows whom to wait for. */
static void have_children(int step) {
    int place = (int)below(CHILDREN);
    pid_t *child = &world->children[place];
    if (*child != 0) {
        WORKS(kill(*child, SIGKILL));
        WORKS(waitpid(*child, NULL, 0));
        *child = 0;
    }
    if (below(3) == 0)
        return;
    world->births++;
    pid_t pid = WORKS(fork());
    if (pid == 0) {
        world->random += (uint64_t)world->births * 0x9e3779b97f4a7c15ULL;
        memset(world->children, 0, sizeof world->children);
        tell_areas();
        /* For the first to go on, which waits until this is told as well. */
        char name[64];
        snprintf(name, sizeof name, "stepped-%d-%d", step, (int)getpid());
        close(WORKS(open(in_directory(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
        steps(step + 1);
        _exit(0);
    }
    *child = pid;
    await_children(step);
}

static void await_children(int step) {
    for (int i = 0; i < CHILDREN; i++)
        while (world->children[i] != 0 && !is_there("stepped-%d-%d", step, world->children[i]))
            pause_ms(1);
}

static void steps(int first) {
    for (int step = first;; step++) {
        while (!is_there("step-%d", step, 0)) {
            if (go())
                return;
            pause_ms(1);
        }
        for (int i = 0; i < OPERATIONS; i++)
            change();
        if (world->first == getpid()) {
            await_children(step);
            have_children(step);
        }
        tell_areas();
        char name[64];
        snprintf(name, sizeof name, "stepped-%d-%d", step, (int)getpid());
        close(WORKS(open(in_directory(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
    }
}

TARGET(churn) {
    world = MUST(mmap(NULL, sizeof *world, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    world->random = argc > 1 ? strtoull(argv[1], NULL, 0) | 1 : 88172645463325252ULL;
    world->file = MUST(open(in_directory("file"), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    static uint8_t page[PAGE];
    for (int i = 0; i < LONGEST; i++) {
        fill(page, PAGE, (uint64_t)i);
        ASSURE(write(world->file, page, PAGE) == PAGE);
    }
    MUST(sbrk(PAGE - (intptr_t)((uintptr_t)MUST(sbrk(0)) % PAGE)));
    world->heap = MUST(sbrk(0));
    world->heap_pages = 0;
    world->first = getpid();
    for (int i = 0; i < 8; i++)
        add(1 + below(LONGEST), MAP_PRIVATE);
    add(1 + below(LONGEST), MAP_SHARED);
    tell_areas();
    ready();
    steps(1);
    return done();
}
