/* Trees with things that a checkpoint cannot take yet. Each waits to find out that nothing has happened to it. */
#include "common.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <stddef.h>

static struct {
    atomic_int settled;
    atomic_int fds[4];
    _Atomic pid_t pids[4];
} *board;

/* Writes `pid fd` lines for the test to compare with. */
static void tell(void) {
    FILE *file = fopen(in_directory("expected"), "w");
    ASSURE(file != NULL);
    for (int i = 0; i < 4; i++)
        if (board->pids[i] != 0)
            fprintf(file, "%d %d\n", (int)board->pids[i], (int)board->fds[i]);
    fclose(file);
}

static void put(int index, int fd) {
    board->fds[index] = fd;
    board->pids[index] = getpid();
}

static int with_strange_files(void *unused) {
    (void)unused;
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (fd >= 0)
        put(2, fd);
    /* The first of all processes is not part of the tree. */
    int watch = MUST((int)syscall(SYS_pidfd_open, 1, 0)), high = MUST(fcntl(watch, F_DUPFD, 200));
    close(watch);
    put(3, high);
    board->settled++;
    await_go();
    CHECK(fcntl(high, F_GETFD) >= 0);
    return 0;
}

TARGET(unsupported) {
    board = share(4096);
    int listener = MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    MUST(bind(listener, (struct sockaddr *)&address, sizeof address));
    MUST(listen(listener, 1));
    socklen_t size = sizeof address;
    MUST(getsockname(listener, (struct sockaddr *)&address, &size));
    /* Connections are taken along only when somebody says so. */
    int client = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(client, (struct sockaddr *)&address, size));
    put(0, MUST(accept(listener, NULL, NULL)));
    pid_t pid = child(with_strange_files, NULL);
    await_count(&board->settled, 1);
    tell();
    ready();
    await_go();
    struct sockaddr_in now;
    socklen_t length = sizeof now;
    WORKS(getsockname(listener, (struct sockaddr *)&now, &length));
    expect_exit(pid, 0);
    return done();
}

/* A child in other namespaces. */
static int elsewhere(void *unused) {
    (void)unused;
    MUST(unshare(CLONE_NEWUTS | CLONE_NEWNET | CLONE_NEWNS));
    put(0, -1);
    board->settled++;
    await_go();
    return 0;
}

TARGET(other_namespaces) {
    board = share(4096);
    pid_t pid = child(elsewhere, NULL);
    await_count(&board->settled, 1);
    tell();
    ready();
    await_go();
    expect_exit(pid, 0);
    return done();
}

static atomic_int filtered_step;

/* Has a filter of its own on top of those of all, and finds later that another thread has added one for it. */
static void *filtered_thread(void *argument) {
    struct sock_fprog *own = argument;
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, own));
    atomic_store(&filtered_step, 1);
    await_count(&filtered_step, 2);
    FAILS(syscall(SYS_getpgid, 0), ENOTNAM);
    FAILS(syscall(SYS_getsid, 0), ENOTNAM);
    return NULL;
}

static void *plain_thread(void *argument) {
    (void)argument;
    await_count(&filtered_step, 2);
    FAILS(syscall(SYS_getpgid, 0), ENOTNAM);
    CHECK(syscall(SYS_getsid, 0) != -1);
    FAILS(syscall(SYS_getppid), ENOTNAM);
    return NULL;
}

static struct sock_fprog forbid(unsigned number) {
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTNAM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_filter *copy = malloc(sizeof program);
    memcpy(copy, program, sizeof program);
    return (struct sock_fprog){sizeof program / sizeof *program, copy};
}

/* Threads have a filter in common; one may add another for all of them as long as theirs are the same to the kernel. */
TARGET(filtered_threads) {
    bool differs = argc > 1;
    struct sock_fprog common = forbid(SYS_getpgid), own = forbid(SYS_getsid), late = forbid(SYS_getppid);
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &common));
    pthread_t thread;
    if (differs) {
        MUST0(pthread_create(&thread, NULL, filtered_thread, &own));
        await_count(&filtered_step, 1);
    } else {
        MUST0(pthread_create(&thread, NULL, plain_thread, NULL));
    }
    ready();
    await_go();
    FAILS(syscall(SYS_getpgid, 0), ENOTNAM);
    CHECK(syscall(SYS_getsid, 0) != -1);
    if (!differs)
        EQUAL(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &late), 0);
    atomic_store(&filtered_step, 2);
    pthread_join(thread, NULL);
    return done();
}

/* A filter of system calls that forbids what a tracer would like the task to do. */
TARGET(filtered) {
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_munmap, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOTNAM),
    };
    struct sock_fprog filter = {sizeof program / sizeof *program, program};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
    MUST(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter));
    ready();
    await_go();
    FAILS(syscall(SYS_prctl, PR_GET_DUMPABLE), ENOTNAM);
    FAILS(syscall(SYS_munmap, 0, 4096), ENOTNAM);
    return done();
}
