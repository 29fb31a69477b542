module shopstream.example/go-stock-worker

go 1.19

require (
	github.com/rabbitmq/amqp091-go v1.10.0
	github.com/santhosh-tekuri/jsonschema/v5 v5.3.1
)
