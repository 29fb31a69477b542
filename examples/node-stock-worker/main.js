#!/usr/bin/env node
// Keeps what is available of each SKU of Shopstream in a journal of its own.
//
//   STOCK_BROKER_URL=amqp://... node main.js levels.journal
//   node main.js --contract DIR       (answers the contract-test kit on standard input)

import { join } from "node:path";
import { consume, pause } from "./consume.js";
import { answerKit } from "./contract.js";
import { Levels } from "./worker.js";

const RECONNECT_PAUSE_MS = 1000;
const words = process.argv.slice(2);
const url = process.env.STOCK_BROKER_URL;

if (words.length === 2 && words[0] === "--contract") {
  await answerKit(await Levels.open(join(words[1], "levels.journal")));
} else if (words.length === 1 && url) {
  const stop = new AbortController();
  process.on("SIGINT", () => stop.abort());
  process.on("SIGTERM", () => stop.abort());
  const levels = await Levels.open(words[0]);
  while (!stop.signal.aborted) {
    try {
      await consume(url, levels, stop.signal);
    } catch (error) {
      if (stop.signal.aborted) break;
      console.error(`starting again: ${error.message}`);
      await pause(RECONNECT_PAUSE_MS, stop.signal);
    }
  }
  console.log("stopped");
} else {
  console.error("usage: STOCK_BROKER_URL=amqp://user:pw@host/vhost node main.js levels.journal");
  process.exitCode = 2;
}
