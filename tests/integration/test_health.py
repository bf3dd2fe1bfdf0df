"""Health over HTTP and gRPC, while a broker is away and when it comes."""

from __future__ import annotations

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from twisted.trial.unittest import SynchronousTestCase

from raccoon.service.grpc.servicer import SERVICE
from raccoon.service.grpc.stream import STREAM_SERVICE
from tests.engines.ports import free_port
from tests.integration.daemon import Daemon
from tests.integration.raw import http_once
from tests.integration.waiting import wait_until


class HealthTests(SynchronousTestCase):
    """What a load balancer and an orchestrator ask."""

    def serve(self, settings: dict[str, object] | None = None) -> Daemon:
        daemon = Daemon(settings)
        self.addCleanup(daemon.kill)
        daemon.start()
        return daemon

    def status(self, daemon: Daemon, path: str) -> tuple[int, bytes]:
        answer = http_once(daemon.http_port, f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        return answer.status, answer.body

    def serving(self, daemon: Daemon, service: str) -> int:
        with grpc.insecure_channel(f"127.0.0.1:{daemon.grpc_port}") as channel:
            asked = HealthCheckRequest(service=service)
            status: int = HealthStub(channel).Check(asked, timeout=5).status
            return status

    def test_ready(self) -> None:
        """A server with its destination at hand is alive, ready and serving."""
        daemon = self.serve()
        self.assertEqual(self.status(daemon, "/healthz")[0], 200)
        self.assertEqual(self.status(daemon, "/readyz")[0], 200)
        for service in ("", SERVICE, STREAM_SERVICE):
            self.assertEqual(self.serving(daemon, service), HealthCheckResponse.SERVING)

    def test_without_its_broker(self) -> None:
        """Without its broker a server is alive, and not ready for a reason that is told."""
        nobody = f"127.0.0.1:{free_port()}"
        daemon = self.serve({"PUBLISHER_KAFKA_CLIENT_BOOTSTRAP_SERVERS": nobody})
        wait_until(lambda: self.status(daemon, "/readyz")[0] == 503, "not ready")
        self.assertIn(nobody.encode(), self.status(daemon, "/readyz")[1])
        self.assertEqual(self.status(daemon, "/healthz")[0], 200)
        not_serving = HealthCheckResponse.NOT_SERVING
        wait_until(lambda: self.serving(daemon, SERVICE) == not_serving, "not serving")

    def test_reflection(self) -> None:
        """Reflection lists the services where it is switched on, and is not there otherwise."""
        for switched_on in (True, False):
            daemon = self.serve({"SERVER_GRPC_REFLECTION_ENABLED": switched_on})
            with grpc.insecure_channel(f"127.0.0.1:{daemon.grpc_port}") as channel:
                database = ProtoReflectionDescriptorDatabase(channel)
                if switched_on:
                    for service in (SERVICE, STREAM_SERVICE):
                        self.assertIn(service, database.get_services())
                        DescriptorPool(database).FindServiceByName(service)
                else:
                    self.assertRaises(grpc.RpcError, database.get_services)
