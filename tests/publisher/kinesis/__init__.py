"""Tests of raccoon.publisher.kinesis."""
