"""What tests of a running service with a journal share."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Sequence

from tests.engines.kafka import KafkaBroker
from tests.integration.case import SharedCase
from tests.integration.daemon import Daemon
from tests.integration.raw import http_once
from tests.integration.waiting import wait_until

FLUSH_SECONDS = 1.0
# What a process that ends needs beside: closing connections and files, the interpreter's own end.
END_SECONDS = 1.5
# From when an event is handed to librdkafka until its delivery is noted in the journal.
IN_FLIGHT_SECONDS = 1.0
_QUIET_SECONDS = 0.3
_DRAIN_SECONDS = 120


class JournalCase(SharedCase):
    """One broker; each test has a service and a topic of its own."""

    broker: KafkaBroker

    @classmethod
    def share_setup(cls) -> None:
        cls.broker = cls.share_broker(auto_create=False)

    def settings(self, **settings: object) -> dict[str, object]:
        """Of a service that acknowledges what is on disk, to the topic of the event's type."""
        return {
            "PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": self.broker.bootstrap,
            "PUBLISHER_KAFKA_CLIENT_RECONNECT_BACKOFF_MAX_MS": 500,
            "EVENT_ACK": 2,
            "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
            "WORKER_BUFFER_FLUSH_TIMEOUT_MS": round(FLUSH_SECONDS * 1000),
            **settings,
        }

    def start(self, **settings: object) -> Daemon:
        """A service with these settings beside those of `settings`."""
        return self.start_daemon(self.settings(**settings))

    def ready(self, daemon: Daemon) -> tuple[bool, str]:
        """Whether it is ready, and what it says."""
        asked = b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n"
        answer = http_once(daemon.http_port, asked)
        return answer.status == 200, answer.body.decode()

    def reachable(self, daemon: Daemon, is_so: bool = True) -> None:
        """Wait until the service knows whether Kafka answers."""
        wait_until(
            lambda: daemon.metric("destination_reachable_current") == is_so,
            f"Kafka known to {'answer' if is_so else 'be away'}",
            timeout=30,
        )

    def settle(self, daemon: Daemon, timeout: float = _DRAIN_SECONDS) -> None:
        """Wait until nothing waits, in memory or on disk, and check the sum.

        What earlier runs left may not have been read yet: it is in files of its own, which go.
        """
        since = time.monotonic()

        def quiet() -> bool:
            nonlocal since
            metrics = daemon.metrics()
            waiting = sum(
                metrics[name, frozenset()]
                for name in ("journal_requests_current", "events_waiting_current")
            )
            files = len(list(daemon.journal.rglob("*.journal")))
            if waiting or files > 1 or not metrics["ready_current", frozenset()]:
                since = time.monotonic()
            return time.monotonic() - since > _QUIET_SECONDS

        wait_until(quiet, "everything delivered, and the disk given back", timeout)
        self.check_sum(daemon)

    def check_sum(self, daemon: Daemon) -> dict[str, float]:
        """Received and recovered events are where the terms say; gives all of these."""
        samples = daemon.metrics()

        def total(name: str) -> float:
            return sum(value for (found, _), value in samples.items() if found == name)

        came = {name: total(name) for name in ("events_rx_total", "journal_recovered_events_total")}
        went = {
            name: total(name)
            for name in (
                "events_delivered_total",
                "events_refused_total",
                "events_failed_total",
                "events_in_duplicates_total",
                "events_waiting_current",
                "journal_events_current",
                "journal_dead_lettered_events_total",
            )
        }
        self.assertEqual(sum(came.values()), sum(went.values()), f"{came} {went}")
        return came | went

    def check_stored(
        self,
        topic: str,
        acknowledged: Iterable[bytes],
        sent: Iterable[bytes],
        killed_at: Sequence[float] = (),
        twice_within: float = IN_FLIGHT_SECONDS,
    ) -> str:
        """Compare Kafka with what clients were told; gives what was seen.

        Every acknowledged event is there, as it was sent; nothing else is; and what is there
        twice was on its way when the service was killed, at one of the times of `killed_at`.
        """
        copies: defaultdict[bytes, list[float]] = defaultdict(list)
        for record in self.broker.records([topic]):
            copies[record.value].append(record.produced_at)
        told = set(acknowledged)
        lost = told - copies.keys()
        self.assertEqual(0, len(lost), f"{len(lost)} of {len(told)} are lost: {list(lost)[:3]}")
        self.assertEqual(set(), copies.keys() - set(sent), "never sent")
        kills = sorted(killed_at)
        twice = 0
        for payload, times in copies.items():
            for produced in sorted(times)[:-1]:
                twice += 1
                at = bisect_left(kills, produced - 0.01)
                after = kills[at] - produced if at < len(kills) else None
                if after is None or after > twice_within:
                    raise AssertionError(
                        f"{payload[:40]!r} came twice, and {after} s before a kill"
                    )
        return f"{len(told)} acknowledged events, 0 lost, {twice} twice"
