"""The gRPC edge on grpcio's threaded server."""
