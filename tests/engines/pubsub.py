"""Google's Pub/Sub emulator, as an object for tests and as a command.

    python -m tests.engines.pubsub start [--port P]

runs it in the foreground and prints its address, the value for PUBSUB_EMULATOR_HOST, once it
answers. It is part of the Google Cloud SDK (package google-cloud-cli-pubsub-emulator) and needs
Java. It keeps everything in memory: topics, subscriptions and messages end with its process.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
from google.api_core.exceptions import GoogleAPICallError, NotFound
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport
from google.pubsub_v1.types import PubsubMessage

from tests.engines.ports import free_port
from tests.engines.process import EngineError, EngineProcess, serve

PROJECT = "raccoon-tests"
_CALL_SECONDS = 10
_READ_SECONDS = 30
_QUIET_SECONDS = 1.0
_LOG_TAIL = 2000
_PULL = 1000
# A short start counts for more than throughput here.
_JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")


class PubSubEmulator(EngineProcess):
    """An emulator on 127.0.0.1 whose port outlives its process, and whose data does not.

    Args:
        port: where clients connect; a free one is found for None.
    """

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        self.host = f"127.0.0.1:{self.port}"
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the object
        self._channel: grpc.Channel | None = None

    def start(self) -> None:
        """Start it, empty; returns when it answers.

        Raises:
            EngineError: it or java is not installed, or it does not answer.
        """
        self._process = subprocess.Popen(
            [_tool("java"), *_JVM, "-jar", str(_jar()), "--host=127.0.0.1", f"--port={self.port}"],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,  # Ctrl-C in the terminal is for the one who started it
        )
        self._wait_for(self._answers, "the Pub/Sub emulator")

    def kill(self) -> None:
        """End it at once (SIGKILL); the port stays for another `start`."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        super().kill()

    def log(self) -> str:
        """The end of what it wrote."""
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-_LOG_TAIL:]

    def create_topic(self, name: str) -> None:
        """Make a topic, and a subscription that keeps what is published to it.

        What others publish to it before this returns may be lost.
        """
        self._publisher().create_topic(name=_path("topics", name), timeout=_CALL_SECONDS)
        self.subscribe(name)

    def delete_topic(self, name: str) -> None:
        """Delete a topic and the subscription that keeps what is published to it."""
        self._publisher().delete_topic(topic=_path("topics", name), timeout=_CALL_SECONDS)
        path = _path("subscriptions", name)
        self._subscriber().delete_subscription(subscription=path, timeout=_CALL_SECONDS)

    def subscribe(self, topic: str) -> None:
        """Keep what is published from now to a topic that was made by others."""
        self._subscriber().create_subscription(
            request={
                "name": _path("subscriptions", topic),
                "topic": _path("topics", topic),
                "enable_message_ordering": True,
            },
            timeout=_CALL_SECONDS,
        )

    def topic(self, name: str) -> Any:
        """A topic's own record; None where there is no such topic."""
        try:
            return self._publisher().get_topic(topic=_path("topics", name), timeout=_CALL_SECONDS)
        except NotFound:
            return None

    def read(self, topics: Iterable[str], expected: int = 0) -> list[tuple[str, bytes]]:
        """Take what was kept of the topics, as (topic, data); see `messages`."""
        return [
            (topic, message.data) for topic in topics for message in self.messages(topic, expected)
        ]

    def messages(self, topic: str, expected: int = 0) -> list[PubsubMessage]:
        """Take what was kept of a topic, in order; each message is taken once.

        Args:
            topic: its name; a missing one holds none.
            expected: so many are waited for, 30 seconds at most, and then for others until none
                came for a second.
        """
        subscriber = self._subscriber()
        path = _path("subscriptions", topic)
        taken: list[PubsubMessage] = []
        deadline = time.monotonic() + _READ_SECONDS
        last = time.monotonic()
        while time.monotonic() < deadline:
            try:
                found = subscriber.pull(
                    request={
                        "subscription": path,
                        "max_messages": _PULL,
                        "return_immediately": True,
                    },
                    timeout=_CALL_SECONDS,
                ).received_messages
            except NotFound:
                return []
            if found:
                last = time.monotonic()
                subscriber.acknowledge(
                    subscription=path,
                    ack_ids=[message.ack_id for message in found],
                    timeout=_CALL_SECONDS,
                )
                taken += [message.message for message in found]
            elif len(taken) >= expected and time.monotonic() - last > _QUIET_SECONDS:
                break
            else:
                time.sleep(0.02)
        return taken

    def _publisher(self) -> PublisherClient:
        return PublisherClient(transport=PublisherGrpcTransport(channel=self._connection()))

    def _subscriber(self) -> SubscriberClient:
        return SubscriberClient(transport=SubscriberGrpcTransport(channel=self._connection()))

    def _connection(self) -> grpc.Channel:
        if self._channel is None:
            options = [
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 100),
                ("grpc.use_local_subchannel_pool", 1),
                ("grpc.max_receive_message_length", -1),
            ]
            self._channel = grpc.insecure_channel(self.host, options)
        return self._channel

    def _answers(self) -> bool:
        try:
            self._publisher().list_topics(project=f"projects/{PROJECT}", retry=None, timeout=2)
        except GoogleAPICallError:
            return False
        return True


def _path(kind: str, name: str) -> str:
    return f"projects/{PROJECT}/{kind}/{name}"


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise EngineError(f"{name} is not installed; the Pub/Sub emulator needs it")
    return path


def _jar() -> Path:
    sdk = Path(_tool("gcloud")).resolve().parents[1]
    found = sorted(sdk.glob("platform/pubsub-emulator/lib/*.jar"))
    if not found:
        raise EngineError(
            f"no Pub/Sub emulator in {sdk}; install google-cloud-cli-pubsub-emulator,"
            " or run `gcloud components install pubsub-emulator`"
        )
    return found[-1]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.engines.pubsub", description="Run Google's Pub/Sub emulator."
    )
    commands = parser.add_subparsers(required=True)
    start = commands.add_parser("start", help="run in the foreground until SIGTERM or SIGINT")
    start.add_argument("--port", type=int, help="a free one if not given")
    emulator = PubSubEmulator(parser.parse_args(arguments).port)
    return serve(emulator, emulator.host)


if __name__ == "__main__":
    sys.exit(main())
