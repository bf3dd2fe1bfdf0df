"""Makes `twistd raccoon` known."""

from twisted.application.service import ServiceMaker

raccoon = ServiceMaker(
    "Raccoon",
    "raccoon.tap",
    "Collects events over REST, WebSocket and gRPC and delivers them to Kafka.",
    "raccoon",
)
