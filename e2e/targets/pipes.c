/* Pipes and fifos: what is in them, how much fits, and who holds which end. */
#include "common.h"

#include <sys/ioctl.h>

static void put(int fd, size_t size, uint64_t seed) {
    static uint8_t bytes[1 << 20];
    ASSURE(size <= sizeof bytes);
    fill(bytes, size, seed);
    ASSURE(write(fd, bytes, size) == (ssize_t)size);
}

static void expect(const char *which, int fd, size_t size, uint64_t seed) {
    static uint8_t bytes[1 << 20], expected[1 << 20];
    size_t have = 0;
    while (have < size) {
        ssize_t got = read(fd, bytes + have, size - have);
        if (got <= 0) {
            complain(__FILE__, __LINE__, "%s: only %zu of %zu bytes: %s", which, have, size,
                     got < 0 ? strerror(errno) : "end of file");
            return;
        }
        have += (size_t)got;
    }
    fill(expected, size, seed);
    if (memcmp(bytes, expected, size) != 0)
        complain(__FILE__, __LINE__, "%s: other bytes", which);
}

static int waiting(int fd) {
    int count = -1;
    ioctl(fd, FIONREAD, &count);
    return count;
}

TARGET(pipes) {
    int empty[2], some[2], full[2], large[2], small[2], unread[2], unwritten[2], mixed[2], odd[2], emptied[2];
    MUST(pipe(empty));
    MUST(pipe2(some, O_CLOEXEC));
    put(some[1], 1000, 1);
    MUST(pipe2(full, O_NONBLOCK));
    while (write(full[1], "0123456789abcdef", 16) == 16)
        ;
    MUST(pipe2(large, O_CLOEXEC));
    MUST(fcntl(large[1], F_SETPIPE_SZ, 1 << 20));
    put(large[1], 700001, 2);
    MUST(pipe2(small, O_CLOEXEC));
    MUST(fcntl(small[0], F_SETPIPE_SZ, 4096));
    put(small[1], 4096, 3);
    /* The reader has gone; the writer has gone and left something. */
    MUST(pipe2(unread, O_CLOEXEC));
    close(unread[0]);
    MUST(pipe2(unwritten, O_CLOEXEC));
    put(unwritten[1], 5000, 7);
    close(unwritten[1]);
    /* Flags of one end only. */
    MUST(pipe2(mixed, O_CLOEXEC));
    MUST(fcntl(mixed[0], F_SETFL, O_NONBLOCK));
    /* Pieces that begin and end anywhere, partly read. */
    MUST(pipe2(odd, O_CLOEXEC));
    for (unsigned i = 0; i < 12; i++)
        put(odd[1], 3001 + i, 100 + i);
    expect("odd", odd[0], 3001, 100);
    MUST(pipe2(emptied, O_CLOEXEC));
    put(emptied[1], 100, 8);
    expect("emptied", emptied[0], 100, 8);
    /* A second file for the same pipe. */
    char path[32];
    snprintf(path, sizeof path, "/proc/self/fd/%d", some[0]);
    int again = MUST(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
    int both = MUST(open(path, O_RDWR | O_CLOEXEC));
    signal(SIGPIPE, SIG_IGN);
    int full_bytes = waiting(full[0]);
    ready();
    await_go();
    char bytes[4096];
    EQUAL(waiting(empty[0]), 0);
    EQUAL(write(empty[1], "x", 1), 1);
    EQUAL(read(empty[0], bytes, 10), 1);
    EQUAL(waiting(some[0]), 1000);
    EQUAL(fcntl(again, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    EQUAL(fcntl(some[0], F_GETFL) & O_NONBLOCK, 0);
    expect("some", again, 1000, 1);
    FAILS(read(again, bytes, 1), EAGAIN);
    EQUAL(write(both, "y", 1), 1);
    EQUAL(read(some[0], bytes, 10), 1);
    EQUAL(waiting(full[0]), full_bytes);
    FAILS(write(full[1], "x", 1), EAGAIN);
    for (int i = 0; i < full_bytes / 16; i++)
        if (read(full[0], bytes, 16) != 16 || memcmp(bytes, "0123456789abcdef", 16) != 0) {
            complain(__FILE__, __LINE__, "full: record %d is another", i);
            break;
        }
    FAILS(read(full[0], bytes, 1), EAGAIN);
    EQUAL(fcntl(large[0], F_GETPIPE_SZ), 1 << 20);
    expect("large", large[0], 700001, 2);
    EQUAL(fcntl(small[1], F_GETPIPE_SZ), 4096);
    expect("small", small[0], 4096, 3);
    FAILS(write(unread[1], "x", 1), EPIPE);
    expect("unwritten", unwritten[0], 5000, 7);
    EQUAL(read(unwritten[0], bytes, 1), 0);
    FAILS(read(mixed[0], bytes, 1), EAGAIN);
    for (unsigned i = 1; i < 12; i++)
        expect("odd", odd[0], 3001 + i, 100 + i);
    EQUAL(waiting(odd[0]), 0);
    EQUAL(waiting(emptied[0]), 0);
    return done();
}

/* Pipes in packet mode: each write is a packet that a read takes as a whole. */
TARGET(packets) {
    int fds[2];
    char bytes[4096];
    MUST(pipe2(fds, O_DIRECT | O_NONBLOCK));
    put(fds[1], 10, 4), put(fds[1], 1, 5), put(fds[1], 4096, 6);
    /* One packet only; packets and then a stream; a fifo. */
    int single[2], mixed[2];
    MUST(pipe2(single, O_DIRECT | O_NONBLOCK));
    put(single[1], 100, 1);
    MUST(pipe2(mixed, O_DIRECT | O_NONBLOCK));
    put(mixed[1], 20, 2), put(mixed[1], 30, 3);
    MUST(fcntl(mixed[1], F_SETFL, O_NONBLOCK));
    put(mixed[1], 40, 4);
    MUST(mkfifo(in_directory("packets"), 0600));
    int fifo = MUST(open(in_directory("packets"), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    MUST(fcntl(fifo, F_SETFL, O_NONBLOCK | O_DIRECT));
    put(fifo, 7, 5), put(fifo, 8, 6);
    ready();
    await_go();
    EQUAL(read(fds[0], bytes, sizeof bytes), 10);
    EQUAL(read(fds[0], bytes, sizeof bytes), 1);
    EQUAL(read(fds[0], bytes, sizeof bytes), 4096);
    FAILS(read(fds[0], bytes, sizeof bytes), EAGAIN);
    put(fds[1], 3, 7), put(fds[1], 4, 8);
    EQUAL(read(fds[0], bytes, sizeof bytes), 3);
    /* What a read has no room for of a packet is lost. */
    EQUAL(read(single[0], bytes, 60), 60);
    FAILS(read(single[0], bytes, sizeof bytes), EAGAIN);
    EQUAL(read(mixed[0], bytes, sizeof bytes), 20);
    EQUAL(read(mixed[0], bytes, sizeof bytes), 30);
    EQUAL(read(mixed[0], bytes, 15), 15);
    put(mixed[1], 5, 6);
    EQUAL(read(mixed[0], bytes, sizeof bytes), 30);
    EQUAL(read(fifo, bytes, sizeof bytes), 7);
    EQUAL(read(fifo, bytes, sizeof bytes), 8);
    return done();
}

/* Fifos: by name, with data, with one end or both. */
TARGET(fifos) {
    const char *const names[] = {"both", "data", "reader", "one"};
    for (int i = 0; i < 4; i++)
        MUST(mkfifo(in_directory(names[i]), 0600));
    int both = MUST(open(in_directory("both"), O_RDWR | O_CLOEXEC));
    put(both, 300, 1);
    int reading = MUST(open(in_directory("data"), O_RDONLY | O_NONBLOCK));
    int writing = MUST(open(in_directory("data"), O_WRONLY | O_CLOEXEC));
    put(writing, 20000, 2);
    int second = MUST(open(in_directory("data"), O_WRONLY | O_APPEND | O_NONBLOCK));
    int alone = MUST(open(in_directory("reader"), O_RDONLY | O_NONBLOCK));
    int one = MUST(open(in_directory("one"), O_RDWR | O_NONBLOCK));
    MUST(fcntl(one, F_SETPIPE_SZ, 16384));
    char bytes[64];
    ready();
    await_go();
    expect("both", both, 300, 1);
    expect("data", reading, 20000, 2);
    FAILS(read(reading, bytes, 1), EAGAIN);
    EQUAL(write(second, "z", 1), 1);
    close(second);
    close(writing);
    EQUAL(read(reading, bytes, 10), 1);
    EQUAL(read(reading, bytes, 10), 0);
    EQUAL(read(alone, bytes, 1), 0);
    int opened = WORKS(open(in_directory("reader"), O_WRONLY | O_NONBLOCK | O_CLOEXEC));
    EQUAL(write(opened, "abc", 3), 3);
    EQUAL(read(alone, bytes, 10), 3);
    EQUAL(fcntl(one, F_GETPIPE_SZ), 16384);
    EQUAL(read(one, bytes, 1), -1);
    return done();
}

/* `relay COUNT`: numbers go through three processes while everything is going on; none is lost, none comes twice. */
TARGET(relay) {
    int first[2], second[2];
    MUST(pipe(first));
    MUST(pipe(second));
    pid_t producer = MUST(fork());
    if (producer == 0) {
        close(first[0]), close(second[0]), close(second[1]);
        uint64_t number = 0;
        for (uint64_t rest = 50000; rest > 0; rest -= go()) {
            if (write(first[1], &number, sizeof number) != sizeof number)
                complain(__FILE__, __LINE__, "cannot write number %lu: %s", number, strerror(errno));
            number++;
        }
        number = UINT64_MAX;
        WORKS(write(first[1], &number, sizeof number));
        _exit(0);
    }
    pid_t middle = MUST(fork());
    if (middle == 0) {
        close(first[1]), close(second[0]);
        /* Odd sizes, so that numbers are cut. */
        static uint8_t bytes[1021];
        ssize_t length;
        while ((length = read(first[0], bytes, sizeof bytes)) > 0)
            for (ssize_t at = 0; at < length;) {
                ssize_t put = write(second[1], bytes + at, (size_t)(length - at));
                if (put <= 0)
                    complain(__FILE__, __LINE__, "cannot pass on: %s", strerror(errno));
                else
                    at += put;
            }
        EQUAL(length, 0);
        _exit(0);
    }
    close(first[0]), close(first[1]), close(second[1]);
    FILE *input = fdopen(second[0], "r");
    uint64_t number = 0, expected = 0;
    while (fread(&number, sizeof number, 1, input) == 1 && number != UINT64_MAX) {
        if (number != expected) {
            complain(__FILE__, __LINE__, "number %lu came instead of %lu", number, expected);
            break;
        }
        if (++expected == 1000)
            ready();
    }
    EQUAL(number, UINT64_MAX);
    expect_exit(producer, 0);
    expect_exit(middle, 0);
    return done();
}

/* What standard streams lead to is what was left by somebody who has closed his end. */
TARGET(left_pipes) {
    int left[2], broken[2];
    MUST(pipe(left));
    MUST(pipe(broken));
    ASSURE(write(left[1], "left over", 9) == 9);
    MUST(dup2(left[0], 0));
    MUST(dup2(broken[1], 1));
    close(left[0]), close(left[1]), close(broken[0]), close(broken[1]);
    ready();
    await_go();
    char text[16] = "";
    CHECK(read(0, text, sizeof text) == 9 && strcmp(text, "left over") == 0);
    CHECK(read(0, text, sizeof text) == 0);
    signal(SIGPIPE, SIG_IGN);
    CHECK(write(1, text, 1) == -1 && errno == EPIPE);
    return done();
}
