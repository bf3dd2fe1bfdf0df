"""Tests of raccoon.journal.files."""
