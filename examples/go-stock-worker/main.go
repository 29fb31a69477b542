// Command go-stock-worker keeps what is available of each SKU of Shopstream in a journal of its
// own.
//
//	STOCK_BROKER_URL=amqp://... go-stock-worker levels.journal
//	go-stock-worker --contract DIR     (answers the contract-test kit on standard input)
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

const (
	reconnectPause = time.Second
	retryPause     = 5 * time.Second
)

func main() {
	log.SetFlags(0)
	if len(os.Args) == 3 && os.Args[1] == "--contract" {
		if err := answerKit(filepath.Join(os.Args[2], "levels.journal"), os.Stdin, os.Stdout); err != nil {
			log.Fatal(err)
		}
		return
	}
	url := os.Getenv("STOCK_BROKER_URL")
	if len(os.Args) != 2 || url == "" {
		log.Fatal("usage: STOCK_BROKER_URL=amqp://user:pw@host/vhost go-stock-worker levels.journal")
	}
	worker, err := newWorker(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	for ctx.Err() == nil {
		if err := consume(ctx, url, worker); err != nil && ctx.Err() == nil {
			log.Printf("starting again: %v", err)
			select {
			case <-ctx.Done():
			case <-time.After(reconnectPause):
			}
		}
	}
	fmt.Println("stopped")
}
