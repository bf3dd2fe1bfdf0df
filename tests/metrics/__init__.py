"""Tests of raccoon.metrics."""
