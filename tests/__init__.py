"""Tests of Raccoon; those of tests/integration need sockets, processes or real engines."""

import os

from hypothesis import settings

# Tests of properties look at a few examples in each run, others in the next; `make torture` looks
# longer. No deadline: a busy machine is no fault of the code.
settings.register_profile("short", max_examples=50, deadline=None)
settings.register_profile("long", max_examples=5000, deadline=None)
settings.load_profile("long" if os.environ.get("RACCOON_TORTURE") else "short")
