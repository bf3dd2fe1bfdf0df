"""librdkafka's statistics to gauges, summed over all producers that there are and were."""

from __future__ import annotations

import logging

import attrs
import orjson

from raccoon.interfaces import IMetrics

_log = logging.getLogger(__name__)

_BROKERS = 100
_OTHER = "other"


@attrs.define
class _Broker:
    requests: int = 0
    size: int = 0
    # Of the last interval alone.
    round_trips: int = 0
    microseconds: int = 0


@attrs.define
class _Totals:
    messages: int = 0
    size: int = 0
    brokers: dict[str, _Broker] = attrs.field(factory=dict)

    def add(self, other: _Totals) -> None:
        self.messages += other.messages
        self.size += other.size
        for name, broker in other.brokers.items():
            total = self.brokers.setdefault(name, _Broker())
            total.requests += broker.requests
            total.size += broker.size
            total.round_trips += broker.round_trips
            total.microseconds += broker.microseconds


class Statistics:
    """Takes what each producer reports of itself; a producer counts from 0 on its own.

    A broker is named by its host, as in the Go server's metrics; brokers on one host are summed.

    Args:
        metrics: whose gauges are set.
        brokers: hosts with series of their own at most; those met later are `other`.
    """

    def __init__(self, metrics: IMetrics, brokers: int = _BROKERS) -> None:
        self._metrics = metrics
        self._brokers_max = brokers
        self._hosts: set[str] = set()
        self._gone = _Totals()
        self._live: dict[str, _Totals] = {}

    def record(self, producer: str, report: str) -> None:
        """A producer's report (librdkafka's STATISTICS.md); sets the gauges."""
        try:
            self._live[producer] = self._read(report)
        except (ValueError, KeyError, TypeError):
            # Nothing is delivered worse for it: no reason to be not ready.
            _log.exception("librdkafka's statistics cannot be read")
            return
        total = _Totals()
        for part in (self._gone, *self._live.values()):
            total.add(part)
        gauge = self._metrics.gauge
        gauge("kafka_tx_messages_total", total.messages)
        gauge("kafka_tx_messages_bytes_total", total.size)
        for name, broker in total.brokers.items():
            gauge("kafka_brokers_tx_total", broker.requests, (name,))
            gauge("kafka_brokers_tx_bytes_total", broker.size, (name,))
            if broker.round_trips:
                average = broker.microseconds / broker.round_trips / 1000
                gauge("kafka_brokers_rtt_average_milliseconds", average, (name,))

    def retire(self, producer: str) -> None:
        """A producer is gone; what it sent still counts."""
        last = self._live.pop(producer, _Totals())
        for broker in last.brokers.values():
            broker.round_trips = broker.microseconds = 0
        self._gone.add(last)

    def _read(self, report: str) -> _Totals:
        parsed = orjson.loads(report)
        totals = _Totals(parsed["txmsgs"], parsed["txmsg_bytes"])
        for broker in parsed["brokers"].values():
            host = broker["nodename"].rpartition(":")[0]
            if host:  # librdkafka's internal broker has none
                rtt = broker["rtt"]
                one = _Broker(broker["tx"], broker["txbytes"], rtt["cnt"], rtt["sum"])
                totals.add(_Totals(brokers={self._bound(host): one}))
        return totals

    def _bound(self, host: str) -> str:
        if host not in self._hosts:
            if len(self._hosts) >= self._brokers_max:
                return _OTHER
            self._hosts.add(host)
        return host
