"""Tests of WebSocket on the HTTP port."""
