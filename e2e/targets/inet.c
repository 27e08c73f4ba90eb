/* Internet sockets that have no connection of TCP: listening, bound, of UDP, raw. */
#include "common.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sys/socket.h>

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

/* The loopback address of a family with a port that is free. */
static union address loopback(int family) {
    union address address = {.any.sa_family = (sa_family_t)family};
    if (family == AF_INET)
        address.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    else
        address.v6.sin6_addr = in6addr_loopback;
    return address;
}

static socklen_t size_of(int family) {
    return family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

static union address name_of(int fd) {
    union address address = {0};
    socklen_t length = sizeof address;
    WORKS(getsockname(fd, &address.any, &length));
    return address;
}

static bool same(const union address *one, const union address *other) {
    if (one->any.sa_family != other->any.sa_family)
        return false;
    if (one->any.sa_family == AF_INET)
        return one->v4.sin_port == other->v4.sin_port && one->v4.sin_addr.s_addr == other->v4.sin_addr.s_addr;
    return one->v6.sin6_port == other->v6.sin6_port &&
           memcmp(&one->v6.sin6_addr, &other->v6.sin6_addr, sizeof one->v6.sin6_addr) == 0;
}

static void set(int fd, int level, int name, int value) { MUST(setsockopt(fd, level, name, &value, sizeof value)); }

static int get(int fd, int level, int name) {
    int value = -12345;
    socklen_t length = sizeof value;
    WORKS(getsockopt(fd, level, name, &value, &length));
    return value;
}

static int bound(int family, int type, int flags) {
    int fd = MUST(socket(family, type | flags, 0));
    union address address = loopback(family);
    MUST(bind(fd, &address.any, size_of(family)));
    return fd;
}

/* Somebody connects to a listener, and what he says arrives. */
static void serves(int listener, const char *which) {
    union address address = name_of(listener);
    int family = address.any.sa_family;
    int client = WORKS(socket(family, SOCK_STREAM, 0));
    if (connect(client, &address.any, size_of(family)) == -1) {
        complain(__FILE__, __LINE__, "%s: cannot connect: %s", which, strerror(errno));
        close(client);
        return;
    }
    EQUAL_OF(which, write(client, "hello", 5), 5);
    int served = WORKS(accept(listener, NULL, NULL));
    char text[5];
    EQUAL_OF(which, recv(served, text, sizeof text, MSG_WAITALL), 5);
    CHECK(memcmp(text, "hello", 5) == 0);
    close(served);
    close(client);
}

TARGET(listeners) {
    static const int families[] = {AF_INET, AF_INET6};
    int listening[2], deferring[2], bound_only[2], unbound[2];
    union address names[2], bound_names[2];
    for (int i = 0; i < 2; i++) {
        int family = families[i];
        listening[i] = bound(family, SOCK_STREAM, SOCK_NONBLOCK | SOCK_CLOEXEC);
        set(listening[i], SOL_SOCKET, SO_KEEPALIVE, 1);
        set(listening[i], SOL_TCP, TCP_KEEPIDLE, 77);
        set(listening[i], SOL_TCP, TCP_NODELAY, 1);
        set(listening[i], SOL_SOCKET, SO_RCVBUF, 50000);
        MUST(listen(listening[i], 7));
        MUST(fcntl(listening[i], F_SETFL, 0));
        names[i] = name_of(listening[i]);
        deferring[i] = bound(family, SOCK_STREAM, 0);
        set(deferring[i], SOL_TCP, TCP_DEFER_ACCEPT, 7);
        set(deferring[i], SOL_TCP, TCP_USER_TIMEOUT, 12345);
        MUST(listen(deferring[i], 3));
        bound_only[i] = bound(family, SOCK_STREAM, 0);
        bound_names[i] = name_of(bound_only[i]);
        unbound[i] = MUST(socket(family, SOCK_STREAM, 0));
        set(unbound[i], SOL_SOCKET, SO_REUSEADDR, 1);
    }
    int buffer = get(listening[0], SOL_SOCKET, SO_RCVBUF), defer = get(deferring[0], SOL_TCP, TCP_DEFER_ACCEPT);
    ready();
    await_go();
    for (int i = 0; i < 2; i++) {
        const char *which = i == 0 ? "IPv4" : "IPv6";
        union address now = name_of(listening[i]), bound_now = name_of(bound_only[i]);
        CHECK(same(&now, &names[i]));
        CHECK(same(&bound_now, &bound_names[i]));
        EQUAL_OF(which, get(listening[i], SOL_SOCKET, SO_ACCEPTCONN), 1);
        EQUAL_OF(which, get(bound_only[i], SOL_SOCKET, SO_ACCEPTCONN), 0);
        EQUAL_OF(which, get(listening[i], SOL_SOCKET, SO_KEEPALIVE), 1);
        EQUAL_OF(which, get(listening[i], SOL_SOCKET, SO_REUSEADDR), 0);
        EQUAL_OF(which, get(listening[i], SOL_SOCKET, SO_REUSEPORT), 0);
        EQUAL_OF(which, get(listening[i], SOL_TCP, TCP_KEEPIDLE), 77);
        EQUAL_OF(which, get(listening[i], SOL_TCP, TCP_NODELAY), 1);
        EQUAL_OF(which, get(listening[i], SOL_SOCKET, SO_RCVBUF), buffer);
        EQUAL_OF(which, get(deferring[i], SOL_TCP, TCP_DEFER_ACCEPT), defer);
        EQUAL_OF(which, get(deferring[i], SOL_TCP, TCP_USER_TIMEOUT), 12345);
        EQUAL_OF(which, get(unbound[i], SOL_SOCKET, SO_REUSEADDR), 1);
        struct tcp_info info;
        socklen_t length = sizeof info;
        WORKS(getsockopt(listening[i], SOL_TCP, TCP_INFO, &info, &length));
        EQUAL_OF(which, info.tcpi_sacked, 7);
        serves(listening[i], which);
        serves(deferring[i], which);
        WORKS(listen(bound_only[i], 1));
        serves(bound_only[i], which);
    }
    return done();
}

/* Several sockets listen at one address and share the work. */
TARGET(sharing_listeners) {
    int one = MUST(socket(AF_INET, SOCK_STREAM, 0)), other = MUST(socket(AF_INET, SOCK_STREAM, 0));
    union address address = loopback(AF_INET);
    set(one, SOL_SOCKET, SO_REUSEPORT, 1);
    set(other, SOL_SOCKET, SO_REUSEPORT, 1);
    MUST(bind(one, &address.any, sizeof address.v4));
    address = name_of(one);
    MUST(bind(other, &address.any, sizeof address.v4));
    MUST(listen(one, 5));
    MUST(listen(other, 5));
    ready();
    await_go();
    EQUAL(get(one, SOL_SOCKET, SO_REUSEPORT), 1);
    int third = WORKS(socket(AF_INET, SOCK_STREAM, 0)), on = 1;
    WORKS(setsockopt(third, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on));
    WORKS(bind(third, &address.any, sizeof address.v4));
    close(third);
    int client = WORKS(socket(AF_INET, SOCK_STREAM, 0));
    WORKS(connect(client, &address.any, sizeof address.v4));
    struct pollfd asked[] = {{.fd = one, .events = POLLIN}, {.fd = other, .events = POLLIN}};
    EQUAL(poll(asked, 2, 10000), 1);
    return done();
}

/* What one socket sends arrives at the other. */
static void reaches(int from, int to, const union address *address, const char *which) {
    char text[16] = {0};
    ssize_t sent = address == NULL ? send(from, "ping", 4, 0)
                                   : sendto(from, "ping", 4, 0, &address->any, size_of(address->any.sa_family));
    EQUAL_OF(which, sent, 4);
    struct pollfd asked = {.fd = to, .events = POLLIN};
    if (poll(&asked, 1, 10000) != 1)
        complain(__FILE__, __LINE__, "%s: nothing arrives", which);
    else
        EQUAL_OF(which, recv(to, text, sizeof text, 0), 4);
}

TARGET(datagrams) {
    int server[2], client[2], deaf[2];
    union address names[2];
    for (int i = 0; i < 2; i++) {
        int family = i == 0 ? AF_INET : AF_INET6;
        server[i] = bound(family, SOCK_DGRAM, 0);
        names[i] = name_of(server[i]);
        client[i] = bound(family, SOCK_DGRAM, SOCK_NONBLOCK);
        MUST(connect(client[i], &names[i].any, size_of(family)));
        deaf[i] = bound(family, SOCK_DGRAM, 0);
        MUST(connect(deaf[i], &names[i].any, size_of(family)));
        MUST(shutdown(deaf[i], SHUT_WR));
    }
    set(server[0], SOL_IP, IP_PKTINFO, 1);
    set(server[0], SOL_IP, IP_TTL, 33);
    set(server[0], SOL_IP, IP_RECVTTL, 1);
    set(server[1], SOL_IPV6, IPV6_RECVPKTINFO, 1);
    set(server[1], SOL_IPV6, IPV6_RECVTCLASS, 1);
    set(client[0], SOL_SOCKET, SO_BROADCAST, 1);
    int unbound = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    ready();
    await_go();
    for (int i = 0; i < 2; i++) {
        const char *which = i == 0 ? "IPv4" : "IPv6";
        union address now = name_of(server[i]), peer = {0};
        CHECK(same(&now, &names[i]));
        socklen_t length = sizeof peer;
        WORKS(getpeername(client[i], &peer.any, &length));
        CHECK(same(&peer, &names[i]));
        reaches(client[i], server[i], NULL, which);
        now = name_of(client[i]);
        reaches(server[i], client[i], &now, which);
        reaches(unbound, server[0], &names[0], which);
        signal(SIGPIPE, SIG_IGN);
        FAILS(send(deaf[i], "x", 1, 0), EPIPE);
    }
    EQUAL(get(server[0], SOL_IP, IP_PKTINFO), 1);
    EQUAL(get(server[0], SOL_IP, IP_TTL), 33);
    EQUAL(get(server[0], SOL_IP, IP_RECVTTL), 1);
    EQUAL(get(server[1], SOL_IPV6, IPV6_RECVPKTINFO), 1);
    EQUAL(get(server[1], SOL_IPV6, IPV6_RECVTCLASS), 1);
    EQUAL(get(client[0], SOL_SOCKET, SO_BROADCAST), 1);
    return done();
}

/* A member of a group hears what is sent to it; one that wants a single source hears only that. */
TARGET(multicast) {
    int member = MUST(socket(AF_INET, SOCK_DGRAM, 0)), choosy = MUST(socket(AF_INET, SOCK_DGRAM, 0));
    union address here = {.v4 = {.sin_family = AF_INET}}, also = here;
    MUST(bind(member, &here.any, sizeof here.v4));
    MUST(bind(choosy, &also.any, sizeof also.v4));
    struct in_addr lo = {htonl(INADDR_LOOPBACK)}, group;
    inet_pton(AF_INET, "239.77.1.2", &group);
    struct ip_mreqn wanted = {.imr_multiaddr = group, .imr_address = lo};
    MUST(setsockopt(member, SOL_IP, IP_ADD_MEMBERSHIP, &wanted, sizeof wanted));
    struct ip_mreq_source one = {.imr_multiaddr = group, .imr_interface = lo, .imr_sourceaddr = lo};
    one.imr_sourceaddr.s_addr = htonl(INADDR_LOOPBACK + 5);
    MUST(setsockopt(choosy, SOL_IP, IP_ADD_SOURCE_MEMBERSHIP, &one, sizeof one));
    ready();
    await_go();
    int sender = WORKS(socket(AF_INET, SOCK_DGRAM, 0));
    WORKS(setsockopt(sender, SOL_IP, IP_MULTICAST_IF, &lo, sizeof lo));
    union address from = loopback(AF_INET), to = name_of(member);
    WORKS(bind(sender, &from.any, sizeof from.v4));
    to.v4.sin_addr = group;
    reaches(sender, member, &to, "member");
    to.v4.sin_port = name_of(choosy).v4.sin_port;
    EQUAL(sendto(sender, "no", 2, 0, &to.any, sizeof to.v4), 2);
    close(sender);
    sender = WORKS(socket(AF_INET, SOCK_DGRAM, 0));
    WORKS(setsockopt(sender, SOL_IP, IP_MULTICAST_IF, &lo, sizeof lo));
    from.v4.sin_addr = one.imr_sourceaddr;
    WORKS(bind(sender, &from.any, sizeof from.v4));
    reaches(sender, choosy, &to, "choosy");
    return done();
}

/* Answers one call: a byte comes, the next one goes back. */
static void answer(int listener) {
    int served = accept(listener, NULL, NULL);
    char byte = 0;
    if (served == -1) {
        CHECK(errno == EAGAIN);
        return;
    }
    EQUAL(recv(served, &byte, 1, MSG_WAITALL), 1);
    byte++;
    EQUAL(send(served, &byte, 1, MSG_NOSIGNAL), 1);
    close(served);
}

/* A server that takes one connection after the other; with an argument only when everything is over, and one. */
TARGET(busy_server) {
    int listener = MUST(socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0));
    union address address = loopback(AF_INET);
    /* Its connections linger when it has closed them (TIME_WAIT). */
    set(listener, SOL_SOCKET, SO_REUSEADDR, 1);
    MUST(bind(listener, &address.any, sizeof address.v4));
    MUST(listen(listener, 64));
    FILE *file = fopen(in_directory("port"), "w");
    ASSURE(file != NULL);
    fprintf(file, "%d\n", ntohs(name_of(listener).v4.sin_port));
    fclose(file);
    ready();
    bool later = argc > 1;
    struct pollfd asked = {.fd = listener, .events = POLLIN};
    while (!go())
        if (later)
            pause_ms(1);
        else if (poll(&asked, 1, 10) > 0)
            answer(listener);
    if (later) {
        EQUAL(poll(&asked, 1, 10000), 1);
        answer(listener);
    }
    return done();
}

TARGET(handed_listener) {
    ASSURE(get(STDIN_FILENO, SOL_SOCKET, SO_ACCEPTCONN) == 1);
    ready();
    await_go();
    EQUAL(get(STDIN_FILENO, SOL_SOCKET, SO_ACCEPTCONN), 1);
    serves(STDIN_FILENO, "the standard input");
    return done();
}

TARGET(handed_connection) {
    ready();
    await_go();
    char byte = 0;
    EQUAL(recv(STDIN_FILENO, &byte, 1, MSG_WAITALL), 1);
    byte++;
    EQUAL(send(STDIN_FILENO, &byte, 1, MSG_NOSIGNAL), 1);
    return done();
}

/* Listeners of MPTCP, and a connection that one of them has accepted from a peer without it. */
TARGET(mptcp_listeners) {
    static const int families[] = {AF_INET, AF_INET6};
    int listening[2], unbound = socket(AF_INET, SOCK_STREAM, IPPROTO_MPTCP);
    if (unbound == -1)
        skip("no MPTCP: %s", strerror(errno));
    for (int i = 0; i < 2; i++) {
        union address address = loopback(families[i]);
        listening[i] = MUST(socket(families[i], SOCK_STREAM, IPPROTO_MPTCP));
        set(listening[i], SOL_SOCKET, SO_REUSEADDR, 1);
        set(listening[i], SOL_SOCKET, SO_KEEPALIVE, 1);
        set(listening[i], SOL_TCP, TCP_NODELAY, 1);
        MUST(bind(listening[i], &address.any, size_of(families[i])));
        MUST(listen(listening[i], 7));
    }
    set(listening[1], SOL_SOCKET, SO_RCVBUF, 50000);
    int buffer = get(listening[1], SOL_SOCKET, SO_RCVBUF);
    union address address = name_of(listening[0]);
    int plain = MUST(socket(AF_INET, SOCK_STREAM, 0));
    MUST(connect(plain, &address.any, sizeof address.v4));
    int served = MUST(accept(listening[0], NULL, NULL));
    ready();
    await_go();
    char text[4];
    EQUAL(get(unbound, SOL_SOCKET, SO_PROTOCOL), IPPROTO_MPTCP);
    EQUAL(get(listening[1], SOL_SOCKET, SO_RCVBUF), buffer);
    EQUAL(send(plain, "ping", 4, 0), 4);
    EQUAL(recv(served, text, 4, MSG_WAITALL), 4);
    for (int i = 0; i < 2; i++) {
        const char *which = i == 0 ? "IPv4" : "IPv6";
        EQUAL_OF(which, get(listening[i], SOL_SOCKET, SO_PROTOCOL), IPPROTO_MPTCP);
        EQUAL_OF(which, get(listening[i], SOL_SOCKET, SO_REUSEADDR), 1);
        EQUAL_OF(which, get(listening[i], SOL_SOCKET, SO_KEEPALIVE), 1);
        EQUAL_OF(which, get(listening[i], SOL_TCP, TCP_NODELAY), 1);
        serves(listening[i], which);
        address = name_of(listening[i]);
        int client = WORKS(socket(families[i], SOCK_STREAM, IPPROTO_MPTCP));
        WORKS(connect(client, &address.any, size_of(families[i])));
        int accepted = WORKS(accept(listening[i], NULL, NULL));
        EQUAL_OF(which, get(accepted, SOL_SOCKET, SO_PROTOCOL), IPPROTO_MPTCP);
        close(accepted);
        close(client);
    }
    return done();
}

/* What has come before the checkpoint is read after it: of the right length, from the right sender, in order. */
TARGET(waiting_datagrams) {
    /* The kernel shows an empty one behind others to the first checkpoint only. */
    static const char *const texts[] = {"", "one", "three"};
    int bound_to[4], senders[4];
    union address names[4];
    static char large[30000];
    fill(large, sizeof large, 7);
    for (int i = 0; i < 4; i++) {
        /* An address of its own, and any. */
        int family = i % 2 == 0 ? AF_INET : AF_INET6;
        union address address = loopback(family), to;
        if (i >= 2) {
            memset(&address, 0, sizeof address);
            address.any.sa_family = (sa_family_t)family;
        }
        bound_to[i] = MUST(socket(family, SOCK_DGRAM, 0));
        MUST(bind(bound_to[i], &address.any, size_of(family)));
        to = loopback(family);
        to.v4.sin_port = name_of(bound_to[i]).v4.sin_port;
        senders[i] = bound(family, SOCK_DGRAM, 0);
        names[i] = name_of(senders[i]);
        for (int k = 0; k < 3; k++)
            ASSURE(sendto(senders[i], texts[k], strlen(texts[k]), 0, &to.any, size_of(family)) != -1);
        ASSURE(sendto(senders[i], large, sizeof large, 0, &to.any, size_of(family)) == sizeof large);
    }
    ready();
    await_go();
    for (int i = 0; i < 4; i++) {
        const char *which = i < 2 ? "bound" : "bound to any";
        static char text[sizeof large + 1];
        for (int k = 0; k < 4; k++) {
            union address from = {0};
            socklen_t length = sizeof from;
            ssize_t bytes = WORKS(recvfrom(bound_to[i], text, sizeof text, MSG_DONTWAIT, &from.any, &length));
            CHECK(same(&from, &names[i]));
            if (k == 3) {
                EQUAL_OF(which, bytes, sizeof large);
                CHECK(filled(text, sizeof large, 7));
                continue;
            }
            EQUAL_OF(which, bytes, strlen(texts[k]));
            CHECK(memcmp(text, texts[k], strlen(texts[k])) == 0);
        }
        FAILS(recv(bound_to[i], text, sizeof text, MSG_DONTWAIT), EAGAIN);
        EQUAL_OF(which, get(bound_to[i], SOL_SOCKET, SO_PEEK_OFF), -1);
    }
    EQUAL(get(bound_to[2], SOL_IP, IP_RECVORIGDSTADDR), 0);
    return done();
}
