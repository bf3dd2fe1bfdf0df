"""Tests of raccoon.journal."""
