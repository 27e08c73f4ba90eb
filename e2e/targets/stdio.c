/* Programs that talk: to a terminal, a pipe or a file, whatever their standard streams are. */
#include "common.h"

#include <poll.h>
#include <stdarg.h>
#include <termios.h>

static volatile sig_atomic_t usr1, term;

static void handle(int signal) {
    if (signal == SIGUSR1)
        usr1 = 1;
    else
        term = 1;
}

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));

static void say(const char *format, ...) {
    char line[256];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    ssize_t put;
    do
        put = write(1, line, (size_t)length);
    while (put < 0 && errno == EINTR);
    if (put != length)
        complain(__FILE__, __LINE__, "cannot write to standard output: %s", strerror(errno));
}

/*
 * Counts lines `tick N` on standard output, answers each line of standard input with `heard LINE`, reports a SIGUSR1
 * as `usr1`, and ends with exit code 7 when told to go, 9 at SIGTERM, or by SIGKILL when it hears `die`.
 */
TARGET(speaker) {
    struct sigaction action = {.sa_handler = handle};
    MUST(sigaction(SIGUSR1, &action, NULL));
    MUST(sigaction(SIGTERM, &action, NULL));
    bool terminal = isatty(1);
    ready();
    for (long count = 0; !go(); count++) {
        say("tick %ld\n", count);
        if (usr1) {
            usr1 = 0;
            say("usr1\n");
        }
        if (term) {
            say("term\n");
            return 9;
        }
        struct pollfd input = {.fd = 0, .events = POLLIN};
        if (poll(&input, 1, 5) == 1 && input.revents & POLLIN) {
            char line[128];
            ssize_t length = read(0, line, sizeof line - 1);
            line[length > 0 ? length : 0] = 0;
            if (strncmp(line, "die", 3) == 0)
                raise(SIGKILL);
            if (length > 0)
                say("heard %s", line);
        } else if (input.revents != 0) {
            pause_ms(5);
        }
    }
    EQUAL(isatty(1), terminal);
    say("bye\n");
    done();
    return 7;
}

/* Has none of the standard streams; other files took their numbers. */
TARGET(silent) {
    close(0);
    close(1);
    close(2);
    int file = MUST(open(in_directory("not-a-stream"), O_RDWR | O_CREAT, 0600));
    ASSURE(file == 0);
    ready();
    await_go();
    EQUAL(write(0, "x", 1), 1);
    FAILS(fcntl(1, F_GETFD), EBADF);
    FAILS(fcntl(2, F_GETFD), EBADF);
    return done();
}
