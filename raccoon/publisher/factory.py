"""From the name of a publisher to its object; a driver is imported only here, when chosen."""

from __future__ import annotations

from importlib.metadata import entry_points

from raccoon.errors import StartError
from raccoon.interfaces import IPublisher
from raccoon.publisher import PublisherContext

GROUP = "raccoon.publishers"


def make_publisher(context: PublisherContext) -> IPublisher:
    """Construct the publisher that the configuration chooses.

    Raises:
        StartError: no publisher of that name is installed, or its driver cannot be imported.
    """
    name = context.settings.publisher_type
    installed = {point.name: point for point in entry_points(group=GROUP)}
    point = installed.get(name)
    if point is None:
        raise StartError(
            f"PUBLISHER_TYPE: no publisher {name!r} is installed;"
            f" expected one of {', '.join(sorted(installed))}"
        )
    try:
        make = point.load()
    except (ImportError, AttributeError) as error:
        raise StartError(
            f"PUBLISHER_TYPE: the publisher {name!r} cannot be imported: {error}"
        ) from error
    publisher: IPublisher = make(context)
    return publisher
