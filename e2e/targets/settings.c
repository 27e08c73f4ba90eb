/* Settings by prctl(2) and its like, some of a process and some of each thread. Those that a kernel or a machine does not
 * have are left out. */
#include "common.h"

#include <sys/syscall.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif
#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

enum { REGISTER_PRIVATE = 1 << 4, PRIVATE = 1 << 3, REGISTER_CORE = 1 << 6, GET_REGISTRATIONS = 1 << 9 };
enum { PREFERRED = 1, BIND = 2, SETTINGS = 8 };

struct deadline {
    uint32_t size, policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime, deadline, period;
};

struct state {
    long values[SETTINGS];
    struct deadline deadline;
};

static void look(struct state *state) {
    int tsc = -1, policy = -1;
    unsigned long nodes[16] = {0};
    prctl(PR_GET_TSC, &tsc);
    syscall(SYS_get_mempolicy, &policy, nodes, sizeof nodes * 8, 0, 0);
    long values[SETTINGS] = {tsc,
                             policy,
                             (long)nodes[0],
                             syscall(SYS_ioprio_get, 1, gettid_()),
                             prctl(PR_GET_MDWE, 0, 0, 0, 0),
                             prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 0),
                             syscall(SYS_membarrier, GET_REGISTRATIONS, 0, 0),
                             sched_getscheduler(0)};
    memset(state, 0, sizeof *state);
    memcpy(state->values, values, sizeof values);
    /* Of other classes the kernel counts the runtime down. */
    if (values[7] == 6)
        syscall(SYS_sched_getattr, 0, &state->deadline, sizeof state->deadline, 0);
}

static void same(const char *which, const struct state *before) {
    struct state now;
    look(&now);
    for (int i = 0; i < SETTINGS; i++)
        EQUAL_OF(which, now.values[i], before->values[i]);
    EQUAL_OF(which, now.deadline.runtime, before->deadline.runtime);
    EQUAL_OF(which, now.deadline.deadline, before->deadline.deadline);
    EQUAL_OF(which, now.deadline.period, before->deadline.period);
    EQUAL_OF(which, now.deadline.flags, before->deadline.flags);
}

static atomic_int settled;

static void *in_time(void *unused) {
    struct deadline deadline = {.size = sizeof deadline, .policy = 6, .runtime = 2000000, .deadline = 9000000, .period = 10000000};
    struct state state;
    syscall(SYS_sched_setattr, 0, &deadline, 0);
    look(&state);
    settled++;
    await_go();
    same("in time", &state);
    return unused;
}

static void *otherwise(void *unused) {
    unsigned long node = 1;
    struct state state;
    prctl(PR_SET_TSC, PR_TSC_SIGSEGV);
    syscall(SYS_ioprio_set, 1, 0, 2 << 13 | 3);
    syscall(SYS_set_mempolicy, BIND, &node, 8);
    look(&state);
    settled++;
    /* await_go() may read the time stamp counter in the vdso. */
    while (access(in_directory("go"), F_OK) != 0)
        usleep(5000);
    same("otherwise", &state);
    return unused;
}

static int child_of_its_own(void *unused) {
    (void)unused;
    struct state state;
    prctl(PR_SET_MEMORY_MERGE, 0, 0, 0, 0);
    look(&state);
    MUST(close(MUST(open(in_directory("child"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600))));
    await_go();
    same("child", &state);
    return 0;
}

TARGET(settings) {
    unsigned long node = 1;
    struct state state;
    syscall(SYS_set_mempolicy, PREFERRED, &node, 8);
    syscall(SYS_membarrier, REGISTER_PRIVATE, 0, 0);
    syscall(SYS_membarrier, REGISTER_CORE, 0, 0);
    prctl(PR_SET_MEMORY_MERGE, 1, 0, 0, 0);
    pid_t pid = child(child_of_its_own, NULL);
    while (access(in_directory("child"), F_OK) != 0)
        pause_ms(2);
    prctl(PR_SET_MDWE, 1, 0, 0, 0);
    pthread_t threads[2];
    MUST0(pthread_create(&threads[0], NULL, in_time, NULL));
    MUST0(pthread_create(&threads[1], NULL, otherwise, NULL));
    await_count(&settled, 2);
    look(&state);
    ready();
    await_go();
    same("leader", &state);
    if (state.values[6] & REGISTER_PRIVATE)
        WORKS(syscall(SYS_membarrier, PRIVATE, 0, 0));
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    expect_exit(pid, 0);
    return done();
}

static long login(void) {
    char text[16] = "";
    int fd = open("/proc/self/loginuid", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || read(fd, text, sizeof text - 1) < 0)
        skip("loginuid: %s", strerror(errno));
    close(fd);
    return atol(text);
}

TARGET(login_user) {
    int fd = open("/proc/self/loginuid", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "4711", 4) != 4)
        skip("loginuid: %s", strerror(errno));
    close(fd);
    ready();
    await_go();
    EQUAL(login(), 4711);
    return done();
}
