/* Programs whose state is wrong at once if parts of a checkpoint are of different moments. */
#include "common.h"

enum { PAGES = 48, PAGE = 4096 };

struct world {
    /* One number per page, all of them equal between two steps. */
    struct {
        atomic_ulong number;
        char rest[PAGE - sizeof(atomic_ulong)];
    } pages[PAGES];
};

/* Every number must be the one of the step before; then it is the step's own. */
static void step(struct world *world, unsigned long number, const char *whose) {
    for (int i = 0; i < PAGES; i++) {
        EQUAL_OF(whose, world->pages[i].number, number - 1);
        world->pages[i].number = number;
    }
}

static void writer(struct world *own, struct world *common, int pipe) {
    unsigned long number = 0;
    while (number % 256 != 0 || !go()) {
        number++;
        step(own, number, "private page of the writer");
        step(common, number, "shared page");
        if (write(pipe, &number, sizeof number) != sizeof number)
            complain(__FILE__, __LINE__, "cannot write to the pipe: %s", strerror(errno));
    }
    MUST(close(pipe));
}

static int reader(struct world *own, struct world *common, int pipe) {
    unsigned long number, expected = 0;
    while (read(pipe, &number, sizeof number) == sizeof number) {
        expected++;
        EQUAL_OF("pipe", number, expected);
        step(own, number, "private page of the reader");
        /* The writer put it into the pipe when it had written it everywhere. */
        for (int i = 0; i < PAGES; i++)
            CHECK(common->pages[i].number >= number);
    }
    return 0;
}

/* A writer and a reader that keep in step across private memory, shared memory and a pipe, at full speed. */
TARGET(instant) {
    struct world *common = share(sizeof *common), *own;
    int ends[2];
    own = mmap(NULL, sizeof *own, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSURE(own != MAP_FAILED);
    MUST(pipe(ends));
    pid_t pid = MUST(fork());
    if (pid == 0) {
        MUST(close(ends[1]));
        _exit(reader(own, common, ends[0]));
    }
    MUST(close(ends[0]));
    ready();
    writer(own, common, ends[1]);
    expect_exit(pid, 0);
    return done();
}

/* A program without children that asks for them all the time, and would be told of any that end. */
static atomic_int children_ended;

static void count(int signal __attribute__((unused))) {
    children_ended++;
}

TARGET(childless) {
    struct sigaction action = {.sa_handler = count};
    MUST(sigaction(SIGCHLD, &action, NULL));
    ready();
    while (!go()) {
        for (int i = 0; i < 100; i++)
            FAILS(waitpid(-1, NULL, WNOHANG), ECHILD);
    }
    EQUAL(children_ended, 0);
    return done();
}

/* `no_more_processes`: as a user who may not have one process more. */
TARGET(no_more_processes) {
    uint8_t *memory = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    ASSURE(memory != MAP_FAILED);
    fill(memory, 1 << 20, 7);
    struct rlimit one = {1, 1};
    MUST(setrlimit(RLIMIT_NPROC, &one));
    MUST(setresgid(54321, 54321, 54321));
    MUST(setresuid(54321, 54321, 54321));
    FAILS(fork(), EAGAIN);
    ready();
    await_go();
    CHECK(filled(memory, 1 << 20, 7));
    return done();
}
