"""TLS, SASL and compression to a real broker, and what librdkafka says of it in the log."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tests.engines.kafka import PASSWORD, USER, KafkaBroker, make_certificate
from tests.engines.ports import free_port
from tests.integration.case import SharedCase
from tests.integration.clients import CODECS
from tests.integration.daemon import Daemon
from tests.integration.raw import http_once
from tests.integration.waiting import wait_until

_CLIENT = "PUBLISHER_KAFKA_CLIENT_"
_WRONG = "never-its-password"
_ORIGIN = "raccoon.publisher.kafka.librdkafka"
_DOWN_SERVERS = 30
_BURST = 5


class SecurityTests(SharedCase):
    """One broker with a listener of each kind; each test has a service of its own."""

    broker: KafkaBroker

    @classmethod
    def share_setup(cls) -> None:
        cls.broker = cls.share_broker(secure=True)

    def client(self, listener: str, **options: object) -> dict[str, object]:
        """A service's settings for a listener of the broker."""
        return {
            f"{_CLIENT}BOOTSTRAP_SERVERS": self.broker.address(listener),
            f"{_CLIENT}SECURITY_PROTOCOL": listener.upper(),
            **{_CLIENT + name.upper(): value for name, value in options.items()},
            "EVENT_ACK": 1,
            "EVENT_DISTRIBUTION_PUBLISHER_PATTERN": "%s",
        }

    def status(self, daemon: Daemon) -> int:
        """What /readyz answers."""
        return http_once(daemon.http_port, b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n").status

    def deliver(self, settings: dict[str, object], topic: str, payload: bytes = b"{}") -> Daemon:
        """A service with these settings, that delivered an event."""
        daemon = self.start_daemon(settings)
        with CODECS["rest-protobuf"](daemon, "client") as client:
            answer = client.send("guid", [(topic, payload)])
        self.assertTrue(answer.ok, (answer, daemon.log()))
        self.assertEqual(self.broker.read([topic]), [(topic, payload)])
        return daemon

    def refuse(self, settings: dict[str, object], why: str) -> Daemon:
        """A service with these settings, that says why it is not ready."""
        daemon = self.start_daemon(settings)
        wait_until(lambda: self.status(daemon) == 503, "not ready")
        wait_until(lambda: "is unreachable; retrying" in daemon.log(), "a line of it")
        (line,) = [line for line in daemon.log().splitlines() if "is unreachable; retrying" in line]
        self.assertIn(why, line)
        self.assertIn("error ", line)
        return daemon

    def check_config(self, settings: dict[str, object]) -> str:
        """What --check-config prints."""
        daemon = Daemon(settings, ("-n", "raccoon", "--check-config"))
        self.addCleanup(daemon.kill)
        done = daemon.run()
        self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def sasl_ssl(self, password: str) -> dict[str, object]:
        return self.client(
            "sasl_ssl",
            ssl_ca_location=self.broker.certificate,
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username=USER,
            sasl_password=password,
        )

    def sasl_plaintext(self, password: str) -> dict[str, object]:
        return self.client(
            "sasl_plaintext",
            sasl_mechanism="PLAIN",
            sasl_username=USER,
            sasl_password=password,
        )

    def test_tls(self) -> None:
        """With the broker's own certificate as CA events are delivered over TLS."""
        self.deliver(self.client("ssl", ssl_ca_location=self.broker.certificate), "tls")

    def test_tls_with_another_ca(self) -> None:
        """A broker that another CA does not vouch for gets nothing, and the log says why."""
        other = Path(self.mktemp())
        make_certificate(other, other.with_name("other-keystore"))
        settings = self.client("ssl", ssl_ca_location=other.resolve())
        # What librdkafka says beside, it does not always say.
        self.refuse(settings, "certificate verify failed")

    def test_plain_text_to_tls(self) -> None:
        """A client without TLS at a listener with it is not ready, and does not fill the log."""
        settings = self.client("ssl", reconnect_backoff_max_ms=100)
        settings[f"{_CLIENT}SECURITY_PROTOCOL"] = "PLAINTEXT"
        daemon = self.refuse(settings, "is unreachable")
        self.assertLessEqual(daemon.log().count(f"{_ORIGIN} FAIL"), _BURST)

    def test_scram(self) -> None:
        """A user known by SCRAM-SHA-512 is let in; the password is nowhere to be read."""
        settings = self.sasl_ssl(PASSWORD)
        daemon = self.deliver({**settings, "LOG_LEVEL": "debug"}, "scram")
        self.assertNotIn(PASSWORD, daemon.log())
        shown = self.check_config(settings)
        self.assertNotIn(PASSWORD, shown)
        self.assertIn(f"{_CLIENT}SASL_PASSWORD=****", shown)

    def test_scram_with_a_wrong_password(self) -> None:
        """A wrong password is told as such, and is not to be read either."""
        settings = self.sasl_ssl(_WRONG)
        daemon = self.refuse({**settings, "LOG_LEVEL": "debug"}, "invalid credentials")
        self.assertNotIn(_WRONG, daemon.log())

    def test_plain(self) -> None:
        """A user known by PLAIN is let in; the password is nowhere to be read."""
        settings = self.sasl_plaintext(PASSWORD)
        daemon = self.deliver({**settings, "LOG_LEVEL": "debug"}, "plain")
        self.assertNotIn(PASSWORD, daemon.log())

    def test_plain_with_a_wrong_password(self) -> None:
        """A wrong password is told as such with PLAIN too."""
        settings = self.sasl_plaintext(_WRONG)
        daemon = self.refuse({**settings, "LOG_LEVEL": "debug"}, "Invalid username or password")
        self.assertNotIn(_WRONG, daemon.log())

    def check_compression(self, codec: str) -> None:
        settings = self.client("ssl", ssl_ca_location=self.broker.certificate)
        settings[f"{_CLIENT}COMPRESSION_TYPE"] = codec
        settings["METRIC_RUNTIME_STATS_RECORD_INTERVAL_MS"] = 100
        payload = b"the same again " * 4000
        daemon = self.deliver(settings, codec, payload)
        name = "kafka_brokers_tx_bytes_total"
        wait_until(lambda: daemon.metric("kafka_tx_messages_total"), "statistics")
        wait_until(lambda: daemon.metric(name, broker="127.0.0.1") > 0, "a broker's statistics")
        self.assertLess(daemon.metric(name, broker="127.0.0.1"), len(payload) / 4)

    def test_gzip(self) -> None:
        """gzip is delivered, and makes less of it on the wire."""
        self.check_compression("gzip")

    def test_snappy(self) -> None:
        """snappy is delivered, and makes less of it on the wire."""
        self.check_compression("snappy")

    def test_lz4(self) -> None:
        """lz4 is delivered, and makes less of it on the wire."""
        self.check_compression("lz4")

    def test_zstd(self) -> None:
        """zstd is delivered, and makes less of it on the wire."""
        self.check_compression("zstd")


class ClientLogTests(SharedCase):
    """librdkafka's lines while no broker is there."""

    @classmethod
    def share_setup(cls) -> None:
        """Nothing is shared."""

    def test_brokers_down(self) -> None:
        """Failed connections are errors in our log, the first few of them, and then counted."""
        servers = ",".join(f"127.0.0.1:{free_port()}" for _ in range(_DOWN_SERVERS))
        daemon = self.start_daemon(
            {
                f"{_CLIENT}BOOTSTRAP_SERVERS": servers,
                f"{_CLIENT}RECONNECT_BACKOFF_MS": 10,
                f"{_CLIENT}RECONNECT_BACKOFF_MAX_MS": 100,
                f"{_CLIENT}TOPIC_METADATA_REFRESH_INTERVAL_MS": 100,
            }
        )

        def failures() -> list[str]:
            return [line for line in daemon.log().splitlines() if f"{_ORIGIN} FAIL" in line]

        wait_until(lambda: len(failures()) > _BURST, "the lines after a pause", timeout=20)
        first, later = failures()[:_BURST], failures()[_BURST]
        kinds = Counter(line.split()[1] for line in first)
        self.assertEqual(kinds, Counter({"error": _BURST}))
        self.assertIn("Connection refused", first[0])
        left_out = int(later.rpartition("left_out=")[2])
        self.assertGreater(left_out, _BURST)
