package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// Opcodes of RFC 6455, section 5.2.
const (
	textData   = 0x1
	binaryData = 0x2
	closing    = 0x8
	ping       = 0x9
	pong       = 0xa

	final        = 0x80
	masked       = 0x80
	longest      = 1 << 20
	inTwoBytes   = 126
	inEightBytes = 127
)

// mask is the same for every frame, so that a frame can be made before: the server has the same
// work with it.
var mask = [4]byte{0x5a, 0xc3, 0x1f, 0x87}

type webSocket struct {
	conn   net.Conn
	reader *bufio.Reader
}

func openWebSocket(dialer net.Dialer, address, name string) (*webSocket, error) {
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(answerTimeout))
	fmt.Fprintf(conn, "GET /api/v1/events HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Key: bG9hZGdlbi1sb2FkZ2VuMQ==\r\nSec-WebSocket-Version: 13\r\nX-User-ID: %s\r\n\r\n", address, name)
	reader := bufio.NewReaderSize(conn, 1024)
	response, err := http.ReadResponse(reader, nil)
	if err == nil && response.StatusCode != http.StatusSwitchingProtocols {
		err = fmt.Errorf("no WebSocket: HTTP %s", response.Status)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return &webSocket{conn, reader}, nil
}

// message gives the next one, and answers pings meanwhile.
func (s *webSocket) message() ([]byte, error) {
	for {
		var head [2]byte
		if _, err := io.ReadFull(s.reader, head[:]); err != nil {
			return nil, err
		}
		length := uint64(head[1])
		if extended := map[byte]int{inTwoBytes: 2, inEightBytes: 8}[head[1]]; extended > 0 {
			var size [8]byte
			if _, err := io.ReadFull(s.reader, size[8-extended:]); err != nil {
				return nil, err
			}
			length = binary.BigEndian.Uint64(size[:])
		}
		if length > longest {
			return nil, fmt.Errorf("a frame of %d bytes", length)
		}
		payload := make([]byte, length)
		if _, err := io.ReadFull(s.reader, payload); err != nil {
			return nil, err
		}
		switch head[0] {
		case final | textData, final | binaryData:
			return payload, nil
		case final | ping:
			if _, err := s.conn.Write(frame(pong, payload)); err != nil {
				return nil, err
			}
		case final | pong:
		case final | closing:
			return nil, fmt.Errorf("closed by the server: %q", payload)
		default:
			return nil, fmt.Errorf("an unexpected frame, first byte %#x", head[0])
		}
	}
}

func frame(opcode byte, payload []byte) []byte {
	out := []byte{final | opcode}
	switch {
	case len(payload) < inTwoBytes:
		out = append(out, masked|byte(len(payload)))
	case len(payload) < 1<<16:
		out = binary.BigEndian.AppendUint16(append(out, masked|inTwoBytes), uint16(len(payload)))
	default:
		out = binary.BigEndian.AppendUint64(append(out, masked|inEightBytes), uint64(len(payload)))
	}
	out = append(out, mask[:]...)
	for i, b := range payload {
		out = append(out, b^mask[i%4])
	}
	return out
}

// A sender sends requests over a WebSocket, from a frame made before.
type sender struct {
	*webSocket
	frame  []byte
	at     int
	start  int
	asJSON bool
}

func newSender(socket *webSocket, asJSON bool, body []byte, at int) connection {
	opcode := byte(binaryData)
	if asJSON {
		opcode = textData
	}
	made := frame(opcode, body)
	return &sender{socket, made, at, len(made) - len(body), asJSON}
}

func (s *sender) send(id uint64) error {
	guid := s.frame[s.start+s.at:][:guidLength]
	writeGUID(guid, id)
	for i := range guid {
		guid[i] ^= mask[(s.at+i)%4]
	}
	s.conn.SetDeadline(time.Now().Add(answerTimeout))
	_, err := s.conn.Write(s.frame)
	return err
}

func (s *sender) receive() (uint64, error) {
	body, err := s.message()
	if err != nil {
		return 0, err
	}
	return readAnswer(body, s.asJSON)
}

// close says so first: the server then has no failure to count.
func (s *webSocket) close() {
	s.conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := s.conn.Write(frame(closing, binary.BigEndian.AppendUint16(nil, 1000))); err == nil {
		io.Copy(io.Discard, s.reader)
	}
	s.conn.Close()
}
