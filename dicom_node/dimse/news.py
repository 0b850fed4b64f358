"""Lets the two threads of an association sleep until there is something for them to do.

pynetdicom's threads look around a thousand times a second, whatever happens: an open association on
which nothing is sent takes 4 to 8 % of a core, and each message waits for the next look, several
times. What they look at is known: the socket, their queues, and whether they shall end. Part of
`dimse.patches`, which says when this is used.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Queue
from typing import Any, cast

from pynetdicom import association, dul
from pynetdicom.association import Association

LOOK_S = 0.2
"""Longest sleep: ARTIM and idle timers, which pass by time alone, are looked at as often."""

_REACTOR_S = 0.001
"""The sleep in `Association._run_reactor`."""
_PAUSE_S = 0.0001
"""The sleep of who waits until the association's own thread has stopped."""


class News:
    """What wakes the threads of one association.

    Parameters
    ----------
    assoc : Association
        One whose threads have not been started.
    """

    def __init__(self, assoc: Association) -> None:
        self._assoc = assoc
        self._lock = threading.Lock()
        self._for_user = threading.Event()
        self._for_provider = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._for_provider, select.POLLIN)
        self._watched = -1
        provider: Any = assoc.dul
        self.follow(assoc.dimse.msg_queue)
        self.follow(provider.to_user_queue)
        assoc._reactor_checkpoint = _Checkpoint(assoc, self._for_user.set)
        for queue in (provider.to_provider_queue, provider.event_queue):
            _act_before(queue, "put", self.wake_provider, after=True)
        _act_before(provider, "kill_dul", self.wake_provider, after=True)
        # pynetdicom waits in these two until the thread has seen its flag: it has to be awake by
        # then
        _act_before(provider, "stop_dul", self._stop_provider)
        _act_before(assoc, "kill", self._kill_association)
        _act_before(provider, "run", self._close_descriptor, after=True)
        cast("Any", assoc)._sleep, provider._sleep = self._user_sleeps, self._provider_sleeps

    def __del__(self) -> None:
        self._close_descriptor()  # of an association that never began

    def follow(self, queue: Queue[Any]) -> None:
        """Wake the association's own thread when something is put into `queue`."""
        _act_before(queue, "put", self._for_user.set, after=True)

    def wake_provider(self) -> None:
        """Wake the thread that reads and writes the socket."""
        # With a lock: a descriptor that is closed meanwhile may belong to a file by now.
        with self._lock:
            if self._for_provider >= 0:
                os.eventfd_write(self._for_provider, 1)

    def _close_descriptor(self) -> None:
        with self._lock:
            descriptor, self._for_provider = self._for_provider, -1
            if descriptor >= 0:
                os.close(descriptor)
        self._for_user.set()

    def _stop_provider(self) -> None:
        if self._assoc.dul.state_machine.current_state == "Sta1":
            self._assoc.dul._kill_thread = True
            self.wake_provider()

    def _kill_association(self) -> None:
        self._assoc._kill = True
        self._for_user.set()

    def _user_sleeps(self, seconds: float) -> None:
        if seconds == _REACTOR_S:
            self._for_user.wait(LOOK_S)
            # cleared before the thread looks around: what comes from now on wakes it again
            self._for_user.clear()
        elif seconds == _PAUSE_S:
            # It waits for itself: it releases after a time-out. So nobody else takes its messages.
            self._assoc._is_paused = True
        else:
            time.sleep(seconds)

    def _provider_sleeps(self, _seconds: float) -> None:
        # In its own thread pynetdicom's file sleeps at one place only.
        self._watch_socket()
        self._poll.poll(LOOK_S * 1000)
        with suppress(BlockingIOError):
            os.eventfd_read(self._for_provider)

    def _watch_socket(self) -> None:
        stream = self._assoc.dul.socket
        connection = None if stream is None else stream.socket
        descriptor = -1 if connection is None else connection.fileno()
        if descriptor != self._watched:
            if self._watched >= 0:
                # poll forgets nothing by itself, and the number may be another socket's by now
                with suppress(KeyError):
                    self._poll.unregister(self._watched)
            if descriptor >= 0:
                self._poll.register(descriptor, select.POLLIN)
            self._watched = descriptor


class _Checkpoint(threading.Event):
    """Where an association's own thread stops while another sends and awaits the answer.

    pynetdicom's thread says that it stops before it does, and that it goes on after it does. Who
    sends in between meets a thread that runs, and that may take the answer from the queue: it then
    aborts the association, since nobody asked it. Here it goes on and says so at once.
    """

    def __init__(self, assoc: Association, on_clear: Callable[[], None]) -> None:
        super().__init__()
        self._assoc = assoc
        self._on_clear = on_clear
        self._going_on = threading.Lock()
        self.is_reached = False
        """Whether the thread has stopped here, whatever a request that another serves says."""
        self.set()

    def clear(self) -> None:
        """Let the thread stop, soon."""
        with self._going_on:
            super().clear()
        self._on_clear()

    def wait(self, timeout: float | None = None) -> bool:
        """Stop here until the checkpoint is set."""
        while True:
            with self._going_on:
                # under the lock, so that who clears it and who stops here agree on whether it has
                # stopped
                self.is_reached = not self.is_set()
                if not self.is_reached:
                    self._assoc._is_paused = False
                    return True
            super().wait(timeout)


class _Time:
    """The module ``time`` for two files of pynetdicom, which use nothing of it but ``sleep``."""

    @staticmethod
    def sleep(seconds: float) -> None:
        """Sleep until there are news, in a thread of an association; else as long as asked."""
        getattr(threading.current_thread(), "_sleep", time.sleep)(seconds)


def use_news() -> None:
    """Let each association that is made from now on sleep until there are news."""
    if not hasattr(os, "eventfd") or isinstance(getattr(dul, "time", None), _Time):
        return
    begin = Association.__init__

    def with_news(self: Association, *args: Any, **kwargs: Any) -> None:
        begin(self, *args, **kwargs)
        cast("Any", self)._news = News(self)

    Association.__init__ = with_news  # type: ignore[method-assign]
    cast("Any", Association)._is_paused = property(_is_paused, _set_paused)
    cast("Any", association).time = cast("Any", dul).time = _Time()


def _is_paused(assoc: Association) -> bool:
    """Return whether an association's own thread leaves messages to others."""
    checkpoint = assoc.__dict__.get("_reactor_checkpoint")
    has_stopped = isinstance(checkpoint, _Checkpoint) and checkpoint.is_reached
    return has_stopped or bool(assoc.__dict__.get("_is_paused"))


def _set_paused(assoc: Association, is_paused: bool) -> None:
    assoc.__dict__["_is_paused"] = is_paused


def _act_before(owner: object, name: str, act: Callable[[], None], *, after: bool = False) -> None:
    """Let one object do `act` before, or after, what its method `name` does."""
    standard = getattr(owner, name)

    def both(*args: Any, **kwargs: Any) -> Any:
        if not after:
            act()
        try:
            return standard(*args, **kwargs)
        finally:
            if after:
                act()

    setattr(owner, name, both)
