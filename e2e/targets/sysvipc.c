/* System V IPC in the namespace of everybody: shared memory, semaphores, message queues. */
#include "common.h"

#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

enum { PAGE = 4096 };

struct message {
    long kind;
    char text[100];
};

TARGET(sysvipc) {
    key_t key = 0x43000000 | getpid();
    int doomed = shmget(IPC_PRIVATE, 5 * PAGE + 10, IPC_CREAT | 0600);
    if (doomed == -1)
        skip("shmget: %s", strerror(errno));
    uint8_t *private = MUST(shmat(doomed, NULL, 0));
    fill(private, PAGE, 1);
    /* It goes with its last user. */
    MUST(shmctl(doomed, IPC_RMID, NULL));
    int named = MUST(shmget(key, 8 * PAGE, IPC_CREAT | IPC_EXCL | 0640));
    uint8_t *whole = MUST(shmat(named, NULL, 0));
    fill(whole, 8 * PAGE, 2);
    MUST(munmap(whole + 2 * PAGE, 2 * PAGE));
    const uint8_t *reading = MUST(shmat(named, NULL, SHM_RDONLY));
    int unattached = MUST(shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600));
    uint8_t *moment = MUST(shmat(unattached, NULL, 0));
    fill(moment, PAGE, 3);
    MUST(shmdt(moment));
    int set = MUST(semget(key, 3, IPC_CREAT | IPC_EXCL | 0660));
    unsigned short values[3] = {5, 0, 77};
    MUST(semctl(set, 0, SETALL, values));
    struct sembuf operation = {.sem_num = 0, .sem_op = -1};
    MUST(semop(set, &operation, 1));
    int queue = MUST(msgget(key, IPC_CREAT | IPC_EXCL | 0600));
    for (long kind = 1; kind <= 3; kind++) {
        struct message message = {.kind = kind};
        snprintf(message.text, sizeof message.text, "message %ld", kind);
        MUST(msgsnd(queue, &message, (size_t)kind * 10, 0));
    }
    pid_t pid = MUST(fork());
    if (pid == 0) {
        struct sembuf wait = {.sem_num = 1, .sem_op = -1};
        await_go();
        WORKS(semop(set, &wait, 1));
        EQUAL(private[0], 99);
        CHECK(filled(reading, 2 * PAGE, 2));
        private[1] = 100;
        _exit(0);
    }
    ready();
    await_go();
    CHECK(filled(private, PAGE, 1));
    private[0] = 99;
    struct sembuf post = {.sem_num = 1, .sem_op = 1};
    EQUAL(semctl(set, 0, GETVAL), 4);
    EQUAL(semctl(set, 2, GETVAL), 77);
    WORKS(semop(set, &post, 1));
    expect_exit(pid, 0);
    EQUAL(private[1], 100);
    CHECK(filled(whole, 2 * PAGE, 2) && filled(whole + 4 * PAGE, 4 * PAGE, 2 + 4 * PAGE / 8));
    CHECK(filled(reading, 8 * PAGE, 2));
    whole[0] = 44;
    EQUAL(reading[0], 44);
    FAILS(mprotect((void *)reading, PAGE, PROT_READ | PROT_WRITE), EACCES);
    EQUAL(shmget(key, 8 * PAGE, 0), named);
    struct shmid_ds state;
    WORKS(shmctl(named, IPC_STAT, &state));
    EQUAL(state.shm_perm.mode & 0777, 0640);
    WORKS(shmctl(doomed, IPC_STAT, &state));
    CHECK((state.shm_perm.mode & SHM_DEST) != 0);
    WORKS(shmdt(private));
    FAILS(shmctl(doomed, IPC_STAT, &state), EINVAL);
    WORKS(shmdt(reading));
    moment = WORKS(shmat(unattached, NULL, 0));
    CHECK(filled(moment, PAGE, 3));
    for (long kind = 1; kind <= 3; kind++) {
        struct message message = {0};
        char text[100];
        snprintf(text, sizeof text, "message %ld", kind);
        EQUAL(msgrcv(queue, &message, sizeof message.text, 0, IPC_NOWAIT), kind * 10);
        EQUAL(message.kind, kind);
        CHECK(strncmp(message.text, text, strlen(text)) == 0);
    }
    WORKS(shmctl(named, IPC_RMID, NULL));
    WORKS(shmctl(unattached, IPC_RMID, NULL));
    WORKS(semctl(set, 0, IPC_RMID));
    WORKS(msgctl(queue, IPC_RMID, NULL));
    return done();
}

/* A segment that somebody outside of the tree has attached: this target's own parent of the tree to be refused. */
TARGET(sysvipc_shared) {
    int segment = shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
    if (segment == -1)
        skip("shmget: %s", strerror(errno));
    MUST(shmat(segment, NULL, 0));
    MUST(shmctl(segment, IPC_RMID, NULL));
    /* The child leaves the tree, with the segment attached. */
    int fds[2];
    MUST(pipe2(fds, O_CLOEXEC));
    if (MUST(fork()) == 0) {
        pid_t outside = fork();
        if (outside == 0) {
            close(fds[0]);
            setsid();
            MUST(write(fds[1], "x", 1));
            await_go();
            _exit(0);
        }
        _exit(0);
    }
    int status;
    MUST(wait(&status));
    char byte;
    MUST(read(fds[0], &byte, 1));
    close(fds[0]), close(fds[1]);
    ready();
    await_go();
    return done();
}
