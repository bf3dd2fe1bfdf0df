"""Tests of raccoon.publisher.base."""
