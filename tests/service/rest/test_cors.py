"""Cross-origin requests, through the HTTP port."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.edges.bodies import json_body
from tests.edges.edge import Edge
from tests.edges.http import Reply, http_request
from tests.fakes import make_settings

ORIGIN = "https://shop.test"
CORS_HEADERS = (
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-headers",
    "access-control-allow-methods",
    "access-control-max-age",
)


def make_edge(**options: Any) -> Edge:
    """A server that answers other origins: by default, only those of the shop."""
    chosen = {"enabled": True, "allowed_origin": (ORIGIN, "https://blog.test"), **options}
    return Edge(make_settings(cors=chosen), ack=0)


def post(origin: str | None) -> bytes:
    """A POST of one event from a page of this origin."""
    headers = [("Content-Type", "application/json")]
    if origin is not None:
        headers.append(("Origin", origin))
    return http_request(headers=headers, body=json_body())


def preflight(
    origin: str = ORIGIN, method: str | None = "POST", headers: str | None = None
) -> bytes:
    """What a browser asks before a request that is not simple."""
    lines = [("Origin", origin)]
    if method is not None:
        lines.append(("Access-Control-Request-Method", method))
    if headers is not None:
        lines.append(("Access-Control-Request-Headers", headers))
    return http_request("OPTIONS", headers=lines)


def cors_headers(reply: Reply) -> dict[str, str | None]:
    """The headers of an answer that are CORS's, Vary among them."""
    return {name: reply.header(name) for name in (*CORS_HEADERS, "vary") if name in reply.headers}


class ActualRequestTests(SynchronousTestCase):
    """Requests other than a preflight."""

    def test_allowed_origin_is_named(self) -> None:
        """The answer to an allowed origin names it, and varies with it."""
        reply = make_edge().ask(post(ORIGIN))
        self.assertEqual(reply.status, 200)
        self.assertEqual(
            cors_headers(reply), {"access-control-allow-origin": ORIGIN, "vary": "Origin"}
        )

    def test_any_origin(self) -> None:
        """Where all origins are allowed, the answer says `*`."""
        reply = make_edge(allowed_origin=("*",)).ask(post("https://anyone.test"))
        self.assertEqual(
            cors_headers(reply), {"access-control-allow-origin": "*", "vary": "Origin"}
        )

    def test_credentials(self) -> None:
        """Where credentials are allowed the answer says so."""
        reply = make_edge(allow_credentials=True).ask(post(ORIGIN))
        self.assertEqual(
            cors_headers(reply),
            {
                "access-control-allow-origin": ORIGIN,
                "access-control-allow-credentials": "true",
                "vary": "Origin",
            },
        )

    def test_any_origin_with_credentials(self) -> None:
        """With credentials the origin is named even where all are allowed."""
        edge = make_edge(allowed_origin=("*",), allow_credentials=True)
        reply = edge.ask(post("https://anyone.test"))
        self.assertEqual(reply.header("access-control-allow-origin"), "https://anyone.test")
        self.assertEqual(reply.header("access-control-allow-credentials"), "true")

    def test_other_origin_is_served_without_the_headers(self) -> None:
        """An origin that is not allowed is served, and told nothing."""
        for origin in ("https://evil.test", "http://shop.test", "https://shop.test:444", "null"):
            reply = make_edge(allow_credentials=True).ask(post(origin))
            self.assertEqual((reply.status, reply.json()["code"]), (200, 1))
            self.assertEqual(cors_headers(reply), {}, origin)

    def test_no_origin(self) -> None:
        """A request without an Origin is served without the headers."""
        reply = make_edge().ask(post(None))
        self.assertEqual((reply.status, cors_headers(reply)), (200, {}))

    def test_disabled(self) -> None:
        """Without SERVER_CORS_ENABLED no answer carries the headers."""
        reply = make_edge(enabled=False).ask(post(ORIGIN))
        self.assertEqual((reply.status, cors_headers(reply)), (200, {}))

    def test_failures_carry_the_headers(self) -> None:
        """A page may read a refusal, an overload and a failed publish too."""
        edge = make_edge()
        bad = edge.ask(
            http_request(
                headers=[("Content-Type", "application/json"), ("Origin", ORIGIN)], body=b"{"
            )
        )
        edge.collector.overloaded = True
        overloaded = edge.ask(post(ORIGIN))
        for reply, status in ((bad, 400), (overloaded, 503)):
            self.assertEqual(reply.status, status)
            self.assertEqual(reply.header("access-control-allow-origin"), ORIGIN)

    def test_ping_carries_the_headers(self) -> None:
        """The policy holds for every route."""
        reply = make_edge().ask(http_request("GET", "/ping", headers=[("Origin", ORIGIN)]))
        self.assertEqual(reply.body, b"pong")
        self.assertEqual(reply.header("access-control-allow-origin"), ORIGIN)


class PreflightTests(SynchronousTestCase):
    """OPTIONS with an Origin."""

    def test_simple_method(self) -> None:
        """A preflight of an allowed simple method is an empty 200 that does not list methods."""
        reply = make_edge().ask(preflight())
        self.assertEqual((reply.status, reply.body), (200, b""))
        self.assertEqual(
            cors_headers(reply), {"access-control-allow-origin": ORIGIN, "vary": "Origin"}
        )

    def test_nothing_is_published_by_it(self) -> None:
        """A preflight does not reach the collector."""
        edge = make_edge()
        edge.ask(preflight())
        self.assertEqual(edge.collector.requests, [])

    def test_no_method(self) -> None:
        """A preflight that names no method is a 400."""
        self.assertEqual(make_edge().ask(preflight(method=None)).status, 400)

    def test_method_that_is_not_allowed(self) -> None:
        """A method that is not allowed is a 405."""
        for method in ("PUT", "DELETE"):
            self.assertEqual(make_edge().ask(preflight(method=method)).status, 405)
        narrowed = make_edge(allowed_methods=("GET",))
        self.assertEqual(narrowed.ask(preflight(method="POST")).status, 405)

    def test_method_that_is_not_simple(self) -> None:
        """An allowed method other than GET, HEAD and POST is named in the answer."""
        reply = make_edge(allowed_methods=("PUT", "POST")).ask(preflight(method="PUT"))
        self.assertEqual(reply.status, 200)
        self.assertEqual(reply.header("access-control-allow-methods"), "PUT")

    def test_simple_headers_need_no_allowance(self) -> None:
        """Accept, Accept-Language, Content-Language and Origin may always be sent."""
        asked = "accept, Accept-Language,content-language, ORIGIN"
        self.assertEqual(make_edge().ask(preflight(headers=asked)).status, 200)

    def test_header_that_is_not_allowed(self) -> None:
        """One header that is not allowed makes it a 403."""
        edge = make_edge(allowed_headers=("X-Shop",))
        self.assertEqual(edge.ask(preflight(headers="x-shop, x-secret")).status, 403)

    def test_allowed_headers_are_named(self) -> None:
        """Allowed headers match in any letter case, and are named in the answer."""
        edge = make_edge(allowed_headers=("X-Shop", "X-Trace"))
        reply = edge.ask(preflight(headers="x-shop,X-TRACE"))
        self.assertEqual(reply.status, 200)
        named = (reply.header("access-control-allow-headers") or "").split(",")
        self.assertEqual({name.strip().lower() for name in named}, {"x-shop", "x-trace"})

    def test_what_every_client_sends_is_allowed(self) -> None:
        """Content-Type and the identity headers may be sent without being listed.

        The Go server adds them to the allowed headers, and no page could post JSON otherwise.
        """
        settings = make_settings(
            cors={"enabled": True, "allowed_origin": (ORIGIN,)},
            websocket={"conn_id_header": "X-User-ID", "conn_group_header": "X-Group"},
        )
        for name in ("content-type", "x-user-id", "x-group"):
            self.assertEqual(Edge(settings).ask(preflight(headers=name)).status, 200, name)

    def test_credentials(self) -> None:
        """A preflight says whether credentials may be sent."""
        reply = make_edge(allow_credentials=True).ask(preflight())
        self.assertEqual(reply.header("access-control-allow-credentials"), "true")

    def test_max_age(self) -> None:
        """A preflight may be kept as long as configured, at most 600 seconds."""
        for configured, told in ((0, None), (30, "30"), (600, "600"), (86_400, "600")):
            reply = make_edge(preflight_max_age_seconds=configured).ask(preflight())
            self.assertEqual(reply.header("access-control-max-age"), told)

    def test_other_origin(self) -> None:
        """A preflight of an origin that is not allowed gets none of the headers."""
        reply = make_edge(allow_credentials=True).ask(preflight("https://evil.test"))
        self.assertEqual(cors_headers(reply), {})

    def test_refused_preflight_allows_nothing(self) -> None:
        """A preflight that is refused gets none of the headers."""
        for request in (
            preflight(method=None),
            preflight(method="PUT"),
            preflight(headers="x-secret"),
        ):
            self.assertEqual(cors_headers(make_edge().ask(request)), {})

    def test_options_without_an_origin(self) -> None:
        """OPTIONS without an Origin is no preflight: the path has no such method."""
        self.assertEqual(make_edge().ask(http_request("OPTIONS")).status, 405)

    def test_disabled(self) -> None:
        """Without SERVER_CORS_ENABLED a preflight is a method that the path has not."""
        reply = make_edge(enabled=False).ask(preflight())
        self.assertEqual((reply.status, cors_headers(reply)), (405, {}))

    def test_connection_goes_on(self) -> None:
        """The request follows its preflight on the same connection."""
        client = make_edge().connect()
        client.send(preflight())
        self.assertEqual(client.reply().status, 200)
        client.send(post(ORIGIN))
        self.assertEqual(client.reply().json()["code"], 1)
