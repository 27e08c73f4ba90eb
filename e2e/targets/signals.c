/* Signal actions, masks, pending and queued signals, handlers that are running. */
#include "common.h"

#include <ucontext.h>

/* As the kernel has it: the C library hides flags and two signals. */
struct kernel_action {
    void *handler;
    unsigned long flags;
    void *restorer;
    uint64_t mask;
};

enum { SIGNALS = 64, RESTORER = 0x04000000 };

static void get_action(int signal, struct kernel_action *action) {
    memset(action, 0, sizeof *action);
    MUST(syscall(SYS_rt_sigaction, signal, NULL, action, 8));
}

static void set_action(int signal, void *handler, unsigned long flags, uint64_t mask) {
    struct kernel_action action = {handler, flags, NULL, mask};
    MUST(syscall(SYS_rt_sigaction, signal, &action, NULL, 8));
}

static uint64_t blocked(void) {
    uint64_t mask = 0;
    WORKS(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8));
    return mask;
}

TARGET(actions) {
    static const unsigned long flags[] = {
        0, SA_SIGINFO, SA_RESTART, SA_ONSTACK | SA_SIGINFO, SA_NODEFER, SA_RESETHAND, SA_NOCLDSTOP | SA_RESTART,
        RESTORER | SA_SIGINFO | SA_NODEFER | SA_RESTART | SA_ONSTACK,
    };
    struct kernel_action before[SIGNALS + 1], after;
    for (int signal = 1; signal <= SIGNALS; signal++) {
        if (signal == SIGKILL || signal == SIGSTOP)
            continue;
        /* Addresses that nobody will ever jump to. */
        void *handler = signal % 5 == 0 ? (void *)SIG_IGN
                      : signal % 7 == 0 ? (void *)SIG_DFL
                                        : (void *)(0x10000UL + (unsigned)signal);
        set_action(signal, handler, flags[signal % 8], 0x0123456789abcdefUL << signal % 13);
    }
    set_action(SIGCHLD, (void *)0x10000UL, SA_NOCLDWAIT | SA_NOCLDSTOP, 0);
    for (int signal = 1; signal <= SIGNALS; signal++)
        get_action(signal, &before[signal]);
    ready();
    await_go();
    for (int signal = 1; signal <= SIGNALS; signal++) {
        char name[16];
        snprintf(name, sizeof name, "signal %d", signal);
        get_action(signal, &after);
        EQUAL_OF(name, after.handler, before[signal].handler);
        EQUAL_OF(name, after.flags, before[signal].flags);
        EQUAL_OF(name, after.restorer, before[signal].restorer);
        EQUAL_OF(name, after.mask, before[signal].mask);
    }
    /* Children still leave no zombies. */
    signal(SIGCHLD, SIG_DFL);
    set_action(SIGCHLD, (void *)SIG_DFL, SA_NOCLDWAIT, 0);
    pid_t pid = WORKS(fork());
    if (pid == 0)
        _exit(1);
    FAILS(waitpid(pid, NULL, 0), ECHILD);
    return done();
}

/* One signal that must come out of the queue. */
static void expect_signal(const sigset_t *set, int signal, int code, intptr_t value) {
    struct timespec now = {0};
    siginfo_t info = {0};
    /* Not through the C library, which makes SI_USER of SI_TKILL. */
    int got = (int)syscall(SYS_rt_sigtimedwait, set, &info, &now, 8);
    if (got != signal || info.si_signo != signal || info.si_code != code)
        complain(__FILE__, __LINE__, "got signal %d with code %d (%s), not %d with code %d", got, info.si_code,
                 got < 0 ? strerror(errno) : "no error", signal, code);
    else if (code == SI_QUEUE && (info.si_value.sival_ptr != (void *)value || info.si_pid != getpid()))
        complain(__FILE__, __LINE__, "signal %d carries %p from %d, not %p from %d", signal, info.si_value.sival_ptr,
                 info.si_pid, (void *)value, (int)getpid());
}

static void set_of(sigset_t *set, int signal) {
    sigemptyset(set);
    sigaddset(set, signal);
}

/* A siginfo with a payload of bytes that mean nothing to anybody but the program. */
static void odd_info(siginfo_t *info, int signal) {
    memset(info, 0, sizeof *info);
    /* More than this the kernel does not keep of a siginfo whose layout it does not know. */
    fill(info, 48, (uint64_t)signal);
    info->si_signo = signal;
    info->si_errno = 1234;
    info->si_code = -77;
}

static void expect_odd(int signal) {
    siginfo_t expected, got;
    sigset_t set;
    set_of(&set, signal);
    odd_info(&expected, signal);
    memset(&got, 0, sizeof got);
    struct timespec now = {0};
    EQUAL(syscall(SYS_rt_sigtimedwait, &set, &got, &now, 8), signal);
    EQUAL(got.si_errno, 1234);
    EQUAL(got.si_code, -77);
    /* The payload comes after the header. */
    CHECK(memcmp((char *)&got + 16, (char *)&expected + 16, 32) == 0);
}

static atomic_int settled;
enum { MANY = 300 };

static void *with_pending(void *unused) {
    pid_t tid = gettid_();
    siginfo_t info;
    for (int i = 0; i < 3; i++) {
        memset(&info, 0, sizeof info);
        info.si_signo = SIGRTMIN + 4;
        info.si_code = SI_QUEUE;
        info.si_pid = getpid();
        info.si_value.sival_ptr = (void *)(0x7000000000L + i);
        MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, SIGRTMIN + 4, &info));
    }
    MUST(syscall(SYS_tgkill, getpid(), tid, SIGUSR2));
    odd_info(&info, SIGRTMIN + 6);
    MUST(syscall(SYS_rt_tgsigqueueinfo, getpid(), tid, SIGRTMIN + 6, &info));
    settled++;
    await_go();
    sigset_t set;
    set_of(&set, SIGRTMIN + 4);
    for (int i = 0; i < 3; i++)
        expect_signal(&set, SIGRTMIN + 4, SI_QUEUE, 0x7000000000L + i);
    set_of(&set, SIGUSR2);
    expect_signal(&set, SIGUSR2, SI_TKILL, 0);
    expect_odd(SIGRTMIN + 6);
    return unused;
}

TARGET(pending) {
    sigset_t all, set, left;
    sigfillset(&all);
    MUST0(pthread_sigmask(SIG_SETMASK, &all, NULL));
    pid_t pid = child((int (*)(void *))(void (*)(void))atoi, "37");
    siginfo_t info;
    MUST(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT));
    for (int i = 0; i < MANY; i++)
        MUST(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_ptr = (void *)(0x100000001L * i)}));
    MUST(sigqueue(getpid(), SIGRTMAX, (union sigval){.sival_int = -5}));
    MUST(kill(getpid(), SIGUSR1));
    MUST(kill(getpid(), SIGTERM));
    MUST(kill(getpid(), SIGTSTP));
    odd_info(&info, SIGRTMIN + 9);
    MUST(syscall(SYS_rt_sigqueueinfo, getpid(), SIGRTMIN + 9, &info));
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        MUST0(pthread_create(&threads[i], NULL, with_pending, NULL));
    await_count(&settled, 2);
    ready();
    await_go();
    set_of(&set, SIGRTMIN + 1);
    for (long i = 0; i < MANY; i++)
        expect_signal(&set, SIGRTMIN + 1, SI_QUEUE, 0x100000001L * i);
    set_of(&set, SIGRTMAX);
    struct timespec now = {0};
    EQUAL(sigtimedwait(&set, &info, &now), SIGRTMAX);
    EQUAL(info.si_value.sival_int, -5);
    set_of(&set, SIGUSR1);
    expect_signal(&set, SIGUSR1, SI_USER, 0);
    set_of(&set, SIGTERM);
    expect_signal(&set, SIGTERM, SI_USER, 0);
    set_of(&set, SIGTSTP);
    expect_signal(&set, SIGTSTP, SI_USER, 0);
    expect_odd(SIGRTMIN + 9);
    set_of(&set, SIGCHLD);
    EQUAL(sigtimedwait(&set, &info, &now), SIGCHLD);
    EQUAL(info.si_code, CLD_EXITED);
    EQUAL(info.si_pid, pid);
    EQUAL(info.si_status, 37);
    for (int i = 0; i < 2; i++)
        EQUAL(pthread_join(threads[i], NULL), 0);
    sigpending(&left);
    EQUAL(*(uint64_t *)&left, 0);
    expect_exit(pid, 37);
    return done();
}

/*
 * A handler on the alternate stack, interrupted by another one, while the checkpoint is taken: both return to where
 * they came from, with the masks and the registers of then.
 */
static char altstack_memory[65536];
static atomic_int depth, left_inner, left_outer;

static void inner(int signal, siginfo_t *info, void *context) {
    (void)signal;
    EQUAL(info->si_value.sival_int, 17);
    EQUAL(((ucontext_t *)context)->uc_stack.ss_size, sizeof altstack_memory);
    uint64_t mask = blocked();
    depth = 2;
    ready();
    await_go();
    EQUAL(blocked(), mask);
    left_inner++;
}

static void outer(int signal) {
    (void)signal;
    volatile double value = 0.1;
    uint64_t mask = blocked();
    MUST(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){.sival_int = 17}));
    EQUAL(depth, 2);
    EQUAL(left_inner, 1);
    EQUAL(blocked(), mask);
    CHECK(value == 0.1);
    stack_t now;
    sigaltstack(NULL, &now);
    EQUAL(now.ss_flags, SS_ONSTACK);
    left_outer++;
}

TARGET(in_handlers) {
    stack_t stack = {.ss_sp = altstack_memory, .ss_size = sizeof altstack_memory}, now;
    MUST(sigaltstack(&stack, NULL));
    struct sigaction action = {.sa_handler = outer, .sa_flags = SA_ONSTACK};
    sigaddset(&action.sa_mask, SIGHUP);
    MUST(sigaction(SIGUSR1, &action, NULL));
    struct sigaction second = {.sa_sigaction = inner, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    sigaddset(&second.sa_mask, SIGQUIT);
    MUST(sigaction(SIGRTMIN + 2, &second, NULL));
    uint64_t mask = blocked();
    double before = 1.0 / (double)getpid();
    raise(SIGUSR1);
    CHECK(before == 1.0 / (double)getpid());
    EQUAL(left_outer, 1);
    EQUAL(blocked(), mask);
    sigaltstack(NULL, &now);
    EQUAL(now.ss_flags, 0);
    EQUAL(now.ss_sp, altstack_memory);
    return done();
}

/* A signal that nobody blocks reaches its handler once, between two instructions of a busy program. */
static atomic_long received, sent;

static void count(int signal) {
    (void)signal;
    received++;
}

static int sender(void *target) {
    for (long i = 0; !go(); i++) {
        if (sigqueue(*(pid_t *)target, SIGRTMIN, (union sigval){.sival_int = (int)i}) == 0)
            sent++;
        pause_ms(1);
    }
    return 0;
}

TARGET(signal_traffic) {
    struct traffic {
        atomic_long received, sent;
    } *traffic = share(4096);
    signal(SIGRTMIN, count);
    pid_t self = getpid(), pid = MUST(fork());
    if (pid == 0) {
        sender(&self);
        traffic->sent = sent;
        _exit(0);
    }
    while (received < 5)
        pause_ms(1);
    ready();
    volatile double sum = 0;
    for (long i = 0; !go(); i++) {
        double term = 1.0 / (double)(i % 1000 + 1);
        sum += term;
        if (term != 1.0 / (double)(i % 1000 + 1))
            complain(__FILE__, __LINE__, "a sum went wrong");
    }
    int status;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    EQUAL(status, 0);
    while (received < traffic->sent)
        pause_ms(1);
    EQUAL(received, traffic->sent);
    return done();
}
