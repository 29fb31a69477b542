// The worker without a broker: `contracts verify handler` asks, one line of JSON for one question.

import { createInterface } from "node:readline";
import { NoEvent, read } from "./worker.js";

export async function answerKit(levels) {
  for await (const line of createInterface({ input: process.stdin })) {
    const question = JSON.parse(line);
    const answer =
      "body_base64" in question
        ? { outcome: await outcome(levels, Buffer.from(question.body_base64, "base64")) }
        : { effects: levels.all() };
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
}

async function outcome(levels, body) {
  let change;
  try {
    change = read(body);
  } catch (error) {
    if (error instanceof NoEvent) return "park";
    throw error;
  }
  try {
    await levels.commit([change]);
  } catch {
    return "retry";
  }
  return "ack";
}
