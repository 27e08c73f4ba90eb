"""A python program whose subprocesses talk over socketpairs and whose clients come to a path, all in one event loop; it
keeps to the conversation of targets/common.h over the directory in DIR."""

import asyncio
import os
import socket
import sys

DIR = os.environ["DIR"]

# Answers every line with its number, and what it is in capitals.
WORKER = """
import sys
for count, line in enumerate(sys.stdin):
    print(count, line.strip().upper(), flush=True)
"""


def path(name):
    return os.path.join(DIR, name)


def complain(what):
    with open(path("complaints"), "a") as file:
        file.write(f"[pid {os.getpid()}] {what}\n")


def make(name):
    with open(path("." + name), "w") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(path("." + name), path(name))


class Talk:
    """Numbered lines there and back."""

    def __init__(self, name, reader, writer):
        self.name, self.reader, self.writer, self.count = name, reader, writer, 0

    async def step(self):
        self.writer.write(f"{self.name} {self.count}\n".encode())
        await self.writer.drain()
        answer = (await self.reader.readline()).decode().strip()
        expected = f"{self.count} {self.name.upper()} {self.count}"
        if answer != expected:
            complain(f"{self.name}: {answer!r} instead of {expected!r}")
            raise SystemExit(1)
        self.count += 1

    async def talk(self, stop):
        while not stop.is_set():
            await self.step()
            await asyncio.sleep(0.002)
        self.writer.close()


async def over_socketpair(name):
    """A subprocess both of whose streams are one socket."""
    ours, theirs = socket.socketpair()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", WORKER, stdin=theirs, stdout=theirs)
    theirs.close()
    reader, writer = await asyncio.open_connection(sock=ours)
    return process, Talk(name, reader, writer)


async def answer(reader, writer):
    count = 0
    while line := await reader.readline():
        writer.write(f"{count} {line.decode().strip().upper()}\n".encode())
        await writer.drain()
        count += 1
    writer.close()


async def main():
    stop = asyncio.Event()
    server = await asyncio.start_unix_server(answer, path("server"))
    workers = [await over_socketpair(f"worker{index}") for index in range(2)]
    clients = [
        Talk(f"client{index}", *await asyncio.open_unix_connection(path("server"))) for index in range(2)
    ]
    talks = [talk for _, talk in workers] + clients
    for talk in talks:
        await talk.step()
    tasks = [asyncio.create_task(talk.talk(stop)) for talk in talks]
    make("ready")
    while not os.path.exists(path("go")):
        await asyncio.sleep(0.01)
    late = Talk("late", *await asyncio.open_unix_connection(path("server")))
    await late.step()
    late.writer.close()
    stop.set()
    await asyncio.gather(*tasks)
    for process, _ in workers:
        if await process.wait() != 0:
            complain(f"a worker ended with {process.returncode}")
    server.close()
    make("done")


asyncio.run(main())
