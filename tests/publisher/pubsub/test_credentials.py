"""Google's credentials."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import Future

from google.auth.exceptions import DefaultCredentialsError

from raccoon.config import load
from raccoon.errors import StartError
from raccoon.publisher import PublisherContext
from raccoon.publisher.base import reachability
from raccoon.publisher.base.reachability import Reachability
from raccoon.publisher.pubsub import client as pubsub_client
from raccoon.publisher.pubsub.client import PubSubClient
from raccoon.publisher.pubsub.publisher import PubSubPublisher
from raccoon.supervision import Supervisor
from tests.fakes import FakeMetrics, make_request
from tests.publisher.pubsub.case import PubSubTestCase
from tests.publisher.pubsub.fakes import FakeApi
from tests.publisher.watch import WAIT


class CredentialsTests(PubSubTestCase):
    """Files and the machine's own."""

    def stored(self, content: object) -> str:
        path = str(self.mktemp())
        with open(path, "w", encoding="utf-8") as file:
            file.write(content if isinstance(content, str) else json.dumps(content))
        return path

    def client(self, **environment: str) -> PubSubClient:
        self.metrics = FakeMetrics()
        settings, supervisor = load({}, environment), Supervisor(self.metrics)
        context = PublisherContext(settings, self.metrics, supervisor)
        self.reachability = Reachability(context, "Pub/Sub")
        return PubSubClient(settings.publisher.pubsub, self.reachability, supervisor)

    def refusal(self, **environment: str) -> str:
        with self.assertRaises(StartError) as caught:
            self.client(**environment).start()
        return str(caught.exception)

    def test_file_that_cannot_be_used(self) -> None:
        """A missing or malformed file stops the start with the option, the file and why."""
        service = {"type": "service_account", "client_email": "x", "token_uri": "x"}
        for content, reason in (
            ("{", "not JSON"),
            ("[]", "it has no type"),
            ({"project": 1}, "it has no type"),
            (service, "private_key"),
            ({**service, "private_key": "x"}, ""),
            ({"type": "authorized_user"}, "refresh_token"),
        ):
            path = self.stored(content)
            said = self.refusal(PUBLISHER_PUBSUB_CREDENTIALS=path)
            self.assertTrue(said.startswith(f"PUBLISHER_PUBSUB_CREDENTIALS: {path}: "), said)
            self.assertIn(reason, said)
            self.assertNotIn("\n", said)

    def test_missing_file(self) -> None:
        """A file that is not there is named by the option that named it."""
        self.assertEqual(
            "GOOGLE_APPLICATION_CREDENTIALS: /no/file: No such file or directory",
            self.refusal(GOOGLE_APPLICATION_CREDENTIALS="/no/file"),
        )

    def test_own_option_goes_first(self) -> None:
        """Raccoon's own option goes before that of Google's clients."""
        self.assertIn(
            "PUBLISHER_PUBSUB_CREDENTIALS: /own",
            self.refusal(
                PUBLISHER_PUBSUB_CREDENTIALS="/own", GOOGLE_APPLICATION_CREDENTIALS="/other"
            ),
        )

    def test_emulator_needs_none(self) -> None:
        """With an emulator no file is read."""
        client = self.client(
            PUBSUB_EMULATOR_HOST="127.0.0.1:1", PUBLISHER_PUBSUB_CREDENTIALS="/no/file"
        )
        client.start()
        client.close()

    def test_file_that_can_be_used(self) -> None:
        """A user's credentials are taken as they are, without a network."""
        user = {
            "type": "authorized_user",
            "client_id": "id",
            "client_secret": "hush",
            "refresh_token": "hush",
        }
        client = self.client(PUBLISHER_PUBSUB_CREDENTIALS=self.stored(user))
        client.start()
        client.close()

    def test_ambient_are_waited_for_elsewhere(self) -> None:
        """The start does not wait for the machine's credentials; events wait until there are."""
        asked, gate = threading.Event(), threading.Event()
        self.addCleanup(gate.set)
        self.patch(pubsub_client, "_CREDENTIALS_EVERY", 0)
        self.metrics = FakeMetrics()
        tries: list[object] = []

        def open_slowly(client: PubSubClient, stored: object) -> FakeApi:
            asked.set()
            gate.wait(WAIT)
            tries.append(stored)
            if len(tries) == 1:
                raise DefaultCredentialsError("none here")
            return self.api

        self.patch(PubSubClient, "_open", open_slowly)
        context = PublisherContext(
            load({}, {"PUBLISHER_PUBSUB_PROJECT_ID": "project"}),
            self.metrics,
            Supervisor(self.metrics),
        )
        self.publisher = PubSubPublisher(context)
        self.publisher.start()
        self.addCleanup(self.publisher.close, 0)
        self.assertTrue(asked.wait(WAIT))
        outcomes = self.publish_later(make_request())
        self.assertIsInstance(outcomes[0], Future)
        gate.set()
        self.assertEqual(self.wait(outcomes), [None])
        self.assertEqual(tries, [None, None])

    def test_no_credentials(self) -> None:
        """A machine without credentials shows as unreachable, and says why in the log."""
        self.patch(pubsub_client, "_CREDENTIALS_EVERY", WAIT)
        gauged = threading.Event()

        def fail(client: PubSubClient, stored: object) -> None:
            raise DefaultCredentialsError("none here")

        self.patch(PubSubClient, "_open", fail)
        client = self.client()
        self.patch(self.metrics, "gauge", lambda *gauge: gauged.set())
        with self.assertLogs(reachability.__name__, "ERROR") as logged:
            client.start()
            self.assertTrue(gauged.wait(WAIT))
            deadline = time.monotonic() + WAIT
            while not logged.output and time.monotonic() < deadline:
                client._closed.wait(0.001)
        client.close()
        self.assertIs(self.reachability.known, False)
        self.assertIn("is unreachable; retrying: no credentials: none here", logged.output[0])
