// Command loadgen sends batches of events to one Raccoon server, checks every answer, and prints
// one line of JSON. With -rate it sends at fixed moments, however slow the answers are.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	answerTimeout = 15 * time.Second
	errorPause    = 5 * time.Millisecond
	typeOfEvents  = "bench"
)

type options struct {
	protocol    string
	address     string
	method      string
	pid         int
	connections int
	inFlight    int
	events      int
	size        int
	requests    int64
	duration    time.Duration
	warmUp      time.Duration
	hold        time.Duration
	rate        float64
}

type result struct {
	Requests       int     `json:"requests"`
	Errors         int64   `json:"errors"`
	FirstError     string  `json:"first_error"`
	Seconds        float64 `json:"seconds"`
	P50            float64 `json:"p50_ms"`
	P99            float64 `json:"p99_ms"`
	P999           float64 `json:"p999_ms"`
	Max            float64 `json:"max_ms"`
	CPUSeconds     float64 `json:"cpu_seconds"`
	OwnCPUSeconds  float64 `json:"own_cpu_seconds"`
	MemoryBytes    int64   `json:"memory_bytes"`
	MemoryAtStart  int64   `json:"memory_bytes_at_start"`
	ConnectionsNow int     `json:"connections"`
}

func main() {
	var o options
	flag.StringVar(&o.protocol, "protocol", "", "rest-json, rest-proto, ws-json, ws-proto, grpc, grpc-stream, or idle (WebSockets that send nothing)")
	flag.StringVar(&o.address, "address", "", "HOST:PORT of the protocol")
	flag.StringVar(&o.method, "method", "/raystack.raccoon.v1beta1.EventService/SendEvent", "for gRPC")
	flag.IntVar(&o.pid, "pid", 0, "the server's process; its CPU time and memory are read, those of its children too")
	flag.IntVar(&o.connections, "connections", 64, "")
	flag.IntVar(&o.inFlight, "in-flight", 1, "requests that a WebSocket or stream has on the way")
	flag.IntVar(&o.events, "events", 10, "in a request")
	flag.IntVar(&o.size, "size", 200, "bytes of an event")
	flag.Int64Var(&o.requests, "requests", 0, "end after so many; 0: after -duration")
	flag.DurationVar(&o.duration, "duration", 3*time.Second, "of what is measured, at most")
	flag.DurationVar(&o.warmUp, "warm-up", 0, "sends for so long before that")
	flag.DurationVar(&o.hold, "hold", 2*time.Second, "how long idle connections are kept before memory is read")
	flag.Float64Var(&o.rate, "rate", 0, "requests a second, by the clock; 0: each answer is followed by a request")
	flag.Parse()
	found, err := run(o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "loadgen:", err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(found)
}

func run(o options) (result, error) {
	if o.rate > 0 && o.inFlight > 1 {
		return result{}, fmt.Errorf("-rate goes with one request in flight on each connection")
	}
	if o.protocol == "idle" {
		return idle(o), nil
	}
	open, err := opener(o)
	if err != nil {
		return result{}, err
	}
	clients := make([]*client, o.connections)
	for i := range clients {
		clients[i] = &client{open: open, name: fmt.Sprintf("bench-%08x-%d", runTag, i)}
		defer clients[i].drop()
		if err := clients[i].connect(); err != nil {
			return result{}, err
		}
	}
	if o.warmUp > 0 {
		newPhase(o, 0, o.warmUp).drive(clients)
	}
	return newPhase(o, o.requests, o.duration).drive(clients), nil
}

// A phase is a stretch of requests that are measured together.
type phase struct {
	inFlight int
	limit    int64
	end      time.Time
	due      chan time.Time
	pid      int
	sent     atomic.Int64
	errors   atomic.Int64
	mutex    sync.Mutex
	first    string
}

func newPhase(o options, limit int64, duration time.Duration) *phase {
	p := &phase{inFlight: o.inFlight, limit: limit, end: time.Now().Add(duration), pid: o.pid}
	if o.rate > 0 {
		// Has room for all, so that slow answers never hold the clock up.
		p.due = make(chan time.Time, int(o.rate*duration.Seconds())+1)
		go p.keepTime(o.rate)
	}
	return p
}

// keepTime sleeps in a system call: Go's own timers are late by up to a millisecond.
func (p *phase) keepTime(rate float64) {
	defer close(p.due)
	start := time.Now()
	for i := int64(0); p.limit == 0 || i < p.limit; i++ {
		at := start.Add(time.Duration(float64(i) / rate * float64(time.Second)))
		if at.After(p.end) {
			return
		}
		if wait := time.Until(at); wait > 0 {
			pause := syscall.NsecToTimespec(int64(wait))
			syscall.Nanosleep(&pause, nil)
		}
		p.due <- at
	}
}

// next gives the moment from which the next request's latency counts, or false: there is none.
func (p *phase) next() (time.Time, bool) {
	if p.due != nil {
		at, ok := <-p.due
		return at, ok
	}
	now := time.Now()
	if now.After(p.end) || p.sent.Add(1) > p.limit && p.limit > 0 {
		return now, false
	}
	return now, true
}

func (p *phase) fail(count int, err error) {
	p.errors.Add(int64(count))
	p.mutex.Lock()
	if p.first == "" {
		p.first = err.Error()
	}
	p.mutex.Unlock()
	time.Sleep(errorPause)
}

func (p *phase) drive(clients []*client) result {
	cpu, own, memory, start := cpuSeconds(p.pid), cpuSeconds(os.Getpid()), memoryBytes(p.pid), time.Now()
	latencies := make([][]time.Duration, len(clients))
	var working sync.WaitGroup
	for i := range clients {
		working.Add(1)
		go func() {
			defer working.Done()
			latencies[i] = p.work(clients[i])
		}()
	}
	working.Wait()
	seconds := time.Since(start).Seconds()
	all := slices.Concat(latencies...)
	slices.Sort(all)
	return result{
		Requests:       len(all),
		Errors:         p.errors.Load(),
		FirstError:     p.first,
		Seconds:        seconds,
		P50:            percentile(all, 0.5),
		P99:            percentile(all, 0.99),
		P999:           percentile(all, 0.999),
		Max:            percentile(all, 1),
		CPUSeconds:     cpuSeconds(p.pid) - cpu,
		OwnCPUSeconds:  cpuSeconds(os.Getpid()) - own,
		MemoryBytes:    memoryBytes(p.pid),
		MemoryAtStart:  memory,
		ConnectionsNow: len(clients),
	}
}

// work sends on one connection until the phase is over, and returns the latencies.
func (p *phase) work(c *client) []time.Duration {
	var latencies []time.Duration
	pending := map[uint64]time.Time{}
	lose := func(err error) {
		p.fail(max(len(pending), 1), err)
		clear(pending)
		c.drop()
	}
	for more := true; ; {
		for more && len(pending) < p.inFlight {
			var at time.Time
			if at, more = p.next(); !more {
				break
			}
			id := nextID.Add(1)
			pending[id] = at
			if err := c.send(id); err != nil {
				lose(err)
			}
		}
		if len(pending) == 0 {
			if !more {
				return latencies
			}
			continue
		}
		id, err := c.connection.receive()
		at, known := pending[id]
		switch {
		case !known && err == nil:
			lose(fmt.Errorf("an answer has the guid %016x, which was not sent or is answered", id))
		case !known:
			lose(err)
		case err != nil: // refused, and said which
			delete(pending, id)
			p.fail(1, err)
		default:
			delete(pending, id)
			latencies = append(latencies, time.Since(at))
		}
	}
}

func percentile(sorted []time.Duration, part float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return float64(sorted[int(float64(len(sorted)-1)*part)].Microseconds()) / 1000
}
