"""From the name of a publisher to its object; a driver is imported only here, when chosen."""

from __future__ import annotations

from raccoon.config import load_publisher
from raccoon.interfaces import IPublisher
from raccoon.publisher import PublisherContext


def make_publisher(context: PublisherContext) -> IPublisher:
    """Construct the publisher that the configuration chooses.

    Raises:
        StartError: no publisher of that name is installed, or its driver cannot be imported.
    """
    publisher: IPublisher = load_publisher(context.settings.publisher_type)(context)
    return publisher
