"""The WebSocket edge on Autobahn."""
