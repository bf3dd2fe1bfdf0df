"""What every protocol's listener has, and what it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IListeningPort, IProtocolFactory
from zope.interface import Attribute

from raccoon.admission import ArrivingBytes
from raccoon.config import Settings
from raccoon.identification import Identification
from raccoon.intake import UNDECODABLE, Answer, Intake
from raccoon.interfaces import ICollector, IMetrics
from raccoon.service.rest.websocket.connections import ConnectionTable
from raccoon.supervision import Supervisor


class IEdge(IService):
    """The listener of one protocol or of several on one port.

    `privilegedStartService` binds, while a port below 1024 still can be, and raises StartError
    where it cannot; `startService` serves; `stopService` closes every connection.
    """

    name: str = Attribute("what it serves, such as `HTTP`")
    address: str = Attribute("where it listens, for people, once it is bound")

    def quiet(grace: float) -> Deferred[None]:  # noqa: N805 - zope methods take no self
        """Accept and read nothing more; answers still go out.

        Args:
            grace: seconds that answers may take from now on.

        Returns:
            Fires when all that was read is collected.
        """


class Shared(NamedTuple):
    """What a worker process has in common with others; see raccoon.processes.

    Attributes:
        listen: opens the HTTP listener.
        make_table: makes the table of WebSocket connections.
    """

    listen: Callable[[IProtocolFactory], IListeningPort]
    make_table: Callable[[IMetrics], ConnectionTable]


class EdgeContext(NamedTuple):
    """What an edge is made of.

    Attributes:
        reactor: it runs there.
        settings: the whole configuration.
        collector: where requests go, by an intake.
        identification: reads a client's id and group.
        metrics: counts.
        supervisor: watches threads, loops and callbacks.
        not_ready: why requests should not be sent here now; empty when they may.
        arriving: counts bodies and messages that are not whole yet, on all protocols.
        shared: what is shared with other worker processes; None: this is the only process.
    """

    reactor: Any
    settings: Settings
    collector: ICollector
    identification: Identification
    metrics: IMetrics
    supervisor: Supervisor
    not_ready: Callable[[], list[str]]
    arriving: ArrivingBytes
    shared: Shared | None = None

    def intake(
        self, protocol: str, undecodable: Answer = UNDECODABLE, requires_id: bool = False
    ) -> Intake:
        """The intake of a protocol; see Intake."""
        return Intake(
            protocol,
            self.collector,
            self.identification,
            self.metrics,
            self.reactor.seconds,
            self.supervisor,
            undecodable,
            requires_id,
        )


MakeEdge = Callable[[EdgeContext], IEdge]
