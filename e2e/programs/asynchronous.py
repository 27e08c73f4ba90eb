"""An event loop of python with everything that one can hold: subprocesses that talk and subprocesses that end, streams
over sockets, timers, signals and threads. It keeps to the conversation of targets/common.h over the directory in DIR."""

import asyncio
import os
import signal
import sys

DIR = os.environ["DIR"]
SQUARES = "import sys\nfor line in sys.stdin: print(int(line) ** 2, flush=True)"

# How often each kind of work was done.
counts = dict.fromkeys(("squares", "short", "echoes", "signals", "threads", "timers"), 0)


def path(name):
    return os.path.join(DIR, name)


def make(name):
    with open(path("." + name), "w") as file:
        file.write(f"{os.getpid()}\n")
    os.rename(path("." + name), path(name))


def complain(what):
    with open(path("complaints"), "a") as file:
        file.write(f"[pid {os.getpid()}] {what}\n")


def check(what, found, expected):
    if found != expected:
        complain(f"{what}: {found!r}, not {expected!r}")


def going():
    return not os.path.exists(path("go"))


async def squares():
    """Asks a subprocess that lives as long as this."""
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SQUARES, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    while going():
        number = counts["squares"]
        child.stdin.write(f"{number}\n".encode())
        check("square", await child.stdout.readline(), f"{number * number}\n".encode())
        counts["squares"] += 1
        await asyncio.sleep(0.001)
    child.stdin.close()
    check("exit code of the squaring child", await child.wait(), 0)


async def short():
    """Subprocesses that end at once: something is always being started, or waited for."""
    while going():
        code = counts["short"] % 100
        child = await asyncio.create_subprocess_exec(
            "sh", "-c", f"read line; echo \"$line\"; exit {code}", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await child.communicate(b"hello\n")
        check("output of a short child", output, b"hello\n")
        check("exit code of a short child", child.returncode, code)
        counts["short"] += 1


async def echo(reader, writer):
    while part := await reader.read(65536):
        writer.write(part)
        await writer.drain()
    writer.close()


async def echoes():
    """Both ends of a connection."""
    server = await asyncio.start_unix_server(echo, path("socket"))
    reader, writer = await asyncio.open_unix_connection(path("socket"))
    # More than a socket holds, so that somebody is always in the middle of something.
    text = b"x" * 300_000
    while going():
        line = b"%d %s\n" % (counts["echoes"], text)
        writer.write(line)
        check("echo", await reader.readexactly(len(line)) == line, True)
        counts["echoes"] += 1
        await asyncio.sleep(0.001)
    writer.close()
    server.close()


async def signals():
    """Each signal that is sent arrives, once."""
    arrived = asyncio.Queue()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, arrived.put_nowait, True)
    while going():
        os.kill(os.getpid(), signal.SIGUSR1)
        await arrived.get()
        check("signals that nobody sent", arrived.qsize(), 0)
        counts["signals"] += 1
        await asyncio.sleep(0.001)


async def threads():
    while going():
        check("a thread's answer", await asyncio.to_thread(pow, 3, 1000, 1007), pow(3, 1000, 1007))
        counts["threads"] += 1


async def timers():
    loop = asyncio.get_running_loop()
    while going():
        before = loop.time()
        await asyncio.sleep(0.002)
        if loop.time() < before:
            complain("time runs backwards")
        counts["timers"] += 1


async def main():
    async with asyncio.TaskGroup() as tasks:
        for work in (squares, short, echoes, signals, threads, timers):
            tasks.create_task(work())
        while not all(counts.values()):
            await asyncio.sleep(0.001)
        make("ready")
        # Somebody else looks at it, to see that all kinds of work go on.
        while going():
            with open(path(".counts"), "w") as file:
                print(*counts.values(), file=file)
            os.rename(path(".counts"), path("counts"))
            await asyncio.sleep(0.005)
    make("done")


asyncio.run(main())
