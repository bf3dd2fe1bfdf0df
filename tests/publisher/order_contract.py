"""What a publisher keeps that can be asked for order."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from raccoon.interfaces import IOrderedPublisher
from raccoon.request import CollectRequest
from tests.fakes import make_request
from tests.publisher.contract import THREADS, WAIT, Contract, Stored


class OrderContract(Contract):
    """The order of each key.

    Attributes:
        has_metadata: whether the destination takes metadata with an event.
    """

    has_metadata = True

    def check_keys(self, **environment: str) -> dict[str, list[Stored]]:
        """Publish events of several clients from several threads; each client's are in order."""
        topic = self.topic()
        publisher = self.open(
            EVENT_PARTITION_KEY="connection",
            EVENT_DISTRIBUTION_PUBLISHER_PATTERN=topic,
            **environment,
        )
        self.assertTrue(IOrderedPublisher.providedBy(publisher))
        clients = [f"client-{n}" for n in range(10)]
        numbers = dict.fromkeys(clients, 0)

        def request(client: str) -> CollectRequest:
            events = []
            for _ in range(5):
                # Types differ, the topic does not.
                kind = "click" if numbers[client] % 3 else "view"
                events.append((kind, f"{client}/{numbers[client]}".encode()))
                numbers[client] += 1
            return make_request(
                f"{client}/{numbers[client]}", events, client=client, group="web", received_at=1.5
            )

        with ThreadPoolExecutor(THREADS) as pool:
            for _ in range(100 // THREADS):
                groups = [[request(client) for client in clients] for _ in range(THREADS)]
                for group in groups:
                    publisher.expect(group)
                # The thread of the last group comes first.
                publishing = [
                    pool.submit(self.publish, publisher, group) for group in reversed(groups)
                ]
                for each in publishing:
                    self.assertEqual(each.result(WAIT), [None] * len(clients))
        by_client: dict[str, list[Stored]] = {client: [] for client in clients}
        for event in self.stored({topic: sum(numbers.values())}):
            by_client[event.payload.decode().partition("/")[0]].append(event)
        for client, events in by_client.items():
            self.assertEqual({event.key for event in events}, {f"web/{client}"})
            self.assertEqual(len({event.place for event in events}), 1)
            expected = [f"{client}/{n}".encode() for n in range(numbers[client])]
            self.assertEqual([event.payload for event in events], expected)
        return by_client

    def test_keys(self) -> None:
        """With a key each client's events are in order, whatever their types and threads."""
        for events in self.check_keys().values():
            self.assertTrue(all(event.metadata == {} for event in events))

    def test_keys_and_metadata(self) -> None:
        """Metadata goes with each event, where the destination has a place for it."""
        for client, events in self.check_keys(EVENT_METADATA_ENABLED="true").items():
            for number, event in enumerate(events):
                expected = {
                    "req_guid": f"{client}/{number // 5 * 5 + 5}",
                    "event_index": str(number % 5),
                    "conn_group": "web",
                    "received_at": "1500",
                }
                self.assertEqual(event.metadata, expected if self.has_metadata else {})
