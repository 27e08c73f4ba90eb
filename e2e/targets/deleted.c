/* Files that lost their names: with other names left, replaced by others, in directories that are gone. */
#include "common.h"

#include <sys/mman.h>
#include <sys/wait.h>

static const char text[] = "what was written before";

static int make(const char *name) {
    int fd = MUST(open(in_directory(name), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    MUST(write(fd, text, sizeof text));
    return fd;
}

static void expect_text(int fd) {
    char got[sizeof text] = "";
    EQUAL(pread(fd, got, sizeof got, 0), sizeof text);
    EQUAL(memcmp(got, text, sizeof text), 0);
}

/* Two descriptors of one file, whatever it is called. */
static void expect_same(int one, int other) {
    struct stat first, second;
    WORKS(fstat(one, &first));
    WORKS(fstat(other, &second));
    EQUAL(first.st_ino, second.st_ino);
}

TARGET(renamed) {
    int linked = make("lost");
    MUST(link(in_directory("lost"), in_directory("kept")));
    MUST(unlink(in_directory("lost")));
    int twin = MUST(dup(linked));
    /* Another file has the name by now. */
    int replaced = make("taken");
    MUST(link(in_directory("taken"), in_directory("older")));
    int newer = make("newer");
    MUST(rename(in_directory("newer"), in_directory("taken")));
    /* The name is the file's own again. */
    int back = make("back");
    MUST(link(in_directory("back"), in_directory("also")));
    MUST(unlink(in_directory("back")));
    MUST(link(in_directory("also"), in_directory("back")));
    /* The directory is gone, the file has a name elsewhere. */
    MUST(mkdir(in_directory("directory"), 0755));
    int moved = make("directory/file");
    MUST(link(in_directory("directory/file"), in_directory("outside")));
    MUST(unlink(in_directory("directory/file")));
    MUST(rmdir(in_directory("directory")));
    /* Mapped, and not open any more. */
    int mapped_file = make("mapped");
    MUST(ftruncate(mapped_file, 8192));
    char *mapped = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, mapped_file, 0);
    ASSURE(mapped != MAP_FAILED);
    MUST(link(in_directory("mapped"), in_directory("mapped too")));
    MUST(unlink(in_directory("mapped")));
    close(mapped_file);
    ready();
    await_go();
    expect_text(linked);
    int kept = WORKS(open(in_directory("kept"), O_RDONLY | O_CLOEXEC));
    expect_same(linked, kept);
    WORKS(pwrite(twin, "W", 1, 0));
    char byte = 0;
    EQUAL(pread(kept, &byte, 1, 0), 1);
    EQUAL(byte, 'W');
    FAILS(access(in_directory("lost"), F_OK), ENOENT);
    expect_same(replaced, WORKS(open(in_directory("older"), O_RDONLY | O_CLOEXEC)));
    expect_same(newer, WORKS(open(in_directory("taken"), O_RDONLY | O_CLOEXEC)));
    expect_same(back, WORKS(open(in_directory("back"), O_RDONLY | O_CLOEXEC)));
    expect_same(moved, WORKS(open(in_directory("outside"), O_RDONLY | O_CLOEXEC)));
    FAILS(access(in_directory("directory"), F_OK), ENOENT);
    EQUAL(strcmp(mapped, text), 0);
    mapped[0] = 'M';
    int file = WORKS(open(in_directory("mapped too"), O_RDONLY | O_CLOEXEC));
    EQUAL(pread(file, &byte, 1, 0), 1);
    EQUAL(byte, 'M');
    return done();
}

/* Files in /proc of a process that is gone: open, and as working directory. */
static int sleeps(void *unused) {
    (void)unused;
    pause();
    return 0;
}

TARGET(dead_process) {
    pid_t pid = child(sleeps, NULL);
    char path[64], now[64];
    snprintf(path, sizeof path, "/proc/%d", (int)pid);
    int place = MUST(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    int status = MUST(openat(place, "status", O_RDONLY | O_CLOEXEC));
    MUST(chdir(path));
    MUST(kill(pid, SIGKILL));
    int how;
    MUST(waitpid(pid, &how, 0));
    ready();
    await_go();
    CHECK(getcwd(now, sizeof now) == NULL && errno == ENOENT);
    FAILS(openat(place, "stat", O_RDONLY | O_CLOEXEC), ESRCH);
    FAILS(read(status, now, sizeof now), ESRCH);
    return done();
}
