"""Tests of raccoon.journal.deadletters."""

from __future__ import annotations

from raccoon.journal.deadletters import DeadLetters, Letter
from tests.journal.fakes import DirectoryCase, make_record


def make_letter(name: str, reason: str = "too large") -> Letter:
    """A letter that can be told from others."""
    return Letter(5.5, reason, {"click": 2, "scroll": 1}, make_record(name, events=7))


class DeadLettersTests(DirectoryCase):
    """The file of dead letters."""

    def setUp(self) -> None:
        super().setUp()
        self.letters = self.open()

    def open(self) -> DeadLetters:
        """The file, once more."""
        letters = DeadLetters(self.directory)
        self.addCleanup(letters.close)
        return letters

    def test_round_trip(self) -> None:
        """Letters are read as they were stored, in order, with numbers that are not used again."""
        written = [make_letter("a"), make_letter("b", "no such topic")]
        self.letters.add(written)
        self.assertEqual([(1, written[0]), (2, written[1])], list(self.open().all()))
        self.letters.remove()
        self.letters.add([make_letter("c")])
        self.assertEqual([3], [number for number, _ in self.letters.all()])

    def test_some(self) -> None:
        """Letters are chosen by their numbers; those that are not there are passed over."""
        self.letters.add([make_letter(name) for name in "abcd"])
        chosen = list(self.letters.all([4, 2, 9]))
        self.assertEqual(["b", "d"], [letter.record.client for _, letter in chosen])
        self.assertEqual([2, 4], [number for number, _ in chosen])

    def test_replay(self) -> None:
        """Letters marked for replay are given oldest first, so many at a time, until removed."""
        self.letters.add([make_letter(name) for name in "abcd"])
        self.assertEqual([], self.letters.to_replay(10))
        self.assertEqual(2, self.open().mark_for_replay([4, 2, 9]))
        self.assertEqual((4, 2), self.letters.count())
        self.assertEqual([2], [number for number, _ in self.letters.to_replay(1)])
        self.assertEqual([2, 4], [number for number, _ in self.letters.to_replay(10)])
        self.assertEqual(1, self.letters.remove([2]))
        self.assertEqual([4], [number for number, _ in self.letters.to_replay(10)])

    def test_all_at_once(self) -> None:
        """No numbers stand for all letters."""
        self.assertEqual(0, self.letters.mark_for_replay())
        self.letters.add([make_letter(name) for name in "abcd"])
        self.assertEqual(4, self.letters.mark_for_replay())
        self.assertEqual(4, self.letters.remove())
        self.assertEqual((0, 0), self.letters.count())

    def test_reasons(self) -> None:
        """Reasons are counted, the most frequent first."""
        self.letters.add([make_letter("a", "rare"), *(make_letter(n, "often") for n in "bcd")])
        self.assertEqual([("often", 3), ("rare", 1)], self.letters.reasons())

    def test_types(self) -> None:
        """A letter tells which types of its events failed; no type stands for all."""
        letter = make_letter("a")
        self.assertTrue(letter.includes("click"))
        self.assertFalse(letter.includes("buy"))
        self.assertTrue(letter._replace(failed={"": 3}).includes("buy"))

    def test_two_at_once(self) -> None:
        """One process reads while another writes."""
        self.letters.add([make_letter(name) for name in "ab"])
        reading = self.open().all()
        next(reading)
        self.letters.add([make_letter("c")])
        self.letters.remove([2])
        self.assertEqual(["b"], [letter.record.client for _, letter in reading])
        self.assertEqual((2, 0), self.letters.count())
