"""A person at a terminal, as a program: a shell on a pseudo-terminal, with one job stopped and one at work in the
background, and a line half typed. It keeps to the conversation of targets/common.h over the directory in DIR."""

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

DIR = os.environ["DIR"]
PATIENCE_S = 60


def path(name):
    return os.path.join(DIR, name)


def complain(what):
    with open(path("complaints"), "a") as file:
        file.write(f"[pid {os.getpid()}] {what}\n")


def make(name):
    with open(path("." + name), "w") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(path("." + name), path(name))


class Terminal:
    def __init__(self, *command):
        self.pid, self.master = pty.fork()
        if self.pid == 0:
            os.execvp(command[0], command)
        self.seen = b""

    def types(self, text):
        os.write(self.master, text.encode())

    def shows(self, text):
        """Waits until a text is on the screen, behind what was looked for before."""
        deadline = time.monotonic() + PATIENCE_S
        wanted = text.encode()
        while (at := self.seen.find(wanted)) < 0:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                complain(f"waited in vain for {text!r}: {self.seen!r}")
                sys.exit(1)
            self.seen += os.read(self.master, 4096)
        self.seen = self.seen[at + len(wanted):]


def main():
    os.chdir(DIR)
    os.environ["PS1"] = "ready> "
    shell = Terminal("bash", "--norc", "--noprofile", "-i")
    size = struct.pack("HHHH", 33, 101, 0, 0)
    fcntl.ioctl(shell.master, termios.TIOCSWINSZ, size)
    shell.shows("ready> ")
    # No line editing: the half line stays in the kernel.
    shell.types("set +o emacs; bind 'set enable-bracketed-paste off' 2>/dev/null\n")
    shell.shows("ready> ")
    shell.types("cat > held\n")
    shell.types("first\n")
    while not (os.path.exists(path("held")) and os.path.getsize(path("held")) == 6):
        time.sleep(0.01)
    shell.types("\x1a")
    shell.shows("Stopped")
    shell.shows("ready> ")
    shell.types("while :; do date > /dev/null; sleep 0.05; done &\n")
    shell.shows("ready> ")
    shell.types("secret=$((6 * 7))\n")
    shell.shows("ready> ")
    shell.types("echo \"answer $se")
    shell.shows("answer $se")
    make("ready")
    while not os.path.exists(path("go")):
        time.sleep(0.01)

    shell.types("cret\"\n")
    shell.shows("answer 42")
    shell.shows("ready> ")
    shell.types("jobs; tput cols 2>/dev/null || stty size\n")
    shell.shows("Stopped")
    shell.shows("Running")
    shell.shows("101")
    shell.shows("ready> ")
    shell.types("fg %1\n")
    shell.types("second\n")
    shell.types("\x04")
    shell.shows("ready> ")
    with open(path("held")) as file:
        if (text := file.read()) != "first\nsecond\n":
            complain(f"the job that was stopped has written {text!r}")
    shell.types("kill %2; wait %2; echo o''ver\n")
    shell.shows("over\r\n")
    shell.shows("ready> ")
    shell.types("exit 3\n")
    _, status = os.waitpid(shell.pid, 0)
    if os.waitstatus_to_exitcode(status) != 3:
        complain(f"the shell ended with status {status}")
    make("done")


main()
