"""Options of the gRPC listener."""

from __future__ import annotations

import attrs

from raccoon.config.options import PORT, boolean, integer, option


@attrs.frozen(kw_only=True)
class GrpcSettings:
    """gRPC listener."""

    port: int = option("SERVER_GRPC_PORT", 8081, "gRPC port", PORT)
    max_concurrent: int = option(
        "SERVER_GRPC_MAX_CONCURRENT",
        10_000,
        "maximum number of concurrent calls; further calls get RESOURCE_EXHAUSTED",
        integer(1, 1_000_000),
    )
    reflection: bool = option(
        "SERVER_GRPC_REFLECTION_ENABLED", False, "serve gRPC server reflection", boolean
    )
