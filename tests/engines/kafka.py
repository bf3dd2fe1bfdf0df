"""One real Kafka broker (KRaft mode), as an object for tests and as a command.

    python -m tests.engines.kafka start DIR [--port P] [--no-auto-create]

runs it in the foreground and prints its address once it answers. The jars come from Maven Central
on first use (kafka-pom.xml says which) and are kept in .cache/.
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined] # public there
    AdminClient,
    NewTopic,
)

from tests.engines.ports import free_port
from tests.engines.process import EngineError, EngineProcess, serve

_POM = Path(__file__).with_name("kafka-pom.xml")
_CACHE = Path(__file__).parents[2] / ".cache"
_START_SECONDS = 60
_DOWNLOAD_SECONDS = 600
_READ_SECONDS = 30
_ASK_SECONDS = 3
_PARTITIONS = 3
_LOG_TAIL = 2000
USER = "raccoon"
PASSWORD = "kept-from-every-log"
_SCRAM_USER = f"SCRAM-SHA-512=[name={USER},password={PASSWORD}]"
# A short start counts for more than throughput here.
_JVM = (
    "-Xms512m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)


class Record(NamedTuple):
    """One record of a topic; `produced_at` is Unix seconds by the producer's clock."""

    topic: str
    partition: int
    key: bytes | None
    value: bytes
    headers: dict[str, bytes]
    produced_at: float


class KafkaBroker(EngineProcess):
    """A broker on 127.0.0.1 whose data and port outlive its process.

    Args:
        directory: for its data, configuration and log.
        port: where clients connect; free ones are found for None.
        auto_create: whether a topic is made when it is first used.
        partitions: of a topic made so.
        jvm: options of Java; by default those for a short start.
        properties: more of the broker's configuration.
        secure: has three more listeners, which know USER and PASSWORD where they ask: `ssl`,
            `sasl_ssl` (SCRAM-SHA-512) and `sasl_plaintext` (PLAIN). The certificate signs itself.

    Attributes:
        bootstrap: its address for clients, in plain text.
        certificate: the file that clients of `ssl` and `sasl_ssl` trust.
    """

    def __init__(
        self,
        directory: Path,
        port: int | None = None,
        *,
        auto_create: bool = True,
        partitions: int = _PARTITIONS,
        jvm: Sequence[str] = _JVM,
        properties: Mapping[str, object] | None = None,
        secure: bool = False,
    ) -> None:
        self.directory = directory
        self.port = port or free_port()
        self.bootstrap = f"127.0.0.1:{self.port}"
        self.certificate = directory / "certificate.pem"
        self._secure = (
            {name: f"127.0.0.1:{free_port()}" for name in ("ssl", "sasl_ssl", "sasl_plaintext")}
            if secure
            else {}
        )
        self._controller_port = free_port()
        self._auto_create = auto_create
        self._partitions = partitions
        self._jvm = jvm
        self._more = properties or {}

    def start(self) -> None:
        """Start it, again on the same data if it ran before; returns when it answers.

        Raises:
            EngineError: java or mvn is missing, the download failed, or it does not answer.
        """
        libraries = _libraries()
        self.directory.mkdir(parents=True, exist_ok=True)
        if self._secure and not self.certificate.exists():
            make_certificate(self.certificate, self.directory / "keystore.pem")
        properties = self.directory / "server.properties"
        properties.write_text(self._properties())
        if not (self.directory / "data").is_dir():
            identity = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
            _run(
                [
                    *self._java(libraries),
                    "kafka.tools.StorageTool",
                    "format",
                    f"--cluster-id={identity}",
                    f"--config={properties}",
                    *(["--add-scram", _SCRAM_USER] if self._secure else []),
                ],
                _START_SECONDS,
            )
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [*self._java(libraries), "kafka.Kafka", str(properties)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for the one who started it
            )
        self._wait_for(self._answers, "Kafka")

    def log(self) -> str:
        """The end of what it wrote."""
        return (self.directory / "log").read_text(errors="replace")[-_LOG_TAIL:]

    def address(self, listener: str) -> str:
        """Where clients of one of the secure listeners connect."""
        return self._secure[listener]

    def create_topic(
        self,
        name: str,
        *,
        partitions: int = _PARTITIONS,
        config: Mapping[str, str] | None = None,
    ) -> None:
        """Make a topic and wait until it is there.

        Raises:
            EngineError: it was not made in 30 seconds.
            KafkaException: Kafka refuses it.
        """
        topic = NewTopic(name, partitions, 1, config=dict(config or {}))
        deadline = time.monotonic() + _READ_SECONDS
        admin = self._admin()  # its calls end with the object
        asked = False
        while not _is_made(admin, topic, asked):
            if time.monotonic() > deadline:
                raise EngineError(f"topic {name} was not made in time")
            admin, asked = self._admin(), True
        while not _has_leaders(admin, name):
            if time.monotonic() > deadline:
                raise EngineError(f"topic {name} has no leaders in time")
            time.sleep(0.05)

    def read(self, topics: Iterable[str]) -> list[tuple[str, bytes]]:
        """Every record that the topics hold now, as (topic, value); see `records`."""
        return [(record.topic, record.value) for record in self.records(topics)]

    def records(self, topics: Iterable[str]) -> list[Record]:
        """Every record that the topics hold now; a missing topic holds none.

        Those of one partition are in their order.

        Raises:
            EngineError: they could not be read to their ends in 30 seconds.
        """
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "tests",
                "enable.auto.commit": False,
                "log_level": 0,
            }
        )
        deadline = time.monotonic() + _READ_SECONDS
        records: list[Record] = []
        try:
            known = consumer.list_topics(timeout=_READ_SECONDS).topics
            left: dict[tuple[str, int], int] = {}
            for topic in topics:
                for partition in known[topic].partitions if topic in known else ():
                    place = TopicPartition(topic, partition)
                    low, high = _offsets(consumer, place, deadline)
                    if high > low:
                        left[topic, partition] = high - low
            consumer.assign([TopicPartition(topic, partition, 0) for topic, partition in left])
            while any(count > 0 for count in left.values()):
                if time.monotonic() > deadline:
                    raise EngineError(f"{sum(left.values())} records were not read in time")
                for message in consumer.consume(5000, 0.2):
                    if message.error() is None:
                        record = _record(message)
                        records.append(record)
                        left[record.topic, record.partition] -= 1
        finally:
            consumer.close()
        return records

    def _java(self, libraries: Path) -> list[str]:
        return [_tool("java"), *self._jvm, "-cp", f"{libraries}/*"]

    def _admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def _answers(self) -> bool:
        try:
            return bool(self._admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def _properties(self) -> str:
        controller = f"127.0.0.1:{self._controller_port}"
        listeners = {"plaintext": self.bootstrap, **self._secure}
        shown = ",".join(f"{name.upper()}://{address}" for name, address in listeners.items())
        return "\n".join(
            [
                "process.roles=broker,controller",
                "node.id=1",
                f"controller.quorum.voters=1@{controller}",
                f"listeners={shown},CONTROLLER://{controller}",
                f"advertised.listeners={shown}",
                "controller.listener.names=CONTROLLER",
                *(self._security() if self._secure else ()),
                f"log.dirs={(self.directory / 'data').resolve()}",
                f"num.partitions={self._partitions}",
                f"auto.create.topics.enable={str(self._auto_create).lower()}",
                "offsets.topic.replication.factor=1",
                "offsets.topic.num.partitions=1",
                "transaction.state.log.replication.factor=1",
                "transaction.state.log.min.isr=1",
                "group.initial.rebalance.delay.ms=0",
                "controlled.shutdown.enable=false",
                # How long a broker that was killed is waited for before it may come back.
                "broker.session.timeout.ms=2000",
                "broker.heartbeat.interval.ms=300",
                *(f"{name}={value}" for name, value in self._more.items()),
                "",
            ]
        )

    def _security(self) -> list[str]:
        login = "org.apache.kafka.common.security"
        return [
            "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SSL:SSL,"
            "SASL_SSL:SASL_SSL,SASL_PLAINTEXT:SASL_PLAINTEXT",
            "ssl.keystore.type=PEM",
            f"ssl.keystore.location={(self.directory / 'keystore.pem').resolve()}",
            "listener.name.sasl_ssl.sasl.enabled.mechanisms=SCRAM-SHA-512",
            "listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config="
            f"{login}.scram.ScramLoginModule required;",
            "listener.name.sasl_plaintext.sasl.enabled.mechanisms=PLAIN",
            "listener.name.sasl_plaintext.plain.sasl.jaas.config="
            f'{login}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";',
        ]


def make_certificate(certificate: Path, keystore: Path) -> None:
    """Write a certificate for 127.0.0.1 that signs itself, and it with its key as a keystore."""
    key = keystore.with_suffix(".key")
    _run(
        [
            _tool("openssl"),
            "req",
            "-x509",
            "-nodes",
            "-newkey",
            "rsa:2048",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(certificate),
        ],
        _START_SECONDS,
    )
    keystore.write_text(key.read_text() + certificate.read_text())
    key.unlink()


def _record(message: Message) -> Record:
    topic, partition, value = message.topic(), message.partition(), message.value()
    assert topic is not None
    assert partition is not None
    assert value is not None
    # Of the forms that the type allows a consumer gives this one, and no header is without a value.
    headers = cast("list[tuple[str, bytes]]", message.headers() or [])
    produced_at = message.timestamp()[1] / 1000
    return Record(topic, partition, message.key(), value, dict(headers), produced_at)


def _offsets(consumer: Consumer, place: TopicPartition, deadline: float) -> tuple[int, int]:
    """The first and the next offset; a partition may have no leader for a moment."""
    while True:
        try:
            low, high = consumer.get_watermark_offsets(place, timeout=_ASK_SECONDS)
        except KafkaException:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return low, high


def _is_made(admin: AdminClient, topic: NewTopic, asked: bool) -> bool:
    """Ask for a topic; False where there was no answer.

    A broker that was stopped has no controller for a moment when it goes on. A client that asks
    just then waits for one, and does not ask again: another client is to be tried.

    Args:
        asked: that was done before: it may be there by now.
    """
    try:
        admin.create_topics([topic], request_timeout=_ASK_SECONDS)[topic.topic].result()
    except KafkaException as error:
        code = error.args[0].code()
        if code in (KafkaError._TIMED_OUT, KafkaError.REQUEST_TIMED_OUT):
            return False
        if not asked or code != KafkaError.TOPIC_ALREADY_EXISTS:
            raise
    return True


def _has_leaders(admin: AdminClient, topic: str) -> bool:
    found = admin.list_topics(topic, timeout=_READ_SECONDS).topics[topic]
    return bool(found.partitions) and all(p.leader >= 0 for p in found.partitions.values())


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise EngineError(f"{name} is not installed; Kafka needs it (a JDK of 17 or later, Maven)")
    return path


def _libraries() -> Path:
    """The directory of Kafka's jars, filled on first use."""
    _tool("java")
    version = re.search(r"<kafka.version>(.+)</kafka.version>", _POM.read_text())
    assert version is not None
    libraries = _CACHE / f"kafka-{version[1]}"
    if not libraries.is_dir():
        _CACHE.mkdir(exist_ok=True)
        partial = _CACHE / f"kafka-{version[1]}-{uuid.uuid4().hex}.partial"
        try:
            _run(
                [
                    _tool("mvn"),
                    "-q",
                    "-B",
                    f"--file={_POM}",
                    "dependency:copy-dependencies",
                    f"-DoutputDirectory={partial}",
                ],
                _DOWNLOAD_SECONDS,
            )
            if not libraries.is_dir():
                partial.rename(libraries)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return libraries


def _run(command: list[str], timeout: float) -> None:
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise EngineError(f"{Path(command[0]).name} did not end in {timeout} seconds") from None
    if done.returncode:
        said = " ".join(done.stdout.decode(errors="replace").split())[-_LOG_TAIL:]
        raise EngineError(f"{Path(command[0]).name} failed: {said}")


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.engines.kafka", description="Run one Kafka broker."
    )
    commands = parser.add_subparsers(required=True)
    start = commands.add_parser("start", help="run in the foreground until SIGTERM or SIGINT")
    start.add_argument("directory", type=Path, help="keeps data and log")
    start.add_argument("--port", type=int, help="a free one if not given")
    start.add_argument("--no-auto-create", action="store_true", help="make no topic by itself")
    options = parser.parse_args(arguments)
    broker = KafkaBroker(options.directory, options.port, auto_create=not options.no_auto_create)
    return serve(broker, broker.bootstrap)


if __name__ == "__main__":
    sys.exit(main())
