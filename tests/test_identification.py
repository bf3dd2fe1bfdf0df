"""Tests of raccoon.identification."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon.config import LimitSettings, WebSocketSettings
from raccoon.errors import BadRequestError, LimitError
from raccoon.identification import Identification
from raccoon.messages import Identifier


def make_identification() -> Identification:
    settings = WebSocketSettings(
        conn_id_header="X-User-ID", conn_group_header="X-Group", conn_group_default="all"
    )
    return Identification(settings, LimitSettings(id_length=8))


class IdentificationTests(SynchronousTestCase):
    """Reading an identifier from header values."""

    def setUp(self) -> None:
        self.identification = make_identification()

    def test_header_names_are_lower_case(self) -> None:
        """The names are as HTTP and gRPC compare them: lower case, as text and as bytes."""
        self.assertEqual("x-user-id", self.identification.id_header)
        self.assertEqual(b"x-user-id", self.identification.id_header_bytes)
        self.assertEqual("x-group", self.identification.group_header)
        self.assertEqual(b"x-group", self.identification.group_header_bytes)

    def test_both_given(self) -> None:
        """Both values make the identifier."""
        self.assertEqual(Identifier("a", "b"), self.identification.identifier("a", "b"))

    def test_default_group(self) -> None:
        """Without a group, or with an empty one, the client is in the default group."""
        self.assertEqual(Identifier("a", "all"), self.identification.identifier("a", None))
        self.assertEqual(Identifier("a", "all"), self.identification.identifier("a", ""))

    def test_no_id(self) -> None:
        """Without an id the identifier's is empty: whether that will do is the edge's to say."""
        self.assertEqual(Identifier("", "b"), self.identification.identifier(None, "b"))

    def test_same_id_in_another_group(self) -> None:
        """The same id in another group is another client."""
        one = self.identification.identifier("a", "b")
        self.assertNotEqual(one, self.identification.identifier("a", "c"))
        self.assertEqual(one, self.identification.identifier("a", "b"))

    def test_longest_values(self) -> None:
        """Values of the limit's length are taken, as are letters beyond ASCII."""
        self.assertEqual(
            Identifier("é" * 8, "b" * 8), self.identification.identifier("é" * 8, "b" * 8)
        )

    def test_id_too_long(self) -> None:
        """A longer id is refused; the reason names header, length and limit."""
        error = self.assertRaises(LimitError, self.identification.identifier, "a" * 9, None)
        self.assertEqual(
            "header x-user-id has 9 characters; at most 8 are allowed (LIMIT_ID_LENGTH)",
            str(error),
        )

    def test_group_too_long(self) -> None:
        """A longer group is refused by the name of its own header."""
        error = self.assertRaises(LimitError, self.identification.identifier, "a", "b" * 9)
        self.assertIn("header x-group has 9 characters", str(error))

    def test_control_characters(self) -> None:
        """An id or group with control characters is refused, and not repeated in the reason."""
        for values in (("a\n", None), ("a", "\x1b[2J"), ("a\x00", "b"), ("a\u2028", None)):
            error = self.assertRaises(BadRequestError, self.identification.identifier, *values)
            self.assertTrue(str(error).isprintable())
