package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"time"
)

// rest is an HTTP connection that is kept open, with one request on the way. It writes a request
// made before in one piece: net/http's client would cost several times as much.
type rest struct {
	conn    net.Conn
	reader  *bufio.Reader
	request []byte
	guid    []byte
	asJSON  bool
}

func openREST(address, name string, asJSON bool, body []byte, at int) (connection, error) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	contentType := "application/proto"
	if asJSON {
		contentType = "application/json"
	}
	head := fmt.Sprintf("POST /api/v1/events HTTP/1.1\r\nHost: %s\r\nUser-Agent: loadgen\r\n"+
		"Content-Length: %d\r\nContent-Type: %s\r\nX-User-ID: %s\r\nAccept-Encoding: gzip\r\n\r\n",
		address, len(body), contentType, name)
	request := slices.Concat([]byte(head), body)
	guid := request[len(head)+at:][:guidLength]
	return &rest{conn, bufio.NewReader(conn), request, guid, asJSON}, nil
}

func (r *rest) send(id uint64) error {
	writeGUID(r.guid, id)
	r.conn.SetDeadline(time.Now().Add(answerTimeout))
	_, err := r.conn.Write(r.request)
	return err
}

func (r *rest) receive() (uint64, error) {
	response, err := http.ReadResponse(r.reader, nil)
	if err != nil {
		return 0, err
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	id, err := readAnswer(body, r.asJSON)
	if response.StatusCode != http.StatusOK {
		return id, fmt.Errorf("HTTP %s: %v", response.Status, err)
	}
	return id, err
}

func (r *rest) close() { r.conn.Close() }
