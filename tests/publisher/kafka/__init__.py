"""Tests of raccoon.publisher.kafka."""
