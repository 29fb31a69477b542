// The stock gateway of the talk "Beyond the LAMP stack", in two forms, as a peer to measure beside.
//
//   GET /products/:id/stock          one Redis GET
//   PUT /products/:id/stock          as in the talk: a broker connection per request, transient,
//                                    unconfirmed
//   PUT /modern/products/:id/stock   one confirm channel, persistent message, answered when confirmed
//   GET /hello                       the framework alone
//
// Neither form has an outbox: a crash between Redis and RabbitMQ loses the event.
const express = require('express')
const redis = require('redis')
const amqp = require('amqplib')

const { PORT, REDIS_URL, AMQP_URL } = process.env

async function main () {
  const store = await redis.createClient({ url: REDIS_URL }).connect()
  const connection = await amqp.connect(AMQP_URL)
  const confirming = await connection.createConfirmChannel()
  await confirming.assertExchange('peer.durable', 'direct', { durable: true })
  await confirming.assertQueue('peer.durable', { durable: true, arguments: { 'x-queue-type': 'quorum' } })
  await confirming.bindQueue('peer.durable', 'peer.durable', 'info')

  const key = id => `${id}:stock`
  const change = (id, { stock, action }) =>
    action === 'decrement' ? store.decrBy(key(id), stock) : store.incrBy(key(id), stock)

  const app = express()
  app.disable('x-powered-by')
  app.disable('etag')
  app.use(express.json())
  app.get('/hello', (request, response) => response.json({ ok: true }))
  app.get('/products/:id/stock', async (request, response) => {
    response.json(JSON.parse(await store.get(key(request.params.id))))
  })
  app.put('/products/:id/stock', async (request, response) => {
    const stock = await change(request.params.id, request.body)
    const own = await amqp.connect(AMQP_URL)
    const channel = await own.createChannel()
    await channel.assertExchange('peer.talk', 'direct', { durable: false })
    channel.publish('peer.talk', 'info', Buffer.from(JSON.stringify({ id: request.params.id, stock })))
    response.json(stock)
    // closed only after the answer, as the talk leaves it open: else the broker runs out of sockets
    await channel.close()
    await own.close()
  })
  app.put('/modern/products/:id/stock', async (request, response) => {
    const stock = await change(request.params.id, request.body)
    const body = Buffer.from(JSON.stringify({ id: request.params.id, stock }))
    await new Promise((resolve, reject) => confirming.publish('peer.durable', 'info', body,
      { persistent: true }, error => error ? reject(error) : resolve()))
    response.json(stock)
  })
  app.listen(Number(PORT), '127.0.0.1')
}

main().catch(error => { console.error(error); process.exit(1) })
