/*
 * Interrupted system calls. Each thread stands in one blocking call; whatever happens to the process, none of them may
 * return before it is woken in the proper way, and then with the proper result.
 *
 * Some calls fail with EINTR whenever a task is stopped, by anybody (signal(7), "Interruption of system calls and
 * library functions by stop signals"), or carry their state in a restart block that cannot be given to a new task.
 * A program has to be able to bear EINTR there, so these may be called again; how often is told in DIR/interrupted.
 */
#include "common.h"

#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

enum { LONG_TIME = 3600 };

struct blocked {
    const char *name;
    /* Number of the system call that the thread stands in. */
    long number;
    /* Makes the call; -1 and errno when it fails. */
    long (*call)(struct blocked *);
    /* Makes it return. */
    void (*wake)(struct blocked *);
    long expected;
    int expected_errno;
    bool may_be_interrupted;
    /* What the call works on. */
    int fds[2];
    pid_t pid, tid;
    atomic_int futex, settled, returned, awake;
    atomic_int interruptions;
    pthread_t thread;
    int64_t began_ns;
};

static atomic_int handled;

static void handler(int signal) {
    (void)signal;
    handled++;
}

static void signal_thread(struct blocked *b) {
    WORKS(syscall(SYS_tgkill, getpid(), b->tid, SIGUSR1));
}

/* read(2) from an empty pipe, write(2) to a full one. */
static void make_pipe(struct blocked *b) {
    MUST(pipe2(b->fds, O_CLOEXEC));
}

static long read_pipe(struct blocked *b) {
    char byte = 0;
    return read(b->fds[0], &byte, 1) == 1 ? byte : -1;
}

static void write_byte(struct blocked *b) {
    EQUAL(write(b->fds[1], "x", 1), 1);
}

static long write_pipe(struct blocked *b) {
    return write(b->fds[1], "abcdef", 6);
}

static void drain(struct blocked *b) {
    static char bytes[4096];
    while (read(b->fds[0], bytes, sizeof bytes) == sizeof bytes && !b->returned)
        ;
}

static void fill_pipe(struct blocked *b) {
    static char bytes[4096];
    make_pipe(b);
    MUST(fcntl(b->fds[1], F_SETFL, O_NONBLOCK));
    while (write(b->fds[1], bytes, sizeof bytes) > 0)
        ;
    MUST(fcntl(b->fds[1], F_SETFL, 0));
}

static long poll_forever(struct blocked *b) {
    struct pollfd fd = {.fd = b->fds[0], .events = POLLIN};
    return poll(&fd, 1, -1) == 1 ? fd.revents : -1;
}

static long poll_long(struct blocked *b) {
    struct pollfd fd = {.fd = b->fds[0], .events = POLLIN};
    return poll(&fd, 1, LONG_TIME * 1000) == 1 ? fd.revents : -1;
}

/* The calls that change the mask of signals for the time they last. SIGUSR1 is blocked otherwise. */
static void block_usr1(sigset_t *without) {
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR1);
    sigaddset(&mask, SIGUSR2);
    pthread_sigmask(SIG_SETMASK, &mask, NULL);
    *without = mask;
    sigdelset(without, SIGUSR1);
}

static void check_mask(const char *name) {
    sigset_t mask;
    int error = errno;
    pthread_sigmask(SIG_SETMASK, NULL, &mask);
    EQUAL_OF(name, *(uint64_t *)&mask, 1UL << (SIGUSR1 - 1) | 1UL << (SIGUSR2 - 1));
    errno = error;
}

static long ppoll_masked(struct blocked *b) {
    struct pollfd fd = {.fd = b->fds[0], .events = POLLIN};
    sigset_t mask;
    block_usr1(&mask);
    long result = ppoll(&fd, 1, NULL, &mask);
    check_mask(b->name);
    return result;
}

static long ppoll_long(struct blocked *b) {
    struct pollfd fd = {.fd = b->fds[0], .events = POLLIN};
    struct timespec timeout = {.tv_sec = LONG_TIME};
    return ppoll(&fd, 1, &timeout, NULL) == 1 ? fd.revents : -1;
}

static long select_forever(struct blocked *b) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(b->fds[0], &set);
    return syscall(SYS_select, b->fds[0] + 1, &set, NULL, NULL, NULL);
}

static long pselect_masked(struct blocked *b) {
    fd_set set;
    FD_ZERO(&set);
    FD_SET(b->fds[0], &set);
    sigset_t mask;
    block_usr1(&mask);
    long result = pselect(b->fds[0] + 1, &set, NULL, NULL, NULL, &mask);
    check_mask(b->name);
    return result;
}

static long suspend(struct blocked *b) {
    sigset_t mask;
    block_usr1(&mask);
    long result = sigsuspend(&mask);
    check_mask(b->name);
    return result;
}

static long pause_(struct blocked *b) {
    (void)b;
    return syscall(SYS_pause);
}

static long epoll_forever(struct blocked *b) {
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x1234567890};
    int fd = epoll_create1(EPOLL_CLOEXEC);
    MUST(epoll_ctl(fd, EPOLL_CTL_ADD, b->fds[0], &event));
    event.data.u64 = 0;
    long result;
    while ((result = epoll_wait(fd, &event, 1, -1)) == -1 && errno == EINTR)
        b->interruptions++;
    close(fd);
    return result == 1 ? (long)event.data.u64 : -1;
}

static long futex(struct blocked *b, int operation, const struct timespec *timeout) {
    return syscall(SYS_futex, &b->futex, operation, 0, timeout, NULL, FUTEX_BITSET_MATCH_ANY);
}

static long futex_forever(struct blocked *b) {
    return futex(b, FUTEX_WAIT_PRIVATE, NULL);
}

static long futex_shared(struct blocked *b) {
    return futex(b, FUTEX_WAIT, NULL);
}

static long futex_relative(struct blocked *b) {
    struct timespec timeout = {.tv_sec = LONG_TIME};
    return futex(b, FUTEX_WAIT_PRIVATE, &timeout);
}

static long futex_absolute(struct blocked *b) {
    struct timespec timeout;
    clock_gettime(CLOCK_MONOTONIC, &timeout);
    timeout.tv_sec += LONG_TIME;
    return futex(b, FUTEX_WAIT_BITSET_PRIVATE, &timeout);
}

static void wake_futex(struct blocked *b) {
    /* Between two attempts the thread is not in the call. */
    while (!b->returned && syscall(SYS_futex, &b->futex, FUTEX_WAKE, 1) == 0 &&
           syscall(SYS_futex, &b->futex, FUTEX_WAKE_PRIVATE, 1) == 0)
        pause_ms(1);
}

/* Sleeps: what remains must have shrunk by about the time that passed. */
static void check_remaining(struct blocked *b, const struct timespec *remaining) {
    int64_t passed = now_ns(CLOCK_MONOTONIC) - b->began_ns, rest = remaining->tv_sec * 1000000000LL + remaining->tv_nsec;
    if (rest > LONG_TIME * 1000000000LL || rest + passed < (LONG_TIME - 5) * 1000000000LL)
        complain(__FILE__, __LINE__, "%s: %lld ns remain of an hour after %lld ns", b->name, (long long)rest,
                 (long long)passed);
}

static long sleep_relative(struct blocked *b) {
    struct timespec request = {.tv_sec = LONG_TIME}, remaining = {0};
    b->began_ns = now_ns(CLOCK_MONOTONIC);
    long result;
    while ((result = nanosleep(&request, &remaining)) == -1 && errno == EINTR && !b->awake) {
        b->interruptions++;
        check_remaining(b, &remaining);
        request = remaining;
    }
    int error = errno;
    check_remaining(b, &remaining);
    errno = error;
    return result;
}

static long sleep_absolute(struct blocked *b) {
    (void)b;
    struct timespec request;
    clock_gettime(CLOCK_REALTIME, &request);
    request.tv_sec += LONG_TIME;
    errno = clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &request, NULL);
    return errno ? -1 : 0;
}

/* Children that live until a byte comes. */
static void make_child(struct blocked *b) {
    make_pipe(b);
    b->pid = MUST(fork());
    if (b->pid == 0) {
        char byte;
        _exit(read(b->fds[0], &byte, 1) == 1 ? 21 : 22);
    }
}

static long wait_child(struct blocked *b) {
    int status;
    return waitpid(b->pid, &status, 0) == b->pid ? status : -1;
}

static long waitid_child(struct blocked *b) {
    siginfo_t info = {0};
    return waitid(P_PID, (id_t)b->pid, &info, WEXITED) == 0 ? info.si_status : -1;
}

static long timed_wait(struct blocked *b) {
    sigset_t set, without;
    block_usr1(&without);
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    siginfo_t info;
    long result;
    while ((result = sigwaitinfo(&set, &info)) == -1 && errno == EINTR)
        b->interruptions++;
    check_mask(b->name);
    return result;
}

static long open_fifo(struct blocked *b) {
    b->fds[0] = open(in_directory("fifo"), O_RDONLY | O_CLOEXEC);
    return b->fds[0] < 0 ? -1 : 0;
}

static void open_other_end(struct blocked *b) {
    b->fds[1] = WORKS(open(in_directory("fifo"), O_WRONLY | O_CLOEXEC));
}

static void make_fifo(struct blocked *b) {
    (void)b;
    MUST(mkfifo(in_directory("fifo"), 0600));
}

static void make_eventfd(struct blocked *b) {
    b->fds[0] = b->fds[1] = MUST(eventfd(0, EFD_CLOEXEC));
}

static long read_eight(struct blocked *b) {
    uint64_t value = 0;
    return read(b->fds[0], &value, sizeof value) == sizeof value ? (long)value : -1;
}

static void write_eight(struct blocked *b) {
    EQUAL(write(b->fds[1], &(uint64_t){5}, 8), 8);
}

static void make_timerfd(struct blocked *b) {
    b->fds[0] = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC));
    struct itimerspec value = {.it_value.tv_sec = LONG_TIME};
    MUST(timerfd_settime(b->fds[0], 0, &value, NULL));
}

static void let_timerfd_expire(struct blocked *b) {
    struct itimerspec value = {.it_value.tv_nsec = 1};
    WORKS(timerfd_settime(b->fds[0], 0, &value, NULL));
}

static void make_signalfd(struct blocked *b) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 5);
    b->fds[0] = MUST(signalfd(-1, &set, SFD_CLOEXEC));
}

static long read_signalfd(struct blocked *b) {
    struct signalfd_siginfo info = {0};
    return read(b->fds[0], &info, sizeof info) == sizeof info ? info.ssi_int : -1;
}

static void queue_signal(struct blocked *b) {
    (void)b;
    WORKS(sigqueue(getpid(), SIGRTMIN + 5, (union sigval){.sival_int = 4242}));
}

static struct kind {
    struct blocked b;
    void (*prepare)(struct blocked *);
} kinds[] = {
    {{"read", SYS_read, read_pipe, write_byte, .expected = 'x'}, make_pipe},
    {{"write", SYS_write, write_pipe, drain, .expected = 6}, fill_pipe},
    {{"poll", SYS_poll, poll_forever, write_byte, .expected = POLLIN, .may_be_interrupted = true}, make_pipe},
    {{"poll, timeout", SYS_poll, poll_long, write_byte, .expected = POLLIN, .may_be_interrupted = true}, make_pipe},
    {{"ppoll, mask", SYS_ppoll, ppoll_masked, signal_thread, .expected = -1, .expected_errno = EINTR}, make_pipe},
    {{"ppoll, timeout", SYS_ppoll, ppoll_long, write_byte, .expected = POLLIN}, make_pipe},
    {{"select", SYS_select, select_forever, write_byte, .expected = 1}, make_pipe},
    {{"pselect, mask", SYS_pselect6, pselect_masked, signal_thread, .expected = -1, .expected_errno = EINTR}, make_pipe},
    {{"sigsuspend", SYS_rt_sigsuspend, suspend, signal_thread, .expected = -1, .expected_errno = EINTR}, NULL},
    {{"pause", SYS_pause, pause_, signal_thread, .expected = -1, .expected_errno = EINTR}, NULL},
    {{"epoll_wait", SYS_epoll_wait, epoll_forever, write_byte, .expected = 0x1234567890}, make_pipe},
    {{"futex", SYS_futex, futex_forever, wake_futex, .expected = 0}, NULL},
    {{"futex, shared", SYS_futex, futex_shared, wake_futex, .expected = 0}, NULL},
    {{"futex, relative", SYS_futex, futex_relative, wake_futex, .may_be_interrupted = true}, NULL},
    {{"futex, absolute", SYS_futex, futex_absolute, wake_futex, .may_be_interrupted = true}, NULL},
    {{"nanosleep", SYS_clock_nanosleep, sleep_relative, signal_thread, .expected = -1, .expected_errno = EINTR}, NULL},
    {{"clock_nanosleep, absolute", SYS_clock_nanosleep, sleep_absolute, signal_thread, .expected = -1, .expected_errno = EINTR},
     NULL},
    {{"wait4", SYS_wait4, wait_child, write_byte, .expected = 21 << 8}, make_child},
    {{"waitid", SYS_waitid, waitid_child, write_byte, .expected = 21}, make_child},
    {{"rt_sigtimedwait", SYS_rt_sigtimedwait, timed_wait, signal_thread, .expected = SIGUSR1}, NULL},
    {{"open of a fifo", SYS_openat, open_fifo, open_other_end, .expected = 0}, make_fifo},
    {{"read of an eventfd", SYS_read, read_eight, write_eight, .expected = 5}, make_eventfd},
    {{"read of a timerfd", SYS_read, read_eight, let_timerfd_expire, .expected = 1}, make_timerfd},
    {{"read of a signalfd", SYS_read, read_signalfd, queue_signal, .expected = 4242}, make_signalfd},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

static void *block(void *argument) {
    struct blocked *b = argument;
    b->tid = gettid_();
    b->settled = 1;
    long result;
    int error;
    for (;;) {
        result = b->call(b);
        error = errno;
        if (!(b->may_be_interrupted && result == -1 && error == EINTR))
            break;
        b->interruptions++;
    }
    if (!b->awake)
        complain(__FILE__, __LINE__, "%s returned %ld (%s) before it was woken", b->name, result,
                 result == -1 ? strerror(error) : "no error");
    b->returned = 1;
    EQUAL_OF(b->name, result, b->expected);
    if (result == -1)
        EQUAL_OF(b->name, error, b->expected_errno);
    return NULL;
}

TARGET(restart) {
    struct sigaction action = {.sa_handler = handler};
    MUST(sigaction(SIGUSR1, &action, NULL));
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 5);
    MUST0(pthread_sigmask(SIG_BLOCK, &set, NULL));
    /* Children first: they shall not get the ends of other pipes that matter. */
    for (int i = 0; i < KINDS; i++)
        if (kinds[i].prepare != NULL)
            kinds[i].prepare(&kinds[i].b);
    for (int i = 0; i < KINDS; i++) {
        struct blocked *b = &kinds[i].b;
        MUST0(pthread_create(&b->thread, NULL, block, b));
        await_count(&b->settled, 1);
        await_blocked(getpid(), b->tid, b->number);
    }
    ready();
    await_go();
    for (int i = 0; i < KINDS; i++) {
        struct blocked *b = &kinds[i].b;
        b->awake = 1;
        /* It may be on its way back into the call, where a wake-up would miss it. */
        if (!b->returned)
            await_blocked(getpid(), b->tid, b->number);
        b->wake(b);
        EQUAL_OF(b->name, pthread_join(b->thread, NULL), 0);
    }
    FILE *file = fopen(in_directory("interrupted"), "w");
    ASSURE(file != NULL);
    for (int i = 0; i < KINDS; i++)
        if (kinds[i].b.interruptions)
            fprintf(file, "%s %d\n", kinds[i].b.name, kinds[i].b.interruptions);
    fclose(file);
    return done();
}
