/* eventfd, signalfd, timerfd, epoll and memfd. */
#include "common.h"

#include <linux/memfd.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>

static int64_t value_of(int fd) {
    uint64_t value = 0;
    return read(fd, &value, sizeof value) == sizeof value ? (int64_t)value : -errno;
}

TARGET(eventfds) {
    int plain = MUST(eventfd(5, EFD_NONBLOCK)), empty = MUST(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC));
    int semaphore = MUST(eventfd(3, EFD_SEMAPHORE | EFD_NONBLOCK));
    int large = MUST(eventfd(0, EFD_CLOEXEC));
    uint64_t most = UINT64_MAX - 1;
    MUST(write(large, &most, 8));
    MUST(fcntl(large, F_SETFL, O_NONBLOCK));
    /* Shared with a child. */
    int both = MUST(eventfd(0, 0));
    pid_t pid = MUST(fork());
    if (pid == 0)
        _exit((int)value_of(both));
    ready();
    await_go();
    EQUAL(value_of(plain), 5);
    EQUAL(value_of(plain), -EAGAIN);
    EQUAL(value_of(empty), -EAGAIN);
    for (int i = 0; i < 3; i++)
        EQUAL(value_of(semaphore), 1);
    EQUAL(value_of(semaphore), -EAGAIN);
    FAILS(write(large, &(uint64_t){1}, 8), EAGAIN);
    EQUAL(value_of(large), (int64_t)most);
    EQUAL(write(both, &(uint64_t){9}, 8), 8);
    expect_exit(pid, 9);
    return done();
}

TARGET(signalfds) {
    sigset_t set, other;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGRTMIN + 7);
    sigemptyset(&other);
    sigaddset(&other, SIGUSR2);
    MUST0(pthread_sigmask(SIG_BLOCK, &set, NULL));
    MUST0(pthread_sigmask(SIG_BLOCK, &other, NULL));
    int fd = MUST(signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC)), second = MUST(signalfd(-1, &other, SFD_NONBLOCK));
    for (int i = 0; i < 3; i++)
        MUST(sigqueue(getpid(), SIGRTMIN + 7, (union sigval){.sival_int = 10 + i}));
    ready();
    await_go();
    struct signalfd_siginfo info;
    for (unsigned i = 0; i < 3; i++) {
        EQUAL(read(fd, &info, sizeof info), sizeof info);
        EQUAL(info.ssi_signo, SIGRTMIN + 7);
        EQUAL(info.ssi_int, 10 + i);
        EQUAL(info.ssi_pid, getpid());
    }
    FAILS(read(fd, &info, sizeof info), EAGAIN);
    raise(SIGUSR1);
    EQUAL(read(fd, &info, sizeof info), sizeof info);
    EQUAL(info.ssi_signo, SIGUSR1);
    FAILS(read(second, &info, sizeof info), EAGAIN);
    raise(SIGUSR2);
    FAILS(read(fd, &info, sizeof info), EAGAIN);
    EQUAL(read(second, &info, sizeof info), sizeof info);
    return done();
}

TARGET(timerfds) {
    static const clockid_t clocks[] = {CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_BOOTTIME};
    static const char *const names[] = {"realtime", "monotonic", "boottime"};
    enum { HOUR = 3600 };
    int armed[3], absolute[3], disarmed[3], expired[3], ticking[3];
    struct itimerspec before[3], now, hour = {.it_value.tv_sec = HOUR, .it_interval.tv_nsec = 77}, none = {0},
                              soon = {.it_value.tv_nsec = 1}, often = {.it_value.tv_nsec = 1, .it_interval.tv_nsec = 1000000};
    for (int i = 0; i < 3; i++) {
        armed[i] = MUST(timerfd_create(clocks[i], TFD_NONBLOCK | TFD_CLOEXEC));
        absolute[i] = MUST(timerfd_create(clocks[i], TFD_NONBLOCK));
        disarmed[i] = MUST(timerfd_create(clocks[i], TFD_NONBLOCK));
        expired[i] = MUST(timerfd_create(clocks[i], TFD_NONBLOCK));
        ticking[i] = MUST(timerfd_create(clocks[i], 0));
        MUST(timerfd_settime(armed[i], 0, &hour, NULL));
        struct timespec time;
        MUST(clock_gettime(clocks[i], &time));
        struct itimerspec at = {.it_value = {time.tv_sec + HOUR, time.tv_nsec}};
        MUST(timerfd_settime(absolute[i], TFD_TIMER_ABSTIME, &at, NULL));
        MUST(timerfd_settime(disarmed[i], 0, &hour, NULL));
        MUST(timerfd_settime(disarmed[i], 0, &none, NULL));
        MUST(timerfd_settime(expired[i], 0, &soon, NULL));
        MUST(timerfd_settime(ticking[i], 0, &often, NULL));
        MUST(timerfd_gettime(armed[i], &before[i]));
    }
    pause_ms(20);
    ready();
    await_go();
    for (int i = 0; i < 3; i++) {
        WORKS(timerfd_gettime(armed[i], &now));
        EQUAL_OF(names[i], now.it_interval.tv_nsec, 77);
        CHECK(now.it_value.tv_sec <= before[i].it_value.tv_sec && now.it_value.tv_sec > HOUR - 300);
        EQUAL_OF(names[i], value_of(armed[i]), -EAGAIN);
        WORKS(timerfd_gettime(absolute[i], &now));
        CHECK(now.it_value.tv_sec <= HOUR && now.it_value.tv_sec > HOUR - 300);
        EQUAL_OF(names[i], now.it_interval.tv_nsec, 0);
        WORKS(timerfd_gettime(disarmed[i], &now));
        EQUAL_OF(names[i], now.it_value.tv_sec + now.it_value.tv_nsec, 0);
        EQUAL_OF(names[i], value_of(expired[i]), 1);
        EQUAL_OF(names[i], value_of(expired[i]), -EAGAIN);
        /* At least those of before, and it goes on. */
        CHECK(value_of(ticking[i]) >= 10);
        CHECK(value_of(ticking[i]) >= 1);
    }
    return done();
}

static int wait_events(int fd, struct epoll_event *events, int count) {
    return epoll_wait(fd, events, count, 0);
}

static void add(int epoll, int fd, uint32_t events, uint64_t data) {
    struct epoll_event event = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event));
}

/* The data of the only event that there is. */
static uint64_t only(int epoll) {
    struct epoll_event events[8] = {0};
    int count = wait_events(epoll, events, 8);
    return count == 1 ? events[0].data.u64 : 1000000 + (uint64_t)count;
}

enum { NO_EVENT = 1000000 };

TARGET(epolls) {
    int level[2], once[2], spent[2], writable[2];
    MUST(pipe(level));
    MUST(pipe(once));
    MUST(pipe(spent));
    MUST(pipe(writable));
    int event = MUST(eventfd(0, EFD_NONBLOCK)), timer = MUST(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    int main_set = MUST(epoll_create1(EPOLL_CLOEXEC)), inner = MUST(epoll_create1(0)), empty = MUST(epoll_create1(0));
    int timers = MUST(epoll_create1(0));
    add(main_set, level[0], EPOLLIN | EPOLLPRI, 0xfedcba9876543210);
    add(main_set, once[0], EPOLLIN | EPOLLONESHOT, 2);
    add(main_set, spent[0], EPOLLIN | EPOLLONESHOT, 3);
    add(main_set, event, EPOLLIN | EPOLLET | EPOLLRDHUP, 4);
    add(inner, writable[1], EPOLLOUT | EPOLLEXCLUSIVE, 5);
    add(main_set, inner, 0, 6);
    add(timers, timer, EPOLLIN | EPOLLWAKEUP, 7);
    /* One that has fired and is disabled now; the pipe still has the byte. */
    MUST(write(spent[1], "x", 1));
    ASSURE(only(main_set) == 3);
    ASSURE(only(main_set) == NO_EVENT);
    /* A set that a child shares. */
    pid_t pid = MUST(fork());
    if (pid == 0) {
        await_go();
        uint64_t data;
        while ((data = only(timers)) == NO_EVENT)
            pause_ms(1);
        EQUAL(data, 7);
        _exit(0);
    }
    ready();
    await_go();
    EQUAL(only(main_set), NO_EVENT);
    EQUAL(only(inner), 5);
    EQUAL(only(empty), NO_EVENT);
    MUST(write(level[1], "x", 1));
    EQUAL(only(main_set), 0xfedcba9876543210);
    EQUAL(only(main_set), 0xfedcba9876543210);
    char byte;
    EQUAL(read(level[0], &byte, 1), 1);
    MUST(write(once[1], "x", 1));
    EQUAL(only(main_set), 2);
    EQUAL(only(main_set), NO_EVENT);
    EQUAL(write(event, &(uint64_t){1}, 8), 8);
    EQUAL(only(main_set), 4);
    EQUAL(only(main_set), NO_EVENT);
    struct epoll_event change = {.events = EPOLLIN, .data.u64 = 33};
    WORKS(epoll_ctl(main_set, EPOLL_CTL_MOD, spent[0], &change));
    EQUAL(only(main_set), 33);
    WORKS(epoll_ctl(main_set, EPOLL_CTL_DEL, spent[0], NULL));
    change.data.u64 = 66;
    change.events = EPOLLIN;
    WORKS(epoll_ctl(main_set, EPOLL_CTL_MOD, inner, &change));
    EQUAL(only(main_set), 66);
    FAILS(epoll_ctl(main_set, EPOLL_CTL_ADD, level[0], &change), EEXIST);
    struct itimerspec soon = {.it_value.tv_nsec = 1};
    WORKS(timerfd_settime(timer, 0, &soon, NULL));
    expect_exit(pid, 0);
    return done();
}

/* A file that was closed under the number it was added with, and is open under another one. */
TARGET(epoll_of_a_copy) {
    int fds[2], set = MUST(epoll_create1(EPOLL_CLOEXEC));
    MUST(pipe(fds));
    add(set, fds[0], EPOLLIN, 8);
    int copy = MUST(fcntl(fds[0], F_DUPFD, 50));
    close(fds[0]);
    /* The number is somebody else's by now, who is watched as well. */
    int other = MUST(eventfd(0, EFD_CLOEXEC));
    EQUAL(other, fds[0]);
    add(set, other, EPOLLIN, 9);
    ready();
    await_go();
    EQUAL(fcntl(other, F_GETFD), FD_CLOEXEC);
    EQUAL(only(set), NO_EVENT);
    EQUAL(write(fds[1], "x", 1), 1);
    EQUAL(only(set), 8);
    close(copy);
    EQUAL(only(set), NO_EVENT);
    return done();
}

TARGET(memfds) {
    static uint8_t bytes[20000];
    fill(bytes, sizeof bytes, 1);
    int plain = MUST(memfd_create("a name with (deleted) and spaces", MFD_CLOEXEC));
    MUST(write(plain, bytes, sizeof bytes));
    MUST(lseek(plain, 123, SEEK_SET));
    MUST(fchmod(plain, 0640));
    int empty = MUST(memfd_create("", MFD_ALLOW_SEALING));
    int sparse = MUST(memfd_create("sparse", 0));
    MUST(ftruncate(sparse, 3L << 30));
    MUST(pwrite(sparse, "here", 4, 2L << 30));
    /* One for each seal, some with a mapping that was there before. */
    static const unsigned seals[] = {F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW, F_SEAL_WRITE, F_SEAL_FUTURE_WRITE,
                                     F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL};
    enum { SEALS = sizeof seals / sizeof *seals };
    int sealed[SEALS];
    uint8_t *written_through = NULL;
    for (int i = 0; i < SEALS; i++) {
        char name[16];
        snprintf(name, sizeof name, "sealed%d", i);
        sealed[i] = MUST(memfd_create(name, MFD_ALLOW_SEALING | MFD_CLOEXEC));
        MUST(write(sealed[i], bytes, 5000));
        if (seals[i] & F_SEAL_FUTURE_WRITE)
            written_through = MUST(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, sealed[i], 0));
        MUST(fcntl(sealed[i], F_ADD_SEALS, seals[i]));
    }
    /* MFD_NOEXEC_SEAL, where the kernel has it. */
    int not_executable = memfd_create("noexec", 0x0008U);
    /* Mapped, shared and privately, after which the descriptor was closed; reopened read-only; shared with a child. */
    int mapped = MUST(memfd_create("mapped", MFD_CLOEXEC));
    MUST(write(mapped, bytes, sizeof bytes));
    uint8_t *common = MUST(mmap(NULL, 16384, PROT_READ | PROT_WRITE, MAP_SHARED, mapped, 0));
    uint8_t *own = MUST(mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, mapped, 4096));
    own[0] = 9;
    close(mapped);
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", plain);
    int reading = MUST(open(path, O_RDONLY | O_CLOEXEC));
    pid_t pid = MUST(fork());
    if (pid == 0) {
        await_go();
        while (common[1] != 77)
            pause_ms(1);
        common[2] = 78;
        EQUAL(pwrite(plain, "child", 5, 0), 5);
        _exit(0);
    }
    struct stat before, after;
    MUST(fstat(plain, &before));
    int noexec_seals = not_executable >= 0 ? fcntl(not_executable, F_GET_SEALS) : 0;
    ready();
    await_go();
    EQUAL(lseek(plain, 0, SEEK_CUR), 123);
    WORKS(fstat(plain, &after));
    EQUAL(after.st_size, before.st_size);
    EQUAL(after.st_mode, before.st_mode);
    uint8_t *view = WORKS(mmap(NULL, sizeof bytes, PROT_READ, MAP_SHARED, reading, 0));
    CHECK(memcmp(view, bytes, sizeof bytes) == 0);
    FAILS(write(reading, "x", 1), EBADF);
    EQUAL(fcntl(plain, F_GET_SEALS), F_SEAL_SEAL);
    EQUAL(fcntl(empty, F_GET_SEALS), 0);
    WORKS(fstat(empty, &after));
    EQUAL(after.st_size, 0);
    WORKS(fstat(sparse, &after));
    EQUAL(after.st_size, 3L << 30);
    CHECK(after.st_blocks < 1000);
    char text[5] = "";
    EQUAL(pread(sparse, text, 4, 2L << 30), 4);
    CHECK(strcmp(text, "here") == 0);
    for (int i = 0; i < SEALS; i++) {
        EQUAL(fcntl(sealed[i], F_GET_SEALS), seals[i]);
        EQUAL(lseek(sealed[i], 0, SEEK_CUR), 5000);
        uint8_t *memory = WORKS(mmap(NULL, 5000, PROT_READ, MAP_PRIVATE, sealed[i], 0));
        CHECK(memcmp(memory, bytes, 5000) == 0 || seals[i] & F_SEAL_FUTURE_WRITE);
        if (seals[i] & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE))
            FAILS(pwrite(sealed[i], "x", 1, 0), EPERM);
        if (seals[i] & F_SEAL_GROW)
            FAILS(ftruncate(sealed[i], 10000), EPERM);
    }
    written_through[0] = 66;
    uint8_t got = 0;
    EQUAL(pread(sealed[4], &got, 1, 0), 1);
    EQUAL(got, 66);
    if (not_executable >= 0)
        EQUAL(fcntl(not_executable, F_GET_SEALS), noexec_seals);
    EQUAL(own[0], 9);
    CHECK(memcmp(common, bytes, 1) == 0 && memcmp(common + 3, bytes + 3, 16384 - 3) == 0);
    CHECK(memcmp(own + 1, bytes + 4097, 8191) == 0);
    common[1] = 77;
    expect_exit(pid, 0);
    EQUAL(common[2], 78);
    CHECK(memcmp(view, "child", 5) == 0);
    return done();
}
