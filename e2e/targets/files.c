/* Open files: flags, positions, owners, and who shares what with whom. */
#include "common.h"

#include <dirent.h>

static const char letters[] = "abcdefghijklmnopqrstuvwxyz";

static int make_file(const char *name, int flags) {
    int fd = MUST(open(in_directory(name), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644));
    MUST(write(fd, letters, 26));
    close(fd);
    return MUST(open(in_directory(name), flags));
}

static off_t position(int fd) {
    return lseek(fd, 0, SEEK_CUR);
}

static void expect_letter(int fd, char letter) {
    char got = 0;
    EQUAL(read(fd, &got, 1), 1);
    EQUAL(got, letter);
}

struct kept {
    const char *name;
    int fd, status, descriptor;
    off_t position;
};

/* An entry of a directory that is read in small pieces. */
static long entries(int fd) {
    char buffer[512];
    long length, count = 0;
    while ((length = syscall(SYS_getdents64, fd, buffer, 128)) > 0)
        for (long at = 0; at < length; at += ((struct dirent64 *)(buffer + at))->d_reclen)
            count++;
    return length < 0 ? -1 : count;
}

TARGET(files) {
    struct kept kept[64];
    int count = 0;
#define KEEP(label, descriptor_) (kept[count].name = (label), kept[count++].fd = (descriptor_))
    KEEP("read only", make_file("r", O_RDONLY));
    KEEP("write only", make_file("w", O_WRONLY));
    KEEP("both", make_file("rw", O_RDWR));
    KEEP("append", make_file("append", O_WRONLY | O_APPEND));
    KEEP("non-blocking", make_file("nonblock", O_RDWR | O_NONBLOCK));
    KEEP("synchronous", make_file("sync", O_RDWR | O_SYNC));
    KEEP("data synchronous", make_file("dsync", O_RDWR | O_DSYNC | O_CLOEXEC));
    KEEP("no access time", make_file("noatime", O_RDONLY | O_NOATIME));
    KEEP("close on exec", make_file("cloexec", O_RDONLY | O_CLOEXEC));
    KEEP("name with spaces", make_file("a \n\\ (deleted)", O_RDONLY));
    KEEP("path", MUST(open(in_directory("r"), O_PATH | O_CLOEXEC)));
    KEEP("path of a directory", MUST(open(directory, O_PATH | O_DIRECTORY)));
    MUST(symlink("r", in_directory("link")));
    KEEP("path of a link", MUST(open(in_directory("link"), O_PATH | O_NOFOLLOW)));
    KEEP("directory", MUST(open(directory, O_RDONLY | O_DIRECTORY)));
    KEEP("null", MUST(open("/dev/null", O_RDWR)));
    KEEP("zero", MUST(open("/dev/zero", O_RDONLY)));
    KEEP("full", MUST(open("/dev/full", O_WRONLY | O_APPEND)));
    KEEP("random", MUST(open("/dev/urandom", O_RDONLY | O_CLOEXEC)));
    KEEP("proc", MUST(open("/proc/meminfo", O_RDONLY)));
    int high = make_file("high", O_RDONLY);
    KEEP("high", MUST(fcntl(high, F_DUPFD_CLOEXEC, 1000)));
    for (int i = 0; i < 7; i++)
        MUST(lseek(kept[i].fd, 3 + i, SEEK_SET));
    MUST(lseek(kept[2].fd, 1L << 33, SEEK_SET));
    char byte;
    MUST(read(kept[0].fd, &byte, 1));
    MUST(write(kept[3].fd, "!", 1));
    /* A directory that is half read. */
    MUST(mkdir(in_directory("many"), 0700));
    for (int i = 0; i < 40; i++) {
        char name[32];
        snprintf(name, sizeof name, "many/entry%d", i);
        close(MUST(open(in_directory(name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600)));
    }
    long total = 0, rest = 0;
    int all = MUST(open(in_directory("many"), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    int half = MUST(open(in_directory("many"), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    char buffer[512];
    total = entries(all);
    for (int i = 0; i < 5; i++) {
        long length = MUST(syscall(SYS_getdents64, half, buffer, 200));
        for (long at = 0; at < length; at += ((struct dirent64 *)(buffer + at))->d_reclen)
            rest++;
    }
    KEEP("half read directory", half);
    for (int i = 0; i < count; i++) {
        kept[i].status = MUST(fcntl(kept[i].fd, F_GETFL));
        kept[i].descriptor = MUST(fcntl(kept[i].fd, F_GETFD));
        kept[i].position = position(kept[i].fd);
    }
    ready();
    await_go();
    for (int i = 0; i < count; i++) {
        EQUAL_OF(kept[i].name, WORKS(fcntl(kept[i].fd, F_GETFL)), kept[i].status);
        EQUAL_OF(kept[i].name, WORKS(fcntl(kept[i].fd, F_GETFD)), kept[i].descriptor);
        EQUAL_OF(kept[i].name, position(kept[i].fd), kept[i].position);
    }
    expect_letter(kept[0].fd, 'e');
    EQUAL(write(kept[1].fd, "E", 1), 1);
    EQUAL(write(kept[2].fd, "far", 3), 3);
    EQUAL(position(kept[2].fd), (1L << 33) + 3);
    lseek(kept[3].fd, 0, SEEK_SET);
    EQUAL(write(kept[3].fd, "?", 1), 1);
    EQUAL(position(kept[3].fd), 28);
    FAILS(read(kept[10].fd, &byte, 1), EBADF);
    FAILS(write(kept[16].fd, "x", 1), ENOSPC);
    EQUAL(read(kept[15].fd, &byte, 1), 1);
    EQUAL(byte, 0);
    char target[8] = "";
    EQUAL(readlinkat(kept[12].fd, "", target, sizeof target), 1);
    int through = WORKS(openat(kept[11].fd, "r", O_RDONLY | O_CLOEXEC));
    expect_letter(through, 'a');
    EQUAL(total, 42);
    EQUAL(rest + entries(half), total);
    expect_letter(kept[19].fd, 'a');
    EQUAL(WORKS(fcntl(high, F_GETFD)), 0);
    /* The lowest free number is what a new file gets. */
    close(kept[0].fd);
    EQUAL(open("/dev/null", O_RDONLY | O_CLOEXEC), kept[0].fd);
    return done();
}

/* One position for many descriptors, in one process and in several. */
static struct {
    atomic_int settled, step;
} *board;

TARGET(shared_files) {
    board = share(4096);
    int first = make_file("shared", O_RDWR);
    int copy = MUST(dup(first)), far = MUST(fcntl(first, F_DUPFD_CLOEXEC, 300));
    int again = MUST(open(in_directory("shared"), O_RDWR | O_CLOEXEC));
    int conversation = MUST(open("/dev/null", O_RDWR | O_CLOEXEC));
    MUST(lseek(first, 5, SEEK_SET));
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        pids[i] = MUST(fork());
        if (pids[i] != 0)
            continue;
        /* The second child has what the parent has under another number, and not under this one. */
        int mine = i == 0 ? first : MUST(dup2(first, 77));
        if (i == 1) {
            close(first);
            close(copy);
            close(far);
        }
        board->settled++;
        await_go();
        await_count(&board->step, 1 + 2 * i);
        EQUAL(position(mine), 6 + i);
        expect_letter(mine, i == 0 ? 'g' : 'h');
        if (i == 1)
            FAILS(fcntl(copy, F_GETFD), EBADF);
        EQUAL(position(again), 2);
        /* Flags of the open file are common, flags of the descriptor are not. */
        if (i == 0) {
            EQUAL(fcntl(far, F_GETFD), FD_CLOEXEC);
            WORKS(fcntl(copy, F_SETFL, O_APPEND));
        }
        board->step++;
        _exit(0);
    }
    await_count(&board->settled, 2);
    MUST(lseek(again, 2, SEEK_SET));
    close(conversation);
    ready();
    await_go();
    EQUAL(position(copy), 5);
    EQUAL(position(again), 2);
    expect_letter(copy, 'f');
    EQUAL(position(first), 6);
    EQUAL(position(far), 6);
    board->step++;
    await_count(&board->step, 2);
    CHECK(WORKS(fcntl(first, F_GETFL)) & O_APPEND);
    CHECK(!(WORKS(fcntl(again, F_GETFL)) & O_APPEND));
    board->step++;
    await_count(&board->step, 4);
    EQUAL(position(first), 8);
    for (int i = 0; i < 2; i++)
        expect_exit(pids[i], 0);
    return done();
}

/* Who is told about input: owner, kind of owner and signal. The owner may be a process, a group or a thread. */
static atomic_int thread_settled;
static _Atomic pid_t thread_tid;

static void *idle(void *unused) {
    thread_tid = gettid_();
    thread_settled = 1;
    await_go();
    while (thread_settled < 2)
        pause_ms(1);
    return unused;
}

static volatile sig_atomic_t told_fd = -1;

static void told(int signal, siginfo_t *info, void *context) {
    (void)signal;
    (void)context;
    told_fd = info->si_fd;
}

TARGET(owners) {
    pthread_t thread;
    MUST0(pthread_create(&thread, NULL, idle, NULL));
    while (!thread_settled)
        pause_ms(1);
    int fds[3][2];
    struct f_owner_ex owners[3] = {{F_OWNER_PID, getpid()}, {F_OWNER_PGRP, getpgrp()}, {F_OWNER_TID, thread_tid}};
    for (int i = 0; i < 3; i++) {
        MUST(pipe2(fds[i], O_CLOEXEC));
        MUST(fcntl(fds[i][0], F_SETOWN_EX, &owners[i]));
        MUST(fcntl(fds[i][0], F_SETSIG, i == 0 ? 0 : SIGRTMIN + i));
    }
    MUST(fcntl(fds[2][0], F_SETFL, O_ASYNC | O_NONBLOCK));
    /* A regular file remembers its owner as well, and who set it, another user included. */
    int file = make_file("owned", O_RDWR);
    MUST(setresuid(0, 1234, 0));
    MUST(fcntl(file, F_SETOWN, getpid()));
    MUST(setresuid(0, 0, 0));
    struct sigaction action = {.sa_sigaction = told, .sa_flags = SA_SIGINFO | SA_RESTART};
    MUST(sigaction(SIGRTMIN + 2, &action, NULL));
    ready();
    await_go();
    for (int i = 0; i < 3; i++) {
        struct f_owner_ex owner = {-1, -1};
        WORKS(fcntl(fds[i][0], F_GETOWN_EX, &owner));
        EQUAL(owner.type, owners[i].type);
        EQUAL(owner.pid, owners[i].pid);
        EQUAL(WORKS(fcntl(fds[i][0], F_GETSIG)), i == 0 ? 0 : SIGRTMIN + i);
    }
    EQUAL(WORKS(fcntl(file, F_GETOWN)), getpid());
    /* F_GETOWNER_UIDS, where the kernel has it. */
    uid_t uids[2] = {0, 0};
    if (fcntl(file, 17, uids) == 0) {
        EQUAL(uids[0], 0);
        EQUAL(uids[1], 1234);
    }
    EQUAL(write(fds[2][1], "x", 1), 1);
    while (told_fd < 0)
        pause_ms(1);
    EQUAL(told_fd, fds[2][0]);
    thread_settled = 2;
    EQUAL(pthread_join(thread, NULL), 0);
    return done();
}
