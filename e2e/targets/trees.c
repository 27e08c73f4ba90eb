/* Parents, children, sessions, process groups, zombies, stopped tasks. */
#include "common.h"

enum { A, A1, A2, B, B1, B2, C, C1, D, D1, D2, D3, F1, F2, G, G1, G2, MEMBERS };

static struct {
    _Atomic pid_t pid[MEMBERS];
    atomic_int settled;
    atomic_int may_leave[MEMBERS];
} *family_;

static void settle(int who) {
    family_->pid[who] = getpid();
    family_->settled++;
}

/* Idles, then says who its relatives are. */
static int relatives(pid_t parent, pid_t group, pid_t session) {
    pid_t self = getpid();
    await_go();
    EQUAL(getpid(), self);
    EQUAL(getppid(), parent);
    EQUAL(getpgid(0), group);
    EQUAL(getsid(0), session);
    return 0;
}

static int leave_when_told(int who) {
    while (!family_->may_leave[who])
        pause_ms(1);
    return 0;
}

/* A leads a session; A2's process group was led by A1, which is gone. */
static int a1(void *unused) {
    (void)unused;
    setpgid(0, 0);
    settle(A1);
    return leave_when_told(A1);
}

static int a2(void *unused) {
    (void)unused;
    pid_t group = family_->pid[A1];
    MUST(setpgid(0, group));
    settle(A2);
    return relatives(family_->pid[A], group, family_->pid[A]);
}

static int a(void *root) {
    MUST(setsid());
    family_->pid[A] = getpid();
    pid_t first = child(a1, NULL);
    while (family_->pid[A1] == 0)
        pause_ms(1);
    pid_t second = child(a2, NULL);
    while (family_->pid[A2] == 0)
        pause_ms(1);
    family_->may_leave[A1] = 1;
    MUST(waitpid(first, NULL, 0));
    settle(A);
    relatives(*(pid_t *)root, getpid(), getpid());
    expect_exit(second, 0);
    return 0;
}

/* B led a session and is gone; B1 and B2 are still in it. */
static int b1(void *unused) {
    (void)unused;
    while (getppid() == family_->pid[B])
        pause_ms(1);
    settle(B1);
    return relatives(getppid(), family_->pid[B], family_->pid[B]);
}

static int b2(void *unused) {
    (void)unused;
    MUST(setpgid(0, 0));
    while (getppid() == family_->pid[B])
        pause_ms(1);
    settle(B2);
    return relatives(getppid(), getpid(), family_->pid[B]);
}

static int b(void *unused) {
    (void)unused;
    MUST(setsid());
    family_->pid[B] = getpid();
    child(b1, NULL);
    child(b2, NULL);
    return 5;
}

/* C is a zombie whose child went to the subreaper. */
static int c1(void *unused) {
    (void)unused;
    while (getppid() == family_->pid[C])
        pause_ms(1);
    settle(C1);
    return relatives(getppid(), getpgid(0), getsid(0));
}

static int c(void *unused) {
    (void)unused;
    family_->pid[C] = getpid();
    child(c1, NULL);
    return 6;
}

/* D is a chain. */
static int d(void *depth) {
    int who = (int)(intptr_t)depth;
    pid_t parent = getppid(), next = 0;
    if (who < D3)
        next = child(d, (void *)(intptr_t)(who + 1));
    settle(who);
    relatives(parent, getpgid(0), getsid(0));
    if (next != 0)
        expect_exit(next, 0);
    return 0;
}

/* F1 leads a group and is a zombie; F2 is in the group. */
static int f1(void *unused) {
    (void)unused;
    MUST(setpgid(0, 0));
    settle(F1);
    return leave_when_told(F1);
}

static int f2(void *root) {
    MUST(setpgid(0, family_->pid[F1]));
    settle(F2);
    return relatives(*(pid_t *)root, family_->pid[F1], getsid(*(pid_t *)root));
}

/* G2 is in a session and in a process group whose leaders are both gone. */
static int g1(void *unused) {
    (void)unused;
    MUST(setpgid(0, 0));
    family_->pid[G1] = getpid();
    return leave_when_told(G1);
}

static int g2(void *unused) {
    (void)unused;
    MUST(setpgid(0, family_->pid[G1]));
    family_->pid[G2] = getpid();
    while (getppid() == family_->pid[G])
        pause_ms(1);
    settle(G2);
    return relatives(getppid(), family_->pid[G1], family_->pid[G]);
}

static int g(void *unused) {
    (void)unused;
    MUST(setsid());
    family_->pid[G] = getpid();
    pid_t first = child(g1, NULL);
    while (family_->pid[G1] == 0)
        pause_ms(1);
    child(g2, NULL);
    while (family_->pid[G2] == 0)
        pause_ms(1);
    family_->may_leave[G1] = 1;
    MUST(waitpid(first, NULL, 0));
    return 7;
}

TARGET(family) {
    family_ = share(4096);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t self = getpid();
    child(a, &self);
    pid_t gone_b = child(b, NULL), zombie_c = child(c, NULL), chain = child(d, (void *)(intptr_t)D);
    pid_t zombie_f = child(f1, NULL);
    while (family_->pid[F1] == 0)
        pause_ms(1);
    child(f2, &self);
    pid_t gone_g = child(g, NULL);
    expect_exit(gone_b, 5);
    expect_exit(gone_g, 7);
    /* All but the leaders that went without a word: B, C, G and G1. */
    await_count(&family_->settled, MEMBERS - 4);
    family_->may_leave[F1] = 1;
    while (state_of(zombie_f) != 'Z' || state_of(zombie_c) != 'Z')
        pause_ms(1);
    ready();
    await_go();
    CHECK(getppid() != 0);
    EQUAL(state_of(zombie_c), 'Z');
    EQUAL(state_of(zombie_f), 'Z');
    expect_exit(zombie_c, 6);
    expect_exit(zombie_f, 0);
    expect_exit(chain, 0);
    int rest = 0, status;
    while (wait(&status) > 0) {
        EQUAL(status, 0);
        rest++;
    }
    /* A, B1, B2, C1, F2, G2: A2 and the chain were their parents' business. */
    EQUAL(rest, 6);
    return done();
}

/* How each zombie ended. */
static const struct ending {
    int code, signal;
} endings[] = {{0, 0}, {1, 0}, {77, 0}, {255, 0}, {0, SIGKILL}, {0, SIGTERM}, {0, SIGSEGV}, {0, 34}, {3, 0}};

static int end_so(void *how) {
    const struct ending *ending = how;
    prctl(PR_SET_NAME, ending->signal ? "victim) Z (" : "leaver");
    if (ending->signal) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        kill(getpid(), ending->signal);
    }
    return ending->code;
}

static void *idle_thread(void *unused) {
    for (;;)
        pause();
    return unused;
}

/* Ends with threads alive, in a session of its own, as another user. */
static int end_elaborately(void *unused) {
    (void)unused;
    pthread_t thread;
    MUST(setsid());
    MUST0(pthread_create(&thread, NULL, idle_thread, NULL));
    MUST(setresuid(4711, 4711, 4711));
    _exit(42);
}

TARGET(zombies) {
    enum { SIMPLE = sizeof endings / sizeof *endings, ALL = SIMPLE + 3 };
    pid_t pids[ALL];
    for (int i = 0; i < SIMPLE; i++)
        pids[i] = child(end_so, (void *)&endings[i]);
    pids[SIMPLE] = child(end_elaborately, NULL);
    /* Children that announce their end with another signal or with none: only __WALL or __WCLONE waits for them. */
    static const int signals[] = {0, SIGUSR2};
    signal(SIGUSR2, SIG_IGN);
    for (int i = 0; i < 2; i++) {
        pid_t pid = MUST((pid_t)syscall(SYS_clone, signals[i], NULL, NULL, NULL, 0));
        if (pid == 0)
            _exit(50 + i);
        pids[SIMPLE + 1 + i] = pid;
    }
    for (int i = 0; i < ALL; i++)
        while (state_of(pids[i]) != 'Z')
            pause_ms(1);
    ready();
    await_go();
    for (int i = 0; i < SIMPLE; i++) {
        siginfo_t info = {0};
        WORKS(waitid(P_PID, (id_t)pids[i], &info, WEXITED | WNOWAIT));
        EQUAL(info.si_pid, pids[i]);
        EQUAL(info.si_uid, 0);
        EQUAL(info.si_code, endings[i].signal ? CLD_KILLED : CLD_EXITED);
        EQUAL(info.si_status, endings[i].signal ? endings[i].signal : endings[i].code);
        int status = -1;
        EQUAL(waitpid(pids[i], &status, 0), pids[i]);
        EQUAL(status, endings[i].signal ? endings[i].signal : endings[i].code << 8);
    }
    siginfo_t info = {0};
    WORKS(waitid(P_PID, (id_t)pids[SIMPLE], &info, WEXITED | WNOWAIT));
    EQUAL(info.si_uid, 4711);
    expect_exit(pids[SIMPLE], 42);
    for (int i = 0; i < 2; i++) {
        int status = -1;
        FAILS(waitpid(pids[SIMPLE + 1 + i], &status, 0), ECHILD);
        EQUAL(waitpid(pids[SIMPLE + 1 + i], &status, __WCLONE), pids[SIMPLE + 1 + i]);
        EQUAL(status, (50 + i) << 8);
    }
    FAILS(waitpid(-1, NULL, __WALL), ECHILD);
    return done();
}

static struct {
    atomic_int settled, beats, got;
    atomic_intptr_t value;
} *stopped_;

static void stopped_handler(int signal, siginfo_t *info, void *context) {
    (void)context;
    if (signal == SIGUSR1)
        stopped_->value = (intptr_t)info->si_value.sival_ptr;
    stopped_->got++;
}

static void *beat(void *unused) {
    stopped_->settled++;
    while (!go()) {
        stopped_->beats++;
        pause_ms(1);
    }
    return unused;
}

/* Beats until it is told to go, with some threads besides. */
static int beating(void *threads) {
    int count = (int)(intptr_t)threads;
    pthread_t others[4];
    struct sigaction action = {.sa_sigaction = stopped_handler, .sa_flags = SA_SIGINFO | SA_RESTART};
    MUST(sigaction(SIGUSR1, &action, NULL));
    for (int i = 0; i < count; i++)
        MUST0(pthread_create(&others[i], NULL, beat, NULL));
    beat(NULL);
    for (int i = 0; i < count; i++)
        pthread_join(others[i], NULL);
    return 9;
}

TARGET(stopped) {
    stopped_ = share(4096);
    const int signals[] = {SIGSTOP, SIGSTOP, SIGTSTP, SIGTTIN};
    enum { COUNT = sizeof signals / sizeof *signals };
    pid_t pids[COUNT];
    for (int i = 0; i < COUNT; i++)
        pids[i] = child(beating, (void *)(intptr_t)(i == 1 ? 3 : 0));
    await_count(&stopped_->settled, COUNT + 3);
    for (int i = 0; i < COUNT; i++) {
        /* The group is orphaned, where the terminal stop signals do nothing: put them into a group of their own. */
        MUST(setpgid(pids[i], pids[i]));
        MUST(kill(pids[i], signals[i]));
        int status = 0;
        MUST(waitpid(pids[i], &status, WUNTRACED));
        ASSURE(WIFSTOPPED(status) && WSTOPSIG(status) == signals[i]);
    }
    /* Waits for the first one to go on. */
    MUST(sigqueue(pids[0], SIGUSR1, (union sigval){.sival_ptr = (void *)0x123456789abcdefL}));
    int beats = stopped_->beats;
    ready();
    await_go();
    for (int i = 0; i < COUNT; i++)
        EQUAL(state_of(pids[i]), 'T');
    EQUAL(stopped_->beats, beats);
    EQUAL(stopped_->got, 0);
    for (int i = 0; i < COUNT; i++) {
        int status = 0;
        WORKS(kill(pids[i], SIGCONT));
        EQUAL(waitpid(pids[i], &status, WCONTINUED), pids[i]);
        /* It may have ended before anybody looked. */
        if (!WIFCONTINUED(status))
            EQUAL(status, 9 << 8);
        else
            expect_exit(pids[i], 9);
    }
    EQUAL(stopped_->got, 1);
    EQUAL(stopped_->value, 0x123456789abcdefL);
    return done();
}

/* A parent stands still in vfork() until its child executes something or ends. */
TARGET(vforked) {
    pid_t pid = vfork();
    if (pid == 0) {
        /* What it does with memory it does with the parent's, which is what these functions are able to bear. */
        ready();
        await_go();
        _exit(33);
    }
    expect_exit(pid, 33);
    return done();
}

/* Somebody is always in vfork() for a moment, as those are who start other programs all the time. */
TARGET(vforking) {
    ready();
    for (int code = 0; !go(); code = (code + 1) % 100) {
        pid_t pid = vfork();
        if (pid == 0) {
            usleep(2000);
            _exit(code);
        }
        expect_exit(pid, code);
    }
    return done();
}

/* The tree holds a task that somebody traces already. */
TARGET(traced) {
    pid_t pid = MUST(fork());
    if (pid == 0) {
        MUST(syscall(SYS_ptrace, 0 /* PTRACE_TRACEME */, 0, 0, 0));
        await_go();
        _exit(0);
    }
    /* It runs, traced, until a signal would come. */
    char path[64], text[4096];
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    for (bool seen = false; !seen; pause_ms(1)) {
        int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
        ssize_t length = MUST(read(fd, text, sizeof text - 1));
        close(fd);
        text[length] = 0;
        seen = strstr(text, "TracerPid:\t0\n") == NULL;
    }
    ready();
    await_go();
    expect_exit(pid, 0);
    return done();
}
