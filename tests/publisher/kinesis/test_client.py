"""How the Kinesis client is opened, and what it makes of boto3's answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import attrs
import botocore.session
from botocore.credentials import Credentials
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import KinesisSettings
from raccoon.errors import StartError
from raccoon.publisher.kinesis.client import (
    KinesisClient,
    NoAnswerError,
    RefusedError,
    open_client,
)
from tests.publisher.kinesis.fakes import FakeKinesis


class OpenTests(SynchronousTestCase):
    """open_client, with an environment of the test's own."""

    def open(self, environment: dict[str, str] | None = None, **options: Any) -> Any:
        """boto3's client."""
        nothing = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
        self.patch(os, "environ", {**nothing, **(environment or {})})
        settings = attrs.evolve(KinesisSettings(), **options)
        self.client = open_client(settings, 7, 4.5)
        return self.client._api

    def file(self, text: str) -> str:
        """A file of this text."""
        path = Path(self.mktemp())
        path.write_text(text)
        return str(path)

    def refused(self, environment: dict[str, str] | None = None, **options: Any) -> str:
        """What the start is stopped with."""
        return str(self.assertRaises(StartError, self.open, environment, **options))

    def test_region_of_the_option(self) -> None:
        """The option's region goes before the environment's."""
        api = self.open({"AWS_REGION": "eu-west-2"}, aws_region="eu-west-1")
        self.assertEqual(api.meta.region_name, "eu-west-1")

    def test_region_of_the_environment(self) -> None:
        """AWS_REGION goes before AWS_DEFAULT_REGION, and that before the file."""
        config = self.file("[default]\nregion = eu-west-3\n")
        both = {"AWS_REGION": "eu-west-1", "AWS_DEFAULT_REGION": "eu-west-2"}
        self.assertEqual(self.open(both).meta.region_name, "eu-west-1")
        default = {"AWS_DEFAULT_REGION": "eu-west-2", "AWS_CONFIG_FILE": config}
        self.assertEqual(self.open(default).meta.region_name, "eu-west-2")

    def test_region_of_the_file(self) -> None:
        """The region of the shared file's profile is used."""
        config = self.file("[profile team]\nregion = eu-west-3\n")
        api = self.open({"AWS_CONFIG_FILE": config, "AWS_PROFILE": "team"})
        self.assertEqual(api.meta.region_name, "eu-west-3")

    def test_no_region(self) -> None:
        """Without a region the start stops with one line that names the option."""
        self.assertEqual(
            self.refused(),
            "PUBLISHER_KINESIS_AWS_REGION: missing; expected a region such as eu-west-1, here, in"
            " AWS_REGION, or in the shared configuration file",
        )

    def test_bad_region(self) -> None:
        """A region that is no name stops the start with one line."""
        self.assertIn("eu west", self.refused(aws_region="eu west"))

    def test_missing_profile(self) -> None:
        """A profile that is not there stops the start with one line."""
        environment = {"AWS_PROFILE": "gone", "AWS_REGION": "eu-west-1"}
        self.assertEqual(
            self.refused(environment), "Kinesis: The config profile (gone) could not be found"
        )

    def test_endpoint(self) -> None:
        """AWS_ENDPOINT_URL is used as the SDKs do; without it, AWS's own."""
        environment = {"AWS_ENDPOINT_URL": "http://kinesis.test:4567"}
        self.open(environment, aws_region="eu-west-1")
        self.assertEqual(self.client.endpoint, "http://kinesis.test:4567")
        self.open(aws_region="eu-west-1")
        self.assertEqual(self.client.endpoint, "https://kinesis.eu-west-1.amazonaws.com")

    def test_bad_endpoint(self) -> None:
        """An address that is none stops the start with one line."""
        refused = self.refused({"AWS_ENDPOINT_URL": "nonsense"}, aws_region="eu-west-1")
        self.assertEqual(refused, "Kinesis: Invalid endpoint: nonsense")

    def test_configuration(self) -> None:
        """botocore does not retry, and has a connection for each thread."""
        config = self.open(aws_region="eu-west-1").meta.config
        self.assertEqual(config.retries["total_max_attempts"], 1)
        self.assertEqual(config.max_pool_connections, 7)
        self.assertEqual(config.read_timeout, 4.5)

    def test_credentials_of_the_file(self) -> None:
        """The credentials file goes before the environment's credentials."""
        path = self.file("[default]\naws_access_key_id = f\naws_secret_access_key = s\n")
        environment = {"AWS_ACCESS_KEY_ID": "e", "AWS_SECRET_ACCESS_KEY": "s"}
        api = self.open(environment, aws_region="eu-west-1", credentials=path)
        self.assertEqual(frozen(api).access_key, "f")

    def test_credentials_file_is_missing(self) -> None:
        """A credentials file that is not there stops the start with a line that names it."""
        refused = self.refused(aws_region="eu-west-1", credentials="/nowhere/at-all")
        self.assertTrue(
            refused.startswith("PUBLISHER_KINESIS_CREDENTIALS: /nowhere/at-all: "), refused
        )
        self.assertIn("No such file", refused)

    def test_credentials_file_is_of_no_use(self) -> None:
        """So does one that does not parse, has half a pair, or has not the profile."""
        half = "[default]\naws_access_key_id = f\n"
        for text, reason in (
            ("nonsense", "Unable to parse"),
            (half, "Partial credentials"),
            ("[other]\n", "no access key in the profile 'default'"),
        ):
            path = self.file(text)
            refused = self.refused(aws_region="eu-west-1", credentials=path)
            self.assertTrue(refused.startswith(f"PUBLISHER_KINESIS_CREDENTIALS: {path}: "), refused)
            self.assertIn(reason, refused)
            self.assertNotIn("\n", refused)

    def test_ambient_credentials_are_looked_for_later(self) -> None:
        """Opening asks no provider, so no network; the first signature does, once."""
        asked = []

        class Providers:
            def load_credentials(self) -> Credentials:
                asked.append(1)
                return Credentials("ambient", "secret")

        get = botocore.session.Session.get_component

        def get_component(session: botocore.session.Session, name: str) -> Any:
            if name == "credential_provider" and not registered:
                registered.append(1)
                return Providers()
            return get(session, name)

        registered: list[int] = []
        self.patch(botocore.session.Session, "get_component", get_component)
        api = self.open(aws_region="eu-west-1")
        self.assertEqual(asked, [])
        self.assertEqual(frozen(api).access_key, "ambient")
        self.assertEqual(frozen(api).access_key, "ambient")
        self.assertEqual(asked, [1])

    def test_no_ambient_credentials(self) -> None:
        """Where there are none, a call says so, and the next one looks again."""
        api = self.open({"AWS_EC2_METADATA_DISABLED": "true"}, aws_region="eu-west-1")
        self.assertRaises(NoCredentialsError, frozen, api)
        refused = self.assertRaises(NoAnswerError, self.client.status, "stream")
        self.assertEqual(str(refused), "Unable to locate credentials")


def frozen(api: Any) -> Any:
    """What a request would be signed with."""
    return api._request_signer._credentials.get_frozen_credentials()


class CallTests(SynchronousTestCase):
    """On a boto3 client in memory."""

    def setUp(self) -> None:
        self.api = FakeKinesis()
        self.client = KinesisClient(self.api)

    def test_put(self) -> None:
        """Records are written with their keys; where all are taken nothing is refused."""
        self.api.streams["s"] = "ACTIVE"
        self.assertEqual(self.client.put("s", [(b"1", "k"), (b"2", "l")]), [None, None])
        self.assertEqual(self.api.stored, [("s", b"1", "k"), ("s", b"2", "l")])

    def test_put_in_part(self) -> None:
        """Refused records are given in the place of theirs."""
        self.api.streams["s"] = "ACTIVE"
        self.api.refuse = {b"2": ["ProvisionedThroughputExceededException"]}
        first, second = self.client.put("s", [(b"1", "k"), (b"2", "l")])
        self.assertIsNone(first)
        assert second is not None
        self.assertEqual(second.code, "ProvisionedThroughputExceededException")
        self.assertTrue(second.throttled)

    def test_short_answer(self) -> None:
        """An answer for fewer records than were sent is none."""
        self.api.raising = [{"FailedRecordCount": 0, "Records": []}]
        error = self.assertRaises(NoAnswerError, self.client.put, "s", [(b"1", "k")])
        self.assertEqual(str(error), "an answer for 0 of 1 records")

    def test_create(self) -> None:
        """The number of shards is said for a provisioned stream alone."""
        self.client.create("a", "ON_DEMAND", 3)
        self.client.create("b", "PROVISIONED", 3)
        self.assertEqual(
            self.api.created,
            [
                {"StreamName": "a", "StreamModeDetails": {"StreamMode": "ON_DEMAND"}},
                {
                    "StreamName": "b",
                    "StreamModeDetails": {"StreamMode": "PROVISIONED"},
                    "ShardCount": 3,
                },
            ],
        )

    def test_no_answer(self) -> None:
        """What botocore itself raises is no answer, in its words."""
        self.api.raising = [EndpointConnectionError(endpoint_url="http://kinesis.test")]
        error = self.assertRaises(NoAnswerError, self.client.status, "s")
        self.assertEqual(str(error), 'Could not connect to the endpoint URL: "http://kinesis.test"')

    def refusal(self, code: str, status: int = 400, message: str = "why") -> RefusedError:
        """What an error of Kinesis becomes."""
        response: Any = {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {"HTTPStatusCode": status},
        }
        self.api.raising = [ClientError(response, "PutRecords")]
        put = self.client.put
        error: RefusedError = self.assertRaises(RefusedError, put, "s", [(b"1", "k")])
        return error

    def test_kinds_of_refusals(self) -> None:
        """A missing stream, throttling, a limit, a bad argument and a bad hour are told apart."""
        kinds = {
            "ResourceNotFoundException": {"not_found"},
            "ProvisionedThroughputExceededException": {"throttled", "passing"},
            "LimitExceededException": {"throttled", "limit_exceeded", "passing"},
            "InvalidArgumentException": {"invalid"},
            "ValidationException": {"invalid"},
            "InternalFailure": {"passing"},
            "AccessDeniedException": set(),
        }
        names = ("not_found", "throttled", "limit_exceeded", "invalid", "passing", "from_between")
        for code, expected in kinds.items():
            error = self.refusal(code)
            self.assertEqual({name for name in names if getattr(error, name)}, expected, code)
            self.assertEqual(str(error), f"why ({code})")

    def test_status_tells_too(self) -> None:
        """A status of 500 and more passes, a proxy's is known, 413 is the record's fault."""
        self.assertTrue(self.refusal("", 500).passing)
        self.assertFalse(self.refusal("", 500).from_between)
        self.assertTrue(self.refusal("502", 502).from_between)
        self.assertTrue(self.refusal("413", 413).invalid)
