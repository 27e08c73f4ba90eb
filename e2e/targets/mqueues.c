/* POSIX message queues: what is in them, their limits and names, and who waits for messages. */
#include "common.h"

#include <mqueue.h>

enum { SIZE = 64 };

static char name[64];

static const char *named(const char *which) {
    snprintf(name, sizeof name, "/cryopod-%d-%s", (int)getpid(), which);
    return name;
}

static mqd_t make(const char *which, long most, int flags) {
    struct mq_attr attr = {.mq_maxmsg = most, .mq_msgsize = SIZE};
    mqd_t queue = mq_open(named(which), O_RDWR | O_CREAT | O_EXCL | flags, 0600, &attr);
    if (queue == -1)
        skip("mq_open: %s", strerror(errno));
    return queue;
}

static volatile sig_atomic_t told, told_code;

static void on_message(int signal, siginfo_t *info, void *unused) {
    (void)signal, (void)unused;
    told_code = info->si_code;
    told++;
}

static _Atomic pid_t waiter;

static void *wait_for_message(void *queue) {
    char text[SIZE];
    waiter = gettid_();
    unsigned priority = 0;
    ssize_t size = mq_receive(*(mqd_t *)queue, text, sizeof text, &priority);
    CHECK(size == 5 && memcmp(text, "hello", 5) == 0 && priority == 31);
    return NULL;
}

TARGET(mqueues) {
    /* Messages of three priorities, in a queue that is full. */
    mqd_t full = make("full", 9, O_NONBLOCK);
    MUST(fchmod(full, 0640));
    for (int i = 0; i < 9; i++) {
        char text[SIZE];
        int size = snprintf(text, sizeof text, "message %d", i);
        MUST(mq_send(full, text, i == 4 ? 0 : (size_t)size, (unsigned)(i % 3) * 100));
    }
    char full_name[64];
    memcpy(full_name, name, sizeof name);
    mqd_t reader = MUST(mq_open(full_name, O_RDONLY));
    int shared = MUST(dup(full));

    mqd_t nameless = make("nameless", 3, 0);
    MUST(mq_send(nameless, "still here", 10, 7));
    MUST(mq_unlink(name));

    struct sigaction action = {.sa_sigaction = on_message, .sa_flags = SA_SIGINFO | SA_RESTART};
    MUST(sigaction(SIGUSR1, &action, NULL));
    mqd_t telling = make("telling", 2, 0);
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1};
    MUST(mq_notify(telling, &event));
    char telling_name[64];
    memcpy(telling_name, name, sizeof name);

    mqd_t silent = make("silent", 2, 0);
    MUST(mq_unlink(name));
    event.sigev_notify = SIGEV_NONE;
    MUST(mq_notify(silent, &event));

    mqd_t awaited = make("awaited", 2, 0);
    MUST(mq_unlink(name));
    pthread_t thread;
    MUST0(pthread_create(&thread, NULL, wait_for_message, &awaited));
    while (waiter == 0)
        pause_ms(1);
    await_blocked(getpid(), waiter, SYS_mq_timedreceive);

    /* A child with the same descriptions sends when it is time. */
    pid_t pid = MUST(fork());
    if (pid == 0) {
        await_go();
        WORKS(mq_send(awaited, "hello", 5, 31));
        WORKS(mq_send(telling, "told", 4, 0));
        _exit(0);
    }
    ready();
    await_go();
    expect_exit(pid, 0);
    MUST0(pthread_join(thread, NULL));

    EQUAL(told, 1);
    EQUAL(told_code, SI_MESGQ);
    WORKS(mq_unlink(telling_name));
    FAILS(mq_notify(silent, &event), EBUSY);

    struct mq_attr attr;
    WORKS(mq_getattr(full, &attr));
    EQUAL(attr.mq_maxmsg, 9);
    EQUAL(attr.mq_msgsize, SIZE);
    EQUAL(attr.mq_curmsgs, 9);
    EQUAL(attr.mq_flags, O_NONBLOCK);
    struct stat status;
    WORKS(fstat(full, &status));
    EQUAL(status.st_mode & 0777, 0640);
    FAILS(mq_send(shared, "x", 1, 0), EAGAIN);
    FAILS(mq_send(reader, "x", 1, 0), EBADF);
    mqd_t again = WORKS(mq_open(full_name, O_RDONLY | O_NONBLOCK));
    static const int order[] = {2, 5, 8, 1, 4, 7, 0, 3, 6};
    for (int i = 0; i < 9; i++) {
        char text[SIZE], expected[SIZE];
        unsigned priority = 0;
        int size = snprintf(expected, sizeof expected, "message %d", order[i]);
        mqd_t from = i % 2 == 0 ? reader : again;
        EQUAL(mq_receive(from, text, sizeof text, &priority), order[i] == 4 ? 0 : size);
        CHECK(order[i] == 4 || memcmp(text, expected, (size_t)size) == 0);
        EQUAL(priority, order[i] % 3 * 100);
    }
    WORKS(mq_unlink(full_name));

    char text[SIZE];
    unsigned priority = 0;
    WORKS(fstat(nameless, &status));
    EQUAL(status.st_nlink, 0);
    EQUAL(mq_receive(nameless, text, sizeof text, &priority), 10);
    EQUAL(priority, 7);
    CHECK(memcmp(text, "still here", 10) == 0);
    return done();
}

/* Refused: a process outside of the tree has the queue open too. */
TARGET(mqueue_shared) {
    mqd_t queue = make("shared", 2, 0);
    int fds[2];
    MUST(pipe2(fds, O_CLOEXEC));
    /* The grandchild leaves the tree, with the queue. */
    pid_t middle = MUST(fork());
    if (middle == 0) {
        if (fork() == 0) {
            close(fds[0]);
            setsid();
            MUST(write(fds[1], "x", 1));
            close(fds[1]);
            await_go();
        }
        _exit(0);
    }
    expect_exit(middle, 0);
    char byte;
    MUST(read(fds[0], &byte, 1));
    close(fds[0]), close(fds[1]);
    ready();
    await_go();
    WORKS(mq_unlink(named("shared")));
    WORKS(mq_close(queue));
    return done();
}
