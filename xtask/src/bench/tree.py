"""Processes that share half of their memory copy-on-write, for the benchmark: tree.py MIB PROCESSES.

Prints one line, "tree COUNTER PID ADDRESS BYTES [PID ADDRESS BYTES]...", and from then on has descriptors for /dev/null only
and adds one to a counter now and then.
"""

import ctypes
import mmap
import os
import sys
import time

CHUNK = 1 << 20


def region(size):
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def fill(memory):
    for at in range(0, len(memory), CHUNK):
        end = min(at + CHUNK, len(memory))
        memory[at:end] = os.urandom(end - at)


def address(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def forget_streams():
    null = os.open("/dev/null", os.O_RDWR)
    for fd in range(3):
        os.dup2(null, fd)
    os.closerange(3, 64)


def main():
    size, processes = int(sys.argv[1]) << 20, int(sys.argv[2])
    half = max(size // processes // 2 // 4096, 1) * 4096
    common, own, counter = region(half), region(half), region(4096)
    fill(common)
    reader, writer = os.pipe()
    parts = []
    for _ in range(processes - 1):
        pid = os.fork()
        if pid == 0:
            fill(own)
            os.write(writer, b".")
            forget_streams()
            while True:
                time.sleep(1)
        parts.append(pid)
    fill(own)
    left = processes - 1
    while left > 0:
        left -= len(os.read(reader, left))
    words = []
    for pid in [os.getpid(), *parts]:
        words += [pid, address(common), half, pid, address(own), half]
    print("tree", address(counter), *words, flush=True)
    forget_streams()
    count = ctypes.c_uint64.from_buffer(counter)
    while True:
        count.value += 1
        time.sleep(0.001)


main()
