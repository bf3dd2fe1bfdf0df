"""Tests of raccoon.errors."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from raccoon import errors


class ErrorTreeTests(SynchronousTestCase):
    """What derives from what."""

    def test_every_error_is_ours(self) -> None:
        """Every error of the module derives from RaccoonError."""
        kinds = [
            kind
            for kind in vars(errors).values()
            if isinstance(kind, type) and kind.__module__ == errors.__name__
        ]
        self.assertEqual([], [kind for kind in kinds if not issubclass(kind, errors.RaccoonError)])
        self.assertGreater(len(kinds), 5)

    def test_what_a_client_did_wrong(self) -> None:
        """Bytes that are no request and requests over a limit are both bad requests."""
        self.assertTrue(issubclass(errors.DeserializationError, errors.BadRequestError))
        self.assertTrue(issubclass(errors.LimitError, errors.BadRequestError))

    def test_overload_is_not_the_clients_fault(self) -> None:
        """Refusal for want of room is no bad request, and says that a retry is in order."""
        error = errors.Overloaded()
        self.assertNotIsInstance(error, errors.BadRequestError)
        self.assertEqual("overloaded, retry", str(error))


class ConfigErrorTests(SynchronousTestCase):
    """ConfigError."""

    def test_one_problem_a_line(self) -> None:
        """The message holds each problem on its line."""
        error = errors.ConfigError(["a: b", "c: d"])
        self.assertEqual("a: b\nc: d", str(error))
        self.assertEqual(("a: b", "c: d"), error.problems)


class PublishErrorTests(SynchronousTestCase):
    """PublishError."""

    def test_how_many_of_how_many_and_why(self) -> None:
        """The message says how many of how many events failed, and why."""
        error = errors.PublishError(1, 10, ["broker is down"])
        self.assertEqual("1 of 10 events failed: broker is down", str(error))
        self.assertEqual((1, 10), (error.failed, error.total))

    def test_a_reason_is_named_once(self) -> None:
        """Equal reasons are shown once, in the order they came."""
        error = errors.PublishError(4, 4, ["b", "a", "b", "a"])
        self.assertEqual("4 of 4 events failed: b; a", str(error))

    def test_first_few_distinct_reasons(self) -> None:
        """Of thousands of reasons the first few are shown, and how many more there are."""
        error = errors.PublishError(5000, 5000, [f"reason {n}" for n in range(5000)])
        self.assertEqual(
            "5000 of 5000 events failed: reason 0; reason 1; reason 2; and 4997 more", str(error)
        )

    def test_long_reasons_are_cut(self) -> None:
        """A reason of any length makes a message of bounded length."""
        error = errors.PublishError(3, 3, ["a" * 10_000, "b" * 10_000, "c" * 10_000])
        self.assertLess(len(str(error)), 1000)
