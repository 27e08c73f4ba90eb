/* `cgroups NAME`: a process, a child and a thread, each in another group of the hierarchy NAME of version 1, which the
 * target mounts for itself alone. */
#include "common.h"

#include <sys/mount.h>

static const char *hierarchy;
static atomic_int settled;

static void enter(const char *group) {
    char path[PATH_MAX], tid[16];
    snprintf(path, sizeof path, "%s/%s", in_directory("hierarchy"), group);
    if (mkdir(path, 0750) != 0)
        ASSURE(errno == EEXIST);
    strncat(path, "/tasks", sizeof path - strlen(path) - 1);
    int fd = MUST(open(path, O_WRONLY | O_CLOEXEC));
    snprintf(tid, sizeof tid, "%d", (int)gettid_());
    MUST(write(fd, tid, strlen(tid)));
    close(fd);
}

static void expect(const char *group) {
    char line[512], wanted[512];
    FILE *file = fopen("/proc/thread-self/cgroup", "re");
    snprintf(wanted, sizeof wanted, "name=%s:/%s\n", hierarchy, group);
    bool found = false;
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        found |= strstr(line, wanted) != NULL;
    if (!found)
        complain(__FILE__, __LINE__, "not in %s", wanted);
    if (file != NULL)
        fclose(file);
}

static void *thread(void *unused) {
    enter("outer/thread");
    settled++;
    await_go();
    expect("outer/thread");
    return unused;
}

TARGET(cgroups) {
    ASSURE(argc > 1);
    hierarchy = argv[1];
    char options[128];
    snprintf(options, sizeof options, "none,name=%s", hierarchy);
    MUST(mkdir(in_directory("hierarchy"), 0700));
    if (mount("none", in_directory("hierarchy"), "cgroup", 0, options) != 0)
        skip("cgroup: %s", strerror(errno));
    enter("outer");
    pid_t pid = MUST(fork());
    if (pid == 0) {
        enter("outer/inner");
        await_go();
        expect("outer/inner");
        _exit(0);
    }
    char empty[PATH_MAX];
    snprintf(empty, sizeof empty, "%s/outer/empty", in_directory("hierarchy"));
    MUST(mkdir(empty, 0711));
    pthread_t other;
    MUST0(pthread_create(&other, NULL, thread, NULL));
    await_count(&settled, 1);
    snprintf(empty, sizeof empty, "%s/outer/inner/tasks", in_directory("hierarchy"));
    /* The child is where it wants to be when its group is not empty. */
    for (;;) {
        char byte;
        int fd = open(empty, O_RDONLY | O_CLOEXEC);
        bool there = fd >= 0 && read(fd, &byte, 1) == 1;
        close(fd);
        if (there)
            break;
        pause_ms(2);
    }
    MUST(umount2(in_directory("hierarchy"), MNT_DETACH));
    ready();
    await_go();
    expect("outer");
    expect_exit(pid, 0);
    pthread_join(other, NULL);
    return done();
}

/* Version 2: everybody is in one hierarchy, which has settings of its own for every group. */
static const char *unified;

static const char *in_group(const char *group, const char *file) {
    static _Thread_local char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s-%s/%s", unified, hierarchy, group, file);
    return path;
}

static void set(const char *group, const char *file, const char *value) {
    int fd = MUST(open(in_group(group, file), O_WRONLY | O_CLOEXEC));
    MUST(write(fd, value, strlen(value)));
    close(fd);
}

static bool is_set(const char *group, const char *file, const char *value) {
    char found[128] = "";
    int fd = open(in_group(group, file), O_RDONLY | O_CLOEXEC);
    ssize_t size = read(fd, found, sizeof found - 1);
    close(fd);
    return size > 0 && strncmp(found, value, strlen(value)) == 0 && found[strlen(value)] == '\n';
}

static void expect_unified(const char *group) {
    char line[512], wanted[512];
    FILE *file = fopen("/proc/thread-self/cgroup", "re");
    snprintf(wanted, sizeof wanted, "0::/%s-%s\n", hierarchy, group);
    bool found = false;
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        found |= strcmp(line, wanted) == 0;
    if (!found)
        complain(__FILE__, __LINE__, "not in %s", wanted);
    if (file != NULL)
        fclose(file);
}

static void *unified_thread(void *unused) {
    set("outer/threads", "cgroup.threads", "0");
    settled++;
    await_go();
    expect_unified("outer/threads");
    return unused;
}

static int unified_child(void *unused) {
    (void)unused;
    set("other", "cgroup.procs", "0");
    settled++;
    await_go();
    expect_unified("other");
    return 0;
}

/* `cgroups_unified NAME MOUNT`: a process, a child and a thread, each in another group, called NAME-... */
TARGET(cgroups_unified) {
    ASSURE(argc > 2);
    hierarchy = argv[1], unified = argv[2];
    if (mkdir(in_group("outer", ""), 0750) != 0)
        skip("a group of cgroup2: %s", strerror(errno));
    MUST(mkdir(in_group("outer/threads", ""), 0755));
    MUST(mkdir(in_group("other", ""), 0711));
    set("outer/threads", "cgroup.type", "threaded");
    set("other", "cgroup.max.descendants", "7");
    set("outer", "cgroup.procs", "0");
    pid_t pid = child(unified_child, NULL);
    pthread_t other;
    MUST0(pthread_create(&other, NULL, unified_thread, NULL));
    /* The child has a counter of its own. */
    await_count(&settled, 1);
    char process[16];
    snprintf(process, sizeof process, "%d", (int)pid);
    while (!is_set("other", "cgroup.procs", process))
        pause_ms(2);
    ready();
    await_go();
    expect_unified("outer");
    expect_exit(pid, 0);
    pthread_join(other, NULL);
    CHECK(is_set("outer/threads", "cgroup.type", "threaded"));
    CHECK(is_set("other", "cgroup.max.descendants", "7"));
    return done();
}
