/* Unix sockets: who is connected to whom, what waits in them, and what they are called. */
#include "common.h"

#include <grp.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

static const int types[] = {SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET};

static socklen_t named(struct sockaddr_un *address, const char *name) {
    memset(address, 0, sizeof *address);
    address->sun_family = AF_UNIX;
    size_t length = strlen(name);
    ASSURE(length < sizeof address->sun_path - 1);
    /* "@name" stands for an abstract one. */
    memcpy(address->sun_path, name, length);
    if (name[0] == '@')
        address->sun_path[0] = 0;
    else
        length++;
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + length);
}

static int bound(int type, const char *name) {
    struct sockaddr_un address;
    int fd = MUST(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    socklen_t length = named(&address, name);
    MUST(bind(fd, (struct sockaddr *)&address, length));
    return fd;
}

static int connected(int type, const char *name) {
    struct sockaddr_un address;
    int fd = MUST(socket(AF_UNIX, type | SOCK_CLOEXEC, 0));
    socklen_t length = named(&address, name);
    MUST(connect(fd, (struct sockaddr *)&address, length));
    return fd;
}

/* An abstract name that nobody else has. */
static const char *abstract(const char *name) {
    static char names[8][64];
    static int next;
    char *place = names[next++ % 8];
    snprintf(place, sizeof names[0], "@cryopod-e2e-%d-%s", getpid(), name);
    return place;
}

static void expect(int fd, const char *text) {
    char bytes[256] = "";
    ssize_t got = recv(fd, bytes, sizeof bytes - 1, MSG_DONTWAIT);
    if (got != (ssize_t)strlen(text) || memcmp(bytes, text, strlen(text)) != 0)
        complain(__FILE__, __LINE__, "descriptor %d: %zd bytes \"%s\" instead of \"%s\": %s", fd, got, bytes, text,
                 got < 0 ? strerror(errno) : "");
}

static void nothing(int fd) {
    char byte;
    FAILS(recv(fd, &byte, 1, MSG_DONTWAIT), EAGAIN);
}

static void put(int fd, const char *text) { ASSURE(send(fd, text, strlen(text), 0) == (ssize_t)strlen(text)); }

static void talk(int one, int other) {
    EQUAL(send(one, "to", 2, MSG_NOSIGNAL), 2);
    expect(other, "to");
    EQUAL(send(other, "fro", 3, MSG_NOSIGNAL), 3);
    expect(one, "fro");
}

static int option(int fd, int name) {
    int value = -1;
    socklen_t length = sizeof value;
    WORKS(getsockopt(fd, SOL_SOCKET, name, &value, &length));
    return value;
}

static void called(int fd, const char *name, bool peer) {
    struct sockaddr_un address = {0}, expected;
    socklen_t length = sizeof address, wanted = name ? named(&expected, name) : sizeof(sa_family_t);
    WORKS((peer ? getpeername : getsockname)(fd, (struct sockaddr *)&address, &length));
    if (length != wanted || (name && memcmp(&address, &expected, wanted) != 0))
        complain(__FILE__, __LINE__, "descriptor %d: its %s is %.*s, not %s", fd, peer ? "peer" : "name",
                 (int)sizeof address.sun_path, address.sun_path, name ? name : "none");
}

static int child_holds(void *argument) {
    const int *pair = argument;
    int fd = pair[1];
    close(pair[0]);
    /* Echoes whatever comes until the other end is gone. */
    char bytes[64];
    ssize_t got;
    while ((got = read(fd, bytes, sizeof bytes)) > 0)
        if (write(fd, bytes, (size_t)got) != got)
            return 1;
    return got == 0 ? 0 : 2;
}

TARGET(unix_pairs) {
    int pairs[3][2], halves[3][2], full[2], unread[2], parted[2];
    signal(SIGPIPE, SIG_IGN);
    for (int i = 0; i < 3; i++) {
        MUST(socketpair(AF_UNIX, types[i] | SOCK_CLOEXEC, 0, pairs[i]));
        put(pairs[i][0], "one"), put(pairs[i][0], "two");
        put(pairs[i][1], "back");
        MUST(socketpair(AF_UNIX, types[i] | SOCK_NONBLOCK, 0, halves[i]));
        put(halves[i][0], "last");
        if (i != 1)
            MUST(shutdown(halves[i][0], SHUT_WR));
    }
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, full));
    size_t written = 0;
    static char block[4096];
    ssize_t sent;
    for (uint64_t seed = 0; fill(block, sizeof block, seed), (sent = write(full[0], block, sizeof block)) > 0; seed++)
        written += (size_t)sent;
    /* The other end is gone: after everything was read, with something unread in it, with something left here. */
    int gone[3];
    for (int i = 0; i < 3; i++) {
        int pair[2];
        MUST(socketpair(AF_UNIX, types[i], 0, pair));
        put(pair[1], "farewell");
        close(pair[1]);
        gone[i] = pair[0];
    }
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, unread));
    put(unread[0], "never read");
    close(unread[1]);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, parted));
    pid_t echo = child(child_holds, parted);
    close(parted[1]);
    await_blocked(echo, echo, SYS_read);
    ready();
    await_go();
    for (int i = 0; i < 3; i++) {
        if (types[i] == SOCK_STREAM) {
            expect(pairs[i][1], "onetwo");
        } else {
            expect(pairs[i][1], "one");
            expect(pairs[i][1], "two");
        }
        expect(pairs[i][0], "back");
        nothing(pairs[i][0]);
        talk(pairs[i][0], pairs[i][1]);
        EQUAL(fcntl(halves[i][0], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
        EQUAL(fcntl(pairs[i][0], F_GETFL) & O_NONBLOCK, 0);
        EQUAL(option(pairs[i][0], SO_TYPE), types[i]);
        expect(halves[i][1], "last");
        if (i != 1) {
            expect(halves[i][1], "");
            FAILS(send(halves[i][0], "x", 1, MSG_NOSIGNAL), EPIPE);
            EQUAL(send(halves[i][1], "y", 1, MSG_NOSIGNAL), 1);
            expect(halves[i][0], "y");
        }
        expect(gone[i], "farewell");
    }
    expect(gone[0], "");
    FAILS(send(gone[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    FAILS(send(gone[1], "x", 1, MSG_NOSIGNAL), ECONNREFUSED);
    expect(gone[2], "");
    EQUAL(option(unread[0], SO_ERROR), ECONNRESET);
    expect(unread[0], "");
    size_t have = 0;
    static char got[4096];
    for (uint64_t seed = 0; have + sizeof block <= written; seed++, have += sizeof block)
        if (recv(full[1], got, sizeof got, MSG_WAITALL) != sizeof got || !filled(got, sizeof got, seed)) {
            complain(__FILE__, __LINE__, "full: other bytes at %zu of %zu", have, written);
            break;
        }
    char byte = 0;
    EQUAL(send(parted[0], "echo", 4, MSG_NOSIGNAL), 4);
    for (const char *at = "echo"; *at; at++) {
        EQUAL(read(parted[0], &byte, 1), 1);
        EQUAL(byte, *at);
    }
    close(parted[0]);
    expect_exit(echo, 0);
    return done();
}

static void peer_is(int fd, pid_t pid, uid_t uid, gid_t gid) {
    struct ucred who = {0};
    socklen_t length = sizeof who;
    WORKS(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &length));
    EQUAL(who.pid, pid);
    EQUAL(who.uid, uid);
    EQUAL(who.gid, gid);
}

/* Connects as another user, says who it is, and stays or goes. */
struct client {
    const char *name;
    bool stays;
};

static int client(void *argument) {
    const struct client *what = argument;
    gid_t groups[] = {7, 8};
    MUST(setgroups(2, groups));
    MUST(setresgid(4321, 4321, 4321));
    MUST(setresuid(1234, 1234, 1234));
    int fd = connected(SOCK_STREAM, what->name);
    put(fd, "me");
    char bytes[8];
    if (what->stays && read(fd, bytes, sizeof bytes) != 0)
        return 1;
    return 0;
}

TARGET(unix_listeners) {
    const char *path = in_directory("listener");
    char name[128];
    snprintf(name, sizeof name, "%s", path);
    int listener = bound(SOCK_STREAM, name);
    MUST(chmod(name, 0777));
    MUST(listen(listener, 5));
    const char *hidden = abstract("listener");
    int other = bound(SOCK_SEQPACKET, hidden);
    MUST(listen(other, 3));
    /* Accepted, from a process that stays and one that is gone. */
    struct client stays = {name, true}, goes = {name, false};
    pid_t living = child(client, &stays);
    int accepted = MUST(accept(listener, NULL, NULL));
    pid_t dead = child(client, &goes);
    int left = MUST(accept(listener, NULL, NULL));
    expect_exit(dead, 0);
    /* Connected to itself. */
    int mine = connected(SOCK_STREAM, name);
    int own = MUST(accept(listener, NULL, NULL));
    put(mine, "mine");
    /* The socket that accepted these is gone, and another has its name by now. */
    const char *again = abstract("again");
    int old = bound(SOCK_STREAM, again);
    MUST(listen(old, 2));
    int first = connected(SOCK_STREAM, again), first_other = MUST(accept(old, NULL, NULL));
    int second = connected(SOCK_STREAM, again), second_other = MUST(accept(old, NULL, NULL));
    close(old);
    int renewed = bound(SOCK_STREAM, again);
    MUST(listen(renewed, 0));
    /* Waiting to be accepted, in an order that is not that of their numbers. */
    int waiting[3], place[3];
    for (int i = 0; i < 3; i++)
        place[i] = MUST(fcntl(listener, F_DUPFD, 100 - 10 * i));
    for (int i = 0; i < 3; i++) {
        int fd = connected(SOCK_STREAM, name);
        waiting[i] = MUST(dup2(fd, place[i]));
        close(fd);
    }
    int waits = connected(SOCK_SEQPACKET, hidden);
    pid_t self = getpid();
    ready();
    await_go();
    called(listener, name, false);
    called(accepted, name, false);
    called(accepted, NULL, true);
    expect(accepted, "me");
    peer_is(accepted, living, 1234, 4321);
    gid_t groups[4] = {0};
    socklen_t length = sizeof groups;
    WORKS(getsockopt(accepted, SOL_SOCKET, SO_PEERGROUPS, groups, &length));
    EQUAL(length, 8);
    EQUAL(groups[1], 8);
    peer_is(left, dead, 1234, 4321);
    expect(left, "me");
    expect(left, "");
    peer_is(mine, self, 0, 0);
    called(mine, name, true);
    expect(own, "mine");
    talk(mine, own);
    called(first_other, again, false);
    called(second_other, again, false);
    called(renewed, again, false);
    talk(first, first_other);
    talk(second, second_other);
    struct stat status;
    WORKS(stat(name, &status));
    EQUAL(status.st_mode, S_IFSOCK | 0777);
    for (int i = 0; i < 3; i++) {
        int fd = WORKS(accept(listener, NULL, NULL));
        peer_is(fd, self, 0, 0);
        talk(waiting[i], fd);
    }
    int fd = WORKS(accept(other, NULL, NULL));
    talk(waits, fd);
    called(other, hidden, false);
    int fresh = connected(SOCK_STREAM, name);
    talk(fresh, WORKS(accept(listener, NULL, NULL)));
    int late = connected(SOCK_STREAM, again);
    talk(late, WORKS(accept(renewed, NULL, NULL)));
    close(accepted);
    expect_exit(living, 0);
    return done();
}

TARGET(unix_paths) {
    char absolute[128], deleted[128], taken[128], inner[160], directory[128], moved[128], target[128];
    snprintf(absolute, sizeof absolute, "%s", in_directory("absolute"));
    snprintf(deleted, sizeof deleted, "%s", in_directory("deleted"));
    snprintf(taken, sizeof taken, "%s", in_directory("taken"));
    snprintf(directory, sizeof directory, "%s", in_directory("directory"));
    snprintf(inner, sizeof inner, "%s/inner", directory);
    snprintf(moved, sizeof moved, "%s", in_directory("moved"));
    snprintf(target, sizeof target, "%s", in_directory("target"));
    int here = bound(SOCK_STREAM, absolute);
    MUST(listen(here, 1));
    MUST(chown(absolute, 12, 34));
    MUST(chmod(absolute, 0751));
    int gone = bound(SOCK_DGRAM, deleted);
    int to_gone = connected(SOCK_DGRAM, deleted);
    MUST(unlink(deleted));
    int lost = bound(SOCK_DGRAM, taken);
    int to_lost = connected(SOCK_DGRAM, taken);
    MUST(unlink(taken));
    int file = MUST(open(taken, O_CREAT | O_WRONLY, 0600));
    MUST(mkdir(directory, 0755));
    int within = bound(SOCK_DGRAM, inner);
    int to_within = connected(SOCK_DGRAM, inner);
    MUST(unlink(inner));
    MUST(rmdir(directory));
    int away = bound(SOCK_DGRAM, moved);
    MUST(rename(moved, target));
    /* Relative to where the process was at that time. */
    MUST(mkdir(directory, 0755));
    int before = MUST(open(".", O_PATH));
    MUST(chdir(directory));
    int relative = bound(SOCK_SEQPACKET, "relative");
    MUST(listen(relative, 1));
    int odd = bound(SOCK_DGRAM, "./../directory/odd");
    MUST(fchdir(before));
    ready();
    await_go();
    struct stat status;
    called(here, absolute, false);
    WORKS(stat(absolute, &status));
    EQUAL(status.st_mode, S_IFSOCK | 0751);
    EQUAL(status.st_uid, 12);
    EQUAL(status.st_gid, 34);
    int fresh = connected(SOCK_STREAM, absolute);
    talk(fresh, WORKS(accept(here, NULL, NULL)));
    called(gone, deleted, false);
    called(to_gone, deleted, true);
    FAILS(stat(deleted, &status), ENOENT);
    put(to_gone, "still");
    expect(gone, "still");
    called(lost, taken, false);
    put(to_lost, "there");
    expect(lost, "there");
    WORKS(stat(taken, &status));
    EQUAL(status.st_mode, S_IFREG | 0600);
    called(within, inner, false);
    put(to_within, "within");
    expect(within, "within");
    called(away, moved, false);
    FAILS(stat(moved, &status), ENOENT);
    int reach = connected(SOCK_DGRAM, target);
    put(reach, "found");
    expect(away, "found");
    called(relative, "relative", false);
    called(odd, "./../directory/odd", false);
    WORKS(chdir(directory));
    fresh = connected(SOCK_SEQPACKET, "relative");
    talk(fresh, WORKS(accept(relative, NULL, NULL)));
    reach = connected(SOCK_DGRAM, "odd");
    put(reach, "odd");
    expect(odd, "odd");
    close(file);
    return done();
}

static void from(int fd, const char *text, const char *name) {
    struct sockaddr_un address = {0}, expected;
    socklen_t length = sizeof address, wanted = name ? named(&expected, name) : 0;
    char bytes[64] = "";
    ssize_t got = recvfrom(fd, bytes, sizeof bytes - 1, MSG_DONTWAIT, (struct sockaddr *)&address, &length);
    if (got < 0 || strcmp(bytes, text) != 0)
        complain(__FILE__, __LINE__, "descriptor %d: %zd bytes \"%s\" instead of \"%s\"", fd, got, bytes, text);
    if (length != wanted || (name && memcmp(&address, &expected, wanted) != 0))
        complain(__FILE__, __LINE__, "descriptor %d: \"%s\" is from \"%.100s\", not \"%s\"", fd, text, address.sun_path,
                 name ? name : "nobody");
}

static void put_to(int fd, const char *text, const char *name) {
    struct sockaddr_un address;
    socklen_t length = named(&address, name);
    MUST(sendto(fd, text, strlen(text), 0, (struct sockaddr *)&address, length));
}

TARGET(unix_datagrams) {
    char path[128];
    snprintf(path, sizeof path, "%s", in_directory("receiver"));
    const char *second = abstract("second"), *third = abstract("third"), *lost = abstract("lost"),
               *self = abstract("self");
    /* Several senders, some with names, one gone. */
    int receiver = bound(SOCK_DGRAM, path);
    int nameless = connected(SOCK_DGRAM, path);
    int two = bound(SOCK_DGRAM, second);
    int gone = bound(SOCK_DGRAM, lost);
    put(nameless, "1");
    put_to(two, "2", path);
    put_to(gone, "3", path);
    put(nameless, "4");
    close(gone);
    int dead = connected(SOCK_DGRAM, second);
    /* One that others had sent to before it got a peer of its own, which has sent more than its backlog since. */
    int three = bound(SOCK_DGRAM, third);
    put_to(nameless, "stranger", third);
    struct sockaddr_un address;
    socklen_t length = named(&address, path);
    MUST(connect(three, (struct sockaddr *)&address, length));
    char text[8];
    for (int i = 0; i < 30; i++) {
        snprintf(text, sizeof text, "%d", i);
        put_to(receiver, text, third);
    }
    /* To itself, and of a pair that has parted. */
    int me = bound(SOCK_DGRAM, self);
    length = named(&address, self);
    MUST(connect(me, (struct sockaddr *)&address, length));
    put(me, "myself");
    int pair[2], odd[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair));
    put(pair[0], ""), put(pair[0], "x");
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, odd));
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    MUST(connect(odd[1], &nobody, sizeof nobody.sa_family));
    put(odd[0], "one way");
    ready();
    await_go();
    from(receiver, "1", NULL);
    from(receiver, "2", second);
    from(receiver, "3", lost);
    from(receiver, "4", NULL);
    nothing(receiver);
    put(dead, "to two");
    from(two, "to two", NULL);
    from(three, "stranger", NULL);
    for (int i = 0; i < 30; i++) {
        snprintf(text, sizeof text, "%d", i);
        from(three, text, path);
    }
    nothing(three);
    called(three, path, true);
    put(three, "answer");
    from(receiver, "answer", third);
    FAILS(sendto(two, "x", 1, 0, (struct sockaddr *)&address, named(&address, third)), EPERM);
    from(me, "myself", self);
    from(pair[1], "", NULL);
    from(pair[1], "x", NULL);
    nothing(pair[1]);
    talk(pair[0], pair[1]);
    from(odd[1], "one way", NULL);
    put(odd[0], "more");
    from(odd[1], "more", NULL);
    FAILS(send(odd[1], "x", 1, 0), ENOTCONN);
    return done();
}

static void pass(int over, const char *text, const int *fds, int count, const struct ucred *who) {
    char control[256] = {0};
    struct iovec io = {(void *)text, strlen(text)};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control};
    struct cmsghdr *header = (struct cmsghdr *)control;
    if (count > 0) {
        header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)count);
        memcpy(CMSG_DATA(header), fds, sizeof(int) * (size_t)count);
        message.msg_controllen += CMSG_SPACE(sizeof(int) * (size_t)count);
        header = (struct cmsghdr *)(control + message.msg_controllen);
    }
    if (who) {
        header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_CREDENTIALS;
        header->cmsg_len = CMSG_LEN(sizeof *who);
        memcpy(CMSG_DATA(header), who, sizeof *who);
        message.msg_controllen += CMSG_SPACE(sizeof *who);
    }
    MUST(sendmsg(over, &message, 0));
}

/* Receives `text` with `count` descriptors; complains unless they are that many. */
static void take(int over, size_t size, const char *text, int *fds, int count, struct ucred *who) {
    char bytes[256] = "", control[1024];
    struct iovec io = {bytes, size};
    struct msghdr message = {.msg_iov = &io, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    ssize_t got = WORKS(recvmsg(over, &message, MSG_DONTWAIT));
    if (got < 0 || strcmp(bytes, text) != 0)
        complain(__FILE__, __LINE__, "descriptor %d: \"%s\" instead of \"%s\"", over, bytes, text);
    int came = 0;
    for (struct cmsghdr *one = CMSG_FIRSTHDR(&message); one; one = CMSG_NXTHDR(&message, one)) {
        if (one->cmsg_type == SCM_RIGHTS) {
            came = (int)((one->cmsg_len - CMSG_LEN(0)) / sizeof(int));
            memcpy(fds, CMSG_DATA(one), sizeof(int) * (size_t)(came < count ? came : count));
        } else if (one->cmsg_type == SCM_CREDENTIALS && who) {
            memcpy(who, CMSG_DATA(one), sizeof *who);
        }
    }
    EQUAL_OF(text, came, count);
}

TARGET(unix_rights) {
    int stream[2], packets[2], data[2], inner[2], far[2], marked[2], fds[4];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, stream));
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, packets));
    /* Nobody has these any more but the queues. */
    int file = MUST(open(in_directory("file"), O_CREAT | O_RDWR | O_CLOEXEC, 0600));
    MUST(write(file, "0123456789", 10));
    MUST(lseek(file, 4, SEEK_SET));
    MUST(pipe(data));
    MUST(write(data[1], "piped", 5));
    put(stream[0], "plain ");
    pass(stream[0], "with", (int[]){file, data[0]}, 2, NULL);
    put(stream[0], " after");
    /* Much before some that come with descriptors. */
    int large[2];
    static char block[200000];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, large));
    MUST(setsockopt(large[0], SOL_SOCKET, SO_SNDBUFFORCE, &(int){1 << 20}, sizeof(int)));
    fill(block, sizeof block, 9);
    ASSURE(write(large[0], block, sizeof block) == sizeof block);
    pass(large[0], "end", &data[0], 1, NULL);
    /* A socket in a socket in a socket, and the last has a file. */
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, inner));
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, far));
    pass(far[0], "deepest", &file, 1, NULL);
    pass(inner[0], "deeper", &far[1], 1, NULL);
    pass(packets[0], "deep", &inner[1], 1, NULL);
    /* A socket in its own queue, one that is also held, and a message without any. */
    pass(packets[0], "own", &packets[1], 1, NULL);
    put(packets[0], "none");
    close(file), close(data[0]), close(inner[1]), close(far[1]);
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, marked));
    MUST(setsockopt(marked[1], SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)));
    struct ucred who = {getpid(), 77, 88};
    pass(marked[0], "somebody", NULL, 0, &who);
    put(marked[0], "me");
    ready();
    await_go();
    char bytes[16] = "";
    /* Descriptors come with their own bytes only. */
    take(stream[1], 3, "pla", fds, 0, NULL);
    take(stream[1], 3, "in ", fds, 0, NULL);
    take(stream[1], 2, "wi", fds, 2, NULL);
    take(stream[1], 16, "th after", fds + 2, 0, NULL);
    EQUAL(read(fds[0], bytes, 3), 3);
    EQUAL(memcmp(bytes, "456", 3), 0);
    EQUAL(read(fds[1], bytes, 5), 5);
    EQUAL(memcmp(bytes, "piped", 5), 0);
    int first = fds[0], middle, last, again, self;
    static char much[sizeof block];
    EQUAL(recv(large[1], much, sizeof much, MSG_WAITALL), sizeof much);
    CHECK(filled(much, sizeof much, 9));
    take(large[1], 16, "end", &again, 1, NULL);
    take(packets[1], 16, "deep", &middle, 1, NULL);
    take(middle, 16, "deeper", &last, 1, NULL);
    take(last, 16, "deepest", &again, 1, NULL);
    /* The same description as the one from the stream. */
    EQUAL(lseek(again, 0, SEEK_CUR), 7);
    EQUAL(lseek(again, 1, SEEK_SET), 1);
    EQUAL(lseek(first, 0, SEEK_CUR), 1);
    take(packets[1], 16, "own", &self, 1, NULL);
    take(self, 16, "none", fds, 0, NULL);
    talk(inner[0], middle);
    talk(far[0], last);
    take(marked[1], 16, "somebody", fds, 0, &who);
    EQUAL(who.pid, getpid());
    EQUAL(who.uid, 77);
    EQUAL(who.gid, 88);
    take(marked[1], 16, "me", fds, 0, &who);
    EQUAL(who.uid, 0);
    return done();
}

/* An epoll instance that only a queue has: what it watches is open elsewhere. */
TARGET(unix_epoll_in_flight) {
    int via[2], watched[2], received;
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, via));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, watched));
    int epoll = MUST(epoll_create1(EPOLL_CLOEXEC)), empty = MUST(epoll_create1(0));
    struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = 0x1122334455667788}, got = {0};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, watched[1], &wanted));
    /* Its number is another one by now. */
    int moved = MUST(dup(watched[0]));
    wanted.data.u64 = 7;
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, moved, &wanted));
    MUST(dup2(moved, 77));
    close(moved), close(watched[0]);
    pass(via[0], "one", &epoll, 1, NULL);
    pass(via[0], "none", &empty, 1, NULL);
    close(epoll), close(empty);
    ready();
    await_go();
    take(via[1], 16, "one", &received, 1, NULL);
    EQUAL(epoll_wait(received, &got, 1, 0), 0);
    EQUAL(send(77, "x", 1, 0), 1);
    EQUAL(epoll_wait(received, &got, 1, 10000), 1);
    EQUAL(got.data.u64, 0x1122334455667788);
    expect(watched[1], "x");
    EQUAL(send(watched[1], "y", 1, 0), 1);
    EQUAL(epoll_wait(received, &got, 1, 10000), 1);
    EQUAL(got.data.u64, 7);
    take(via[1], 16, "none", &received, 1, NULL);
    EQUAL(epoll_wait(received, &got, 1, 0), 0);
    return done();
}

TARGET(unix_options) {
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair));
    static const struct {
        int name, value;
    } set[] = {{SO_PASSCRED, 1},  {SO_PRIORITY, 5},   {SO_RCVLOWAT, 9},   {SO_KEEPALIVE, 1},
               {SO_OOBINLINE, 1}, {SO_BROADCAST, 1},  {SO_REUSEADDR, 1},  {SO_MARK, 0x1234},
               {SO_PEEK_OFF, 3},  {SO_TIMESTAMPNS, 1}};
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++)
        MUST(setsockopt(pair[0], SOL_SOCKET, set[i].name, &set[i].value, sizeof(int)));
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &(int){50000}, sizeof(int)));
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_RCVBUF, &(int){60000}, sizeof(int)));
    struct timeval time = {5, 250000}, asked = {0};
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time));
    struct linger linger = {1, 17}, lingers = {0};
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_LINGER, &linger, sizeof linger));
    put(pair[1], "0123456789");
    int before[2] = {option(pair[1], SO_SNDBUF), option(pair[1], SO_RCVBUF)};
    ready();
    await_go();
    for (size_t i = 0; i < sizeof set / sizeof set[0]; i++) {
        char which[16];
        snprintf(which, sizeof which, "option %d", set[i].name);
        EQUAL_OF(which, option(pair[0], set[i].name), set[i].value);
    }
    EQUAL(option(pair[0], SO_SNDBUF), 100000);
    EQUAL(option(pair[0], SO_RCVBUF), 120000);
    EQUAL(option(pair[1], SO_SNDBUF), before[0]);
    EQUAL(option(pair[1], SO_RCVBUF), before[1]);
    socklen_t length = sizeof asked;
    WORKS(getsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &asked, &length));
    EQUAL(asked.tv_sec, 5);
    EQUAL(asked.tv_usec, 252000 / 4000 * 4000 == asked.tv_usec ? asked.tv_usec : 250000);
    length = sizeof lingers;
    WORKS(getsockopt(pair[0], SOL_SOCKET, SO_LINGER, &lingers, &length));
    EQUAL(lingers.l_onoff, 1);
    EQUAL(lingers.l_linger, 17);
    char bytes[4] = "";
    EQUAL(recv(pair[0], bytes, 3, MSG_PEEK), 3);
    EQUAL(memcmp(bytes, "345", 3), 0);
    return done();
}
