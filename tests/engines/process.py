"""What the engines of the tests have in common: a process that is started, killed and frozen."""

from __future__ import annotations

import atexit
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

_START_SECONDS = 60
_STOP_SECONDS = 20


class EngineError(Exception):
    """The engine cannot be run; the message is one line."""


class EngineProcess:
    """A server on 127.0.0.1 whose port outlives its process."""

    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def start(self) -> None:
        """Start it; returns when it answers.

        Raises:
            EngineError: it cannot be run, or does not answer.
        """
        raise NotImplementedError

    def stop(self) -> None:
        """End it in an orderly way (SIGTERM)."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self.kill()

    def kill(self) -> None:
        """End it at once (SIGKILL); the port stays for another `start`."""
        atexit.unregister(self.kill)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Let it do nothing more, its connections still open (SIGSTOP)."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wait(self) -> int:
        """Wait until its process ends by itself; returns the exit code."""
        assert self._process is not None
        return self._process.wait()

    def log(self) -> str:
        """The end of what it wrote."""
        raise NotImplementedError

    def _wait_for(self, answers: Callable[[], bool], name: str) -> None:
        """Wait until it answers.

        Raises:
            EngineError: it ended, or did not answer in time; it is killed then.
        """
        assert self._process is not None
        atexit.register(self.kill)
        deadline = time.monotonic() + _START_SECONDS
        while not answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise EngineError(f"{name} did not start: {' '.join(self.log().split())}")
            time.sleep(0.1)


def serve(engine: EngineProcess, address: str) -> int:
    """Run an engine in the foreground, its address on standard output; returns the exit code."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        engine.start()
        sys.stdout.write(address + "\n")
        sys.stdout.flush()
        return engine.wait()
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    finally:
        engine.stop()
