"""Metrics to StatsD: over UDP, with Telegraf's tags in the names, a period's counts at a time."""

from __future__ import annotations

import re
import socket
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from random import random
from random import sample as choose
from threading import Thread
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, inlineCallbacks
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from raccoon.metrics.names import COUNTER, GAUGE, METRICS, Metric
from raccoon.metrics.registry import Labels, Metrics, Snapshot
from raccoon.supervision import Supervisor

DATAGRAM_BYTES = 1432  # an Ethernet frame without IPv6's and UDP's headers, and some to spare
KEPT = 200
_BURST = 16
_PAUSE = 0.001
_SEND_SECONDS = 1.0
_LAST_SECONDS = 2.0
_LEAST_OVER = 1e-12
_UNSAFE = re.compile(r"[\s\x00-\x1f\x7f,=:|@#]")

# By name and labels: how many values there were, then those that were kept.
Samples = Mapping[str, Mapping[Labels, list[float]]]


class SampledMetrics(Metrics):
    """Also keeps values of histograms, which StatsD takes one by one.

    Of each series at most 200 are kept between two `take_samples`, each with the same chance.
    """

    def __init__(self, label_values: int = 100) -> None:
        super().__init__(label_values)
        self._samples: dict[str, dict[Labels, list[float]]] = {
            name: {} for name in self._histograms
        }

    def observe(self, name: str, value: float, labels: Labels = ()) -> None:
        """Record `value` milliseconds in the histogram `name`, and perhaps keep it."""
        histograms = self._histograms[name]
        # As Metrics does it, under one lock: twice the work would be twice the time.
        with self._lock:
            if labels not in histograms:
                labels = self._series(name, labels, histograms)
            histogram = histograms[labels]
            histogram[0] += value
            histogram[1 + bisect_left(self._table[name].buckets, value)] += 1
            samples = self._samples[name]
            if labels not in samples:
                samples[labels] = [1, value]
                return
            sample = samples[labels]
            sample[0] += 1
            if len(sample) <= KEPT:
                sample.append(value)
            elif (place := random() * sample[0]) < KEPT:  # noqa: S311 - no secret
                sample[1 + int(place)] = value

    def observe_all(self, name: str, values: Sequence[float], labels: Labels = ()) -> None:
        """Record `values`, in milliseconds, in the histogram `name`, and perhaps keep them."""
        for value in values:
            self.observe(name, value, labels)

    def add_sample(self, name: str, sample: list[float], labels: Labels = ()) -> None:
        """Take in a sample of the histogram `name` from another process.

        Of the values of both, as many are kept of each as it stands for.
        """
        with self._lock:
            if labels not in self._histograms[name]:
                labels = self._series(name, labels, self._histograms[name])
            samples = self._samples[name]
            mine = samples.get(labels, [0])
            count = mine[0] + sample[0]
            values = mine[1:] + sample[1:]
            if len(values) > KEPT:
                share = round(KEPT * sample[0] / count)
                theirs = min(max(share, KEPT - len(mine) + 1), len(sample) - 1)
                values = choose(mine[1:], KEPT - theirs) + choose(sample[1:], theirs)
            samples[labels] = [count, *values]

    def take_samples(self) -> Samples:
        """What was kept since the last call."""
        with self._lock:
            taken, self._samples = self._samples, {name: {} for name in self._histograms}
        return taken


class StatsdSender:
    """Turns snapshots into datagrams and sends them, blocking; for one thread at a time.

    Args:
        address: host:port; without a host it is localhost.
        resolve: gives (family, socket address) of a host and port.
        open_socket: gives a connected datagram socket to these.
    """

    def __init__(
        self,
        address: str,
        resolve: Callable[[str, int], tuple[int, Any]] | None = None,
        open_socket: Callable[[int, Any], Any] | None = None,
    ) -> None:
        host, _, port = address.rpartition(":")
        self._host, self._port = host.strip("[]") or "localhost", int(port)
        self._resolve = resolve or _resolve
        self._open_socket = open_socket or _open_socket
        self._peer: tuple[int, Any] | None = None
        self._socket: Any = None
        self._sent: dict[str, Mapping[Labels, float]] = {}

    def send(self, snapshot: Snapshot, samples: Samples) -> None:
        """Send the counts since the last snapshot that was sent, all gauges and the samples.

        Raises:
            OSError: the address cannot be resolved, and the next call sends these counts too; or
                nothing listens there, and they are lost.
        """
        peer = self._resolve(self._host, self._port)
        if peer != self._peer:
            self.close()
            self._socket, self._peer = self._open_socket(*peer), peer
        refused: ConnectionRefusedError | None = None
        for number, datagram in enumerate(datagrams(self._lines(snapshot, samples)), 1):
            try:
                self._socket.send(datagram)
            except ConnectionRefusedError as error:
                # Told of the datagram before; this one was not sent.
                refused = error
                with suppress(ConnectionRefusedError):
                    self._socket.send(datagram)
            if number % _BURST == 0:
                time.sleep(_PAUSE)  # a receiver's buffer holds some hundred by default
        if refused is not None:
            raise refused

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = self._peer = None

    def _lines(self, snapshot: Snapshot, samples: Samples) -> Iterator[str]:
        for metric in METRICS:
            if metric.kind == COUNTER:
                values = snapshot.values[metric.name]
                before = self._sent.get(metric.name, {})
                self._sent[metric.name] = values
                for labels, value in values.items():
                    if more := value - before.get(labels, 0):
                        yield f"{tagged(metric, labels)}:{_number(more)}|c"
            elif metric.kind == GAUGE:
                levels: dict[str, float] = {}
                for labels, value in snapshot.values[metric.name].items():
                    # Two values of a label may be the same tag once it is safe.
                    series = tagged(metric, labels)
                    levels[series] = levels.get(series, 0) + value
                for series, value in levels.items():
                    yield f"{series}:{_number(value)}|g"
            else:
                for labels, sample in samples[metric.name].items():
                    yield from _timings(tagged(metric, labels), sample)


class StatsdService(Service):
    """Sends each period, and a last time when told to.

    Args:
        reactor: gives time.
        take: gives all values as they are now.
        metrics: gives what it kept of the histograms.
        sender: sends both; called in a thread.
        address: the sender's, for the log.
        period: seconds.
        supervisor: of the loop that sends.
        pool: of one thread, if not one of the service's own.
    """

    _logger = Logger()

    def __init__(
        self,
        reactor: Any,
        take: Callable[[], Snapshot],
        metrics: SampledMetrics,
        sender: StatsdSender,
        address: str,
        period: float,
        supervisor: Supervisor,
        pool: Any = None,
    ) -> None:
        self._reactor = reactor
        self._take = take
        self._metrics = metrics
        self._sender = sender
        self._address = address
        self._period = period
        self._pool = pool or _pool()
        # It waits for the end of a flush before the next.
        self._loop = supervisor.loop("StatsD", self._flush, reactor)
        self._started = False
        self._failing = False

    def startService(self) -> None:
        """Begin to send."""
        super().startService()
        self._started = True
        self._pool.start()
        self._loop.start(self._period, now=False)

    def stopService(self) -> None:
        """Send nothing more by itself; others may still count: see `close`."""
        super().stopService()
        self._loop.stop()

    @inlineCallbacks
    def close(self) -> Any:
        """Send the last counts, for at most two seconds, once all else has stopped."""
        if not self._started:
            return
        self._started = False
        try:
            yield self._flush().addTimeout(_LAST_SECONDS, self._reactor)
        except TimeoutError:
            # Its thread is left to itself: a name may be looked up for half a minute.
            self._logger.warn(
                "StatsD at {address}: the last counts could not be sent in time",
                address=self._address,
            )
            return
        self._pool.stop()
        self._sender.close()

    def _flush(self) -> Deferred[None]:
        sending: Deferred[None] = deferToThreadPool(
            self._reactor,
            self._pool,
            self._sender.send,
            self._take(),
            self._metrics.take_samples(),
        )
        return sending.addCallbacks(self._went, self._failed)

    def _went(self, _: None) -> None:
        if self._failing:
            self._failing = False
            self._logger.info("StatsD at {address} is sent to again", address=self._address)

    def _failed(self, failure: Failure) -> Failure | None:
        if failure.check(CancelledError):
            return failure
        if not self._failing:
            self._failing = True
            self._logger.warn(
                "StatsD at {address}: {reason}; retrying",
                address=self._address,
                reason=failure.getErrorMessage(),
            )
        return None


def tagged(metric: Metric, labels: Labels) -> str:
    """A metric's name with its labels as tags; a tag without a value is left out."""
    tags = "".join(
        f",{label}={_UNSAFE.sub('_', value)}"
        for label, value in zip(metric.labels, labels, strict=True)
        if value
    )
    return metric.name + tags


def datagrams(lines: Iterable[str]) -> Iterator[bytes]:
    """Lines, as many in each datagram as fit."""
    held = b""
    for line in lines:
        encoded = line.encode()
        if held and len(held) + 1 + len(encoded) > DATAGRAM_BYTES:
            yield held
            held = encoded
        else:
            held = held + b"\n" + encoded if held else encoded
    if held:
        yield held


def _timings(series: str, sample: list[float]) -> Iterator[str]:
    """A line for each kept value, at rates that add up to the number of all."""
    kept = sample[1:]
    each, over = divmod(int(sample[0]), len(kept))
    for index, value in enumerate(kept):
        stands_for = each + (index < over)
        # A hair more than 1/n: Telegraf takes a value as long as the times taken are below 1/rate.
        rate = "" if stands_for == 1 else f"|@{1 / stands_for + _LEAST_OVER:.12f}"
        yield f"{series}:{value:.3f}|ms{rate}"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.6f}"


def _resolve(host: str, port: int) -> tuple[int, Any]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    # Where localhost is ::1 first, a receiver on 0.0.0.0 would get nothing.
    family, _, _, _, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return family, address


def _open_socket(family: int, address: Any) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM)
    opened.settimeout(_SEND_SECONDS)
    opened.connect(address)
    return opened


def _pool() -> ThreadPool:
    pool = ThreadPool(0, 1, "statsd")
    # Not waited for at the process's end.
    pool.threadFactory = partial(Thread, daemon=True)  # type: ignore[assignment]
    return pool
