"""Tests of raccoon.journal.deadletters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace

import apsw

from raccoon.journal import deadletters
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

    def test_many(self) -> None:
        """Many letters are changed piece by piece, but none that comes meanwhile."""
        self.patch(deadletters, "_PIECE", 3)
        names = [f"{number}" for number in range(10)]
        self.letters.add([make_letter(name) for name in names])
        other, pieces = self.open(), self.letters._pieces

        def and_another(ids: Sequence[int]) -> Iterator[Sequence[int]]:
            for piece in pieces(ids):
                other.add([make_letter("new")])
                yield piece

        self.patch(self.letters, "_pieces", and_another)
        self.assertEqual(8, self.letters.mark_for_replay([*range(1, 9)]))
        self.assertEqual((13, 8), other.count())
        self.assertEqual(13, self.letters.remove())
        self.assertEqual({"new"}, {letter.record.client for _, letter in other.all()})

    def test_file_of_the_first_form(self) -> None:
        """Free pages of a file that was made before they were given back do not count."""
        connection = apsw.Connection(str(self.directory / deadletters.FILE))
        connection.pragma("journal_mode", "wal")
        connection.execute(deadletters._SCHEMA)
        connection.close()
        self.letters.add([make_letter("a")._replace(record=make_record("a", size=5000))] * 1000)
        self.assertGreater(self.letters.size(), 5_000_000)
        self.letters.remove()
        self.assertLess(self.letters.size(), 100_000)

    def test_opening_changes_nothing(self) -> None:
        """Opening a file that is there writes nothing."""
        self.letters.add([make_letter("a")])
        log = self.directory / (deadletters.FILE + "-wal")
        before = log.stat().st_size
        self.assertEqual((1, 0), self.open().count())
        self.assertEqual(before, log.stat().st_size)

    def add_and_damage(self, letters: int) -> None:
        """Store so many letters of 5,000 bytes, and overwrite a page of one of the first."""
        self.letters.add([make_letter("a")._replace(record=make_record("a", size=5000))] * letters)
        self.letters.close()
        path = self.directory / deadletters.FILE
        content = bytearray(path.read_bytes())
        content[20 * 16_384 : 21 * 16_384] = b"x" * 16_384
        path.write_bytes(content)

    def test_damage_in_a_letter(self) -> None:
        """The letters at the end are looked at for damage, not their index alone."""
        self.add_and_damage(100)
        aside = self.letters.set_aside_if_damaged()
        assert aside is not None
        self.assertTrue(aside.exists())
        self.assertEqual((0, 0), self.letters.count())

    def test_recent_count(self) -> None:
        """Letters are counted again when a hundred times as long has passed as it took."""
        times = iter((0.0, 0.5, 49.9, 50.0, 50.1))
        self.patch(deadletters, "time", SimpleNamespace(monotonic=lambda: next(times)))
        self.letters.add([make_letter("a")])
        self.assertEqual(1, self.letters.recent_count())
        self.letters.add([make_letter("b")])
        self.assertEqual(1, self.letters.recent_count())
        self.assertEqual(2, self.letters.recent_count())

    def test_damage_far_from_the_end(self) -> None:
        """It is not looked for in a large file, which takes letters as before."""
        self.add_and_damage(1100)
        self.assertIsNone(self.letters.set_aside_if_damaged())
        self.letters.add([make_letter("b")])
        self.assertEqual((1101, 0), self.letters.count())
        with self.assertRaises(apsw.CorruptError):
            list(self.letters.all())

    def test_disk_is_given_back(self) -> None:
        """The file is as small as what is in it once letters are removed."""
        record = make_record("a", size=5000)
        self.letters.add([make_letter("a")._replace(record=record)] * 1000)
        other = self.open()
        self.assertGreater(other.size(), 5_000_000)
        self.letters.remove([*range(1, 1000)])
        self.assertLess(other.size(), 100_000)
        self.assertLess((self.directory / deadletters.FILE).stat().st_size, 100_000)

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
