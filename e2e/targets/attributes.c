/* What a process is besides its memory and descriptors: limits, names, places, credentials. */
#include "common.h"

#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <sys/auxv.h>
#include <sys/fsuid.h>
#include <sys/personality.h>

/* One attribute: how to read it. What is read before and after must be the same. */
struct attribute {
    const char *name;
    long (*get)(void);
};

static long get_dumpable(void) { return prctl(PR_GET_DUMPABLE); }
static long get_subreaper(void) {
    int value = -1;
    prctl(PR_GET_CHILD_SUBREAPER, &value);
    return value;
}
static long get_death_signal(void) {
    int value = -1;
    prctl(PR_GET_PDEATHSIG, &value);
    return value;
}
static long get_no_new_privs(void) { return prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0); }
static long get_keep_caps(void) { return prctl(PR_GET_KEEPCAPS); }
static long get_securebits(void) { return prctl(PR_GET_SECUREBITS); }
static long get_slack(void) { return prctl(PR_GET_TIMERSLACK); }
static long get_thp(void) { return prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0); }
static long get_mce(void) { return prctl(PR_MCE_KILL_GET, 0, 0, 0, 0); }
static long get_nice(void) { return getpriority(PRIO_PROCESS, 0); }
static long get_personality(void) { return personality(0xffffffff); }
static long get_umask(void) {
    mode_t mask = umask(0);
    umask(mask);
    return mask;
}
static long get_hwcap(void) { return (long)getauxval(AT_HWCAP); }
static long get_random(void) { return *(long *)getauxval(AT_RANDOM); }
static long get_vdso(void) { return (long)getauxval(AT_SYSINFO_EHDR); }
static long get_break(void) { return syscall(SYS_brk, 0); }
static long get_fsuid(void) { return setfsuid((uid_t)-1); }
static long get_fsgid(void) { return setfsgid((gid_t)-1); }

static const struct attribute attributes[] = {
    {"dumpable", get_dumpable},       {"child subreaper", get_subreaper},
    {"death signal", get_death_signal}, {"no_new_privs", get_no_new_privs},
    {"keep caps", get_keep_caps},     {"securebits", get_securebits},
    {"timer slack", get_slack},       {"THP disable", get_thp},
    {"machine check policy", get_mce}, {"nice", get_nice},
    {"personality", get_personality}, {"umask", get_umask},
    {"hwcap", get_hwcap},             {"random bytes", get_random},
    {"vdso", get_vdso},               {"break", get_break},
    {"fsuid", get_fsuid},             {"fsgid", get_fsgid},
};
enum { ATTRIBUTES = sizeof attributes / sizeof *attributes, LIMITS = RLIM_NLIMITS, GROUPS = 128 };

/* Everything about a process that it can ask for itself. */
struct self {
    long attributes[ATTRIBUTES];
    struct rlimit limits[LIMITS];
    uid_t uids[3];
    gid_t gids[3], groups[GROUPS];
    int group_count;
    struct __user_cap_data_struct caps[2];
    uint64_t bounding, ambient;
    char cwd[PATH_MAX], name[16];
};

static void look(struct self *self) {
    memset(self, 0, sizeof *self);
    for (int i = 0; i < ATTRIBUTES; i++)
        self->attributes[i] = attributes[i].get();
    for (int i = 0; i < LIMITS; i++)
        getrlimit(i, &self->limits[i]);
    getresuid(&self->uids[0], &self->uids[1], &self->uids[2]);
    getresgid(&self->gids[0], &self->gids[1], &self->gids[2]);
    self->group_count = getgroups(GROUPS, self->groups);
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    syscall(SYS_capget, &header, self->caps);
    for (int cap = 0; cap < 64; cap++) {
        self->bounding |= (uint64_t)(prctl(PR_CAPBSET_READ, cap) == 1) << cap;
        self->ambient |= (uint64_t)(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) == 1) << cap;
    }
    if (getcwd(self->cwd, sizeof self->cwd) == NULL)
        snprintf(self->cwd, sizeof self->cwd, "(%s)", strerror(errno));
    prctl(PR_GET_NAME, self->name);
}

static void compare(const char *who, const struct self *before) {
    static __thread struct self after;
    look(&after);
    for (int i = 0; i < ATTRIBUTES; i++)
        if (after.attributes[i] != before->attributes[i])
            complain(__FILE__, __LINE__, "%s: %s is %#lx, not %#lx", who, attributes[i].name, after.attributes[i],
                     before->attributes[i]);
    for (int i = 0; i < LIMITS; i++)
        if (memcmp(&after.limits[i], &before->limits[i], sizeof after.limits[i]) != 0)
            complain(__FILE__, __LINE__, "%s: limit %d is %#lx %#lx, not %#lx %#lx", who, i, after.limits[i].rlim_cur,
                     after.limits[i].rlim_max, before->limits[i].rlim_cur, before->limits[i].rlim_max);
    for (int i = 0; i < 3; i++) {
        EQUAL_OF(who, after.uids[i], before->uids[i]);
        EQUAL_OF(who, after.gids[i], before->gids[i]);
    }
    EQUAL_OF(who, after.group_count, before->group_count);
    if (memcmp(after.groups, before->groups, sizeof after.groups) != 0)
        complain(__FILE__, __LINE__, "%s: other groups", who);
    for (int i = 0; i < 2; i++) {
        EQUAL_OF(who, after.caps[i].effective, before->caps[i].effective);
        EQUAL_OF(who, after.caps[i].permitted, before->caps[i].permitted);
        EQUAL_OF(who, after.caps[i].inheritable, before->caps[i].inheritable);
    }
    EQUAL_OF(who, after.bounding, before->bounding);
    EQUAL_OF(who, after.ambient, before->ambient);
    if (strcmp(after.cwd, before->cwd) != 0)
        complain(__FILE__, __LINE__, "%s: working directory is %s, not %s", who, after.cwd, before->cwd);
    if (memcmp(after.name, before->name, sizeof after.name) != 0)
        complain(__FILE__, __LINE__, "%s: name is %s, not %s", who, after.name, before->name);
}

static struct {
    atomic_int settled, left;
} *shared;

/* A child that changes itself in one way, idles and compares. */
struct variant {
    const char *name;
    void (*change)(void);
};

static int vary(void *argument) {
    const struct variant *variant = argument;
    static struct self before;
    variant->change();
    look(&before);
    shared->settled++;
    await_go();
    compare(variant->name, &before);
    return 0;
}

static void run_variants(struct variant *variants, int count) {
    pid_t pids[64];
    shared = share(4096);
    ASSURE(count <= 64);
    for (int i = 0; i < count; i++)
        pids[i] = child(vary, &variants[i]);
    await_count(&shared->settled, count);
    ready();
    await_go();
    for (int i = 0; i < count; i++)
        expect_exit(pids[i], 0);
}

static void lower_limits(void) {
    for (int i = 0; i < LIMITS; i++) {
        struct rlimit limit;
        MUST(getrlimit(i, &limit));
        unsigned long cap = i == RLIMIT_NICE || i == RLIMIT_RTPRIO ? 20 : i == RLIMIT_NOFILE ? 500 : (8UL << 30) + (unsigned)i;
        if (limit.rlim_max > cap)
            limit.rlim_max = cap;
        if (limit.rlim_cur > limit.rlim_max / 2)
            limit.rlim_cur = limit.rlim_max / 2;
        MUST(setrlimit(i, &limit));
    }
}

/* Limits below what the process uses already. */
static void strangle(void) {
    static const int limits[] = {RLIMIT_DATA, RLIMIT_STACK, RLIMIT_NOFILE, RLIMIT_MEMLOCK, RLIMIT_FSIZE,
                                 RLIMIT_SIGPENDING, RLIMIT_NPROC};
    struct rlimit none = {0, 0};
    for (unsigned i = 0; i < sizeof limits / sizeof *limits; i++)
        if (limits[i] != RLIMIT_FSIZE)
            MUST(setrlimit(limits[i], &none));
}

static void be_nice(void) { MUST(nice(11)); }

static void write_own(const char *file, const char *text) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/%s", file);
    int fd = MUST(open(path, O_WRONLY | O_CLOEXEC));
    MUST(write(fd, text, strlen(text)));
    close(fd);
}

static void score(void) { write_own("oom_score_adj", "567"); }
static void slacken(void) { MUST(prctl(PR_SET_TIMERSLACK, 1234567)); }
static void no_randomization(void) { MUST(personality(ADDR_NO_RANDOMIZE | STICKY_TIMEOUTS)); }
static void implied_execution(void) { MUST(personality(READ_IMPLIES_EXEC)); }
static void old_version(void) { MUST(personality(0x0020000 /* UNAME26 */ | ADDR_COMPAT_LAYOUT)); }
static void mask(void) { umask(0137); }
static void move(void) {
    MUST(mkdir(in_directory("a place with spaces\n and \\ and \xc3\xa9"), 0755));
    MUST(chdir(in_directory("a place with spaces\n and \\ and \xc3\xa9")));
}
static void name(void) { MUST(prctl(PR_SET_NAME, ") S 1 (\n\xff x")); }
static void undumpable(void) { MUST(prctl(PR_SET_DUMPABLE, 0)); }
static void reap(void) { MUST(prctl(PR_SET_CHILD_SUBREAPER, 1)); }
static void ask_for_death_signal(void) { MUST(prctl(PR_SET_PDEATHSIG, SIGUSR2)); }
static void no_new_privileges(void) { MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)); }
static void no_huge_pages(void) { MUST(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0)); }
static void die_early(void) { MUST(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0)); }
static void filter_core(void) { write_own("coredump_filter", "0x17f"); }
static void keep_caps(void) { MUST(prctl(PR_SET_KEEPCAPS, 1)); }
static void grow_break(void) { ASSURE(sbrk(3 * 4096 + 17) != (void *)-1); }
static void nothing(void) {}

TARGET(attributes) {
    struct variant variants[] = {
        {"nothing", nothing},
        {"limits", lower_limits},
        {"limits below use", strangle},
        {"nice", be_nice},
        {"oom_score_adj", score},
        {"timer slack", slacken},
        {"personality: no randomization", no_randomization},
        {"personality: read implies exec", implied_execution},
        {"personality: old version", old_version},
        {"umask", mask},
        {"working directory", move},
        {"name", name},
        {"dumpable", undumpable},
        {"subreaper", reap},
        {"death signal", ask_for_death_signal},
        {"no new privileges", no_new_privileges},
        {"no huge pages", no_huge_pages},
        {"machine checks", die_early},
        {"core dump filter", filter_core},
        {"keep caps", keep_caps},
        {"break", grow_break},
    };
    /* The targets of a test share their directory with nobody else: the tree's own attributes are changed as well. */
    MUST(prctl(PR_SET_NAME, "root) of it all"));
    MUST(nice(3));
    umask(027);
    MUST(chdir("/usr"));
    run_variants(variants, sizeof variants / sizeof *variants);
    char path[PATH_MAX];
    CHECK(getcwd(path, sizeof path) != NULL && strcmp(path, "/usr") == 0);
    return done();
}

static void set_caps(uint64_t effective, uint64_t permitted, uint64_t inheritable) {
    struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2] = {
        {(uint32_t)effective, (uint32_t)permitted, (uint32_t)inheritable},
        {(uint32_t)(effective >> 32), (uint32_t)(permitted >> 32), (uint32_t)(inheritable >> 32)},
    };
    MUST(syscall(SYS_capset, &header, data));
}

#define CAP(name) (1UL << (name))

static void user(void) {
    const gid_t groups[] = {5, 10, 20, 99999};
    MUST(setgroups(4, groups));
    MUST(setresgid(1000, 1000, 1000));
    MUST(setresuid(1000, 1000, 1000));
}
static void dumpable_user(void) {
    user();
    MUST(prctl(PR_SET_DUMPABLE, 1));
}
static void no_groups(void) {
    MUST(setgroups(0, NULL));
    MUST(setresgid(1, 2, 3));
    MUST(setresuid(1000, 1001, 1002));
}
static void many_groups(void) {
    gid_t groups[100];
    for (unsigned i = 0; i < 100; i++)
        groups[i] = 1000 + 7 * i;
    MUST(setgroups(100, groups));
}
static void effective_user(void) { MUST(setresuid(0, 1000, 0)); }
static void filesystem_user(void) {
    setfsgid(1234);
    setfsuid(1234);
}
static void few_caps(void) {
    set_caps(CAP(CAP_CHOWN), CAP(CAP_CHOWN) | CAP(CAP_NET_RAW) | CAP(CAP_SYS_ADMIN), CAP(CAP_KILL) | CAP(CAP_CHOWN));
}
static void no_caps(void) { set_caps(0, 0, 0); }
static void small_bounding_set(void) {
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (cap % 3 == 0)
            prctl(PR_CAPBSET_DROP, cap);
}
static void ambient_user(void) {
    MUST(prctl(PR_SET_KEEPCAPS, 1));
    MUST(setresgid(1000, 1000, 1000));
    MUST(setresuid(1000, 1000, 1000));
    uint64_t both = CAP(CAP_NET_BIND_SERVICE) | CAP(CAP_SYS_NICE);
    set_caps(CAP(CAP_SYS_NICE), both | CAP(CAP_FOWNER), both);
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0));
    MUST(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_SYS_NICE, 0, 0));
}
static void locked_securebits(void) {
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NOROOT_LOCKED | SECBIT_NO_SETUID_FIXUP |
                                      SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED));
}
static void bare_securebits(void) {
    MUST(prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS));
    MUST(setresuid(1000, 1000, 1000));
    set_caps(CAP(CAP_SETUID), CAP(CAP_SETUID) | CAP(CAP_SETPCAP), 0);
}
static void sealed_user(void) {
    small_bounding_set();
    user();
    no_new_privileges();
    ask_for_death_signal();
}
static void limited_user(void) {
    lower_limits();
    score();
    user();
    be_nice();
    MUST(prctl(PR_SET_NAME, "not root"));
}

TARGET(credentials) {
    struct variant variants[] = {
        {"user", user},
        {"dumpable user", dumpable_user},
        {"different ids, no groups", no_groups},
        {"many groups", many_groups},
        {"effective user", effective_user},
        {"file system user", filesystem_user},
        {"few capabilities", few_caps},
        {"no capabilities", no_caps},
        {"small bounding set", small_bounding_set},
        {"ambient capabilities", ambient_user},
        {"locked securebits", locked_securebits},
        {"bare securebits", bare_securebits},
        {"sealed user", sealed_user},
        {"limited user", limited_user},
    };
    run_variants(variants, sizeof variants / sizeof *variants);
    return done();
}

/* The tree's root, and with it every task of the tree, is not root. */
static int same_user(void *unused) {
    (void)unused;
    static struct self before;
    look(&before);
    shared->settled++;
    await_go();
    compare("child", &before);
    return 0;
}

TARGET(ordinary_user) {
    static struct self before;
    shared = share(4096);
    user();
    look(&before);
    pid_t pid = child(same_user, NULL);
    await_count(&shared->settled, 1);
    ready();
    await_go();
    compare("root of the tree", &before);
    expect_exit(pid, 0);
    return done();
}

/* Threads of one process may have different credentials: only the C library makes them the same. */
static void *other_credentials(void *which) {
    static __thread struct self before;
    switch ((int)(intptr_t)which) {
    case 0:
        MUST(syscall(SYS_setresgid, 2000, 2000, 2000));
        MUST(syscall(SYS_setresuid, 2000, 2000, 2000));
        break;
    case 1:
        few_caps();
        break;
    case 2:
        no_new_privileges();
        break;
    default:
        locked_securebits();
    }
    shared->settled++;
    await_count(&shared->settled, 5);
    look(&before);
    shared->settled++;
    await_go();
    compare("thread", &before);
    return NULL;
}

TARGET(thread_credentials) {
    static struct self before;
    pthread_t threads[4];
    shared = share(4096);
    for (int i = 0; i < 4; i++)
        MUST0(pthread_create(&threads[i], NULL, other_credentials, (void *)(intptr_t)i));
    await_count(&shared->settled, 4);
    /* Each change of credentials has taken it away from all of them. */
    MUST(prctl(PR_SET_DUMPABLE, 1));
    look(&before);
    shared->settled++;
    await_count(&shared->settled, 9);
    ready();
    await_go();
    compare("leader", &before);
    for (int i = 0; i < 4; i++)
        EQUAL(pthread_join(threads[i], NULL), 0);
    return done();
}

/* Another root directory, for a child and for the tree's root. */
static int jailed(void *unused) {
    (void)unused;
    MUST(mkdir(in_directory("inner"), 0755));
    MUST(mkdir(in_directory("inner/deep"), 0755));
    int witness = MUST(open(in_directory("inner/here"), O_RDONLY | O_CREAT | O_CLOEXEC, 0644));
    close(witness);
    /* The conversation goes on through this descriptor. */
    int conversation = MUST(open(in_directory("."), O_PATH | O_DIRECTORY | O_CLOEXEC));
    MUST(chroot(in_directory("inner")));
    MUST(chdir("/deep"));
    snprintf(directory, sizeof directory, "/../proc-is-not-here");
    shared->settled++;
    while (faccessat(conversation, "go", F_OK, 0) != 0)
        pause_ms(5);
    char path[PATH_MAX] = "";
    shared->left = access("/here", F_OK) == 0 && getcwd(path, sizeof path) != NULL && strcmp(path, "/deep") == 0 &&
                   access("../here", F_OK) == 0 && access("/proc", F_OK) != 0;
    return 0;
}

TARGET(jail) {
    shared = share(4096);
    pid_t pid = child(jailed, NULL);
    await_count(&shared->settled, 1);
    MUST(chdir(directory));
    MUST(chroot(directory));
    snprintf(directory, sizeof directory, "/");
    ready();
    await_go();
    expect_exit(pid, 0);
    EQUAL(shared->left, 1);
    char path[PATH_MAX] = "";
    CHECK(getcwd(path, sizeof path) != NULL && strcmp(path, "/") == 0);
    CHECK(access("/usr", F_OK) != 0);
    return done();
}

/* A command line and an environment that the program wrote over, as setproctitle(3) does. */
extern char **environ;

TARGET(title) {
    size_t length = strlen(argv[0]);
    memset(argv[0], 'T', length);
    if (argc > 1)
        memset(argv[1], 0, strlen(argv[1]));
    if (environ[0] != NULL)
        memset(environ[0], 'E', strlen(environ[0]));
    ready();
    await_go();
    for (size_t i = 0; i < length; i++)
        EQUAL(argv[0][i], 'T');
    return done();
}

/* The signal at a parent's death is not only recorded, it comes. */
static void died(int signal) {
    (void)signal;
    shared->left++;
}

static int grandchild(void *unused) {
    (void)unused;
    signal(SIGUSR1, died);
    MUST(prctl(PR_SET_PDEATHSIG, SIGUSR1));
    shared->settled++;
    while (!shared->left)
        pause_ms(1);
    return 0;
}

static int parent(void *unused) {
    (void)unused;
    child(grandchild, NULL);
    await_go();
    return 0;
}

TARGET(death_signal) {
    shared = share(4096);
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1));
    pid_t pid = child(parent, NULL);
    await_count(&shared->settled, 1);
    ready();
    await_go();
    expect_exit(pid, 0);
    int status;
    WORKS(wait(&status));
    EQUAL(status, 0);
    EQUAL(shared->left, 1);
    return done();
}
