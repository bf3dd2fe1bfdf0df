"""Tests of raccoon.workers."""
