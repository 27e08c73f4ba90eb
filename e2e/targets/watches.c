/* inotify and fanotify: what is watched, under which numbers, and that a restore itself is not reported. */
#include "common.h"

#include <poll.h>
#include <sys/epoll.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static void touch(const char *name) {
    close(WORKS(open(in_directory(name), O_RDWR | O_CREAT | O_CLOEXEC, 0644)));
}

/* The next event of an instance, or NULL. */
static const struct inotify_event *event(int fd) {
    static _Alignas(struct inotify_event) char buffer[4096];
    static long length, at;
    if (at >= length) {
        at = 0;
        length = read(fd, buffer, sizeof buffer);
        if (length <= 0) {
            length = 0;
            return NULL;
        }
    }
    const struct inotify_event *event = (const struct inotify_event *)(buffer + at);
    at += (long)sizeof *event + event->len;
    return event;
}

static void expect(int fd, int watch, uint32_t mask, const char *name) {
    const struct inotify_event *got = event(fd);
    if (got == NULL) {
        complain(__FILE__, __LINE__, "no event for watch %d", watch);
        return;
    }
    EQUAL(got->wd, watch);
    EQUAL(got->mask, mask);
    if (name != NULL && (got->len == 0 || strcmp(got->name, name) != 0))
        complain(__FILE__, __LINE__, "event about %s, not %s", got->len ? got->name : "nothing", name);
}

TARGET(inotify) {
    MUST(mkdir(in_directory("watched"), 0755));
    MUST(mkdir(in_directory("once"), 0755));
    MUST(mkdir(in_directory("gone"), 0755));
    touch("file");
    int fd = MUST(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
    int removed = MUST(inotify_add_watch(fd, in_directory("file"), IN_ALL_EVENTS));
    int directory_watch = MUST(inotify_add_watch(fd, in_directory("watched"), IN_CREATE | IN_DELETE | IN_MOVED_TO));
    MUST(inotify_rm_watch(fd, removed));
    int file_watch = MUST(inotify_add_watch(fd, in_directory("file"), IN_ALL_EVENTS));
    int once = MUST(inotify_add_watch(fd, in_directory("once"), IN_CREATE | IN_ONESHOT | IN_EXCL_UNLINK));
    /* A file without a name, which the program has open and watches. */
    int gone = MUST(open(in_directory("gone/file"), O_RDWR | O_CREAT | O_CLOEXEC, 0644));
    int gone_watch = MUST(inotify_add_watch(fd, in_directory("gone/file"), IN_MODIFY));
    /* Its directory is watched too: that it is made again for a moment is nobody's business. */
    int parent_watch = MUST(inotify_add_watch(fd, in_directory("gone"), IN_CREATE | IN_DELETE | IN_MOVE | IN_CLOSE));
    MUST(unlink(in_directory("gone/file")));
    /* The watched file is open and mapped as well. */
    int open_file = MUST(open(in_directory("file"), O_RDWR | O_CLOEXEC));
    MUST(ftruncate(open_file, 4096));
    MUST(mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, open_file, 0) == MAP_FAILED ? -1 : 0);
    while (event(fd) != NULL)
        ;
    int other = MUST(inotify_init());
    int copy = MUST(dup(other));
    ready();
    await_go();
    CHECK(event(fd) == NULL);
    touch("watched/new");
    expect(fd, directory_watch, IN_CREATE, "new");
    touch("once/first");
    expect(fd, once, IN_CREATE, "first");
    expect(fd, once, IN_IGNORED, NULL);
    WORKS(write(open_file, "x", 1));
    expect(fd, file_watch, IN_MODIFY, NULL);
    WORKS(write(gone, "x", 1));
    expect(fd, gone_watch, IN_MODIFY, NULL);
    touch("gone/other");
    expect(fd, parent_watch, IN_CREATE, "other");
    expect(fd, parent_watch, IN_CLOSE_WRITE, "other");
    WORKS(inotify_rm_watch(fd, directory_watch));
    /* An instance that watched nothing, under two numbers. */
    int first = WORKS(inotify_add_watch(copy, directory, IN_CREATE));
    EQUAL(first, 1);
    touch("last");
    expect(other, 1, IN_CREATE, "last");
    return done();
}

TARGET(fanotify) {
    touch("file");
    touch("ignored");
    int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK | FAN_CLOEXEC, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        skip("fanotify_init: %s", strerror(errno));
    MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, in_directory("file")));
    MUST(fanotify_mark(fd, FAN_MARK_ADD, FAN_OPEN | FAN_EVENT_ON_CHILD, AT_FDCWD, directory));
    MUST(fanotify_mark(fd, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY, FAN_OPEN, AT_FDCWD,
                       in_directory("ignored")));
    ready();
    await_go();
    struct fanotify_event_metadata events[16];
    long length;
    /* The go of the test may have been seen. */
    while ((length = read(fd, events, sizeof events)) > 0)
        for (long i = 0; i < length / (long)sizeof *events; i++)
            close(events[i].fd);
    int ignored = WORKS(open(in_directory("ignored"), O_RDONLY | O_CLOEXEC));
    FAILS(read(fd, events, sizeof events), EAGAIN);
    int file = WORKS(open(in_directory("file"), O_WRONLY | O_CLOEXEC));
    EQUAL(read(fd, events, sizeof events), sizeof *events);
    EQUAL(events[0].mask, FAN_OPEN);
    close(events[0].fd);
    WORKS(write(file, "x", 1));
    EQUAL(read(fd, events, sizeof events), sizeof *events);
    EQUAL(events[0].mask, FAN_MODIFY);
    close(events[0].fd);
    close(file);
    close(ignored);
    return done();
}

#ifndef PIDFD_THREAD
#define PIDFD_THREAD O_EXCL
#endif

static int pidfd_open_(pid_t pid, unsigned flags) {
    return (int)syscall(SYS_pidfd_open, pid, flags);
}

static int signal_of(int pidfd, int signal) {
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}

static int sleeper(void *unused) {
    (void)unused;
    for (;;)
        pause();
    return 0;
}

static int quitter(void *unused) {
    (void)unused;
    return 7;
}

static bool is_readable(int fd) {
    struct pollfd poll_ = {.fd = fd, .events = POLLIN};
    return WORKS(poll(&poll_, 1, 0)) == 1;
}

/* A child that has descriptors of the root, and shares one with it. */
static int inherited;

static int holder(void *unused) {
    (void)unused;
    await_go();
    WORKS(signal_of(inherited, 0));
    int parent = WORKS(pidfd_open_(getppid(), 0));
    EQUAL(syscall(SYS_kcmp, getpid(), getppid(), 0, inherited, inherited), 0);
    close(parent);
    return 0;
}

static void *idle(void *settled) {
    (*(atomic_int *)settled)++;
    await_go();
    return NULL;
}

TARGET(pidfds) {
    int self = MUST(pidfd_open_(getpid(), 0));
    pid_t alive_pid = child(sleeper, NULL);
    int alive = MUST(pidfd_open_(alive_pid, O_NONBLOCK));
    MUST(fcntl(alive, F_SETFD, 0));
    pid_t zombie_pid = child(quitter, NULL);
    int zombie = MUST(pidfd_open_(zombie_pid, 0));
    pid_t dead_pid = child(quitter, NULL);
    int dead = MUST(pidfd_open_(dead_pid, 0)), dead_again = MUST(pidfd_open_(dead_pid, 0));
    int status;
    MUST(waitpid(dead_pid, &status, 0));
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)zombie_pid, &info, WEXITED | WNOWAIT));
    inherited = MUST(pidfd_open_(alive_pid, 0));
    pid_t holder_pid = child(holder, NULL);
    pthread_t thread;
    static atomic_int settled;
    MUST0(pthread_create(&thread, NULL, idle, &settled));
    await_count(&settled, 1);
    int of_thread = pidfd_open_(getpid(), PIDFD_THREAD);
    /* An event loop that waits for a process. */
    int loop = MUST(epoll_create1(EPOLL_CLOEXEC));
    struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = 42};
    MUST(epoll_ctl(loop, EPOLL_CTL_ADD, alive, &wanted));
    ready();
    await_go();
    MUST0(pthread_join(thread, NULL));
    WORKS(signal_of(self, 0));
    CHECK(!is_readable(self));
    CHECK(is_readable(zombie));
    CHECK(is_readable(dead) && is_readable(dead_again));
    FAILS(signal_of(dead, 0), ESRCH);
    struct stat one, other;
    WORKS(fstat(dead, &one));
    WORKS(fstat(dead_again, &other));
    EQUAL(one.st_ino, other.st_ino);
    CHECK(fcntl(alive, F_GETFL) & O_NONBLOCK);
    EQUAL(fcntl(alive, F_GETFD), 0);
    EQUAL(fcntl(self, F_GETFD), FD_CLOEXEC);
    if (of_thread >= 0)
        CHECK(fcntl(of_thread, F_GETFL) & PIDFD_THREAD);
    expect_exit(holder_pid, 0);
    memset(&info, 0, sizeof info);
    WORKS(waitid(P_PIDFD, (id_t)zombie, &info, WEXITED));
    EQUAL(info.si_status, 7);
    struct epoll_event got;
    EQUAL(epoll_wait(loop, &got, 1, 0), 0);
    WORKS(signal_of(inherited, SIGKILL));
    EQUAL(epoll_wait(loop, &got, 1, 10000), 1);
    EQUAL(got.data.u64, 42);
    WORKS(waitid(P_PIDFD, (id_t)alive, &info, WEXITED));
    return done();
}
