"""Tests of raccoon.journal.cli."""
