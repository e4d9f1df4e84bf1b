"""A warm interpreter that rooms are forked from, so that they share what it imported.

It is freshly executed, with nothing of the harness in it, and runs no program: a room contains
itself once it was forked, and what programs do to it happens to a copy. The harness asks for rooms
over one socket of sequenced packets; each brings along the socket that it is spoken to by.
"""

import contextlib
import gc
import importlib
import os
import signal
import site
import socket
import sys
from typing import Any, Final, NoReturn

from sandbox import contain, libc, namespaces, rehearsal, zygote
from sandbox.messages import Message, receive, send
from sandbox.plan import Plan

_CONTROL: Final = 0
_PR_SET_CHILD_SUBREAPER: Final = 36
_MORE: Final = "raise the limits of processes, memory and open files, or use fewer workers"

# What programs import most: a first import costs a sample more than all the rest of its run. But
# each megabyte costs every fork and its end some 50 microseconds, each library that is mapped some
# 10, so what one program in hundreds imports is left out (base64, calendar, cmath, csv, hashlib,
# queue, secrets, statistics, tempfile, unicodedata, uuid).
_WARM: Final = """
abc array ast bisect collections.abc contextlib copy dataclasses datetime decimal enum fractions
functools heapq inspect io itertools json math numbers operator os random re string struct sys
textwrap threading time traceback types typing
""".split()  # noqa: SIM905
_WARM_FOR_CHECKS: Final = """
collections copy datetime decimal fractions functools itertools json math random re string typing
""".split()  # noqa: SIM905


def main(*, for_checks: bool) -> NoReturn:
    """Fork rooms until the harness is gone, and until they are, too."""
    _take_signals_back()
    _warm_up(for_checks=for_checks)
    namespaces.forbid_tracing()  # it is not contained
    # The harness sees by a descriptor when a room ends; nobody waits for it.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    control = socket.socket(fileno=_CONTROL)
    while (message := receive(control)) is not None:
        content: dict[str, Any]
        descriptors: dict[str, int] = {}
        try:
            pid = libc.fork()
            if pid == 0:
                _become_room(message)
            content, descriptors = {"pid": pid}, {"process": os.pidfd_open(pid)}
        except OSError as error:
            content = {"unavailable": [f"no room can be forked ({error.strerror})", _MORE]}
        message.close()
        with contextlib.suppress(BrokenPipeError):
            send(control, content, descriptors)
        for descriptor in descriptors.values():
            os.close(descriptor)
    with contextlib.suppress(ChildProcessError):
        os.wait()  # for all of them, since their ends are ignored
    os._exit(0)


def _take_signals_back() -> None:
    """What a harness in the background of a shell ignores, no sample should find ignored."""
    of_the_interpreter = {signal.SIGPIPE, signal.SIGXFSZ}
    for number in signal.valid_signals() - of_the_interpreter:
        if signal.getsignal(number) is signal.SIG_IGN:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.default_int_handler if is_interrupt else signal.SIG_DFL)


def _warm_up(*, for_checks: bool) -> None:
    """Import, parse and run what samples will; then keep the collector off what all share."""
    for name in _WARM_FOR_CHECKS if for_checks else _WARM:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    site.setquit()  # exit() and quit(), which -S leaves out
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    if not for_checks:
        site.sethelper()  # and help(); to checks that is a name like others, which may be asked for
        rehearsal.rehearse()
    # What is imported stays; programs need not find it, nor is it there to be imported again.
    for name in [name for name in sys.modules if name.partition(".")[0] == "sandbox"]:
        del sys.modules[name]
    gc.collect()
    gc.freeze()


def _become_room(message: Message) -> NoReturn:
    """A room's first process only waits: it adopts what its child, the room, leaves behind, and
    they die together. Then it removes the folder that the room had, if any. It does not fork before
    the harness has put it into its cgroup."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
        os.dup2(message.descriptors["control"], contain.CONTROL)
        message.close()
        control = socket.socket(fileno=contain.CONTROL)
        if receive(control) is None:  # that it is in its cgroup
            os._exit(0)
        first = os.getpid()
        plan = Plan.from_json(message.content["plan"])
        if libc.fork():
            os.closerange(0, os.sysconf("SC_OPEN_MAX"))
            with contextlib.suppress(ChildProcessError):
                while True:
                    os.wait()
            # Whoever made it may have been killed. (One in a container is used again.)
            if plan.workspace is not None and not plan.in_container:
                with contextlib.suppress(OSError):
                    zygote.remove(plan.workspace)
            os._exit(0)
        namespaces.die_with(first)
        namespaces.allow_tracing()  # what is in /proc/self is to be this user's, until contained
        zygote.main(control, plan)
    finally:
        os._exit(code)
