"""A python program with threads, locks, queues, generators and subprocesses; it keeps to the conversation of
targets/common.h over the directory in DIR."""

import hashlib
import os
import queue
import subprocess
import sys
import threading
import time

DIR = os.environ["DIR"]


def path(name):
    return os.path.join(DIR, name)


def go():
    return os.path.exists(path("go"))


def complain(what):
    with open(path("complaints"), "a") as file:
        file.write(f"[pid {os.getpid()}] {what}\n")


def make(name):
    with open(path("." + name), "w") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(path("." + name), path(name))


def numbers():
    """A generator in the middle of its life."""
    value = 1
    while True:
        yield value
        value = value * 6364136223846793005 + 1442695040888963407 & (1 << 64) - 1


def produce(out, stop):
    for count, value in enumerate(numbers()):
        out.put((count, value))
        if stop.is_set():
            out.put(None)
            return
        time.sleep(0.001)


def consume(source, results):
    expected = numbers()
    digest = hashlib.sha256()
    count = 0
    while (item := source.get()) is not None:
        if item != (count, next(expected)):
            complain(f"item {count} is {item}")
        digest.update(repr(item).encode())
        count += 1
    results.append((count, digest.hexdigest()))


def converse(child, stop, results):
    """Asks a subprocess for squares, line by line."""
    count = 0
    while not stop.is_set():
        child.stdin.write(f"{count}\n")
        child.stdin.flush()
        answer = child.stdout.readline()
        if answer != f"{count * count}\n":
            complain(f"the square of {count} is {answer!r}")
        count += 1
        time.sleep(0.001)
    results.append(count)


SQUARES = "import sys\nfor line in sys.stdin: print(int(line) ** 2, flush=True)"


def main():
    stop = threading.Event()
    items = queue.Queue(maxsize=5)
    results, talks = [], []
    squares = subprocess.Popen([sys.executable, "-c", SQUARES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    sleeper = subprocess.Popen(["sleep", "1000"])
    threads = [
        threading.Thread(target=produce, args=(items, stop), name="producer"),
        threading.Thread(target=consume, args=(items, results), name="consumer"),
        threading.Thread(target=converse, args=(squares, stop, talks), name="talker"),
    ]
    for thread in threads:
        thread.start()
    memory = {number: str(number) * 3 for number in range(50000)}
    before = (sys.flags, os.environ.copy(), os.getcwd(), threading.get_native_id(), id(memory))
    while items.empty():
        time.sleep(0.001)
    make("ready")
    while not go():
        time.sleep(0.005)
    if before != (sys.flags, os.environ.copy(), os.getcwd(), threading.get_native_id(), id(memory)):
        complain("python's world has changed")
    if any(text != str(number) * 3 for number, text in memory.items()):
        complain("memory has changed")
    stop.set()
    for thread in threads:
        thread.join()
    squares.stdin.close()
    if squares.wait() != 0:
        complain(f"the squaring child ended with {squares.returncode}")
    if sleeper.poll() is not None:
        complain(f"the sleeping child ended with {sleeper.returncode}")
    sleeper.terminate()
    if sleeper.wait() != -15:
        complain(f"the sleeping child ended with {sleeper.returncode}")
    count, digest = results[0]
    expected = numbers()
    again = hashlib.sha256()
    for number in range(count):
        again.update(repr((number, next(expected))).encode())
    if digest != again.hexdigest():
        complain(f"another digest of {count} items")
    make("done")


main()
