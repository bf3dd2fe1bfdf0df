"""The process that twistd starts, where several serve: it owns all that must be one for all."""

from __future__ import annotations

import os
import pickle
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import attrs
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, DeferredList, TimeoutError, inlineCallbacks
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from raccoon import __version__
from raccoon.app import SETTLE_SECONDS
from raccoon.config import MetricSettings, Settings, largest_request
from raccoon.errors import RaccoonError, StartError
from raccoon.listening import shown
from raccoon.messages import Identifier
from raccoon.metrics.registry import Metrics, Snapshot
from raccoon.metrics.service import MetricsEndpoint
from raccoon.metrics.statsd import SampledMetrics, StatsdSender, StatsdService
from raccoon.processes.claims import Claims
from raccoon.processes.merging import Changes, Totals
from raccoon.processes.process import WorkerProcess, settings_file
from raccoon.processes.sockets import bind_http, hold_grpc
from raccoon.service.grpc.service import grpc_address
from raccoon.service.rest.service import http_address
from raccoon.signals import stop_on_signals
from raccoon.stopping import end_within
from raccoon.supervision import Supervisor

_PARENT = -1  # as a source of metrics
_OWN_METRICS = ("server_", "reactor_", "supervised_", "ready_")
_ANSWER_SECONDS = 0.5
_CLOSING_SECONDS = 5.0
_END_SECONDS = 10.0
_STEADY_SECONDS = 10.0
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 10.0
# Each worker process tells its metrics once a second. One that serves and says nothing for so many
# looks hangs, and so does one that does not come to serve. Looks are counted, not seconds: a parent
# that was stopped itself has not looked.
_LOOK_SECONDS = 1.0
_SILENT_LOOKS = 5
_STARTING_LOOKS = 60

MakeProcess = Callable[..., WorkerProcess]


class TotalsEndpoint(MetricsEndpoint):
    """Serves the sums of all workers' metrics and the parent's own.

    Args:
        reactor: listens and gives time.
        totals: the sums.
        sums: where they are kept.
        ask: has every worker tell its latest; fires when they have.
        settings: port, path and interval.

    Attributes:
        own: the parent's own metrics.
        supervisor: of the parent's loops and callbacks.
    """

    def __init__(
        self,
        reactor: Any,
        totals: Totals,
        sums: Metrics,
        ask: Callable[[], Deferred[Any]],
        settings: MetricSettings,
    ) -> None:
        self.own = Metrics(settings.label_values)
        self.supervisor = Supervisor(self.own)
        super().__init__(reactor, self.own, settings, self.supervisor)
        self._changes = Changes(self.own, _OWN_METRICS)
        self._totals = totals
        self._sums = sums
        self._ask = ask

    def take(self) -> Snapshot:
        """All that was told so far."""
        self.own.gauge("ready_current", float(not self.supervisor.reasons()))
        self._totals.merge(_PARENT, self._changes.take(super().take()))
        return self._sums.snapshot()

    def fresh(self) -> Deferred[Snapshot]:
        """All values as they are now, as far as the workers answer in time."""
        return self._ask().addCallback(lambda _: self.take())


class ParentService(MultiService):
    """Starts the workers, replaces those that end, and stops them in order.

    Args:
        reactor: everything runs on it.
        settings: the configuration.
        http: endpoint string of the HTTP listener, or None for SERVER_WEBSOCKET_PORT.
        grpc: host:port of the gRPC listener, or None for SERVER_GRPC_PORT.
        make_process: makes a WorkerProcess.
    """

    _logger = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: Settings,
        http: str | None = None,
        grpc: str | None = None,
        make_process: MakeProcess = WorkerProcess,
    ) -> None:
        super().__init__()
        self._reactor = reactor
        self._settings = settings
        self._count = settings.server.workers
        self._http = http_address(settings, http)
        self._grpc = grpc_address(settings, grpc)
        self._make_process = make_process
        metric = settings.metric
        sampled = SampledMetrics(metric.label_values) if metric.statsd_enabled else None
        self._sums = sampled or Metrics(metric.label_values)
        self._totals = Totals(self._sums)
        self._prometheus = TotalsEndpoint(reactor, self._totals, self._sums, self.ask, metric)
        self._prometheus.setServiceParent(self)
        self._statsd: StatsdService | None = None
        if sampled is not None:
            self._statsd = StatsdService(
                reactor,
                self._prometheus.take,
                sampled,
                StatsdSender(metric.statsd_address),
                metric.statsd_address,
                metric.statsd_flush_period_ms / 1000,
                self._prometheus.supervisor,
            )
            self._statsd.setServiceParent(self)
        self._supervisor = self._prometheus.supervisor
        self._watch = self._supervisor.loop("watching worker processes", self._look, reactor)
        self._words: dict[str, Callable[..., None]] = {
            "claim": self._claim,
            "release": self._release,
            "changes": self._changed,
            "left": self._left_behind,
            "serving": self._serves,
            "failed": self._cannot_serve,
        }
        self._claims = Claims(settings.websocket.max_conn)
        self._sockets: list[socket.socket] = []
        self._held: list[socket.socket] = []
        self._settings_file = -1
        self._workers: dict[int, WorkerProcess] = {}
        self._cover: dict[int, int] = {}
        self._spare: WorkerProcess | None = None
        # By index; None is the spare's.
        self._pauses: dict[int | None, float] = {}
        self._restarts: dict[int | None, IDelayedCall] = {}
        self._answers: dict[int, list[Deferred[None]]] = {}
        self._stopping = False
        self._all_gone: Deferred[None] | None = None
        self._left = 0

    # Start.

    def privilegedStartService(self) -> None:
        """Bind every port.

        Raises:
            StartError: one cannot be bound.
        """
        try:
            super().privilegedStartService()
            self._sockets = bind_http(*self._http, self._count)
            address, held = hold_grpc(*self._grpc)
        except RaccoonError as error:
            self._logger.critical("cannot start: {reason}", reason=str(error))
            raise
        self._grpc = self._grpc[0], address
        for reserved in held:
            # Its user is to be that of the workers, which twistd may change now.
            reserved.close()

    def startService(self) -> None:
        """Start the workers and wait until all of them serve.

        Raises:
            StartError: one does not.
        """
        try:
            _, self._held = hold_grpc(*self._grpc)
            pickled = pickle.dumps((worker_settings(self._settings), self._grpc[1]))
            self._settings_file = settings_file(pickled)
            for index in range(self._count):
                self._begin(index)
            for worker in self._workers.values():
                reason = worker.wait()
                if reason is not None:
                    raise StartError(reason)
        except RaccoonError as error:
            self._logger.critical("cannot start: {reason}", reason=str(error))
            raise
        super().startService()
        for worker in self._workers.values():
            worker.listen()
        self._reactor.callWhenRunning(stop_on_signals, self._reactor, self._end_in_time)
        self._prepare()
        self._watch.start(_LOOK_SECONDS, now=False)
        self._say_where()

    def _spawn(self) -> WorkerProcess:
        worker = self._make_process(self._reactor, self._received, self._ended)
        worker.spawn(self._settings_file, self._sockets)
        return worker

    def _begin(self, index: int) -> None:
        worker, self._spare = self._spare or self._spawn(), None
        worker.begin(index, core_of(index, self._count))
        self._workers[index] = worker

    def _prepare(self) -> None:
        """Have a process ready for the place of one that ends."""
        self._restarts.pop(None, None)
        if self._spare is None and not self._stopping:
            self._spare = self._spawn()

    def _say_where(self) -> None:
        metrics = self._prometheus.address
        self._logger.info(
            "Raccoon {version} listens: HTTP {http}, gRPC {grpc}, metrics {metrics};"
            " {count} workers",
            version=__version__,
            http="{}:{}".format(*_named(self._sockets[0])),
            grpc=self._grpc[1],
            metrics=shown(metrics) if metrics else "off",
            count=self._count,
        )

    # What workers say.

    def _received(self, worker: WorkerProcess, word: str, *rest: Any) -> None:
        """A word of a worker process; of one that has ended it means nothing any more."""
        if worker.index is not None and self._workers.get(worker.index) is worker:
            worker.silent_looks = 0
            self._supervisor.call("a word of a worker process", self._obey, worker, word, rest)

    def _obey(self, worker: WorkerProcess, word: str, rest: tuple[Any, ...]) -> None:
        self._words[word](worker, *rest)

    def _claim(self, worker: WorkerProcess, *who: str) -> None:
        assert worker.index is not None
        worker.say("verdict", self._claims.claim(worker.index, Identifier(*who)))

    def _release(self, worker: WorkerProcess, *who: str) -> None:
        assert worker.index is not None
        self._claims.release(worker.index, Identifier(*who))

    def _changed(self, worker: WorkerProcess, changes: dict[str, list[Any]]) -> None:
        assert worker.index is not None
        self._totals.merge(worker.index, changes)
        for answer in self._answers.pop(worker.index, []):
            answer.callback(None)

    def _left_behind(self, worker: WorkerProcess, events: int) -> None:
        worker.left = events

    def _serves(self, worker: WorkerProcess) -> None:
        worker.serving = True
        self._logger.info("worker {index} serves again", index=worker.index)
        self._share_out()
        self._prepare()

    def _cannot_serve(self, worker: WorkerProcess, reason: str) -> None:
        self._logger.error(
            "worker {index} cannot serve: {reason}", index=worker.index, reason=reason
        )

    def ask(self) -> Deferred[Any]:
        """Have every worker tell its metrics; fires when they have, or after half a second."""
        waiting = []
        for index, worker in self._workers.items():
            if worker.serving:
                answer: Deferred[None] = Deferred()
                self._answers.setdefault(index, []).append(answer)
                waiting.append(answer)
                worker.say("tell")
        told = DeferredList(waiting, consumeErrors=True)
        return told.addTimeout(_ANSWER_SECONDS, self._reactor)

    # Ends.

    def _ended(self, worker: WorkerProcess, why: str) -> None:
        self._supervisor.call("the end of a worker process", self._process_ended, worker, why)

    def _look(self) -> None:
        """End the worker processes that hang: others take their places, as when they crash."""
        for index, worker in self._workers.items():
            worker.silent_looks += 1
            if worker.silent_looks == (_SILENT_LOOKS if worker.serving else _STARTING_LOOKS):
                self._logger.error(
                    "worker {index} has said nothing for {seconds} s: killed",
                    index=index,
                    seconds=worker.silent_looks * _LOOK_SECONDS,
                )
                worker.kill()

    def _process_ended(self, worker: WorkerProcess, why: str) -> None:
        if worker.index is not None:
            self._worker_ended(worker, worker.index, why)
        elif not self._stopping:
            self._spare = None
            pause = self._pause(None, self._reactor.seconds() - worker.started_at)
            self._logger.warn("the spare worker ended ({why})", why=why)
            self._restarts[None] = self._reactor.callLater(pause, self._prepare)

    def _worker_ended(self, worker: WorkerProcess, index: int, why: str) -> None:
        del self._workers[index]
        self._claims.release_all(index)
        lost = int(self._totals.forget(index))
        for answer in self._answers.pop(index, []):
            answer.callback(None)
        if self._stopping:
            self._left += worker.left if worker.left is not None else lost
        else:
            pause = self._pause(index, self._reactor.seconds() - worker.started_at)
            self._restarts[index] = self._reactor.callLater(pause, self._restart, index)
            # Its successor will not know what it covered.
            self._cover = {of: by for of, by in self._cover.items() if by != index}
            self._share_out()
            log = self._logger.error if worker.left is None else self._logger.info
            log(
                "worker {index} ended ({why}), with {lost} events waiting; another starts in"
                " {pause} s",
                index=index,
                why=why,
                lost=lost,
                pause=pause,
            )
        if self._all_gone is not None and not self._workers:
            gone, self._all_gone = self._all_gone, None
            gone.callback(None)

    def _pause(self, index: int | None, lived: float) -> float:
        """Seconds to wait before a worker is replaced: none at first, more where it ends soon."""
        if lived >= _STEADY_SECONDS or index not in self._pauses:
            pause = 0.0
        else:
            pause = min(max(self._pauses[index] * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
        self._pauses[index] = pause
        return pause

    def _restart(self, index: int) -> None:
        del self._restarts[index]
        self._begin(index)
        self._workers[index].listen()

    def _share_out(self) -> None:
        """Have the HTTP sockets of workers that are gone served by one that is there."""
        serving = [index for index, worker in self._workers.items() if worker.serving]
        for index in range(self._count):
            cover = self._cover.get(index)
            if index in serving:
                if cover is not None:
                    del self._cover[index]
                    if cover in serving:
                        self._workers[cover].say("uncover", index)
            elif cover not in serving and serving:
                self._cover[index] = serving[index % len(serving)]
                self._workers[self._cover[index]].say("cover", index)

    # Stop.

    @inlineCallbacks
    def stopService(self) -> Any:
        """Have all workers stop at once, each in its order, and wait for their ends.

        A worker that does not end within WORKER_BUFFER_FLUSH_TIMEOUT_MS and some seconds is
        killed. What is left undelivered is logged and counted to the event.
        """
        self._stopping = True
        self._watch.stop()
        began = self._reactor.seconds()
        total = self._settings.worker.buffer_flush_timeout_ms / 1000
        self._logger.info("stopping: {count} workers", count=len(self._workers))
        for restart in self._restarts.values():
            restart.cancel()
        for held in self._sockets + self._held:
            held.close()
        if self._spare is not None:
            self._spare.kill()
        for worker in list(self._workers.values()):
            worker.stop()
        with suppress(TimeoutError):
            yield self._all_ended().addTimeout(
                total + SETTLE_SECONDS + _CLOSING_SECONDS, self._reactor
            )
        if self._workers:
            self._logger.error(
                "workers {workers} did not stop in time: killed", workers=sorted(self._workers)
            )
            for worker in self._workers.values():
                worker.kill()
            yield self._all_ended()
        self._sums.gauge("events_left_at_shutdown_current", self._left)
        yield super().stopService()
        if self._statsd is not None:
            yield self._statsd.close()
        took = round(self._reactor.seconds() - began, 3)
        if self._left:
            self._logger.error(
                "stopped in {took} s; {left} accepted events were not delivered",
                left=self._left,
                took=took,
            )
        else:
            self._logger.info("stopped in {took} s; no accepted event was lost", took=took)

    def _end_in_time(self) -> None:
        total = self._settings.worker.buffer_flush_timeout_ms / 1000
        seconds = total + SETTLE_SECONDS + _CLOSING_SECONDS + _END_SECONDS
        end_within(seconds, lambda: f"workers {sorted(self._workers)} had not ended")

    def _all_ended(self) -> Deferred[None]:
        gone: Deferred[None] = Deferred()
        if self._workers:
            self._all_gone = gone
        else:
            gone.callback(None)
        return gone


def worker_settings(settings: Settings) -> Settings:
    """What each worker is set to, so that all of them together keep the limits that were set.

    Memory, HTTP connections and gRPC calls are divided. The parent keeps MAX_CONN and serves the
    metrics.
    """
    count = settings.server.workers

    def part(whole: int) -> int:
        return -(-whole // count)

    buffer = max(part(settings.worker.buffer_max_bytes), largest_request(settings.limits))
    limits = attrs.evolve(settings.limits, http_connections=part(settings.limits.http_connections))
    return attrs.evolve(
        settings,
        worker=attrs.evolve(settings.worker, buffer_max_bytes=buffer),
        limits=limits,
        grpc=attrs.evolve(settings.grpc, max_concurrent=part(settings.grpc.max_concurrent)),
        metric=attrs.evolve(settings.metric, prometheus_enabled=False),
    )


def core_of(index: int, count: int) -> int | None:
    """The core that a worker is to run on: one of its own, where there are enough."""
    cores = sorted(os.sched_getaffinity(0))
    return cores[index] if len(cores) >= count else None


def _named(bound: socket.socket) -> tuple[str, int]:
    host, port = bound.getsockname()[:2]
    return f"[{host}]" if ":" in host else host, port
