"""Raccoon collects batches of events over WebSocket, REST and gRPC and delivers them."""

__version__ = "0.1.0"
