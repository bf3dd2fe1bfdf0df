package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// asBytes lets messages pass as the bytes that they are.
type asBytes struct{}

func (asBytes) Name() string { return "proto" }

// Marshal copies, as grpc may write the bytes when the next message is already made.
func (asBytes) Marshal(message any) ([]byte, error) { return slices.Clone(message.([]byte)), nil }

func (asBytes) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = slices.Clone(data)
	return nil
}

func dial(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(asBytes{})))
}

func as(name string) context.Context {
	return metadata.AppendToOutgoingContext(context.Background(), "x-user-id", name)
}

// unary makes calls, one at a time, on a connection of its own.
type unary struct {
	channel *grpc.ClientConn
	context context.Context
	method  string
	request []byte
	guid    []byte
	answer  []byte
}

func openUnary(o options, name string, body []byte, at int) (connection, error) {
	channel, err := dial(o.address)
	if err != nil {
		return nil, err
	}
	request := slices.Clone(body)
	return &unary{channel: channel, context: as(name), method: o.method, request: request, guid: request[at:][:guidLength]}, nil
}

func (u *unary) send(id uint64) error {
	writeGUID(u.guid, id)
	limited, cancel := context.WithTimeout(u.context, answerTimeout)
	defer cancel()
	return u.channel.Invoke(limited, u.method, u.request, &u.answer)
}

func (u *unary) receive() (uint64, error) { return readAnswer(u.answer, false) }

func (u *unary) close() { u.channel.Close() }

// stream sends requests on one bidirectional call.
type stream struct {
	channel *grpc.ClientConn
	call    grpc.ClientStream
	cancel  context.CancelFunc
	late    *time.Timer
	request []byte
	guid    []byte
}

func openStream(o options, name string, body []byte, at int) (connection, error) {
	channel, err := dial(o.address)
	if err != nil {
		return nil, err
	}
	ended, cancel := context.WithCancel(as(name))
	description := &grpc.StreamDesc{StreamName: "stream", ClientStreams: true, ServerStreams: true}
	call, err := channel.NewStream(ended, description, o.method)
	if err != nil {
		cancel()
		channel.Close()
		return nil, fmt.Errorf("no stream: %w", err)
	}
	request := slices.Clone(body)
	late := time.AfterFunc(answerTimeout, cancel)
	return &stream{channel, call, cancel, late, request, request[at:][:guidLength]}, nil
}

func (s *stream) send(id uint64) error {
	writeGUID(s.guid, id)
	return s.call.SendMsg(s.request)
}

func (s *stream) receive() (uint64, error) {
	s.late.Reset(answerTimeout)
	var body []byte
	if err := s.call.RecvMsg(&body); err != nil {
		return 0, err
	}
	return readAnswer(body, false)
}

func (s *stream) close() {
	s.late.Stop()
	s.call.CloseSend()
	s.cancel()
	s.channel.Close()
}
