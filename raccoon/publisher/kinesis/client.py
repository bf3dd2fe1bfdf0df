"""The calls that Raccoon makes to Amazon Kinesis through boto3: one attempt each."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, NamedTuple

import boto3
import botocore.session
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials, SharedCredentialProvider
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError
from botocore.parsers import ResponseParserError

from raccoon.config import KinesisSettings
from raccoon.errors import RaccoonError, StartError

_CONNECT_TIMEOUT = 3.0

_LIMIT_EXCEEDED = "LimitExceededException"
_THROTTLED = frozenset(
    {
        "KMSThrottlingException",
        "ProvisionedThroughputExceededException",
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        _LIMIT_EXCEEDED,
    }
)
_PASSING = frozenset({"InternalFailure", "InternalFailureException", "ServiceUnavailable"})
_INVALID = frozenset({"InvalidArgumentException", "SerializationException", "ValidationException"})
_TOO_LARGE = 413
_NOBODY_THERE = frozenset({502, 503, 504})


class NoAnswerError(RaccoonError):
    """Kinesis does not answer, or could not be asked."""


class RefusedError(RaccoonError):
    """Kinesis refused a call.

    The text is for the log: it may name the account and its users.

    Attributes:
        code: the error's name, such as ResourceNotFoundException.
    """

    def __init__(self, code: str, status: int, message: str) -> None:
        super().__init__(f"{message} ({code})" if message else code)
        self.code = code
        self._status = status

    @property
    def not_found(self) -> bool:
        """There is no such stream."""
        return self.code == "ResourceNotFoundException"

    @property
    def throttled(self) -> bool:
        """Too much was asked for in a short time."""
        return self.code in _THROTTLED

    @property
    def limit_exceeded(self) -> bool:
        """Too many streams or shards, or too many such calls."""
        return self.code == _LIMIT_EXCEEDED

    @property
    def invalid(self) -> bool:
        """Something in the call is not allowed, such as a record's size."""
        return self.code in _INVALID or self._status == _TOO_LARGE

    @property
    def passing(self) -> bool:
        """The same call may be taken later."""
        return self.throttled or self.code in _PASSING or self._status >= 500

    @property
    def from_between(self) -> bool:
        """A proxy answered, in the place of Kinesis."""
        return self._status in _NOBODY_THERE


class RefusedRecord(NamedTuple):
    """A record that Kinesis did not take, among others that it did."""

    code: str
    message: str

    @property
    def throttled(self) -> bool:
        """Its shard takes no more for now."""
        return self.code in _THROTTLED


class KinesisClient:
    """A few methods of boto3's client. Safe from any thread.

    Each raises NoAnswerError or RefusedError.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        self.endpoint = str(api.meta.endpoint_url)

    def put(self, stream: str, records: Sequence[tuple[bytes, str]]) -> list[RefusedRecord | None]:
        """Write (data, partition key) records; what was refused, in their order."""
        answer = self._call(
            "put_records",
            StreamName=stream,
            Records=[{"Data": data, "PartitionKey": key} for data, key in records],
        )
        said = answer.get("Records", ())
        if len(said) != len(records):
            raise NoAnswerError(f"an answer for {len(said)} of {len(records)} records")
        if not answer.get("FailedRecordCount"):
            return [None] * len(records)
        return [
            RefusedRecord(code, record.get("ErrorMessage", ""))
            if (code := record.get("ErrorCode"))
            else None
            for record in said
        ]

    def status(self, stream: str) -> str:
        """CREATING, ACTIVE, UPDATING or DELETING."""
        answer = self._call("describe_stream_summary", StreamName=stream)
        return str(answer["StreamDescriptionSummary"]["StreamStatus"])

    def create(self, stream: str, mode: str, shards: int) -> None:
        """Ask for a new stream; `shards` matter where the mode is PROVISIONED."""
        sized = {"ShardCount": shards} if mode == "PROVISIONED" else {}
        self._call(
            "create_stream", StreamName=stream, StreamModeDetails={"StreamMode": mode}, **sized
        )

    def close(self) -> None:
        """Close its idle connections."""
        self._api.close()

    def _call(self, method: str, **arguments: Any) -> dict[str, Any]:
        try:
            answer: dict[str, Any] = getattr(self._api, method)(**arguments)
        except ClientError as error:
            said = error.response.get("Error", {})
            raise RefusedError(
                str(said.get("Code", "")),
                error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0),
                " ".join(str(said.get("Message") or "").split()),
            ) from None
        except (BotoCoreError, ResponseParserError) as error:
            raise NoAnswerError(" ".join(str(error).split())) from None
        return answer


class _AmbientCredentials(Credentials):  # type: ignore[misc] # botocore has no types
    """Looked for when the first call is signed: that may ask the network."""

    def __init__(self, providers: Any) -> None:
        super().__init__("", "", method="ambient")
        self._providers = providers
        self._found: Any = None
        self._looking = threading.Lock()

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        with self._looking:
            if self._found is None:
                self._found = self._providers.load_credentials()
        if self._found is None:
            raise NoCredentialsError
        return self._found.get_frozen_credentials()


class _Provider:
    """Gives botocore the credentials that it is to use."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Credentials:
        return self._credentials


def open_client(settings: KinesisSettings, connections: int, read_timeout: float) -> KinesisClient:
    """A client for so many calls at once. Asks no network.

    Region and address come from where AWS's SDKs look for them: AWS_REGION (then, as in boto3,
    AWS_DEFAULT_REGION), AWS_ENDPOINT_URL, and the shared files' profile.

    Raises:
        StartError: there is no region, the credentials file cannot be used, or botocore refuses
            something else.
    """
    try:
        return _open(settings, connections, read_timeout)
    except (BotoCoreError, ValueError) as error:
        raise StartError(f"Kinesis: {' '.join(str(error).split())}") from None


def _open(settings: KinesisSettings, connections: int, read_timeout: float) -> KinesisClient:
    session = botocore.session.Session(
        session_vars={"region": ("region", ["AWS_REGION", "AWS_DEFAULT_REGION"], None, None)}
    )
    region = settings.aws_region or session.get_config_variable("region")
    if not region:
        raise StartError(
            "PUBLISHER_KINESIS_AWS_REGION: missing; expected a region such as eu-west-1, here, in"
            " AWS_REGION, or in the shared configuration file"
        )
    credentials = (
        _from_file(settings.credentials, session.get_config_variable("profile"))
        if settings.credentials
        else _AmbientCredentials(session.get_component("credential_provider"))
    )
    session.register_component("credential_provider", _Provider(credentials))
    api = boto3.Session(botocore_session=session).client(
        "kinesis",
        region_name=region,
        config=Config(
            connect_timeout=_CONNECT_TIMEOUT,
            read_timeout=read_timeout,
            max_pool_connections=connections,
            retries={"total_max_attempts": 1, "mode": "standard"},
            parameter_validation=False,  # costs a third of a large request
            tcp_keepalive=True,
        ),
    )
    return KinesisClient(api)


def _from_file(path: str, profile: str | None) -> Credentials:
    name = profile or "default"
    problem = f"no access key in the profile {name!r}"
    credentials = None
    try:
        with open(path, encoding="utf-8"):
            pass
        credentials = SharedCredentialProvider(path, name).load()
    except (OSError, UnicodeError, BotoCoreError) as error:
        problem = " ".join(str(error).split())
    if credentials is None:
        raise StartError(f"PUBLISHER_KINESIS_CREDENTIALS: {path}: {problem}")
    return credentials
