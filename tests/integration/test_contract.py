"""Every publisher keeps the contract, each with its real engine."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

from raccoon.publisher.kafka.publisher import KafkaPublisher
from raccoon.publisher.kinesis.publisher import KinesisPublisher
from raccoon.publisher.log import LogPublisher
from raccoon.publisher.pubsub.publisher import PubSubPublisher
from tests.engines.kafka import KafkaBroker
from tests.engines.kinesis import KinesisServer
from tests.engines.pubsub import PROJECT, PubSubEmulator
from tests.integration.case import SharedCase
from tests.publisher.contract import Contract, Stored
from tests.publisher.engine_contract import EngineContract
from tests.publisher.order_contract import OrderContract

_READERS = 4
_CLIENT = "PUBLISHER_KAFKA_CLIENT_"


class _Lines(logging.Handler):
    """Keeps the events that the log publisher writes."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Stored] = []

    def emit(self, record: logging.LogRecord) -> None:
        (text,) = record.args  # type: ignore[misc]
        fields = record.fields  # type: ignore[attr-defined]
        self.events.append(Stored(fields["topic"], "", bytes.fromhex(str(text))))


class LogContractTests(Contract, SharedCase):
    """The log: it refuses nothing and cannot be away, so that EngineContract does not apply."""

    publisher_class = LogPublisher

    @classmethod
    def share_setup(cls) -> None:
        """Nothing is shared."""

    def setUp(self) -> None:
        super().setUp()
        self.lines = _Lines()
        logger = logging.getLogger("raccoon.publisher.log")
        self.patch(logger, "handlers", [self.lines])
        self.addCleanup(logger.setLevel, logger.level)
        logger.setLevel(logging.INFO)

    def stored(self, expected: Mapping[str, int]) -> list[Stored]:
        return [event for event in self.lines.events if event.destination in expected]


class KafkaContractTests(EngineContract, OrderContract, SharedCase):
    """Apache Kafka."""

    publisher_class = KafkaPublisher
    too_large = 1_500_000
    engine: KafkaBroker

    @classmethod
    def share_setup(cls) -> None:
        cls.engine = cls.share_broker(auto_create=False)

    def environment(self) -> dict[str, str]:
        return {
            f"{_CLIENT}BOOTSTRAP_SERVERS": self.engine.bootstrap,
            f"{_CLIENT}RECONNECT_BACKOFF_MAX_MS": "500",
            f"{_CLIENT}TOPIC_METADATA_PROPAGATION_MAX_MS": "1000",
            f"{_CLIENT}QUEUE_BUFFERING_MAX_MESSAGES": str(self.room),
        }

    def create(self, destination: str) -> None:
        self.engine.create_topic(destination)

    def stored(self, expected: Mapping[str, int]) -> list[Stored]:
        return [
            Stored(
                record.topic,
                str(record.partition),
                record.value,
                (record.key or b"").decode(),
                {name: value.decode() for name, value in record.headers.items()},
            )
            for record in self.engine.records(expected)
        ]


class PubSubContractTests(EngineContract, OrderContract, SharedCase):
    """Google Pub/Sub's emulator, which forgets everything when it ends."""

    publisher_class = PubSubPublisher
    too_large = 10_500_000
    keeps_data = False
    loses_at_restart = True
    engine: PubSubEmulator

    @classmethod
    def share_setup(cls) -> None:
        cls.engine = PubSubEmulator()
        cls.at_class_end(cls.engine.kill)
        cls.engine.start()

    def environment(self) -> dict[str, str]:
        return {
            "PUBSUB_EMULATOR_HOST": self.engine.host,
            "PUBLISHER_PUBSUB_PROJECT_ID": PROJECT,
        }

    def create(self, destination: str) -> None:
        self.engine.create_topic(destination)

    def stored(self, expected: Mapping[str, int]) -> list[Stored]:
        def read(topic: str) -> list[Stored]:
            return [
                Stored(topic, "", message.data, message.ordering_key, dict(message.attributes))
                for message in self.engine.messages(topic, expected[topic])
            ]

        # The emulator is slow to give back many messages of one topic.
        with ThreadPoolExecutor(_READERS) as pool:
            return [event for events in pool.map(read, expected) for event in events]


class KinesisContractTests(EngineContract, OrderContract, SharedCase):
    """moto as Amazon Kinesis, which forgets everything when it ends."""

    publisher_class = KinesisPublisher
    too_large = 11_000_000
    keeps_data = False
    has_metadata = False
    engine: KinesisServer

    @classmethod
    def share_setup(cls) -> None:
        cls.engine = KinesisServer()
        cls.at_class_end(cls.engine.kill)
        cls.engine.start()
        environment = mock.patch.dict(os.environ, cls.engine.environment())
        environment.start()
        cls.at_class_end(environment.stop)

    def environment(self) -> dict[str, str]:
        return {"PUBLISHER_KINESIS_AWS_REGION": os.environ["AWS_REGION"]}

    def create(self, destination: str) -> None:
        self.engine.create_stream(destination)

    def stored(self, expected: Mapping[str, int]) -> list[Stored]:
        return [
            Stored(stream, shard, data, key)
            for stream in expected
            for shard, key, data in self.engine.records(stream)
        ]
