"""Test cases whose tests share what takes seconds to start."""

from __future__ import annotations

import atexit
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.engines.kafka import KafkaBroker
from tests.integration.daemon import Daemon

_shared = ExitStack()
_owner: type[SharedCase] | None = None
atexit.register(_shared.close)


class SharedCase(SynchronousTestCase):
    """Has a `share_setup` that runs once for its class: trial runs no setUpClass.

    What it shares ends when a test of another class begins, or with the process.
    """

    def setUp(self) -> None:
        global _owner  # noqa: PLW0603 - one class at a time is the point
        if _owner is not type(self):
            _shared.close()
            _owner = None
            self.share_setup()
            _owner = type(self)

    @classmethod
    def share_setup(cls) -> None:
        """Start what the class's tests share and keep it in attributes of the class."""
        raise NotImplementedError

    @staticmethod
    def at_class_end(end: Callable[[], object]) -> None:
        """Call `end` after the last test of the class."""
        _shared.callback(end)

    @classmethod
    def share_broker(cls, *, auto_create: bool = True, secure: bool = False) -> KafkaBroker:
        """A Kafka for the class."""
        directory = tempfile.TemporaryDirectory(prefix="raccoon-kafka-")
        cls.at_class_end(directory.cleanup)
        broker = KafkaBroker(Path(directory.name), auto_create=auto_create, secure=secure)
        cls.at_class_end(broker.kill)
        broker.start()
        return broker

    @classmethod
    def share_daemon(cls, settings: dict[str, object]) -> Daemon:
        """A service for the class."""
        daemon = Daemon(settings)
        cls.at_class_end(daemon.kill)
        daemon.start()
        return daemon

    def start_daemon(self, settings: dict[str, object]) -> Daemon:
        """A service for this test alone."""
        daemon = Daemon(settings)
        self.addCleanup(daemon.kill)
        daemon.start()
        return daemon
