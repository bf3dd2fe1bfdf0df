"""What a signal does to the process."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

_log = Logger()


def stop_on_signals(reactor: Any, watch: Callable[[], object], terminal: bool = True) -> None:
    """SIGTERM and SIGINT drain and exit 0, where twistd would end by the signal itself.

    Args:
        reactor: is stopped.
        watch: called at the first of them, even where the reactor hangs: sees to it that the
            process ends.
        terminal: whether SIGINT and SIGHUP, which a terminal sends to all processes, count too.
    """
    watching = False

    def stop(*_: object) -> None:
        nonlocal watching
        if not watching:
            watching = True
            watch()
        reactor.callFromThread(stop_reactor, reactor)

    signal.signal(signal.SIGTERM, stop)
    if terminal:
        signal.signal(signal.SIGINT, stop)
        signal.signal(
            signal.SIGHUP,
            lambda *_: reactor.callFromThread(
                _log.warn, "SIGHUP: the configuration is read at start only; restart to change it"
            ),
        )


def stop_reactor(reactor: Any) -> None:
    """Stop it, if that has not been done."""
    try:
        reactor.stop()
    except ReactorNotRunning:
        _log.info("already stopping")
