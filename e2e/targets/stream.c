/* TCP connections that must go on where they were, without a byte lost or doubled. */
#include "common.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

/* The byte at a place of a stream. Both ends know what the other must send. */
static uint8_t byte_at(uint64_t place) { return (uint8_t)(place * 2654435761u >> 13); }

static void compose(uint8_t *buffer, size_t size, uint64_t place) {
    for (size_t i = 0; i < size; i++)
        buffer[i] = byte_at(place + i);
}

static void examine(const uint8_t *buffer, size_t size, uint64_t place) {
    for (size_t i = 0; i < size; i++)
        if (buffer[i] != byte_at(place + i)) {
            complain(__FILE__, __LINE__, "byte %llu is %d, not %d", (unsigned long long)(place + i), buffer[i],
                     byte_at(place + i));
            exit(1);
        }
}

struct stream {
    int fd;
    uint64_t sent, received;
    bool closed, ended;
};

/* Sends and receives what there is room for. After go() it closes its half, and goes on until the other does. */
static void pump(struct stream *stream, bool going_on) {
    static uint8_t buffer[1 << 16];
    struct pollfd asked = {.fd = stream->fd, .events = stream->closed ? POLLIN : POLLIN | POLLOUT};
    if (poll(&asked, 1, 100) == -1 && errno != EINTR)
        complain(__FILE__, __LINE__, "poll: %s", strerror(errno));
    if (asked.revents & POLLIN) {
        ssize_t got = recv(stream->fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (got > 0) {
            examine(buffer, (size_t)got, stream->received);
            stream->received += (uint64_t)got;
        } else if (got == 0) {
            stream->ended = true;
        } else if (errno != EAGAIN && errno != EINTR) {
            complain(__FILE__, __LINE__, "recv: %s", strerror(errno));
            exit(1);
        }
    }
    if (!stream->closed && (asked.revents & POLLOUT)) {
        size_t size = 1 + (size_t)(stream->sent * 7919 % 20000);
        compose(buffer, size, stream->sent);
        ssize_t put = send(stream->fd, buffer, size, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (put > 0)
            stream->sent += (uint64_t)put;
        else if (errno != EAGAIN && errno != EINTR) {
            complain(__FILE__, __LINE__, "send: %s", strerror(errno));
            exit(1);
        }
    }
    if (!going_on && !stream->closed) {
        WORKS(shutdown(stream->fd, SHUT_WR));
        stream->closed = true;
    }
}

static void tell(const char *name, uint64_t number) {
    FILE *file = fopen(in_directory(name), "w");
    ASSURE(file != NULL);
    fprintf(file, "%llu\n", (unsigned long long)number);
    fclose(file);
}

/* stream ADDRESS PORT: talks with somebody outside the tree. */
TARGET(stream) {
    ASSURE(argc > 2);
    struct stream stream = {0};
    struct sockaddr_in v4 = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    struct sockaddr_in6 v6 = {.sin6_family = AF_INET6, .sin6_port = v4.sin_port};
    if (inet_pton(AF_INET, argv[1], &v4.sin_addr) == 1) {
        stream.fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
        MUST(connect(stream.fd, (struct sockaddr *)&v4, sizeof v4));
    } else {
        ASSURE(inet_pton(AF_INET6, argv[1], &v6.sin6_addr) == 1);
        stream.fd = MUST(socket(AF_INET6, SOCK_STREAM, 0));
        MUST(connect(stream.fd, (struct sockaddr *)&v6, sizeof v6));
    }
    int timeout = 4321, value = 0;
    socklen_t length = sizeof value;
    MUST(setsockopt(stream.fd, SOL_TCP, TCP_USER_TIMEOUT, &timeout, sizeof timeout));
    while (stream.received < 1 << 20)
        pump(&stream, true);
    ready();
    while (!stream.ended)
        pump(&stream, !go());
    WORKS(getsockopt(stream.fd, SOL_TCP, TCP_USER_TIMEOUT, &value, &length));
    EQUAL(value, 4321);
    tell("sent", stream.sent);
    tell("received", stream.received);
    return done();
}

static int connected(int family, int *other) {
    int listener = MUST(socket(family, SOCK_STREAM, 0)), one = MUST(socket(family, SOCK_STREAM, 0));
    struct sockaddr_in6 address = {.sin6_family = (sa_family_t)family};
    if (family == AF_INET)
        ((struct sockaddr_in *)&address)->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        address.sin6_addr = in6addr_loopback;
    socklen_t length = family == AF_INET ? sizeof(struct sockaddr_in) : sizeof address;
    MUST(bind(listener, (struct sockaddr *)&address, length));
    MUST(listen(listener, 1));
    MUST(getsockname(listener, (struct sockaddr *)&address, &length));
    MUST(connect(one, (struct sockaddr *)&address, length));
    *other = MUST(accept(listener, NULL, NULL));
    close(listener);
    return one;
}

/* The other end of a connection, in a child. */
static int echo(void *argument) {
    struct stream stream = {.fd = *(int *)argument};
    while (!stream.ended)
        pump(&stream, !go());
    return 0;
}

/* Both ends are in the tree. */
TARGET(inner_streams) {
    int fds[2][2];
    struct stream streams[2] = {0};
    pid_t pids[2];
    for (int i = 0; i < 2; i++) {
        fds[i][0] = connected(i == 0 ? AF_INET : AF_INET6, &fds[i][1]);
        pids[i] = child(echo, &fds[i][1]);
        streams[i].fd = fds[i][0];
    }
    for (int i = 0; i < 2; i++)
        close(fds[i][1]);
    for (int i = 0; i < 2; i++)
        while (streams[i].received < 1 << 18)
            pump(&streams[i], true);
    ready();
    while (!streams[0].ended || !streams[1].ended)
        for (int i = 0; i < 2; i++)
            if (!streams[i].ended)
                pump(&streams[i], !go());
    close(streams[0].fd);
    close(streams[1].fd);
    for (int i = 0; i < 2; i++)
        expect_exit(pids[i], 0);
    return done();
}

/* Connections that were closed by one side or by both, with something left to read. */
TARGET(closed_streams) {
    int ends[2][3][2];
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++) {
            ends[i][j][0] = connected(i == 0 ? AF_INET : AF_INET6, &ends[i][j][1]);
            MUST(write(ends[i][j][0], "from one", 8));
            MUST(write(ends[i][j][1], "from the other", 14));
            if (j > 0)
                MUST(shutdown(ends[i][j][0], SHUT_WR));
            if (j > 1)
                MUST(shutdown(ends[i][j][1], SHUT_WR));
        }
    ready();
    await_go();
    for (int i = 0; i < 2; i++)
        for (int j = 0; j < 3; j++) {
            char text[32];
            EQUAL(recv(ends[i][j][1], text, 8, MSG_WAITALL), 8);
            CHECK(memcmp(text, "from one", 8) == 0);
            EQUAL(recv(ends[i][j][0], text, 14, MSG_WAITALL), 14);
            CHECK(memcmp(text, "from the other", 14) == 0);
            if (j > 0)
                EQUAL(recv(ends[i][j][1], text, 1, 0), 0);
            if (j > 1) {
                EQUAL(recv(ends[i][j][0], text, 1, 0), 0);
                continue;
            }
            EQUAL(send(ends[i][j][1], "more", 4, 0), 4);
            EQUAL(recv(ends[i][j][0], text, 4, MSG_WAITALL), 4);
        }
    return done();
}

/* drops ADDRESS PORT: a connection that comes back closed. */
TARGET(dropped_stream) {
    ASSURE(argc > 2);
    int fd = MUST(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[2]))};
    ASSURE(inet_pton(AF_INET, argv[1], &address.sin_addr) == 1);
    MUST(connect(fd, (struct sockaddr *)&address, sizeof address));
    ready();
    await_go();
    char byte;
    EQUAL(recv(fd, &byte, 1, 0), 0);
    FAILS(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    return done();
}
