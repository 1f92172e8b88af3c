package main

import (
	"bytes"
	"encoding/binary"
)

const tableBytes = 65521

var table = makeTable()

func makeTable() []byte {
	x := uint32(2463534242)
	table := make([]byte, tableBytes)
	for i := range table {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		table[i] = byte(x >> 24)
	}
	return table
}

func start(seed, offset int) int { return (seed*7919 + offset) % tableBytes }

// fill writes the content of a seed.
func fill(room []byte, seed int) {
	at := start(seed, 0)
	for len(room) > 0 {
		count := copy(room, table[at:])
		room, at = room[count:], 0
	}
}

func content(seed, length int) []byte {
	message := make([]byte, length)
	fill(message, seed)
	return message
}

// isContent tells whether these bytes stand in the content of a seed from an offset on.
func isContent(found []byte, seed, offset int) bool {
	at := start(seed, offset)
	for len(found) > 0 {
		count := min(len(found), tableBytes-at)
		if !bytes.Equal(found[:count], table[at:at+count]) {
			return false
		}
		found, at = found[count:], 0
	}
	return true
}

// series is of messages that carry their number.
type series struct {
	seed    int
	lengths []int
}

func (s *series) length(number int) int { return s.lengths[number%len(s.lengths)] }

func (s *series) fill(number int, room []byte) {
	binary.LittleEndian.PutUint32(room, uint32(number))
	fill(room[4:], s.seed+number)
}

func (s *series) message(number int) []byte {
	message := make([]byte, s.length(number))
	s.fill(number, message)
	return message
}

// number tells the number of a message, if it is a right one.
func (s *series) number(message []byte) (int, bool) {
	if len(message) < 4 {
		return 0, false
	}
	number := int(binary.LittleEndian.Uint32(message))
	return number, len(message) == s.length(number) && isContent(message[4:], s.seed+number, 0)
}

// expected checks that each message is the next.
type expected struct {
	series
	next, first, end int
	ok               bool
}

func (e *expected) take(message []byte) {
	number, ok := e.number(message)
	e.ok = e.ok && e.next < e.end && ok && number == e.next
	if e.ok {
		e.next++
	}
}

func (e *expected) goesOn() bool { return e.ok && e.next < e.end }

func (e *expected) answer() answer {
	found := answer{"received": e.next - e.first, "ok": e.ok}
	if !e.ok {
		found["number"] = e.next
	}
	return found
}
