"""Processes that a test forks off: as real as any other, without the seconds that it takes to import torch again."""

import os
import signal
import socket
import traceback


def fork(act):
    """Its number; the child does that alone, and ends."""
    child = os.fork()
    if child:
        return child
    try:
        act()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def killed_at(module, update, act):
    """Has a child do that until it kills itself before this update of training; says whether it did."""
    descend, updates = module.descend, []

    def descend_until(*arguments, **options):
        if "processes" in options:  # an update of training, not of what comes before
            updates.append(1)
            if len(updates) == update:
                os.kill(os.getpid(), signal.SIGKILL)
        return descend(*arguments, **options)

    def until():
        module.descend = descend_until
        act()

    _, status = os.waitpid(fork(until), 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def together(count, act):
    """Has so many children do act(rank) as torchrun would have them; the exit status of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}

    def one(rank):
        os.environ |= common | {"LOCAL_WORLD_SIZE": str(count), "RANK": str(rank), "LOCAL_RANK": str(rank)}
        act(rank)

    children = [fork(lambda rank=rank: one(rank)) for rank in range(count)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
