"""Requests, wire to message: protobuf, and the JSON form that Go's encoding/json reads."""

from __future__ import annotations

import re
from binascii import a2b_base64
from collections.abc import Iterable
from datetime import datetime
from operator import attrgetter
from typing import Any

import orjson
from google.protobuf.message import DecodeError
from zope.interface import implementer

from raccoon.config import EventSettings, LimitSettings
from raccoon.errors import DeserializationError, LimitError
from raccoon.interfaces import IDeserializer
from raccoon.messages import Batch
from raccoon.proto.raccoon_pb2 import SendEventRequest

_KNOWN_TYPES_MAX = 4096
_QUOTED_LENGTH = 60
# Field 3, length-delimited, and how a needlessly long form of it begins. Each event has one of
# them; payloads may hold more.
_EVENTS_TAG, _LONG_EVENTS_TAG = 0x1A, 0x9A
_EVENT_BYTES_MIN = 2  # an empty event: its tag, and a length of 0
_SMALL = 65_536  # bytes that cost little to decode, whatever they hold
_OTHER_FIELDS_MAX = 10_000
_VALUES_OF_EVENT = 8  # in JSON: two keys, two strings, its object and an array, and some to spare
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"', re.DOTALL)
_TYPE, _EVENT_BYTES = attrgetter("type"), attrgetter("event_bytes")
_INT64 = 1 << 63
_INT32 = 1 << 31


class Checks:
    """The limits that hold for a batch in whichever encoding it came."""

    def __init__(self, limits: LimitSettings, event: EventSettings) -> None:
        self.max_events = limits.events
        self.json_depth = limits.json_depth
        self._guid_length = limits.guid_length
        self._type_pattern = (
            re.compile(event.type_pattern) if "%s" in event.distribution_publisher_pattern else None
        )
        self._known_types: set[str] = set()

    def check(self, batch: Batch) -> Batch:
        """Return the batch.

        Raises:
            LimitError: it is over a limit.
        """
        if len(batch.guid) > self._guid_length:
            raise LimitError(
                f"req_guid has {len(batch.guid)} characters; at most {self._guid_length}"
                " are allowed (LIMIT_GUID_LENGTH)"
            )
        if self._type_pattern is not None and not self._known_types.issuperset(batch.types):
            self._learn(batch, self._type_pattern)
        return batch

    def too_many_events(self, count: int | str) -> None:
        raise LimitError(
            f"{count} events; at most {self.max_events} are allowed in a request (LIMIT_EVENTS)"
        )

    def _learn(self, batch: Batch, pattern: re.Pattern[str]) -> None:
        unknown = set(batch.types) - self._known_types
        for event_type in unknown:
            if pattern.fullmatch(event_type) is None:
                raise LimitError(
                    f"events[{batch.types.index(event_type)}].type {_quoted(event_type)} does not"
                    f" match {pattern.pattern} (EVENT_TYPE_PATTERN)"
                )
        if len(self._known_types) + len(unknown) > _KNOWN_TYPES_MAX:
            self._known_types.clear()
        self._known_types |= unknown


def _quoted(value: object) -> str:
    """A value as an error may show it: short, whatever a client sent."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    if isinstance(value, str) and len(value) > _QUOTED_LENGTH:
        return repr(value[:_QUOTED_LENGTH]) + "…"
    return repr(value)


@implementer(IDeserializer)
class ProtobufDeserializer:
    """raystack.raccoon.v1beta1.SendEventRequest; unknown fields are passed over."""

    def __init__(self, limits: LimitSettings, event: EventSettings) -> None:
        self._checks = Checks(limits, event)
        self._uncounted = max(limits.events * _EVENT_BYTES_MIN, _SMALL)

    def deserialize(self, body: bytes) -> Batch:
        """Decode protobuf; see IDeserializer."""
        if (
            len(body) > self._uncounted
            and body.count(_EVENTS_TAG) + body.count(_LONG_EVENTS_TAG) > self._checks.max_events
        ):
            self._count_events(body)
        try:
            message = SendEventRequest.FromString(body)
        except DecodeError as error:
            reason = str(error).removeprefix("Error parsing message with type ")
            raise DeserializationError(f"not a protobuf SendEventRequest: {reason}") from None
        repeated = message.events
        if len(repeated) > self._checks.max_events:
            self._checks.too_many_events(len(repeated))
        events = repeated[:]
        sent_time = None
        if message.HasField("sent_time"):
            moment = message.sent_time
            sent_time = moment.seconds + moment.nanos / 1e9
        return self._checks.check(
            Batch(
                message.req_guid,
                sent_time,
                list(map(_TYPE, events)),
                list(map(_EVENT_BYTES, events)),
            )
        )

    def _count_events(self, body: bytes) -> None:
        """Refuse too many events before any is decoded: an empty one takes two bytes to send."""
        found = fields = position = 0
        while position < len(body):
            fields += 1
            if fields > self._checks.max_events + _OTHER_FIELDS_MAX:
                raise LimitError(
                    f"more than {self._checks.max_events} events and {_OTHER_FIELDS_MAX} other"
                    " fields (LIMIT_EVENTS)"
                )
            tag, position = _varint(body, position)
            wire_type = tag & 7
            if wire_type == 0:
                _, position = _varint(body, position)
            elif wire_type == 1:
                position += 8
            elif wire_type == 2:
                length, position = _varint(body, position)
                position += length
                if tag == _EVENTS_TAG:
                    found += 1
                    if found > self._checks.max_events:
                        self._checks.too_many_events(f"more than {self._checks.max_events}")
            elif wire_type == 5:
                position += 4
            else:
                return  # a group, or nonsense: the decoder's to judge


def _varint(body: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while position < len(body) and shift < 70:
        byte = body[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    return value, len(body)


@implementer(IDeserializer)
class JsonDeserializer:
    """The JSON form: keys in any letter case or in camelCase, bytes as base64 or as numbers."""

    def __init__(self, limits: LimitSettings, event: EventSettings) -> None:
        self._checks = Checks(limits, event)

    def deserialize(self, body: bytes | bytearray | str) -> Batch:
        """Decode JSON; see IDeserializer."""
        if len(body) > _SMALL:
            self._check_values(body if isinstance(body, (bytes, bytearray)) else body.encode())
        try:
            document = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise DeserializationError(f"not JSON: {error}") from None
        if document is None:
            document = {}
        fields = self._fields(document, "request", _REQUEST_KEYS, 1)
        guid = fields.get("req_guid")
        events = fields.get("events")
        if guid is None:
            guid = ""
        elif type(guid) is not str:
            raise _mismatch("req_guid", "a string", guid)
        if events is None:
            events = []
        elif type(events) is not list:
            raise _mismatch("events", "an array", events)
        if len(events) > self._checks.max_events:
            self._checks.too_many_events(len(events))
        types: list[str] = []
        payloads: list[bytes] = []
        for index, event in enumerate(events):
            fields_of_event = self._fields(event, f"events[{index}]", _EVENT_KEYS, 3)
            event_type = fields_of_event.get("type")
            if event_type is None:
                event_type = ""
            elif type(event_type) is not str:
                raise _mismatch(f"events[{index}].type", "a string", event_type)
            types.append(event_type)
            payloads.append(_bytes(fields_of_event.get("event_bytes"), index))
        return self._checks.check(Batch(guid, _time(fields, self._fields), types, payloads))

    def _check_values(self, body: bytes | bytearray) -> None:
        """Refuse what costs more than its events can, before it is parsed.

        An empty array takes two bytes to send, and 60 and a while when it is parsed. Numbers are
        no part of this: an event's bytes may come as an array of them.
        """
        most = _VALUES_OF_EVENT * self._checks.max_events + _OTHER_FIELDS_MAX
        containers = body.count(b"[") + body.count(b"{")
        strings = body.count(b'"') // 2
        if strings > most:
            strings = (body.count(b'"') - body.count(b'\\"')) // 2
        if containers > most >= strings:
            without_strings = _STRING.sub(b"", body)
            containers = without_strings.count(b"[") + without_strings.count(b"{")
        if strings > most or containers > most:
            raise LimitError(
                f"{strings} strings and {containers} arrays and objects; at most {most} of both"
                f" are allowed, for {self._checks.max_events} events (LIMIT_EVENTS)"
            )

    def _fields(self, value: Any, where: str, known: frozenset[str], depth: int) -> dict[str, Any]:
        """The known fields of an object, itself nested `depth` deep, under their wire names."""
        if value is None:
            return {}
        if type(value) is not dict:
            raise _mismatch(where, "an object", value)
        if known.issuperset(value):
            return value
        found = {}
        for key, field in value.items():
            name = key if key in known else _ALIASES.get(key.lower())
            if name in known:
                found[name] = field
            elif isinstance(field, (dict, list)):
                self._check_depth(field, f"{where}.{_quoted(key)}", depth)
        return found

    def _check_depth(self, value: Any, where: str, depth: int) -> None:
        level = [value]
        while level:
            depth += 1
            if depth > self._checks.json_depth:
                raise LimitError(
                    f"{where} is nested deeper than {self._checks.json_depth} (LIMIT_JSON_DEPTH)"
                )
            level = [
                item
                for container in level
                for item in _items(container)
                if isinstance(item, (dict, list))
            ]


def _items(container: Any) -> Iterable[Any]:
    """What an array or object holds, or nothing where none of it is one."""
    items = container.values() if isinstance(container, dict) else container
    return () if {dict, list}.isdisjoint(map(type, items)) else items


_REQUEST_KEYS = frozenset({"req_guid", "sent_time", "events"})
_EVENT_KEYS = frozenset({"event_bytes", "type"})
_TIME_KEYS = frozenset({"seconds", "nanos"})
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_ALIASES = {
    alias: name
    for name in _REQUEST_KEYS | _EVENT_KEYS | _TIME_KEYS
    for alias in (name, name.replace("_", ""))
}


def _mismatch(where: str, expected: str, value: Any) -> DeserializationError:
    return DeserializationError(f"{where}: expected {expected}, got {_quoted(value)}")


def _base64(text: str) -> bytes:
    # Python 3.11's strict mode still takes padding in excess.
    if len(text) % 4 or text.endswith("==="):
        raise ValueError("incorrect padding")
    return a2b_base64(text, strict_mode=True)


def _bytes(value: Any, index: int) -> bytes:
    kind = type(value)
    if kind is str:
        try:
            return _base64(value)
        except ValueError:
            pass
        # Go's decoder passes over line breaks in base64.
        try:
            return _base64(value.replace("\n", "").replace("\r", ""))
        except ValueError as error:
            raise DeserializationError(
                f"events[{index}].event_bytes: not standard base64: {error}"
            ) from None
    if kind is list:
        if set(map(type, value)) <= {int}:
            try:
                return bytes(value)
            except ValueError:
                pass
        position, wrong = next(
            (position, item)
            for position, item in enumerate(value)
            if type(item) is not int or not 0 <= item <= 255
        )
        raise _mismatch(f"events[{index}].event_bytes[{position}]", "a number from 0 to 255", wrong)
    if value is None:
        return b""
    raise _mismatch(f"events[{index}].event_bytes", "base64 or an array of bytes", value)


def _time(fields: dict[str, Any], fields_of: Any) -> float | None:
    value = fields.get("sent_time")
    if value is None:
        return None
    if type(value) is str:
        try:
            if not _RFC_3339.fullmatch(value):
                raise ValueError
            return datetime.fromisoformat(value).timestamp()
        except (ValueError, OverflowError):
            raise _mismatch("sent_time", "an RFC 3339 time", value) from None
    parts = fields_of(value, "sent_time", _TIME_KEYS, 2)
    seconds = _whole(parts.get("seconds"), "sent_time.seconds", _INT64)
    nanos = _whole(parts.get("nanos"), "sent_time.nanos", _INT32)
    return seconds + nanos / 1e9


def _whole(value: Any, where: str, bound: int) -> int:
    if value is None:
        return 0
    if type(value) is not int or not -bound <= value < bound:
        raise _mismatch(where, "a whole number", value)
    return value
