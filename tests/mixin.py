"""The base of classes of tests that are run only as parts of other classes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twisted.trial.unittest import SynchronousTestCase

if TYPE_CHECKING:
    Mixin = SynchronousTestCase
else:
    Mixin = object  # trial would run them on their own
