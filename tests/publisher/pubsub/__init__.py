"""Tests of raccoon.publisher.pubsub."""
