/* Pseudo-terminals with both ends inside, and sessions that they control. */
#include "common.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

struct pair {
    int master, slave;
    char name[64];
};

static struct pair open_pair(void) {
    struct pair pair;
    pair.master = MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY));
    MUST(grantpt(pair.master));
    MUST(unlockpt(pair.master));
    MUST0(ptsname_r(pair.master, pair.name, sizeof pair.name));
    pair.slave = MUST(open(pair.name, O_RDWR | O_NOCTTY));
    return pair;
}

/* No echo, and canonical or not. */
static void quiet(int fd, bool canonical) {
    struct termios settings;
    MUST(tcgetattr(fd, &settings));
    settings.c_lflag &= ~(tcflag_t)ECHO;
    if (!canonical) {
        cfmakeraw(&settings);
        settings.c_cc[VMIN] = 1;
        settings.c_cc[VTIME] = 0;
    }
    MUST(tcsetattr(fd, TCSANOW, &settings));
}

static void put(int fd, const char *text) {
    ASSURE(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
}

/* What the next read gives must be exactly this. */
static void gives(int fd, const char *which, const char *text) {
    char bytes[8192];
    struct pollfd input = {.fd = fd, .events = POLLIN};
    if (poll(&input, 1, 5000) != 1) {
        complain(__FILE__, __LINE__, "%s: nothing to read", which);
        return;
    }
    ssize_t length = WORKS(read(fd, bytes, sizeof bytes - 1));
    bytes[length > 0 ? length : 0] = 0;
    if (strcmp(bytes, text) != 0)
        complain(__FILE__, __LINE__, "%s: \"%s\" instead of \"%s\"", which, bytes, text);
}

static void empty(int fd, const char *which) {
    struct pollfd input = {.fd = fd, .events = POLLIN};
    EQUAL_OF(which, poll(&input, 1, 0), 0);
}

/* Both ends: settings, modes, what is queued. */
TARGET(terminals) {
    /* Queued in both directions, raw. */
    struct pair raw = open_pair();
    quiet(raw.slave, false);
    put(raw.master, "to the slave\x03\x04\x11\x13\n");
    put(raw.slave, "to the master\n");

    /* Whole lines, the end of a file, and a line that is not complete. */
    struct pair lines = open_pair();
    quiet(lines.slave, true);
    put(lines.master, "one\n\x04two\nthr");
    int again = MUST(open(lines.name, O_RDWR | O_NOCTTY | O_NONBLOCK));
    int copy = MUST(dup(again));

    /* Settings, size, modes. */
    struct pair modes = open_pair();
    struct termios settings, now;
    memset(&settings, 0, sizeof settings);
    memset(&now, 0, sizeof now);
    MUST(tcgetattr(modes.slave, &settings));
    settings.c_cc[VINTR] = 7;
    settings.c_iflag |= IXANY;
    settings.c_lflag &= ~(tcflag_t)ISIG;
    MUST(cfsetospeed(&settings, B9600));
    MUST(tcsetattr(modes.slave, TCSANOW, &settings));
    MUST(tcgetattr(modes.slave, &settings));
    struct winsize size = {.ws_row = 41, .ws_col = 132, .ws_xpixel = 7, .ws_ypixel = 9};
    MUST(ioctl(modes.master, TIOCSWINSZ, &size));
    int on = 1;
    MUST(ioctl(modes.master, TIOCPKT, &on));
    MUST(ioctl(modes.slave, TIOCEXCL));
    put(modes.slave, "packet\n");
    MUST(fchmod(modes.slave, 0622));

    /* Locked, and never opened. */
    int locked = MUST(open("/dev/ptmx", O_RDWR | O_NOCTTY));
    /* Opened and closed, with something left to read on both sides. */
    struct pair closed = open_pair();
    quiet(closed.slave, false);
    put(closed.slave, "last words");
    put(closed.master, "for the next");
    MUST(close(closed.slave));
    /* The other way round: hung up. */
    struct pair hung = open_pair();
    MUST(close(hung.master));
    /* Stopped by a typed character, and by a program. */
    struct pair stopped = open_pair();
    quiet(stopped.slave, true);
    put(stopped.slave, "before");
    put(stopped.master, "\x13");
    struct pollfd output = {.fd = stopped.slave, .events = POLLOUT};
    while (MUST(poll(&output, 1, 0)) == 1)
        pause_ms(1);
    struct pair held = open_pair();
    MUST(tcflow(held.slave, TCOOFF));

    ready();
    await_go();

    gives(raw.slave, "raw input", "to the slave\x03\x04\x11\x13\n");
    gives(raw.master, "raw output", "to the master\n");
    empty(raw.slave, "raw input");
    empty(raw.master, "raw output");

    gives(lines.slave, "first line", "one\n");
    EQUAL(read(copy, &(char){0}, 1), 0);
    gives(again, "second line", "two\n");
    empty(lines.slave, "an open line");
    put(lines.master, "\x7f\x7fwo\n");
    gives(lines.slave, "an edited line", "two\n");
    empty(lines.master, "what was never put out");

    WORKS(tcgetattr(modes.master, &now));
    CHECK(memcmp(&now, &settings, sizeof now) == 0);
    struct winsize now_size;
    WORKS(ioctl(modes.slave, TIOCGWINSZ, &now_size));
    CHECK(memcmp(&now_size, &size, sizeof size) == 0);
    int exclusive = 0;
    WORKS(ioctl(modes.slave, 0x80045440 /* TIOCGEXCL */, &exclusive));
    EQUAL(exclusive, 1);
    char packet[32] = "x";
    EQUAL(WORKS(read(modes.master, packet, sizeof packet)), 9);
    CHECK(memcmp(packet, "\0packet\r\n", 9) == 0);
    struct stat stat_;
    WORKS(fstat(modes.slave, &stat_));
    EQUAL(stat_.st_mode & 07777, 0622);

    char name[64];
    EQUAL(ptsname_r(locked, name, sizeof name), 0);
    FAILS(open(name, O_RDWR | O_NOCTTY), EIO);
    struct pollfd news = {.fd = locked, .events = POLLIN};
    EQUAL(poll(&news, 1, 0), 0);

    news.fd = closed.master;
    EQUAL(poll(&news, 1, 0), 1);
    EQUAL(news.revents & POLLHUP, POLLHUP);
    gives(closed.master, "last words", "last words");
    FAILS(read(closed.master, packet, sizeof packet), EIO);
    int next = WORKS(open(closed.name, O_RDWR | O_NOCTTY));
    gives(next, "left for the next", "for the next");

    EQUAL(read(hung.slave, packet, sizeof packet), 0);
    FAILS(write(hung.slave, "x", 1), EIO);
    FAILS(tcgetattr(hung.slave, &now), EIO);

    EQUAL(poll(&output, 1, 0), 0);
    gives(stopped.master, "what was put out before", "before");
    put(stopped.master, "\x11");
    EQUAL(poll(&output, 1, 5000), 1);
    output.fd = held.slave;
    EQUAL(poll(&output, 1, 0), 0);
    WORKS(tcflow(held.slave, TCOON));
    EQUAL(poll(&output, 1, 5000), 1);
    return done();
}

static struct pair controlling;
static atomic_int *settled;

static int foreground(void *nothing) {
    (void)nothing;
    MUST(setpgid(0, 0));
    atomic_fetch_add(settled, 1);
    await_go();
    EQUAL(getpgrp(), getpid());
    EQUAL(tcgetpgrp(controlling.slave), getpid());
    /* A key that is pressed reaches the foreground, which is this. */
    put(controlling.master, "\x1a");
    return 0;
}

static int gave_it_up(void *nothing) {
    (void)nothing;
    int tty = MUST(open("/dev/tty", O_RDWR));
    MUST(ioctl(tty, TIOCNOTTY));
    MUST(close(tty));
    atomic_fetch_add(settled, 1);
    await_go();
    FAILS(open("/dev/tty", O_RDWR), ENXIO);
    return 0;
}

static int leader(void *nothing) {
    (void)nothing;
    MUST(setsid());
    MUST(ioctl(controlling.slave, TIOCSCTTY, 0));
    int through = MUST(open("/dev/tty", O_RDWR | O_NONBLOCK));
    pid_t job = child(foreground, NULL);
    await_count(settled, 1);
    signal(SIGTTOU, SIG_IGN);
    MUST(tcsetpgrp(controlling.slave, job));
    pid_t free = child(gave_it_up, NULL);
    atomic_fetch_add(settled, 1);
    await_go();
    EQUAL(tcgetsid(controlling.slave), getpid());
    EQUAL(tcgetsid(through), getpid());
    EQUAL(tcgetpgrp(through), job);
    int status;
    EQUAL(waitpid(job, &status, WUNTRACED), job);
    if (WIFSTOPPED(status)) {
        EQUAL(WSTOPSIG(status), SIGTSTP);
        kill(job, SIGCONT);
        EQUAL(waitpid(job, &status, 0), job);
    }
    EQUAL(status, 0);
    expect_exit(free, 0);
    int tty = WORKS(open("/dev/tty", O_RDWR));
    WORKS(tcsetpgrp(tty, getpid()));
    return 0;
}

/* A session with a controlling terminal, a foreground group, and one who gave the terminal up. */
TARGET(controlled) {
    settled = share(sizeof *settled);
    controlling = open_pair();
    pid_t session = child(leader, NULL);
    await_count(settled, 3);
    EQUAL(tcgetsid(controlling.master), session);
    ready();
    await_go();
    expect_exit(session, 0);
    return done();
}
