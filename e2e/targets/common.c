#include "common.h"

#include <stdarg.h>

char directory[PATH_MAX];

extern const struct target __start_targets[], __stop_targets[];

const char *in_directory(const char *name) {
    static __thread char paths[4][PATH_MAX + 64];
    static __thread unsigned next;
    char *path = paths[next++ % 4];
    snprintf(path, sizeof paths[0], "%s/%s", directory, name);
    return path;
}

/* Makes a file in one step, so that whoever sees it sees all of it. Open to all: some targets are no longer root. */
static void publish(const char *name, const char *content) {
    char staging[64];
    snprintf(staging, sizeof staging, ".%s.%d", name, (int)gettid_());
    int fd = open(in_directory(staging), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0)
        _exit(70);
    if (write(fd, content, strlen(content)) < 0)
        _exit(70);
    close(fd);
    if (rename(in_directory(staging), in_directory(name)) != 0)
        _exit(70);
}

void ready(void) {
    char pid[16];
    snprintf(pid, sizeof pid, "%d\n", (int)getpid());
    publish("ready", pid);
}

bool go(void) {
    return access(in_directory("go"), F_OK) == 0;
}

void await_go(void) {
    while (!go())
        pause_ms(5);
}

int done(void) {
    publish("done", "done\n");
    return 0;
}

void skip(const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    publish("skip", line);
    _exit(77);
}

void unable(const char *file, int line, const char *what) {
    char text[1024];
    snprintf(text, sizeof text, "%s:%d: %s: %s\n", file, line, what, strerror(errno));
    publish("unable", text);
    _exit(71);
}

void complain(const char *file, int line, const char *format, ...) {
    int error = errno;
    char text[2048];
    int length = snprintf(text, sizeof text, "%s:%d: [pid %d tid %d] ", file, line, (int)getpid(), (int)gettid_());
    va_list arguments;
    va_start(arguments, format);
    length += vsnprintf(text + length, sizeof text - (size_t)length - 1, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof text - 2)
        length = (int)sizeof text - 2;
    text[length++] = '\n';
    int fd = open(in_directory("complaints"), O_WRONLY | O_APPEND | O_CLOEXEC);
    if (fd < 0 || write(fd, text, (size_t)length) != length)
        _exit(72);
    close(fd);
    errno = error;
}

void *share(size_t size) {
    return MUST(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
}

pid_t child(int (*body)(void *), void *argument) {
    pid_t pid = MUST(fork());
    if (pid == 0)
        _exit(body(argument));
    return pid;
}

void expect_exit(pid_t pid, int code) {
    int status = -1;
    if (waitpid(pid, &status, 0) != pid)
        complain(__FILE__, __LINE__, "cannot wait for child %d: %s", (int)pid, strerror(errno));
    else if (!WIFEXITED(status) || WEXITSTATUS(status) != code)
        complain(__FILE__, __LINE__, "child %d ended with status 0x%x, not with exit code %d", (int)pid, status, code);
}

void await_count(atomic_int *counter, int value) {
    while (atomic_load(counter) < value)
        pause_ms(1);
}

void pause_ms(int ms) {
    struct timespec rest = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&rest, NULL);
}

pid_t gettid_(void) {
    return (pid_t)syscall(SYS_gettid);
}

void await_blocked(pid_t pid, pid_t tid, long number) {
    char path[64], text[128];
    snprintf(path, sizeof path, "/proc/%d/task/%d/syscall", (int)pid, (int)tid);
    for (;;) {
        int fd = MUST(open(path, O_RDONLY | O_CLOEXEC));
        ssize_t length = MUST(read(fd, text, sizeof text - 1));
        close(fd);
        text[length] = 0;
        char *end;
        long current = strtol(text, &end, 10);
        if (end != text && current == number)
            return;
        pause_ms(1);
    }
}

char state_of(pid_t pid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return '-';
    ssize_t length = read(fd, text, sizeof text - 1);
    close(fd);
    if (length <= 0)
        return '-';
    text[length] = 0;
    char *end = strrchr(text, ')');
    return end != NULL && end[1] == ' ' ? end[2] : '?';
}

int64_t now_ns(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static uint64_t mix(uint64_t x) {
    x += 0x9e3779b97f4a7c15ULL;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
    return x ^ (x >> 31);
}

void fill(void *memory, size_t size, uint64_t seed) {
    uint64_t *words = memory;
    for (size_t i = 0; i < size / 8; i++)
        words[i] = mix(seed + i);
    for (size_t i = size / 8 * 8; i < size; i++)
        ((uint8_t *)memory)[i] = (uint8_t)mix(seed + i);
}

bool filled(const void *memory, size_t size, uint64_t seed) {
    const uint64_t *words = memory;
    for (size_t i = 0; i < size / 8; i++)
        if (words[i] != mix(seed + i))
            return false;
    for (size_t i = size / 8 * 8; i < size; i++)
        if (((const uint8_t *)memory)[i] != (uint8_t)mix(seed + i))
            return false;
    return true;
}

/* `launch [same-session] CMD...`: a session of its own and no descriptor but the standard streams, then CMD. */
static int launch(int argc, char **argv) {
    bool same = argc > 2 && strcmp(argv[2], "same-session") == 0;
    argv += same ? 3 : 2;
    if (*argv == NULL)
        return 64;
    close_range(3, ~0U, 0);
    if (!same && setsid() < 0) {
        perror("setsid");
        return 71;
    }
    execvp(*argv, argv);
    perror(*argv);
    return 127;
}

/* `measure FILE CMD...`: runs CMD, writes its greatest resident set in KiB to FILE and passes its exit code on. */
static int measure(int argc, char **argv) {
    if (argc < 4)
        return 64;
    pid_t pid = fork();
    if (pid == 0) {
        execvp(argv[3], argv + 3);
        _exit(127);
    }
    int status;
    struct rusage usage;
    if (pid < 0 || wait4(pid, &status, 0, &usage) != pid)
        return 71;
    FILE *file = fopen(argv[2], "w");
    if (file == NULL || fprintf(file, "%ld\n", usage.ru_maxrss) < 0 || fclose(file) != 0)
        return 71;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* `adopt CMD...`: runs CMD and passes its exit code on; orphans that it leaves behind are waited for, as init does. */
static int adopt(int argc, char **argv) {
    if (argc < 3 || prctl(PR_SET_CHILD_SUBREAPER, 1) != 0)
        return 64;
    pid_t pid = fork(), ended;
    if (pid == 0) {
        execvp(argv[2], argv + 2);
        _exit(127);
    }
    int status;
    while ((ended = wait(&status)) != pid)
        if (ended < 0)
            return 71;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* `PROGRAM TARGET DIR ARGUMENTS...`, or one of the helpers above. */
int main(int argc, char **argv) {
    if (argc >= 2 && strcmp(argv[1], "launch") == 0)
        return launch(argc, argv);
    if (argc >= 2 && strcmp(argv[1], "measure") == 0)
        return measure(argc, argv);
    if (argc >= 2 && strcmp(argv[1], "adopt") == 0)
        return adopt(argc, argv);
    if (argc >= 2 && strcmp(argv[1], "nothing") == 0)
        return 0;
    if (argc < 3) {
        fprintf(stderr, "usage: %s TARGET DIR ARGUMENTS...\n", argv[0]);
        return 64;
    }
    snprintf(directory, sizeof directory, "%s", argv[2]);
    for (const struct target *target = __start_targets; target < __stop_targets; target++) {
        if (strcmp(target->name, argv[1]) != 0)
            continue;
        argv[2] = argv[1];
        return target->run(argc - 2, argv + 2);
    }
    fprintf(stderr, "no target `%s`\n", argv[1]);
    return 64;
}
