"""The order in which groups are let through."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from raccoon.publisher.base.turns import Turns


class TurnsTests(SynchronousTestCase):
    """raccoon.publisher.base.turns.Turns."""

    def setUp(self) -> None:
        self.turns = Turns()
        self.passed: list[int] = []

    def take(self, group: list[str]) -> None:
        with self.turns.take(group):
            self.passed.append(id(group))

    def test_order_of_expect(self) -> None:
        """Whoever comes first, groups pass in the order in which they were expected."""
        groups = [["equal"] for _ in range(20)]
        for group in groups:
            self.turns.expect(group)
        with ThreadPoolExecutor(len(groups)) as pool:
            list(pool.map(self.take, reversed(groups)))
        self.assertEqual(self.passed, [id(group) for group in groups])

    def test_not_expected(self) -> None:
        """A group that was not expected comes after those that were."""
        first, second = ["first"], ["second"]
        self.turns.expect(first)
        with ThreadPoolExecutor(1) as pool:
            pool.submit(self.take, second)
            self.take(first)
        self.assertEqual(self.passed, [id(first), id(second)])

    def test_error_inside(self) -> None:
        """A group that fails lets the next one through."""
        with self.assertRaises(ValueError), self.turns.take("first"):
            raise ValueError
        self.take(["second"])
        self.assertEqual(len(self.passed), 1)
