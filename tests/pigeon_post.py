"""A distribution of somebody else's, with publishers: some work, others do not."""

from __future__ import annotations

import os
import sys

from twisted.trial.unittest import SynchronousTestCase

_MODULE = """
import attrs
from zope.interface import implementer

from raccoon.config import REQUIRED, integer, option, text
from raccoon.interfaces import IPublisher


@implementer(IPublisher)
class PigeonPublisher:
    name = "pigeon"
    destination = "the loft"
    reachable = True

    def __init__(self, context):
        self.context = context

    def start(self):
        pass

    def publish(self, requests):
        return [None] * len(requests)

    def close(self, timeout):
        return 0


@attrs.frozen(kw_only=True)
class HomingPigeonSettings:
    'Homing pigeons.'

    loft: str = option("PUBLISHER_HOMING_PIGEON_LOFT", REQUIRED, "where pigeons go home to", text)
    speed: int = option("PUBLISHER_HOMING_PIGEON_SPEED", 2, "wings that beat", integer(0, 9))
    whistle: str = option(
        "PUBLISHER_HOMING_PIGEON_WHISTLE", "", "the tune that calls them", text, secret=True
    )

    def __attrs_post_init__(self):
        if self.speed == 0 and self.whistle:
            raise ValueError("a whistle without wings")


class HomingPigeonPublisher(PigeonPublisher):
    settings = HomingPigeonSettings

    def __init__(self, context):
        self.loft = context.settings.publisher.own.loft
        self.speed = context.settings.publisher.own.speed


@attrs.frozen
class CuckooSettings:
    port: int = option("SERVER_WEBSOCKET_PORT", 1, "a place in another's nest", integer(0, 9))


class CuckooPublisher(PigeonPublisher):
    settings = CuckooSettings


class GullPublisher(PigeonPublisher):
    settings = {"PUBLISHER_GULL_HARBOUR": "Hull"}
"""
_ENTRY_POINTS = """
[raccoon.publishers]
pigeon = pigeon_post:PigeonPublisher
homing-pigeon = pigeon_post:HomingPigeonPublisher
cuckoo = pigeon_post:CuckooPublisher
gull = pigeon_post:GullPublisher
extinct = pigeon_post:DodoPublisher
driverless = pigeon_without_driver:PigeonPublisher
broken = pigeon_that_fails:PigeonPublisher
"""


def install_pigeon_post(case: SynchronousTestCase) -> None:
    """Have the distribution installed while a test runs."""
    directory = os.path.abspath(case.mktemp())
    information = os.path.join(directory, "pigeon_post-1.0.dist-info")
    os.makedirs(information)
    for path, content in (
        (os.path.join(information, "METADATA"), "Metadata-Version: 2.1\nName: pigeon-post\n"),
        (os.path.join(information, "entry_points.txt"), _ENTRY_POINTS),
        (os.path.join(directory, "pigeon_post.py"), _MODULE),
        (os.path.join(directory, "pigeon_without_driver.py"), "import no_such_driver\n"),
        (os.path.join(directory, "pigeon_that_fails.py"), "raise RuntimeError('moulting')\n"),
    ):
        with open(path, "w", encoding="ascii") as file:
            file.write(content)
    case.patch(sys, "path", [directory, *sys.path])
    case.addCleanup(sys.modules.pop, "pigeon_post", None)
