"""The gRPC edge on grpcio's threaded server."""

import os

# grpcio's core writes to stderr what it raises as well, unless told before its import.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
