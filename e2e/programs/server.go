// `server PORT`: answers "set NAME VALUE" with "ok" and "get NAME" with the value, while goroutines compute without a
// pause (so that the runtime has to preempt them by signals), tick, and pass numbers on. Ends with 1 when its world is
// not as it should be.
package main

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"
)

var entries sync.Map

func fail(what ...any) {
	fmt.Fprintln(os.Stderr, what...)
	os.Exit(1)
}

func converse(connection net.Conn) {
	defer connection.Close()
	lines := bufio.NewScanner(connection)
	for lines.Scan() {
		words := strings.Split(lines.Text(), " ")
		answer := "-"
		if words[0] == "set" {
			entries.Store(words[1], words[2])
			answer = "ok"
		} else if value, found := entries.Load(words[1]); found {
			answer = value.(string)
		}
		fmt.Fprintln(connection, answer)
	}
}

// The same sum again and again, in a loop that never yields and takes longer than the runtime lets it.
func compute() {
	var expected uint64
	for round := 0; ; round++ {
		var sum uint64
		for i := uint64(0); i < 30_000_000; i++ {
			sum = sum*6364136223846793005 + i
		}
		if round > 0 && sum != expected {
			fail("a sum has changed")
		}
		expected = sum
		time.Sleep(20 * time.Millisecond)
	}
}

func makeGarbage() {
	for round := 0; ; round++ {
		kept := make([][]int, 0, 100)
		for block := 0; block < 100; block++ {
			kept = append(kept, make([]int, 1024))
			for i := range kept[block] {
				kept[block][i] = round ^ block ^ i
			}
		}
		for block := range kept {
			for i, value := range kept[block] {
				if value != round^block^i {
					fail("the heap is not what it was")
				}
			}
		}
		time.Sleep(time.Millisecond)
	}
}

func pass(numbers chan int) {
	go func() {
		for number := 0; ; number++ {
			numbers <- number
			if number%64 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}()
	for expected := 0; ; expected++ {
		if number := <-numbers; number != expected {
			fail("a number was lost between two goroutines")
		}
	}
}

func tick() {
	last := time.Now()
	for range time.Tick(time.Millisecond) {
		now := time.Now()
		if now.Before(last) {
			fail("time runs backwards")
		}
		last = now
	}
}

func main() {
	go compute()
	go makeGarbage()
	go pass(make(chan int))
	go tick()
	terminated := make(chan os.Signal, 1)
	signal.Notify(terminated, syscall.SIGTERM)
	go func() {
		<-terminated
		os.Exit(0)
	}()
	listener, err := net.Listen("tcp", "127.0.0.1:"+os.Args[1])
	if err != nil {
		fail(err)
	}
	for {
		connection, err := listener.Accept()
		if err != nil {
			fail(err)
		}
		go converse(connection)
	}
}
