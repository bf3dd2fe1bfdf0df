"""How a client's identifier is read from headers or metadata."""

from __future__ import annotations

from raccoon.config import LimitSettings, WebSocketSettings
from raccoon.errors import BadRequestError, LimitError
from raccoon.messages import Identifier


class Identification:
    """Reads an Identifier from the texts of the two configured headers.

    Args:
        settings: names of the headers and the default group.
        limits: the length of an id and of a group.
    """

    def __init__(self, settings: WebSocketSettings, limits: LimitSettings) -> None:
        self.id_header = settings.conn_id_header.lower()
        self.group_header = settings.conn_group_header.lower()
        self.id_header_bytes = self.id_header.encode("ascii")
        self.group_header_bytes = self.group_header.encode("ascii")
        self.client_headers = ["content-type", self.id_header]
        if self.group_header:
            self.client_headers.append(self.group_header)
        self._group_default = settings.conn_group_default
        self._max_length = limits.id_length

    def group(self, group_value: str | None) -> str:
        """The group of a client that sent this header value, whatever its length."""
        return group_value or self._group_default

    def identifier(self, id_value: str | None, group_value: str | None) -> Identifier:
        """The identifier of a client that sent these header values (None: no such header).

        Raises:
            LimitError: a value is longer than LIMIT_ID_LENGTH.
            BadRequestError: a value holds control characters.
        """
        identifier = Identifier(id_value or "", self.group(group_value))
        for name, value in ((self.id_header, id_value), (self.group_header, group_value)):
            if not value:
                continue
            if len(value) > self._max_length:
                raise LimitError(
                    f"header {name} has {len(value)} characters; at most {self._max_length}"
                    " are allowed (LIMIT_ID_LENGTH)"
                )
            if not value.isprintable():
                raise BadRequestError(f"header {name} holds characters that cannot be printed")
        return identifier
