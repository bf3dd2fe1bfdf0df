"""Tests of raccoon.publisher."""
