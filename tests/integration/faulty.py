"""The service with one fault in it, for `twistd -y`.

The fault is given as `module:Class.method when`: `when` is the number of the call that raises,
`always`, or `hangs` for one that never comes to its end.
"""

from __future__ import annotations

import inspect
import os
from importlib import import_module
from typing import Any

from twisted.application.service import Application
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from raccoon import config
from raccoon.tap import service_for


class InjectedError(Exception):
    """The fault."""


def inject(target: str, when: str) -> None:
    """Put the fault in its place."""
    module, _, path = target.partition(":")
    owner: Any = import_module(module)
    *outer, name = path.split(".")
    for part in outer:
        owner = getattr(owner, part)
    static = inspect.getattr_static(owner, name)
    original = getattr(owner, name)
    calls = 0

    def faulty(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if when == "hangs":
            return Deferred()
        if when == "always" or calls == int(when):
            raise InjectedError("injected")
        return original(*args, **named)

    setattr(owner, name, staticmethod(faulty) if isinstance(static, staticmethod) else faulty)


inject(*os.environ["FAULT"].split(" "))
settings = config.load({}, os.environ)
application = Application("raccoon")
service_for(reactor, settings).setServiceParent(application)
