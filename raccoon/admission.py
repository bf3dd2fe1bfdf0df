"""The memory of bodies and messages that are still on their way in."""

from __future__ import annotations

# Of WORKER_BUFFER_MAX_BYTES. Small bodies have a part of their own, beside large ones that trickle.
_SHARE = 2
_SHARE_OF_SMALL = 8
_SMALL_BYTES = 65_536


class ArrivingBytes:
    """Counts bytes as they arrive, not as they are announced: who announces much holds nothing.

    Args:
        max_bytes: WORKER_BUFFER_MAX_BYTES.

    Attributes:
        held: of all bodies and messages that are not whole.
    """

    def __init__(self, max_bytes: int) -> None:
        self._for_all = max_bytes // _SHARE
        self._for_small = self._for_all + max_bytes // _SHARE_OF_SMALL
        self.held = 0

    def take(self, size: int, before: int) -> bool:
        """Whether there is room for more of a body; if so it is counted, until `give`.

        Args:
            size: bytes that have come.
            before: bytes of the same body that are counted already.
        """
        small = before + size <= _SMALL_BYTES
        if self.held + size > (self._for_small if small else self._for_all):
            return False
        self.held += size
        return True

    def give(self, size: int) -> None:
        """These bytes are not held any more."""
        self.held -= size
