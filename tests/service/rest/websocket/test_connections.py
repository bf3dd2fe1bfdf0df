"""The table of connections and their keep-alive."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from raccoon.messages import Identifier
from raccoon.service.rest.websocket.connections import ConnectionTable, KeepAlive, RefusedError
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics


class FakeConnection:
    """Notes when it is pinged and when its pong is missed.

    Args:
        clock: tells when.
        answers: whether it answers each ping at once.
        id: its id.
        group: its group.
    """

    def __init__(
        self, clock: Clock, answers: bool = True, id: str = "id", group: str = "group"
    ) -> None:
        self.identifier = Identifier(id, group)
        self.last_pong = 0.0
        self._clock = clock
        self._answers = answers
        self.pinged: list[float] = []
        self.missed: list[float] = []

    def ping(self) -> None:
        self.pinged.append(self._clock.seconds())
        if self._answers:
            self.last_pong = self._clock.seconds()

    def pong_missing(self) -> None:
        self.missed.append(self._clock.seconds())

    def go_away(self) -> None:
        raise AssertionError("not a matter of the table")

    stop_reading = abort = go_away


class ConnectionTableTests(SynchronousTestCase):
    """Who is connected."""

    def setUp(self) -> None:
        self.metrics = FakeMetrics()
        self.table = ConnectionTable(3, self.metrics)

    def make(self, id: str = "id", group: str = "group") -> FakeConnection:
        return FakeConnection(Clock(), id=id, group=group)

    def refusal(self, connection: FakeConnection) -> str:
        error: RefusedError = self.assertRaises(RefusedError, self.table.add, connection)
        return error.reason

    def test_added_and_removed(self) -> None:
        """A connection is in the table from `add` to `remove`, and counted by its group."""
        a, b = self.make("a", "x"), self.make("b", "y")
        self.table.add(a)
        self.table.add(b)
        self.assertEqual((list(self.table), len(self.table)), ([a, b], 2))
        self.assertEqual(self.metrics.level("connections_count_current", ("x",)), 1)
        self.table.remove(a)
        self.assertEqual(list(self.table), [b])
        self.assertEqual(self.metrics.level("connections_count_current", ("x",)), 0)
        self.assertEqual(self.metrics.level("connections_count_current", ("y",)), 1)

    def test_identifier_that_is_taken(self) -> None:
        """A second connection of an identifier is refused, and the first one stays."""
        first = self.make()
        self.table.add(first)
        self.assertEqual(self.refusal(self.make()), "exists")
        self.assertEqual(list(self.table), [first])
        self.assertEqual(self.metrics.level("connections_count_current"), 1)

    def test_removing_a_refused_connection(self) -> None:
        """The end of a connection that was refused leaves the one in the table alone."""
        first, second = self.make(), self.make()
        self.table.add(first)
        self.refusal(second)
        self.table.remove(second)
        self.assertEqual(list(self.table), [first])
        self.assertEqual(self.metrics.level("connections_count_current"), 1)

    def test_removing_twice(self) -> None:
        """A connection that is removed twice is counted down once."""
        connection = self.make()
        self.table.add(connection)
        self.table.remove(connection)
        self.table.remove(connection)
        self.assertEqual(self.metrics.level("connections_count_current"), 0)

    def test_same_id_in_another_group(self) -> None:
        """An identifier is the pair of id and group."""
        self.table.add(self.make("id", "x"))
        self.table.add(self.make("id", "y"))
        self.assertEqual(len(self.table), 2)

    def test_full(self) -> None:
        """A connection over the limit is refused until another is gone."""
        first = self.make("0")
        self.table.add(first)
        self.table.add(self.make("1"))
        self.table.add(self.make("2"))
        self.assertEqual(self.refusal(self.make("3")), "serverlimit")
        self.table.remove(first)
        self.table.add(self.make("3"))
        self.assertEqual(len(self.table), 3)

    def test_may_shrink_while_it_is_walked(self) -> None:
        """Connections may leave while all of them are asked to."""
        for id in "abc":
            self.table.add(self.make(id))
        for connection in self.table:
            self.table.remove(connection)
        self.assertEqual(len(self.table), 0)


class KeepAliveTests(SynchronousTestCase):
    """Pings each connection at its own time."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.keep_alive = KeepAlive(self.clock, 30, 60, Supervisor(FakeMetrics()))

    def pass_time(self, seconds: float, step: float = 0.05) -> None:
        self.clock.pump([step] * round(seconds / step))

    def assert_about(self, times: list[float], expected: list[float]) -> None:
        """Each time is at most a fifth of a second after the expected one."""
        self.assertEqual(len(times), len(expected), times)
        for time, wanted in zip(times, expected, strict=True):
            self.assertTrue(wanted - 0.01 <= time <= wanted + 0.2, (times, expected))

    def test_pings_at_the_interval(self) -> None:
        """A connection that answers is pinged at each interval, counted from its own start."""
        self.pass_time(7)
        connection = FakeConnection(self.clock)
        self.keep_alive.watch(connection)
        self.pass_time(95)
        self.assert_about(connection.pinged, [37, 67, 97])
        self.assertEqual(connection.missed, [])

    def test_connections_keep_their_own_times(self) -> None:
        """Connections that came apart are pinged apart."""
        first, second = FakeConnection(self.clock), FakeConnection(self.clock)
        self.keep_alive.watch(first)
        self.pass_time(10)
        self.keep_alive.watch(second)
        self.pass_time(55)
        self.assert_about(first.pinged, [30, 60])
        self.assert_about(second.pinged, [40])

    def test_missing_pong_is_told_once(self) -> None:
        """A connection without an answer is given up once, though its end comes a turn later."""
        connection = FakeConnection(self.clock, answers=False)

        def drop() -> None:
            connection.missed.append(self.clock.seconds())
            self.clock.callLater(0, stop)

        connection.pong_missing = drop  # type: ignore[method-assign]
        stop = self.keep_alive.watch(connection)
        self.pass_time(60.5)
        self.assert_about(connection.pinged, [30])
        self.assert_about(connection.missed, [60])

    def test_pong_wait_shorter_than_the_interval(self) -> None:
        """The wait for a pong holds even where the next ping is later."""
        keep_alive = KeepAlive(self.clock, 30, 10, Supervisor(FakeMetrics()))
        connection = FakeConnection(self.clock)
        keep_alive.watch(connection)
        self.pass_time(10.5)
        self.assert_about(connection.missed[:1], [10])

    def test_late_pong(self) -> None:
        """A pong, however late within the wait, begins the wait anew."""
        connection = FakeConnection(self.clock, answers=False)
        self.keep_alive.watch(connection)
        self.pass_time(59)
        connection.last_pong = self.clock.seconds()
        self.pass_time(59)
        self.assertEqual(connection.missed, [])
        self.pass_time(1.2)
        self.assert_about(connection.missed[:1], [119])

    def test_connection_may_excuse_itself(self) -> None:
        """A connection that sets `last_pong` anew when it is given up is watched on."""
        connection = FakeConnection(self.clock, answers=False)

        def excuse() -> None:
            connection.missed.append(self.clock.seconds())
            connection.last_pong = self.clock.seconds()

        connection.pong_missing = excuse  # type: ignore[method-assign]
        self.keep_alive.watch(connection)
        self.pass_time(125)
        self.assert_about(connection.missed, [60, 120])
        self.assertEqual(len(connection.pinged), 4)

    def test_stop_watching(self) -> None:
        """A connection that is watched no more is neither pinged nor missed."""
        gone, kept = FakeConnection(self.clock), FakeConnection(self.clock)
        stop = self.keep_alive.watch(gone)
        self.keep_alive.watch(kept)
        stop()
        self.pass_time(31)
        self.assertEqual((gone.pinged, gone.missed), ([], []))
        self.assert_about(kept.pinged, [30])

    def test_stop_watching_while_pinged(self) -> None:
        """A connection that ends in the middle of its ping is not seen again."""
        connection = FakeConnection(self.clock)
        stop = self.keep_alive.watch(connection)
        connection.ping = stop  # type: ignore[method-assign]
        self.pass_time(100)
        self.assertEqual(connection.missed, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_timer_without_connections(self) -> None:
        """Once nobody is watched no timer runs, and the next connection is watched again."""
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.keep_alive.watch(FakeConnection(self.clock))()
        self.pass_time(31)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        connection = FakeConnection(self.clock)
        self.keep_alive.watch(connection)
        self.pass_time(31)
        self.assertEqual(len(connection.pinged), 1)

    def test_one_timer_for_all(self) -> None:
        """Many connections share one timer."""
        for _ in range(1000):
            self.keep_alive.watch(FakeConnection(self.clock))
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)

    def test_many_of_one_moment_are_spread(self) -> None:
        """Connections of one moment are not all pinged in one turn of the reactor."""
        connections = [FakeConnection(self.clock) for _ in range(1000)]
        for connection in connections:
            self.keep_alive.watch(connection)
        self.pass_time(29.9)
        largest, before = 0, 0
        for _ in range(20):
            self.clock.advance(0.05)
            now = sum(len(connection.pinged) for connection in connections)
            largest, before = max(largest, now - before), now
        self.assertEqual(before, 1000)
        self.assertLessEqual(largest, 200)

    def test_stop(self) -> None:
        """Once stopped nobody is pinged, no timer runs, and stopping again is no harm."""
        connection = FakeConnection(self.clock)
        stop_watching = self.keep_alive.watch(connection)
        self.keep_alive.stop()
        self.keep_alive.stop()
        stop_watching()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.pass_time(70, step=1)
        self.assertEqual((connection.pinged, connection.missed), ([], []))
