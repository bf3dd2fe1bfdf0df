package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

// A guid is a number in 16 hexadecimal digits, so that it can be put into a message made before.
const guidLength = 16

var (
	runTag = rand.Uint32()
	nextID atomic.Uint64
	noGUID = strings.Repeat("?", guidLength)
)

func init() { nextID.Store(uint64(runTag) << 32) }

func writeGUID(place []byte, id uint64) {
	var number [8]byte
	binary.BigEndian.PutUint64(number[:], id)
	hex.Encode(place, number[:])
}

func readGUID(text string) uint64 {
	id, err := strconv.ParseUint(text, 16, 64)
	if err != nil || len(text) != guidLength {
		return 0
	}
	return id
}

// event is `index/` and letters up to the size, so that a consumer could tell events apart.
func event(index, size int) []byte {
	text := []byte(strconv.Itoa(index) + "/")
	for len(text) < size {
		text = append(text, byte('a'+len(text)*7%26))
	}
	return text
}

// makeRequest gives a SendEventRequest, and where in it the guid goes.
func makeRequest(asJSON bool, events, size int) ([]byte, int) {
	seconds := time.Now().Unix()
	var out []byte
	if asJSON {
		out = fmt.Appendf(out, `{"req_guid":"%s","sent_time":{"seconds":%d,"nanos":0},"events":[`, noGUID, seconds)
		for i := range events {
			if i > 0 {
				out = append(out, ',')
			}
			out = fmt.Appendf(out, `{"event_bytes":"%s","type":"%s"}`, base64.StdEncoding.EncodeToString(event(i, size)), typeOfEvents)
		}
		out = append(out, "]}"...)
	} else {
		field := func(to []byte, number protowire.Number, value []byte) []byte {
			return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), value)
		}
		stamp := protowire.AppendVarint(protowire.AppendTag(nil, 1, protowire.VarintType), uint64(seconds))
		out = field(out, 1, []byte(noGUID))
		out = field(out, 2, stamp)
		for i := range events {
			out = field(out, 3, field(field(nil, 1, event(i, size)), 2, []byte(typeOfEvents)))
		}
	}
	return out, bytes.Index(out, []byte(noGUID))
}

// An answer is what matters of a SendEventResponse.
type answer struct {
	Status uint64            `json:"status"`
	Code   uint64            `json:"code"`
	Reason string            `json:"reason"`
	Data   map[string]string `json:"data"`
}

// readAnswer gives the guid that is answered, and an error unless it says success.
func readAnswer(body []byte, asJSON bool) (uint64, error) {
	found := answer{Data: map[string]string{}}
	var err error
	if asJSON {
		err = json.Unmarshal(body, &found)
	} else {
		err = found.parse(body)
	}
	if err != nil {
		return 0, fmt.Errorf("not an answer: %w", err)
	}
	id := readGUID(found.Data["req_guid"])
	if found.Status != 1 || found.Code != 1 {
		return id, fmt.Errorf("status %d, code %d: %s", found.Status, found.Code, found.Reason)
	}
	return id, nil
}

func (a *answer) parse(body []byte) error {
	return fields(body, func(number protowire.Number, value uint64, text []byte) error {
		switch number {
		case 1:
			a.Status = value
		case 2:
			a.Code = value
		case 4:
			a.Reason = string(text)
		case 5:
			var entry [3]string
			err := fields(text, func(part protowire.Number, _ uint64, text []byte) error {
				entry[min(part, 2)] = string(text)
				return nil
			})
			a.Data[entry[1]] = entry[2]
			return err
		}
		return nil
	})
}

func fields(body []byte, each func(protowire.Number, uint64, []byte) error) error {
	for len(body) > 0 {
		number, kind, length := protowire.ConsumeTag(body)
		if length < 0 {
			return protowire.ParseError(length)
		}
		body = body[length:]
		var value uint64
		var text []byte
		switch kind {
		case protowire.VarintType:
			value, length = protowire.ConsumeVarint(body)
		case protowire.BytesType:
			text, length = protowire.ConsumeBytes(body)
		default:
			length = protowire.ConsumeFieldValue(number, kind, body)
		}
		if length < 0 {
			return protowire.ParseError(length)
		}
		if err := each(number, value, text); err != nil {
			return err
		}
		body = body[length:]
	}
	return nil
}
