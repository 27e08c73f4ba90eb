/* Interval timers, POSIX timers, alarms: what is left of each, and that they go on. */
#include "common.h"

#include <sys/time.h>
#include <sys/timerfd.h>

#ifndef CLOCK_TAI
#define CLOCK_TAI 11
#endif

enum { SLACK_NS = 20 * 1000 * 1000 };

static int64_t of(struct timespec time) {
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int64_t of_microseconds(struct timeval time) {
    return time.tv_sec * 1000000000LL + time.tv_usec * 1000LL;
}

/*
 * A timer that had `before` left at the time `since` has now `after` left: no more than then, and not less than the
 * time that passed takes away. (Whether the time that nobody ran counts differs between clocks; both are fine.)
 */
static void check_left(const char *which, int64_t before, int64_t after, int64_t since) {
    int64_t passed = now_ns(CLOCK_MONOTONIC) - since;
    if (after > before + SLACK_NS || after < before - passed - SLACK_NS)
        complain(__FILE__, __LINE__, "%s: %lld ns left after %lld ns, %lld ns before", which, (long long)after,
                 (long long)passed, (long long)before);
}

static volatile sig_atomic_t ticks[65];

static void tick(int signal) {
    ticks[signal]++;
}

TARGET(itimers) {
    static const int kinds[] = {ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF};
    static const char *const names[] = {"ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF"};
    struct itimerval before[3], after;
    for (int i = 0; i < 3; i++) {
        struct itimerval value = {.it_value = {1000 + i, 123456}, .it_interval = {i, 999}};
        MUST(setitimer(kinds[i], &value, NULL));
    }
    /* A second process whose timers tick, and a third one without any. */
    atomic_int *settled = share(4096);
    pid_t ticking = MUST(fork());
    if (ticking == 0) {
        signal(SIGALRM, tick);
        signal(SIGPROF, tick);
        signal(SIGVTALRM, tick);
        struct itimerval value = {.it_value = {0, 2000}, .it_interval = {0, 2000}};
        for (int i = 0; i < 3; i++)
            MUST(setitimer(kinds[i], &value, NULL));
        *settled = 1;
        while (!go())
            ;
        for (int i = 0; i < 3; i++)
            ticks[i == 0 ? SIGALRM : i == 1 ? SIGVTALRM : SIGPROF] = 0;
        /* Some more of each must come; the test's deadline is the limit. */
        while (ticks[SIGALRM] < 3 || ticks[SIGPROF] < 3 || ticks[SIGVTALRM] < 3)
            ;
        for (int i = 0; i < 3; i++) {
            WORKS(getitimer(kinds[i], &after));
            EQUAL_OF(names[i], after.it_interval.tv_sec, 0);
            /* The processor clocks count in ticks of the kernel. */
            CHECK(after.it_interval.tv_usec >= 2000 && after.it_interval.tv_usec <= 10000);
        }
        _exit(0);
    }
    await_count(settled, 1);
    int64_t since = now_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < 3; i++)
        MUST(getitimer(kinds[i], &before[i]));
    ready();
    await_go();
    for (int i = 0; i < 3; i++) {
        WORKS(getitimer(kinds[i], &after));
        EQUAL_OF(names[i], of_microseconds(after.it_interval), of_microseconds(before[i].it_interval));
        check_left(names[i], of_microseconds(before[i].it_value), of_microseconds(after.it_value), since);
    }
    expect_exit(ticking, 0);
    return done();
}

/* alarm(2) that expires after the restore. */
TARGET(alarm_) {
    signal(SIGALRM, tick);
    alarm(2);
    ready();
    while (!ticks[SIGALRM])
        pause();
    await_go();
    EQUAL(ticks[SIGALRM], 1);
    return done();
}

struct posix_timer {
    const char *name;
    clockid_t clock;
    int notify, signal;
    /* Of the clock's time for an absolute one, nothing when it is not armed. */
    int64_t value_ns, interval_ns;
    bool absolute;
    int id;
    bool exists;
    int64_t left_ns;
};

#define HOUR 3600000000000LL

static struct posix_timer timers[] = {
    {"realtime", CLOCK_REALTIME, SIGEV_SIGNAL, SIGUSR1, HOUR, 0, false, 0, false, 0},
    {"(gap)", CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0, false, 0, false, 0},
    {"(gap)", CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0, false, 0, false, 0},
    {"monotonic, interval", CLOCK_MONOTONIC, SIGEV_SIGNAL, 64, HOUR, HOUR / 7, false, 0, false, 0},
    {"boottime, none", CLOCK_BOOTTIME, SIGEV_NONE, 0, 2 * HOUR, 5, false, 0, false, 0},
    {"(gap)", CLOCK_REALTIME, SIGEV_NONE, 0, 0, 0, false, 0, false, 0},
    {"realtime, absolute", CLOCK_REALTIME, SIGEV_SIGNAL, SIGALRM, HOUR, HOUR, true, 0, false, 0},
    {"monotonic, to a thread", CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGUSR2, HOUR, 0, true, 0, false, 0},
    {"disarmed", CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0, 0, false, 0, false, 0},
    {"processor time", CLOCK_PROCESS_CPUTIME_ID, SIGEV_SIGNAL, SIGUSR1, HOUR, HOUR / 2, false, 0, false, 0},
    {"thread's processor time", CLOCK_THREAD_CPUTIME_ID, SIGEV_SIGNAL, SIGUSR1, HOUR, 0, false, 0, false, 0},
    {"atomic time", CLOCK_TAI, SIGEV_SIGNAL, SIGUSR1, HOUR, 0, false, 0, false, 0},
    {"alarm clock", CLOCK_REALTIME_ALARM, SIGEV_SIGNAL, SIGUSR1, HOUR, 0, false, 0, false, 0},
};
enum { TIMERS = sizeof timers / sizeof *timers };

static pthread_t posix_thread;
static _Atomic pid_t posix_tid;

/* The raw calls: the numbers that the kernel gave are what has to survive. */
static int create(clockid_t clock, int notify, int signal, pid_t tid, void *value) {
    struct sigevent event = {.sigev_notify = notify, .sigev_signo = signal, .sigev_value.sival_ptr = value};
    event._sigev_un._tid = tid;
    int id = -1;
    return syscall(SYS_timer_create, clock, &event, &id) == 0 ? id : -1;
}

static void settime(int id, int64_t value_ns, int64_t interval_ns, int flags) {
    struct itimerspec value = {.it_value = {value_ns / 1000000000, value_ns % 1000000000},
                               .it_interval = {interval_ns / 1000000000, interval_ns % 1000000000}};
    MUST(syscall(SYS_timer_settime, id, flags, &value, NULL));
}

/* Takes the thread's own timer's signals. */
static atomic_int thread_got;

static void *timed_thread(void *unused) {
    posix_tid = gettid_();
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    siginfo_t info = {0};
    int got;
    while ((got = sigwaitinfo(&set, &info)) == -1 && errno == EINTR)
        ;
    EQUAL(got, SIGUSR2);
    EQUAL(info.si_code, SI_TIMER);
    EQUAL(info.si_value.sival_ptr, 0x5555666677778888L);
    thread_got++;
    return unused;
}

TARGET(posix_timers) {
    sigset_t all;
    sigfillset(&all);
    MUST0(pthread_sigmask(SIG_SETMASK, &all, NULL));
    MUST0(pthread_create(&posix_thread, NULL, timed_thread, NULL));
    while (posix_tid == 0)
        pause_ms(1);
    for (int i = 0; i < TIMERS; i++) {
        struct posix_timer *t = &timers[i];
        void *value = t->notify == SIGEV_THREAD_ID ? (void *)0x5555666677778888L : (void *)(intptr_t)(i * 0x100000007L);
        t->id = create(t->clock, t->notify, t->signal, posix_tid, value);
        /* Not every machine has a clock that can wake it. */
        if (t->id < 0 && t->clock == CLOCK_REALTIME_ALARM)
            continue;
        ASSURE(t->id >= 0);
        t->exists = true;
        if (t->value_ns)
            settime(t->id, t->value_ns + (t->absolute ? now_ns(t->clock) : 0), t->interval_ns,
                    t->absolute ? TIMER_ABSTIME : 0);
    }
    for (int i = 0; i < TIMERS; i++)
        if (strcmp(timers[i].name, "(gap)") == 0)
            MUST(syscall(SYS_timer_delete, timers[i].id));
    /* One that has expired and whose signal is pending, one that expires again and again meanwhile. */
    int expired = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 3, 0, (void *)0x99aaL);
    int overrun = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN + 4, 0, (void *)0x99bbL);
    ASSURE(expired >= 0 && overrun >= 0);
    settime(expired, 1, 0, 0);
    settime(overrun, 1000000, 1000000, 0);
    sigset_t pending;
    do {
        pause_ms(3);
        sigpending(&pending);
    } while (!sigismember(&pending, SIGRTMIN + 3) || !sigismember(&pending, SIGRTMIN + 4));
    int64_t since = now_ns(CLOCK_MONOTONIC);
    for (int i = 0; i < TIMERS; i++) {
        struct itimerspec now;
        if (!timers[i].exists || strcmp(timers[i].name, "(gap)") == 0)
            continue;
        MUST(syscall(SYS_timer_gettime, timers[i].id, &now));
        timers[i].left_ns = of(now.it_value);
    }
    ready();
    await_go();
    for (int i = 0; i < TIMERS; i++) {
        struct posix_timer *t = &timers[i];
        struct itimerspec now = {0};
        if (!t->exists)
            continue;
        if (strcmp(t->name, "(gap)") == 0) {
            FAILS(syscall(SYS_timer_gettime, t->id, &now), EINVAL);
            continue;
        }
        WORKS(syscall(SYS_timer_gettime, t->id, &now));
        EQUAL_OF(t->name, of(now.it_interval), t->interval_ns);
        check_left(t->name, t->left_ns, of(now.it_value), since);
        EQUAL_OF(t->name, of(now.it_value) == 0, t->value_ns == 0);
    }
    siginfo_t info = {0};
    struct timespec none = {0}, long_enough = {60, 0};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 3);
    EQUAL(sigtimedwait(&set, &info, &none), SIGRTMIN + 3);
    EQUAL(info.si_code, SI_TIMER);
    EQUAL(info.si_value.sival_ptr, 0x99aaL);
    EQUAL(sigtimedwait(&set, &info, &none), -1);
    sigemptyset(&set);
    sigaddset(&set, SIGRTMIN + 4);
    for (int i = 0; i < 3; i++) {
        EQUAL(sigtimedwait(&set, &info, &long_enough), SIGRTMIN + 4);
        EQUAL(info.si_code, SI_TIMER);
        EQUAL(info.si_value.sival_ptr, 0x99bbL);
        CHECK(info.si_overrun >= 0);
    }
    /* The thread's timer reaches the thread, and nobody else. */
    for (int i = 0; i < TIMERS; i++)
        if (timers[i].notify == SIGEV_THREAD_ID)
            settime(timers[i].id, 1000000, 0, 0);
    EQUAL(pthread_join(posix_thread, NULL), 0);
    EQUAL(thread_got, 1);
    return done();
}

/* Timers of the C library's SIGEV_THREAD kind, and a signal handler driven by a fast timer in a busy program. */
static atomic_int called;

static void in_thread(union sigval value) {
    EQUAL(value.sival_int, 31337);
    called++;
}

TARGET(timer_threads) {
    struct sigevent event = {.sigev_notify = SIGEV_THREAD, .sigev_notify_function = in_thread, .sigev_value = {.sival_int = 31337}};
    timer_t timer;
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer));
    struct itimerspec value = {.it_value.tv_nsec = 5000000, .it_interval.tv_nsec = 5000000};
    MUST(timer_settime(timer, 0, &value, NULL));
    while (called < 3)
        pause_ms(1);
    ready();
    await_go();
    int before = called;
    while (called < before + 3)
        pause_ms(1);
    WORKS(timer_delete(timer));
    return done();
}

/* The clocks themselves: none goes backwards, and the monotonic one is read through the vdso as by the kernel. */
TARGET(clocks) {
    static const clockid_t ids[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME, CLOCK_MONOTONIC_COARSE,
                                    CLOCK_REALTIME_COARSE, CLOCK_TAI};
    enum { IDS = sizeof ids / sizeof *ids };
    int64_t before[IDS];
    for (int i = 0; i < IDS; i++)
        before[i] = now_ns(ids[i]);
    ready();
    while (!go())
        for (int i = 0; i < IDS; i++) {
            int64_t now = now_ns(ids[i]);
            if (ids[i] != CLOCK_REALTIME && ids[i] != CLOCK_REALTIME_COARSE && ids[i] != CLOCK_TAI)
                CHECK(now >= before[i]);
            before[i] = now;
        }
    for (int i = 0; i < IDS; i++) {
        struct timespec by_kernel;
        WORKS(syscall(SYS_clock_gettime, ids[i], &by_kernel));
        int64_t through_vdso = now_ns(ids[i]), difference = through_vdso - of(by_kernel);
        CHECK(difference >= -SLACK_NS * 50 && difference <= SLACK_NS * 500LL);
    }
    struct timeval day;
    EQUAL(gettimeofday(&day, NULL), 0);
    CHECK(time(NULL) >= day.tv_sec);
    unsigned cpu = ~0U, node;
    EQUAL(getcpu(&cpu, &node), 0);
    CHECK(cpu < 4096);
    return done();
}
