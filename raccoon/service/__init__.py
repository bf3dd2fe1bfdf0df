"""The ingest edges: REST, WebSocket and gRPC."""
