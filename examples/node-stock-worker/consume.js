// Takes messages from the broker and settles them. The ack comes after the work.

import { connect } from "amqplib";
import { KEY, NoEvent, read } from "./worker.js";

const EXCHANGE = "stock.events";
const QUEUE = "ext.acme-node.stock";
const PARKING = `${QUEUE}.parking`;
const PREFETCH = 200;
const RETRY_PAUSE_MS = 5000;

/** Hand what arrives to `levels` until the connection dies or `signal` aborts. */
export async function consume(url, levels, signal) {
  const connection = await connect(url, { heartbeat: 10 });
  const died = new Promise((_, reject) => {
    connection.on("error", reject);
    connection.on("close", () => reject(new Error("the connection is closed")));
  });
  died.catch(() => {}); // it may die while nobody looks
  try {
    const channel = await connection.createChannel();
    const lost = new Promise((_, reject) => {
      channel.on("error", reject);
      channel.on("close", () => reject(new Error("the channel is closed")));
    });
    lost.catch(() => {});
    await declare(channel);
    await channel.prefetch(PREFETCH);
    const arrived = new Arrived();
    await channel.consume(QUEUE, (message) => arrived.push(message));
    console.error(`consuming ${QUEUE}`);
    const stopped = new Promise((resolve) => {
      signal.addEventListener("abort", resolve, { once: true });
      if (signal.aborted) resolve();
    });
    while (!signal.aborted) {
      const batch = await Promise.race([arrived.take(), stopped, died, lost]);
      if (batch) await handle(channel, levels, batch, signal);
    }
    await channel.close();
  } finally {
    await connection.close().catch(() => {});
  }
}

/** Messages that have arrived and are not taken yet. */
class Arrived {
  #messages = [];
  #wake = () => {};

  push(message) {
    this.#messages.push(message);
    this.#wake();
  }

  async take() {
    if (this.#messages.length === 0) {
      await new Promise((resolve) => (this.#wake = resolve));
    }
    const taken = this.#messages;
    this.#messages = [];
    if (taken.includes(null)) throw new Error("the broker ended the consumer");
    return taken;
  }
}

async function declare(channel) {
  const quorum = { "x-queue-type": "quorum" };
  await channel.assertQueue(PARKING, { durable: true, arguments: quorum });
  await channel.assertQueue(QUEUE, {
    durable: true,
    arguments: {
      ...quorum,
      "x-dead-letter-exchange": "",
      "x-dead-letter-routing-key": PARKING,
      "x-delivery-limit": 20,
    },
  });
  await channel.bindQueue(QUEUE, EXCHANGE, KEY);
}

async function handle(channel, levels, batch, signal) {
  const changes = [];
  for (const message of batch) {
    try {
      changes.push(read(message.content));
    } catch (error) {
      if (!(error instanceof NoEvent)) throw error;
      console.error(`parking ${message.properties.messageId}: ${error.message}`);
      channel.reject(message, false);
    }
  }
  const last = batch.at(-1);
  try {
    await levels.commit(changes);
  } catch (error) {
    // the store is away: a pause, so that it does not come back at once for ever
    console.error(`keeping ${changes.length} events for later: ${error.message}`);
    await pause(RETRY_PAUSE_MS, signal);
    channel.nack(last, true, true);
    return;
  }
  channel.ack(last, true);
}

export function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    signal.addEventListener("abort", () => (clearTimeout(timer), resolve()), { once: true });
  });
}
