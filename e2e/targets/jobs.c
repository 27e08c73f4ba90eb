/* A job of a shell: a program that lives on the terminal it was started from. */
#include "common.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <termios.h>

static volatile sig_atomic_t interrupts, sizes;

static void handle(int signal) {
    if (signal == SIGINT)
        interrupts++;
    else
        sizes++;
}

/*
 * Answers each line that is typed with `heard LINE`, each interrupt with `interrupt N`, each new size of the window with
 * `size ROWS`; ends with exit code 7 when told to go.
 */
TARGET(typist) {
    struct sigaction action = {.sa_handler = handle};
    MUST(sigaction(SIGINT, &action, NULL));
    MUST(sigaction(SIGWINCH, &action, NULL));
    ASSURE(tcgetpgrp(0) == getpgrp());
    ready();
    for (int told_interrupts = 0, told_sizes = 0; !go();) {
        if (interrupts > told_interrupts)
            printf("interrupt %d\n", told_interrupts = interrupts);
        if (sizes > told_sizes) {
            struct winsize size = {0};
            told_sizes = sizes;
            ioctl(0, TIOCGWINSZ, &size);
            printf("size %d\n", size.ws_row);
        }
        struct pollfd input = {.fd = 0, .events = POLLIN};
        if (poll(&input, 1, 5) == 1) {
            char line[128];
            ssize_t length = read(0, line, sizeof line - 1);
            line[length > 0 ? length : 0] = 0;
            if (length > 0)
                printf("heard %s", line);
        }
        fflush(stdout);
    }
    done();
    return 7;
}
