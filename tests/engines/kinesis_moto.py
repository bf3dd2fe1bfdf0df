"""The process of the Kinesis engine: moto's server, mended where it loses records or slows down.

python -m tests.engines.kinesis_moto PORT
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable
from typing import Any

from moto.kinesis.models import Shard
from moto.moto_server.werkzeug_app import (
    DomainDispatcherApplication,
    MotoRequestHandler,
    create_backend_app,
)
from werkzeug.serving import run_simple

_one_at_a_time = threading.Lock()


def _last_number(self: Shard) -> int:
    return next(reversed(self.records), 0)


def serve(port: int) -> None:
    """Serve on 127.0.0.1 until the process ends."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # moto lists all records of a shard to find the last one, for each that is put.
    Shard.get_max_sequence_number = _last_number  # type: ignore[method-assign] # mended
    moto = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        # Two threads that put into one shard at once give two records the same number, and one
        # of them is lost.
        with _one_at_a_time:
            return list(moto(environ, start_response))

    run_simple("127.0.0.1", port, application, threaded=True, request_handler=MotoRequestHandler)


if __name__ == "__main__":
    serve(int(sys.argv[1]))
