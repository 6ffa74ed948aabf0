// A server that ends as good ones do when it gets SIGTERM: by http.Server.Shutdown, or, where it answers lines, by closing
// its listener and waiting for the connections that it has.
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

func main() {
	listen := flag.String("listen", "", "the address and port")
	name := flag.String("name", "", "what each answer says")
	lines := flag.Bool("lines", false, "answer each line over plain TCP, and not HTTP")
	flag.Parse()
	ending, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening")
	if *lines {
		serveLines(ending, listener, *name)
		return
	}
	if err := serveHTTP(ending, listener, *name); err != nil {
		log.Fatal(err)
	}
}

func serveHTTP(ending context.Context, listener net.Listener, name string) error {
	server := &http.Server{Handler: http.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(answer, name)
	})}
	ended := make(chan error, 1)
	go func() {
		<-ending.Done()
		ended <- server.Shutdown(context.Background())
	}()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	// Serve returns as soon as Shutdown begins.
	return <-ended
}

func serveLines(ending context.Context, listener net.Listener, name string) {
	var open sync.WaitGroup
	go func() {
		<-ending.Done()
		listener.Close()
	}()
	for {
		connection, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			break
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			continue
		}
		open.Go(func() {
			defer connection.Close()
			asked := bufio.NewScanner(connection)
			for asked.Scan() {
				if _, err := fmt.Fprintf(connection, "%s\n", name); err != nil {
					return
				}
			}
		})
	}
	open.Wait()
}
