"""What a signal does to the process."""

from __future__ import annotations

import signal
from typing import Any

from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger

_log = Logger()


def stop_on_signals(reactor: Any, terminal: bool = True) -> None:
    """SIGTERM and SIGINT drain and exit 0, where twistd would end by the signal itself.

    Args:
        reactor: is stopped.
        terminal: whether SIGINT and SIGHUP, which a terminal sends to all processes, count too.
    """
    signal.signal(signal.SIGTERM, lambda *_: reactor.callFromThread(stop_reactor, reactor))
    if terminal:
        signal.signal(signal.SIGINT, lambda *_: reactor.callFromThread(stop_reactor, reactor))
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
