/* Threads: their attributes, what the kernel keeps for each of them, and many of them. */
#include "common.h"

#include <sys/rseq.h>

struct config {
    const char *name;
    int policy, priority, nice, cpu;
    bool altstack;
    unsigned long slack_ns;
};

static const struct config configs[] = {
    {"alpha", SCHED_OTHER, 0, 0, -1, false, 0},
    {") R (1 2\n\t", SCHED_BATCH, 0, 5, -1, false, 0},
    {"idle", SCHED_IDLE, 0, 0, 0, true, 0},
    {"fifo", SCHED_FIFO, 10, 0, -1, false, 0},
    {"round-robin", SCHED_RR, 3, 0, 0, false, 0},
    {"slack \xff\xfe", SCHED_OTHER, 0, 7, -1, true, 123456},
    {"", SCHED_OTHER, 0, 19, 0, true, 1},
    {"fifteen letters", SCHED_BATCH, 0, 1, -1, false, 999999999},
};
enum { THREADS = sizeof configs / sizeof *configs };

static atomic_int settled, released;
static __thread long in_tls;

struct observed {
    pid_t tid;
    int policy, priority, nice, reset_on_fork;
    cpu_set_t cpus;
    stack_t altstack;
    sigset_t mask;
    void *robust_list, *tid_address;
    size_t robust_size;
    int slack_ns;
    char name[16];
};

static void observe(struct observed *observed) {
    memset(observed, 0, sizeof *observed);
    observed->tid = gettid_();
    observed->policy = sched_getscheduler(0);
    struct sched_param parameters;
    sched_getparam(0, &parameters);
    observed->priority = parameters.sched_priority;
    observed->nice = getpriority(PRIO_PROCESS, 0);
    sched_getaffinity(0, sizeof observed->cpus, &observed->cpus);
    sigaltstack(NULL, &observed->altstack);
    pthread_sigmask(SIG_SETMASK, NULL, &observed->mask);
    syscall(SYS_get_robust_list, 0, &observed->robust_list, &observed->robust_size);
    prctl(PR_GET_TID_ADDRESS, &observed->tid_address);
    observed->slack_ns = prctl(PR_GET_TIMERSLACK);
    prctl(PR_GET_NAME, observed->name);
}

static void compare(const struct observed *before) {
    struct observed after;
    const char *who = before->name;
    observe(&after);
    EQUAL_OF(who, after.tid, before->tid);
    EQUAL_OF(who, after.policy, before->policy);
    EQUAL_OF(who, after.priority, before->priority);
    EQUAL_OF(who, after.nice, before->nice);
    CHECK(CPU_EQUAL(&after.cpus, &before->cpus));
    EQUAL_OF(who, after.altstack.ss_sp, before->altstack.ss_sp);
    EQUAL_OF(who, after.altstack.ss_size, before->altstack.ss_size);
    EQUAL_OF(who, after.altstack.ss_flags, before->altstack.ss_flags);
    CHECK(memcmp(&after.mask, &before->mask, 8) == 0);
    EQUAL_OF(who, after.robust_list, before->robust_list);
    EQUAL_OF(who, after.robust_size, before->robust_size);
    EQUAL_OF(who, after.tid_address, before->tid_address);
    EQUAL_OF(who, after.slack_ns, before->slack_ns);
    CHECK(memcmp(after.name, before->name, sizeof after.name) == 0);
}

static volatile uintptr_t handled_at;

static void remember_stack(int signal) {
    (void)signal;
    volatile int here = 0;
    handled_at = (uintptr_t)&here;
}

static void *configured(void *argument) {
    const struct config *config = argument;
    pid_t tid = gettid_();
    in_tls = (long)tid * 1000;
    MUST(prctl(PR_SET_NAME, config->name));
    if (config->cpu >= 0) {
        cpu_set_t cpus;
        CPU_ZERO(&cpus);
        CPU_SET(config->cpu, &cpus);
        MUST(sched_setaffinity(0, sizeof cpus, &cpus));
    }
    char *stack = NULL;
    if (config->altstack) {
        stack = malloc(65536);
        stack_t altstack = {.ss_sp = stack, .ss_size = 65536};
        MUST(sigaltstack(&altstack, NULL));
    }
    if (config->slack_ns)
        MUST(prctl(PR_SET_TIMERSLACK, config->slack_ns));
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    sigaddset(&mask, SIGRTMIN + (int)(config - configs));
    MUST0(pthread_sigmask(SIG_SETMASK, &mask, NULL));
    struct sched_param parameters = {.sched_priority = config->priority};
    int policy = config->policy | (config->policy == SCHED_RR ? SCHED_RESET_ON_FORK : 0);
    MUST(sched_setscheduler(0, policy, &parameters));
    if (config->policy == SCHED_OTHER || config->policy == SCHED_BATCH)
        MUST(setpriority(PRIO_PROCESS, 0, config->nice));
    struct observed before;
    observe(&before);
    settled++;
    await_go();
    compare(&before);
    EQUAL(in_tls, (long)tid * 1000);
    if (config->altstack) {
        /* One at a time: there is one place to remember. */
        static pthread_mutex_t one = PTHREAD_MUTEX_INITIALIZER;
        pthread_mutex_lock(&one);
        handled_at = 0;
        syscall(SYS_tgkill, getpid(), tid, SIGUSR1);
        CHECK(handled_at >= (uintptr_t)stack && handled_at < (uintptr_t)stack + 65536);
        pthread_mutex_unlock(&one);
    }
    return (void *)(intptr_t)tid;
}

TARGET(threads) {
    struct sigaction action = {.sa_handler = remember_stack, .sa_flags = SA_ONSTACK};
    MUST(sigaction(SIGUSR1, &action, NULL));
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        MUST0(pthread_create(&threads[i], NULL, configured, (void *)&configs[i]));
    MUST(prctl(PR_SET_NAME, "a leader's name"));
    await_count(&settled, THREADS);
    struct observed before;
    observe(&before);
    ready();
    await_go();
    compare(&before);
    for (int i = 0; i < THREADS; i++) {
        void *tid = NULL;
        EQUAL(pthread_join(threads[i], &tid), 0);
        CHECK(tid != NULL);
    }
    /* New threads still work. */
    pthread_t thread;
    EQUAL(pthread_create(&thread, NULL, configured, (void *)&configs[0]), 0);
    EQUAL(pthread_join(thread, NULL), 0);
    return done();
}

/* Threads as many as told, most of them blocked on one futex; they are all let go at once. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t opened = PTHREAD_COND_INITIALIZER;
static bool open_;
static atomic_long sum;

static void *member(void *number) {
    long own = (long)(intptr_t)number;
    pid_t tid = gettid_();
    char name[16], now[16];
    snprintf(name, sizeof name, "member %ld", own);
    MUST(prctl(PR_SET_NAME, name));
    in_tls = own * own;
    settled++;
    pthread_mutex_lock(&gate);
    while (!open_)
        pthread_cond_wait(&opened, &gate);
    pthread_mutex_unlock(&gate);
    EQUAL(gettid_(), tid);
    EQUAL(in_tls, own * own);
    prctl(PR_GET_NAME, now);
    CHECK(strcmp(name, now) == 0);
    sum += own;
    return NULL;
}

TARGET(throng) {
    int count = argc > 1 ? atoi(argv[1]) : 10;
    ASSURE(count > 0 && count <= 2000);
    pthread_t *threads = calloc((size_t)count, sizeof *threads);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    MUST0(pthread_attr_setstacksize(&attributes, 64 * 1024));
    for (long i = 0; i < count; i++)
        MUST0(pthread_create(&threads[i], &attributes, member, (void *)(i + 1)));
    await_count(&settled, count);
    ready();
    await_go();
    pthread_mutex_lock(&gate);
    open_ = true;
    pthread_cond_broadcast(&opened);
    pthread_mutex_unlock(&gate);
    for (int i = 0; i < count; i++)
        EQUAL(pthread_join(threads[i], NULL), 0);
    EQUAL(sum, (long)count * (count + 1) / 2);
    return done();
}

/* Robust mutexes: who waits for one learns that its owner died, be the owner a thread or a process. */
static struct {
    pthread_mutex_t by_thread, by_process;
    atomic_int settled;
} *robust;

static void *owning_thread(void *unused) {
    MUST0(pthread_mutex_lock(&robust->by_thread));
    robust->settled++;
    await_go();
    return unused;
}

static int owning_process(void *unused) {
    (void)unused;
    MUST0(pthread_mutex_lock(&robust->by_process));
    robust->settled++;
    await_go();
    return 0;
}

TARGET(robust_lists) {
    robust = share(4096);
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    MUST0(pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST));
    MUST0(pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED));
    MUST0(pthread_mutex_init(&robust->by_thread, &attributes));
    MUST0(pthread_mutex_init(&robust->by_process, &attributes));
    pid_t pid = child(owning_process, NULL);
    pthread_t thread;
    MUST0(pthread_create(&thread, NULL, owning_thread, NULL));
    await_count(&robust->settled, 2);
    ready();
    await_go();
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_sec += 30;
    EQUAL(pthread_mutex_timedlock(&robust->by_thread, &deadline), EOWNERDEAD);
    EQUAL(pthread_mutex_timedlock(&robust->by_process, &deadline), EOWNERDEAD);
    EQUAL(pthread_join(thread, NULL), 0);
    expect_exit(pid, 0);
    return done();
}

/*
 * Restartable sequences. Each step reads a counter of the current CPU, wastes some time and writes the successor
 * back: when the kernel does not abort a sequence that was left in the middle, counts get lost.
 */
enum { CPUS = 1024, STEPS_AFTER = 20000 };

static struct {
    long count;
} __attribute__((aligned(64))) counters[CPUS];

static struct rseq *own_rseq(void) {
    return (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);
}

static bool count_once(struct rseq *rseq) {
    int cpu = *(volatile int *)&rseq->cpu_id_start;
    if (cpu < 0 || cpu >= CPUS)
        return false;
    long *counter = &counters[cpu].count;
    __asm__ goto volatile(".pushsection __rseq_cs, \"aw\"\n"
                          ".balign 32\n"
                          "3: .long 0, 0\n"
                          ".quad 1f, 2f - 1f, 4f\n"
                          ".popsection\n"
                          "leaq 3b(%%rip), %%rax\n"
                          "movq %%rax, %[rseq_cs]\n"
                          "1: cmpl %[cpu], %[current]\n"
                          "jne 4f\n"
                          "movq (%[counter]), %%rax\n"
                          "movl $2000, %%ecx\n"
                          "5: decl %%ecx\n"
                          "jnz 5b\n"
                          "incq %%rax\n"
                          "movq %%rax, (%[counter])\n"
                          "2:\n"
                          ".pushsection __rseq_failure, \"ax\"\n"
                          /* The signature that glibc registered, as an operand of ud1. */
                          ".byte 0x0f, 0xb9, 0x3d\n"
                          ".long 0x53053053\n"
                          "4: jmp %l[aborted]\n"
                          ".popsection\n"
                          :
                          : [cpu] "r"(cpu), [current] "m"(rseq->cpu_id), [rseq_cs] "m"(rseq->rseq_cs),
                            [counter] "r"(counter)
                          : "memory", "cc", "rax", "rcx"
                          : aborted);
    return true;
aborted:
    return false;
}

static atomic_long stepped;

static void *stepping(void *unused) {
    (void)unused;
    struct rseq *rseq = own_rseq();
    long own = 0;
    settled++;
    for (long after = 0; after < STEPS_AFTER; after += released)
        own += count_once(rseq);
    stepped += own;
    return NULL;
}

TARGET(rseq) {
    if (__rseq_size == 0)
        skip("this C library registered no restartable sequences");
    enum { STEPPERS = 6 };
    pthread_t threads[STEPPERS];
    for (int i = 0; i < STEPPERS; i++)
        MUST0(pthread_create(&threads[i], NULL, stepping, NULL));
    await_count(&settled, STEPPERS);
    ready();
    await_go();
    released = 1;
    for (int i = 0; i < STEPPERS; i++)
        EQUAL(pthread_join(threads[i], NULL), 0);
    long total = 0;
    for (int i = 0; i < CPUS; i++)
        total += counters[i].count;
    EQUAL(total, stepped);
    /* The kernel keeps telling the CPU. */
    cpu_set_t all;
    WORKS(sched_getaffinity(0, sizeof all, &all));
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &all))
            continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        WORKS(sched_setaffinity(0, sizeof one, &one));
        EQUAL(*(volatile unsigned *)&own_rseq()->cpu_id, cpu);
    }
    return done();
}

/* The thread that the process began with has ended; the others go on. */
static void *survivor(void *unused) {
    pid_t tid = gettid_();
    while (state_of(getpid()) != 'Z')
        pause_ms(1);
    ready();
    await_go();
    EQUAL(gettid_(), tid);
    CHECK(getpid() != tid);
    EQUAL(state_of(getpid()), 'Z');
    _exit(done());
    return unused;
}

TARGET(leaderless) {
    pthread_t thread;
    MUST0(pthread_create(&thread, NULL, survivor, NULL));
    syscall(SYS_exit, 0);
    return 1;
}
