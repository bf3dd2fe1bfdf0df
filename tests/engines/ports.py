"""Free ports for servers that are started, killed and started again."""

from __future__ import annotations

import random
import socket

# Below Linux's range of ephemeral ports: while a server is down, no outgoing connection (not even
# its own client's, to itself) can be given its port.
_LOW, _HIGH = 20_000, 28_000
_given: set[int] = set()


def free_port() -> int:
    """A TCP port that nothing listens on, given out once in this process."""
    for _ in range(1000):
        port = random.randrange(_LOW, _HIGH)
        if port not in _given and _is_free(port):
            _given.add(port)
            return port
    raise OSError(f"no free port from {_LOW} to {_HIGH}")


def _is_free(port: int) -> bool:
    try:
        with socket.create_server(("127.0.0.1", port)):
            pass
        if socket.has_dualstack_ipv6():
            with socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True):
                pass
    except OSError:
        return False
    return True
