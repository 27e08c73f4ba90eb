/*
 * What every target program shares.
 *
 * A target sets some kernel state up, calls ready(), idles until go() says that whatever was to be done to it has been
 * done, then verifies that the state is still the same and calls done(). The conversation runs over files in one
 * directory, because files are the one thing that a checkpoint cannot carry away:
 *
 *   DIR/ready       made by the target, holds its pid
 *   DIR/go          made by the test
 *   DIR/complaints  one line for each thing that is not as it should be
 *   DIR/unable      why the set-up failed;  DIR/skip  why this machine cannot run it
 *   DIR/done        made by the target when it has verified everything
 */
#ifndef COMMON_H
#define COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

struct target {
    const char *name;
    int (*run)(int argc, char **argv);
};

/* Defines a target program: `TARGET(name) { ... return done(); }`. argv[0] is the target's name. */
#define TARGET(name)                                                                                                   \
    static int name##_run(int argc, char **argv);                                                                      \
    static const struct target name##_target __attribute__((used, section("targets"), aligned(8))) = {#name,          \
                                                                                                       name##_run};    \
    static int name##_run(int argc __attribute__((unused)), char **argv __attribute__((unused)))

/* The directory of the conversation. A target that changes its root changes this along. */
extern char directory[PATH_MAX];

/* Path of a file in the directory; a few calls may be in use at once per thread. */
const char *in_directory(const char *name);

void ready(void);
bool go(void);
void await_go(void);
int done(void);

_Noreturn void skip(const char *format, ...) __attribute__((format(printf, 1, 2)));
_Noreturn void unable(const char *file, int line, const char *what);
void complain(const char *file, int line, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* A step of the set-up: -1 ends the target. */
#define MUST(call)                                                                                                     \
    ({                                                                                                                 \
        __typeof__(call) result_ = (call);                                                                             \
        if ((long)result_ == -1)                                                                                       \
            unable(__FILE__, __LINE__, #call);                                                                         \
        result_;                                                                                                       \
    })

/* The same for functions that give an error number back. */
#define MUST0(call)                                                                                                    \
    do {                                                                                                               \
        errno = (call);                                                                                                \
        if (errno != 0)                                                                                                \
            unable(__FILE__, __LINE__, #call);                                                                         \
    } while (0)

/* The same for a condition. */
#define ASSURE(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            unable(__FILE__, __LINE__, #condition);                                                                    \
    } while (0)

/* Something that must hold after the checkpoint. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            complain(__FILE__, __LINE__, "not so: %s", #condition);                                                    \
    } while (0)

#define EQUAL(actual, expected)                                                                                        \
    do {                                                                                                               \
        long long actual_ = (long long)(actual), expected_ = (long long)(expected);                                    \
        if (actual_ != expected_)                                                                                      \
            complain(__FILE__, __LINE__, "%s is %lld (0x%llx), not %lld (0x%llx)", #actual, actual_, actual_,          \
                     expected_, expected_);                                                                            \
    } while (0)

/* EQUAL for one of many: `which` says which. */
#define EQUAL_OF(which, actual, expected)                                                                              \
    do {                                                                                                               \
        long long actual_ = (long long)(actual), expected_ = (long long)(expected);                                    \
        if (actual_ != expected_)                                                                                      \
            complain(__FILE__, __LINE__, "%s: %s is %lld (0x%llx), not %lld (0x%llx)", (which), #actual, actual_,      \
                     actual_, expected_, expected_);                                                                   \
    } while (0)

/* A call that must succeed after the checkpoint; gives its result. */
#define WORKS(call)                                                                                                    \
    ({                                                                                                                 \
        __typeof__(call) result_ = (call);                                                                             \
        if ((long)result_ == -1)                                                                                       \
            complain(__FILE__, __LINE__, "%s: %s", #call, strerror(errno));                                            \
        result_;                                                                                                       \
    })

/* A call that must fail with a certain error after the checkpoint. */
#define FAILS(call, error)                                                                                             \
    do {                                                                                                               \
        long result_ = (long)(call);                                                                                   \
        if (result_ != -1)                                                                                             \
            complain(__FILE__, __LINE__, "%s gives %ld instead of failing with %s", #call, result_, #error);           \
        else if (errno != (error))                                                                                     \
            complain(__FILE__, __LINE__, "%s: %s instead of %s", #call, strerror(errno), #error);                      \
    } while (0)

/* Zeroed memory shared with the children that are forked later. */
void *share(size_t size);

/* Forks a child that runs `body` and exits with what it returns (it shall end with `return 0`, not done()). */
pid_t child(int (*body)(void *), void *argument);

/* Waits for a child and complains unless it exited with `code`. */
void expect_exit(pid_t pid, int code);

/* Waits until the counter reaches the value (set-up of other tasks). */
void await_count(atomic_int *counter, int value);

/* Sleeps some milliseconds: the pause between two looks at something, never a means of synchronisation. */
void pause_ms(int ms);

pid_t gettid_(void);

/* Waits until the task is blocked in system call `number`. */
void await_blocked(pid_t pid, pid_t tid, long number);

/* First letter of the task's state as in /proc/PID/stat. */
char state_of(pid_t pid);

/* Now in nanoseconds. */
int64_t now_ns(clockid_t clock);

/* Fills memory with bytes that depend on the seed, and says whether it still holds them. */
void fill(void *memory, size_t size, uint64_t seed);
bool filled(const void *memory, size_t size, uint64_t seed);

#endif
