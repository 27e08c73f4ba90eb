/* Many processes, processes that come and go all the time, and processes that share tables. */
#include "common.h"

/* A tree of many processes: each mid one has leaves that it talks to over pipes. */
enum { LEAVES = 9, ROUNDS = 20 };

struct line {
    int down[2], up[2];
};

static void open_line(struct line *line) {
    MUST(pipe2(line->down, O_CLOEXEC));
    MUST(pipe2(line->up, O_CLOEXEC));
}

/* Keeps the parent's ends, or the child's. */
static void keep_ends(const struct line *line, bool parent) {
    close(line->down[parent ? 0 : 1]);
    close(line->up[parent ? 1 : 0]);
}

static long ask(const struct line *line, long token) {
    long answer = 0;
    if (write(line->down[1], &token, sizeof token) != sizeof token)
        complain(__FILE__, __LINE__, "cannot pass token %ld on: %s", token, strerror(errno));
    ssize_t length = read(line->up[0], &answer, sizeof answer);
    if (length != sizeof answer)
        complain(__FILE__, __LINE__, "no answer to token %ld: %zd (%s)", token, length, strerror(errno));
    return answer;
}

static int leaf(const struct line *line, long number) {
    static uint8_t memory[5000];
    pid_t parent = getppid();
    fill(memory, sizeof memory, (uint64_t)number);
    long token;
    ssize_t length;
    while ((length = read(line->down[0], &token, sizeof token)) == sizeof token) {
        EQUAL(getppid(), parent);
        CHECK(filled(memory, sizeof memory, (uint64_t)number));
        token += number;
        if (write(line->up[1], &token, sizeof token) != sizeof token)
            complain(__FILE__, __LINE__, "leaf %ld cannot answer: %s", number, strerror(errno));
    }
    EQUAL(length, 0);
    return 0;
}

static int middle(const struct line *line, long number) {
    struct line below[LEAVES];
    pid_t pids[LEAVES];
    for (int i = 0; i < LEAVES; i++) {
        open_line(&below[i]);
        pids[i] = MUST(fork());
        if (pids[i] == 0) {
            close(line->down[0]);
            close(line->up[1]);
            for (int j = 0; j < i; j++)
                close(below[j].down[1]), close(below[j].up[0]);
            keep_ends(&below[i], false);
            _exit(leaf(&below[i], number * 100 + i));
        }
        keep_ends(&below[i], true);
    }
    long token;
    while (read(line->down[0], &token, sizeof token) == sizeof token) {
        long sum = 0;
        for (int i = 0; i < LEAVES; i++)
            sum += ask(&below[i], token);
        if (write(line->up[1], &sum, sizeof sum) != sizeof sum)
            complain(__FILE__, __LINE__, "cannot answer: %s", strerror(errno));
    }
    for (int i = 0; i < LEAVES; i++) {
        close(below[i].down[1]);
        expect_exit(pids[i], 0);
    }
    return 0;
}

TARGET(crowd) {
    int middles = argc > 1 ? atoi(argv[1]) / (LEAVES + 1) : 2;
    ASSURE(middles > 0 && middles <= 100);
    struct line lines[100];
    pid_t pids[100];
    for (int i = 0; i < middles; i++) {
        open_line(&lines[i]);
        pids[i] = MUST(fork());
        if (pids[i] == 0) {
            for (int j = 0; j < i; j++)
                close(lines[j].down[1]), close(lines[j].up[0]);
            keep_ends(&lines[i], false);
            _exit(middle(&lines[i], i));
        }
        keep_ends(&lines[i], true);
    }
    for (int phase = 0; phase < 2; phase++) {
        for (long round = 0; round < (phase ? ROUNDS : 2); round++)
            for (int i = 0; i < middles; i++) {
                long expected = LEAVES * (round + i * 100L) + LEAVES * (LEAVES - 1) / 2;
                EQUAL(ask(&lines[i], round), expected);
            }
        if (phase == 0) {
            ready();
            await_go();
        }
    }
    for (int i = 0; i < middles; i++) {
        close(lines[i].down[1]);
        expect_exit(pids[i], 0);
    }
    return done();
}

/* Threads and children that come and go all the time. The count in DIR/progress says that it lives. */
static atomic_long *churned;

static void *short_lived(void *number) {
    return (void *)((intptr_t)number * 3);
}

static void *churn_threads(void *unused) {
    for (intptr_t i = 0; !go(); i++) {
        pthread_t threads[3];
        for (int j = 0; j < 3; j++) {
            int error = pthread_create(&threads[j], NULL, short_lived, (void *)(i + j));
            if (error != 0)
                complain(__FILE__, __LINE__, "pthread_create: %s", strerror(error));
        }
        for (int j = 0; j < 3; j++) {
            void *result = NULL;
            int error = pthread_join(threads[j], &result);
            if (error != 0 || result != (void *)((i + j) * 3))
                complain(__FILE__, __LINE__, "pthread_join: %s, result %p", strerror(error), result);
        }
        ++*churned;
    }
    return unused;
}

static void *churn_children(void *unused) {
    for (int i = 0; !go(); i++) {
        pid_t exits = fork(), executes = fork();
        if (executes == 0) {
            if (exits == 0)
                _exit(1);
            execl("/proc/self/exe", "targets", "nothing", NULL);
            _exit(99);
        }
        if (exits == 0) {
            /* A child of its own, which is waited for. */
            waitpid(executes, NULL, 0);
            _exit(i & 127);
        }
        expect_exit(exits, i & 127);
        expect_exit(executes, 0);
        ++*churned;
    }
    return unused;
}

TARGET(restless) {
    int fd = MUST(open(in_directory("progress"), O_RDWR | O_CREAT | O_CLOEXEC, 0666));
    MUST(ftruncate(fd, 8));
    churned = MUST(mmap(NULL, 8, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0));
    close(fd);
    pthread_t threads[2];
    MUST0(pthread_create(&threads[0], NULL, churn_threads, NULL));
    MUST0(pthread_create(&threads[1], NULL, churn_children, NULL));
    while (*churned < 5)
        pause_ms(1);
    ready();
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    return done();
}

/* Tasks that are no threads of each other and yet share a table of descriptors, or a working directory and a umask. */
static struct {
    atomic_int settled, step, fd;
} *tables;

static int sharing(int flags) {
    tables->settled++;
    while (tables->step < 1)
        pause_ms(1);
    char text[8] = "";
    if (flags & CLONE_FILES) {
        EQUAL(WORKS(pread(tables->fd, text, 4, 0)), 4);
        CHECK(strcmp(text, "same") == 0);
        WORKS(close(tables->fd));
    } else {
        FAILS(pread(tables->fd, text, 4, 0), EBADF);
    }
    if (flags & CLONE_FS) {
        WORKS(chdir("/usr"));
        EQUAL(umask(0123), 0045);
    } else {
        umask(0777);
        WORKS(chdir("/etc"));
    }
    return 0;
}

TARGET(shared_tables) {
    static const int flags[] = {CLONE_FILES, CLONE_FS, CLONE_FILES | CLONE_FS, 0};
    tables = share(4096);
    for (int round = 0; round < 4; round++) {
        /* Each pair is in a process of its own, so that the pairs do not share with each other. */
        pid_t pair = MUST(fork());
        if (pair != 0)
            continue;
        tables = share(4096);
        umask(0022);
        pid_t pid = MUST((pid_t)syscall(SYS_clone, flags[round] | SIGCHLD, NULL, NULL, NULL, 0));
        if (pid == 0)
            _exit(sharing(flags[round]));
        await_count(&tables->settled, 1);
        char name[16];
        snprintf(name, sizeof name, "pair%d", round);
        MUST(mkdir(in_directory(name), 0777));
        snprintf(name, sizeof name, "settled%d", round);
        MUST(mkdir(in_directory(name), 0777));
        await_go();
        umask(0045);
        snprintf(name, sizeof name, "same%d", round);
        int fd = WORKS(open(in_directory(name), O_RDWR | O_CREAT | O_EXCL, 0600));
        EQUAL(WORKS(write(fd, "same", 4)), 4);
        tables->fd = fd;
        tables->step = 1;
        expect_exit(pid, 0);
        if (flags[round] & CLONE_FILES)
            FAILS(close(fd), EBADF);
        else
            WORKS(close(fd));
        char path[PATH_MAX];
        CHECK(getcwd(path, sizeof path) != NULL);
        CHECK((strcmp(path, "/usr") == 0) == ((flags[round] & CLONE_FS) != 0));
        EQUAL(umask(0), flags[round] & CLONE_FS ? 0123 : 0045);
        _exit(0);
    }
    for (int round = 0; round < 4; round++) {
        char name[16];
        snprintf(name, sizeof name, "settled%d", round);
        while (access(in_directory(name), F_OK) != 0)
            pause_ms(1);
    }
    ready();
    await_go();
    int status, pairs = 0;
    while (wait(&status) > 0) {
        EQUAL(status, 0);
        pairs++;
    }
    EQUAL(pairs, 4);
    return done();
}
