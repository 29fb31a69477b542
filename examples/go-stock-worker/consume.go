package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

const (
	exchange = "stock.events"
	key      = "stock.changed.v1"
	queue    = "ext.acme-go.stock"
	parking  = queue + ".parking"
	prefetch = 200
)

// consume hands what arrives to the worker until the context ends or the connection dies.
//
// Everything that has arrived is committed together and acknowledged together: the ack comes
// after the work, so a crash repeats events and loses none.
func consume(ctx context.Context, url string, worker *worker) error {
	connection, err := amqp.DialConfig(url, amqp.Config{
		Heartbeat:  10 * time.Second,
		Properties: amqp.Table{"connection_name": queue},
	})
	if err != nil {
		return err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return err
	}
	if err := declare(channel); err != nil {
		return err
	}
	if err := channel.Qos(prefetch, 0, false); err != nil {
		return err
	}
	deliveries, err := channel.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	log.Printf("consuming %s", queue)
	for {
		select {
		case <-ctx.Done():
			return channel.Close()
		case first, open := <-deliveries:
			if !open {
				return errors.New("the broker closed the channel")
			}
			if err := handle(ctx, worker, batch(first, deliveries)); err != nil {
				return err
			}
		}
	}
}

// declare makes the queue, its parking queue and its binding; what stands already is left as it is.
func declare(channel *amqp.Channel) error {
	quorum := amqp.Table{"x-queue-type": "quorum"}
	if _, err := channel.QueueDeclare(parking, true, false, false, false, quorum); err != nil {
		return err
	}
	_, err := channel.QueueDeclare(queue, true, false, false, false, amqp.Table{
		"x-queue-type":              "quorum",
		"x-dead-letter-exchange":    "",
		"x-dead-letter-routing-key": parking,
		"x-delivery-limit":          20,
	})
	if err != nil {
		return err
	}
	if err := channel.QueueBind(queue, key, exchange, false, nil); err != nil {
		return fmt.Errorf("binding %s to %s: %w", queue, exchange, err)
	}
	return nil
}

// batch is what has arrived by now, at most what may be unacknowledged.
func batch(first amqp.Delivery, deliveries <-chan amqp.Delivery) []amqp.Delivery {
	found := []amqp.Delivery{first}
	for len(found) < prefetch {
		select {
		case next, open := <-deliveries:
			if !open {
				return found
			}
			found = append(found, next)
		default:
			return found
		}
	}
	return found
}

// handle settles a batch: what is no event is parked, the rest is committed and then acknowledged.
func handle(ctx context.Context, worker *worker, deliveries []amqp.Delivery) error {
	var changes []change
	for _, delivery := range deliveries {
		found, err := worker.read(delivery.Body)
		if err != nil {
			log.Printf("parking %s: %v", delivery.MessageId, err)
			if err := delivery.Reject(false); err != nil {
				return err
			}
			continue
		}
		changes = append(changes, found)
	}
	last := deliveries[len(deliveries)-1]
	if err := worker.commit(changes); err != nil {
		// the store is away: a pause, so that it does not come back at once for ever
		log.Printf("keeping %d events for later: %v", len(changes), err)
		select {
		case <-ctx.Done():
		case <-time.After(retryPause):
		}
		return last.Nack(true, true)
	}
	return last.Ack(true)
}
