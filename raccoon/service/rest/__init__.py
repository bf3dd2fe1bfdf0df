"""The HTTP edge: REST on Klein, with WebSocket on the same port."""
