/* Advisory locks: who has them, and what they keep others from. */
#include "common.h"

#include <sys/file.h>

static int make(const char *name, int flags) {
    int fd = MUST(open(in_directory(name), flags | O_CREAT | O_CLOEXEC, 0644));
    return fd;
}

static struct flock range(short type, off_t start, off_t length) {
    struct flock lock = {.l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return lock;
}

/* Whether a lock of another description would be granted. */
static bool is_free(const char *name, int how) {
    int fd = WORKS(open(in_directory(name), O_RDWR | O_CLOEXEC));
    bool granted = flock(fd, how | LOCK_NB) == 0;
    CHECK(granted || errno == EWOULDBLOCK);
    close(fd);
    return granted;
}

/* Who keeps this process from locking a range: a pid, 0 for nobody. */
static pid_t holder(int fd, short type, off_t start, off_t length) {
    struct flock lock = range(type, start, length);
    WORKS(fcntl(fd, F_GETLK, &lock));
    return lock.l_type == F_UNLCK ? 0 : lock.l_pid;
}

static struct {
    atomic_int settled, checked;
} *shared;

static int posix_of_parent, posix_of_child, inherited;

static int child_with_locks(void *unused) {
    (void)unused;
    struct flock lock = range(F_WRLCK, 100, 10);
    MUST(fcntl(posix_of_child, F_SETLK, &lock));
    lock = range(F_RDLCK, 0, 5);
    MUST(fcntl(posix_of_parent, F_SETLK, &lock));
    shared->settled++;
    await_go();
    /* The parent's exclusive lock keeps the child out, its own ones do not. */
    EQUAL(holder(posix_of_parent, F_WRLCK, 10, 10), getppid());
    EQUAL(holder(posix_of_parent, F_WRLCK, 0, 10), 0);
    EQUAL(holder(posix_of_child, F_WRLCK, 0, 0), getppid());
    /* The lock of the inherited description is its own as well: it can be changed. */
    WORKS(flock(inherited, LOCK_SH | LOCK_NB));
    CHECK(is_free("inherited-lock", LOCK_SH));
    shared->checked++;
    while (shared->checked < 2)
        pause_ms(1);
    return 0;
}

TARGET(locks) {
    shared = share(4096);
    int exclusive = make("exclusive-lock", O_RDWR);
    MUST(flock(exclusive, LOCK_EX));
    int shared_lock = make("shared-lock", O_RDONLY);
    MUST(flock(shared_lock, LOCK_SH));
    int twin = MUST(dup(shared_lock));
    int on_directory = MUST(open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    MUST(flock(on_directory, LOCK_EX));
    inherited = make("inherited-lock", O_RDWR);
    MUST(flock(inherited, LOCK_EX));

    posix_of_parent = make("posix-of-parent", O_RDWR);
    posix_of_child = make("posix-of-child", O_RDWR);
    struct flock lock = range(F_WRLCK, 10, 10);
    MUST(fcntl(posix_of_parent, F_SETLK, &lock));
    lock = range(F_RDLCK, 1000, 0);
    MUST(fcntl(posix_of_child, F_SETLK, &lock));
    pid_t pid = child(child_with_locks, NULL);
    await_count(&shared->settled, 1);
    /* Only the child has this description now. */
    close(inherited);

    int description = make("description-lock", O_RDWR);
    lock = range(F_WRLCK, 5, 7);
    MUST(fcntl(description, F_OFD_SETLK, &lock));
    lock = range(F_RDLCK, 1L << 40, 0);
    MUST(fcntl(description, F_OFD_SETLK, &lock));
    int other = MUST(open(in_directory("description-lock"), O_RDWR | O_CLOEXEC));

    /* A file without a name, locked. */
    int gone = make("gone", O_RDWR);
    MUST(flock(gone, LOCK_EX));
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", gone);
    int gone_again = MUST(open(path, O_RDWR | O_CLOEXEC));
    MUST(unlink(in_directory("gone")));

    ready();
    await_go();
    while (shared->checked < 1)
        pause_ms(1);
    CHECK(!is_free("exclusive-lock", LOCK_SH));
    CHECK(is_free("shared-lock", LOCK_SH));
    CHECK(!is_free("shared-lock", LOCK_EX));
    FAILS(flock(MUST(open(directory, O_RDONLY | O_CLOEXEC)), LOCK_SH | LOCK_NB), EWOULDBLOCK);
    CHECK(!is_free("inherited-lock", LOCK_EX));
    FAILS(flock(gone_again, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    /* One description under two numbers: either lets the lock go. */
    WORKS(flock(twin, LOCK_UN));
    CHECK(is_free("shared-lock", LOCK_EX));

    EQUAL(holder(posix_of_child, F_WRLCK, 100, 1), pid);
    EQUAL(holder(posix_of_child, F_WRLCK, 99, 1), 0);
    EQUAL(holder(posix_of_child, F_WRLCK, 110, 1), 0);
    EQUAL(holder(posix_of_parent, F_WRLCK, 4, 1), pid);
    EQUAL(holder(posix_of_parent, F_RDLCK, 0, 0), 0);

    lock = range(F_WRLCK, 11, 1);
    FAILS(fcntl(other, F_OFD_SETLK, &lock), EAGAIN);
    lock = range(F_WRLCK, 12, 1);
    WORKS(fcntl(other, F_OFD_SETLK, &lock));
    lock = range(F_WRLCK, 1L << 50, 1);
    FAILS(fcntl(other, F_OFD_SETLK, &lock), EAGAIN);
    lock = range(F_RDLCK, 1L << 50, 1);
    WORKS(fcntl(other, F_OFD_SETLK, &lock));
    shared->checked++;
    expect_exit(pid, 0);
    CHECK(is_free("inherited-lock", LOCK_EX));
    return done();
}

static atomic_int breaks, broken;

static void on_break(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    broken = info->si_fd;
    breaks++;
}

/* A lease of a file that nobody else has open; the signal of its end. */
static int leased(const char *name, int flags, int lease) {
    int fd = make(name, flags);
    MUST(fcntl(fd, F_SETSIG, SIGRTMIN + 3));
    MUST(fcntl(fd, F_SETLEASE, lease));
    return fd;
}

static void break_it(const char *name, int flags) {
    int before = breaks;
    FAILS(open(in_directory(name), flags | O_NONBLOCK | O_CLOEXEC), EWOULDBLOCK);
    while (breaks == before)
        pause_ms(1);
}

TARGET(leases) {
    struct sigaction action = {.sa_sigaction = on_break, .sa_flags = SA_SIGINFO};
    MUST(sigaction(SIGRTMIN + 3, &action, NULL));
    int reading = leased("reading", O_RDONLY, F_RDLCK);
    int writing = leased("writing", O_RDWR, F_WRLCK);
    int copy = MUST(fcntl(writing, F_DUPFD_CLOEXEC, 100));
    int ending = leased("ending", O_RDONLY, F_RDLCK);
    break_it("ending", O_WRONLY);
    int lowering = leased("lowering", O_WRONLY, F_WRLCK);
    break_it("lowering", O_RDONLY);
    EQUAL(breaks, 2);
    ready();
    await_go();
    /* Nobody was told a second time. */
    EQUAL(breaks, 2);
    EQUAL(fcntl(reading, F_GETLEASE), F_RDLCK);
    EQUAL(fcntl(writing, F_GETLEASE), F_WRLCK);
    EQUAL(fcntl(copy, F_GETLEASE), F_WRLCK);
    EQUAL(fcntl(ending, F_GETLEASE), F_UNLCK);
    EQUAL(fcntl(lowering, F_GETLEASE), F_RDLCK);
    EQUAL(fcntl(reading, F_GETSIG), SIGRTMIN + 3);
    /* And they can be broken, with the signal and the number of before. */
    break_it("writing", O_RDONLY);
    EQUAL(broken, writing);
    EQUAL(fcntl(writing, F_GETLEASE), F_RDLCK);
    WORKS(fcntl(lowering, F_SETLEASE, F_UNLCK));
    WORKS(fcntl(ending, F_SETLEASE, F_UNLCK));
    int free = WORKS(open(in_directory("ending"), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    close(free);
    return done();
}
