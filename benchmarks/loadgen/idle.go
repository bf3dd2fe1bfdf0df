package main

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

const (
	openAtOnce     = 64
	portsOfAddress = 20_000 // of about 28,000 that Linux has for outgoing connections

	ipBindAddressNoPort = 24 // of linux/in.h
)

// portLater has the port chosen when the connection is made. Chosen before, it has to differ from
// those of all connections that just ended, and the search takes longer than all else.
func portLater(_, _ string, socket syscall.RawConn) (err error) {
	outer := socket.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IP, ipBindAddressNoPort, 1)
	})
	return errors.Join(outer, err)
}

// idle opens WebSockets, keeps them for a while, and tells what they cost.
func idle(o options) result {
	found := result{MemoryAtStart: memoryBytes(o.pid)}
	cpu, start := cpuSeconds(o.pid), time.Now()
	var sockets []*webSocket
	var mutex sync.Mutex
	var opening sync.WaitGroup
	numbers := make(chan int)
	for range openAtOnce {
		opening.Add(1)
		go func() {
			defer opening.Done()
			for number := range numbers {
				dialer := net.Dialer{
					LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(1+number/portsOfAddress))},
					Control:   portLater,
				}
				socket, err := openWebSocket(dialer, o.address, fmt.Sprintf("idle-%08x-%d", runTag, number))
				mutex.Lock()
				if err == nil {
					socket.conn.SetDeadline(time.Time{})
					sockets = append(sockets, socket)
				} else if found.Errors++; found.FirstError == "" {
					found.FirstError = err.Error()
				}
				mutex.Unlock()
			}
		}()
	}
	for number := range o.connections {
		numbers <- number
	}
	close(numbers)
	opening.Wait()
	found.Seconds = time.Since(start).Seconds()
	found.CPUSeconds = cpuSeconds(o.pid) - cpu
	found.ConnectionsNow = len(sockets)
	time.Sleep(o.hold)
	found.MemoryBytes = memoryBytes(o.pid)
	for _, socket := range sockets {
		socket.conn.Close()
	}
	return found
}
