package main

import (
	"fmt"
	"net"
	"strings"
)

// A connection to the server. What send sent is answered by receive, in any order.
type connection interface {
	send(id uint64) error
	// receive gives the id that is answered, if the answer tells, and an error unless it is a success.
	receive() (uint64, error)
	close()
}

// A client has a connection, and opens another in the place of one that failed.
type client struct {
	open       func(name string) (connection, error)
	name       string
	connection connection
}

func (c *client) connect() (err error) {
	if c.connection == nil {
		c.connection, err = c.open(c.name)
	}
	return err
}

func (c *client) send(id uint64) error {
	if err := c.connect(); err != nil {
		c.connection = nil
		return err
	}
	return c.connection.send(id)
}

func (c *client) drop() {
	if c.connection != nil {
		c.connection.close()
		c.connection = nil
	}
}

func opener(o options) (func(name string) (connection, error), error) {
	asJSON := strings.HasSuffix(o.protocol, "-json")
	body, at := makeRequest(asJSON, o.events, o.size)
	switch o.protocol {
	case "rest-json", "rest-proto":
		return func(name string) (connection, error) { return openREST(o.address, name, asJSON, body, at) }, nil
	case "ws-json", "ws-proto":
		return func(name string) (connection, error) {
			socket, err := openWebSocket(net.Dialer{}, o.address, name)
			if err != nil {
				return nil, err
			}
			return newSender(socket, asJSON, body, at), nil
		}, nil
	case "grpc":
		return func(name string) (connection, error) { return openUnary(o, name, body, at) }, nil
	case "grpc-stream":
		return func(name string) (connection, error) { return openStream(o, name, body, at) }, nil
	}
	return nil, fmt.Errorf("no protocol is called %q", o.protocol)
}
