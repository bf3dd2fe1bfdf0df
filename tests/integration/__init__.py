"""Tests of a real `twistd raccoon` with real brokers and sockets."""
