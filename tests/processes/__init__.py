"""Tests of raccoon.processes."""
