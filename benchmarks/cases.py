"""What is measured: each case is one way of sending to a server."""

from __future__ import annotations

from dataclasses import dataclass, replace

STEADY_RATE = 400.0
_MANY = 64
_SMOKE_CONNECTIONS = 16


@dataclass(frozen=True)
class Case:
    """One way of sending.

    Attributes:
        name: for `--only` and the results.
        title: for the table.
        protocol: as the load generator calls it.
        in_flight: requests on the way on each connection.
        events: in a request.
        rate: requests a second by the clock; 0: an answer is followed by the next request.
        method: of gRPC; the generator's default if empty.
        against: only ours has it; the others' figures of this case stand beside it.
        idle: its connections send nothing.
    """

    name: str
    title: str
    protocol: str
    connections: int = _MANY
    in_flight: int = 1
    events: int = 10
    rate: float = 0.0
    method: str = ""
    against: str = ""
    idle: bool = False

    @property
    def over_grpc(self) -> bool:
        """Whether it goes to the gRPC port."""
        return self.protocol.startswith("grpc")

    def at_rate(self, rate: float) -> Case:
        """The same by the clock."""
        if self.idle:
            return self
        title = self.title if self.rate else f"{self.title}, steady"
        return replace(self, title=title, rate=rate, in_flight=1)

    def with_connections(self, number: int) -> Case:
        """The same with so many, where its title does not say how many it has."""
        return replace(self, connections=number) if self.connections == _MANY else self

    def small(self) -> Case:
        """The same with few connections."""
        return self.with_connections(_SMOKE_CONNECTIONS)

    def describe(self) -> str:
        """What is sent, in words."""
        if self.idle:
            return f"{self.connections} connections that send nothing"
        pace = f", {self.rate:g} requests/s by the clock" if self.rate else ""
        return (
            f"{self.connections} connections, {self.in_flight} in flight on each, "
            f"{self.events} events a request{pace}"
        )


def all_cases(idle_connections: int) -> list[Case]:
    """Every case, in the order of the table."""
    return [
        Case("rest-json", "REST JSON", "rest-json"),
        Case("rest-proto", "REST protobuf", "rest-proto"),
        Case("ws-proto", "WebSocket protobuf", "ws-proto"),
        Case("ws-json", "WebSocket JSON", "ws-json"),
        Case(
            "ws-pipelined",
            "WebSocket protobuf, 16 connections, 16 in flight",
            "ws-proto",
            connections=16,
            in_flight=16,
        ),
        Case("ws-100", "WebSocket protobuf, 100 events", "ws-proto", events=100),
        Case("grpc", "gRPC unary", "grpc"),
        Case("grpc-100", "gRPC unary, 100 events", "grpc", events=100),
        Case(
            "grpc-stream",
            "gRPC stream, 16 connections, 16 in flight",
            "grpc-stream",
            connections=16,
            in_flight=16,
            method="/raccoon.v1.EventStreamService/SendEvents",
            against="grpc",
        ),
        Case("ws-steady", "WebSocket protobuf, steady", "ws-proto", rate=STEADY_RATE),
        Case("idle", "WebSocket, idle", "idle", connections=idle_connections, events=0, idle=True),
    ]
