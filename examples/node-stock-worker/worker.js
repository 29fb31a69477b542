// What the worker does with one message, and what it keeps. Knows no broker.

import { open, readFile, truncate } from "node:fs/promises";
import Ajv2020 from "ajv/dist/2020.js";
import addFormats from "ajv-formats";

export const KEY = "stock.changed.v1";

// a copy of the contract, pinned: a later minor of the same major still fits it
const schema = JSON.parse(await readFile(new URL("stock.changed.v1.json", import.meta.url), "utf8"));
const ajv = new Ajv2020({ strict: true, allowUnionTypes: true });
addFormats(ajv);
ajv.addVocabulary(Object.keys(schema).filter((word) => word.startsWith("x-")));
const fits = ajv.compile(schema);

/** The message will never be an event that this worker reads. */
export class NoEvent extends Error {}

/** What this worker keeps of the event in `body`; other fields may come, and are ignored. */
export function read(body) {
  let event;
  try {
    event = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch (error) {
    throw new NoEvent(error.message);
  }
  if (event?.type !== `shop.${KEY}` || !Number.isSafeInteger(event.entityversion)) {
    throw new NoEvent(`not a ${KEY}`);
  }
  if (!fits(event.data)) {
    throw new NoEvent(ajv.errorsText(fits.errors));
  }
  const { sku, available } = event.data;
  return { sku, available, version: event.entityversion };
}

/** The newest change of each SKU, and the journal in which it stands. */
export class Levels {
  #path;
  #newest = new Map();

  static async open(path) {
    const levels = new Levels();
    levels.#path = path;
    await levels.#load();
    return levels;
  }

  /** Make changes durable. Older versions and repetitions change nothing. */
  async commit(changes) {
    const fresh = new Map();
    const lines = [];
    for (const change of changes) {
      const known = fresh.get(change.sku) ?? this.#newest.get(change.sku);
      if (known === undefined || known.version < change.version) {
        fresh.set(change.sku, change);
        lines.push(JSON.stringify(change) + "\n");
      }
    }
    if (lines.length === 0) return;
    const journal = await open(this.#path, "a", 0o600);
    try {
      await journal.appendFile(lines.join(""));
      await journal.datasync();
    } finally {
      await journal.close();
    }
    for (const change of fresh.values()) this.#newest.set(change.sku, change);
  }

  all() {
    return Object.fromEntries(this.#newest);
  }

  async #load() {
    let content;
    try {
      content = await readFile(this.#path);
    } catch (error) {
      if (error.code === "ENOENT") return;
      throw error;
    }
    // a last line that was cut off was never acknowledged, and comes again
    const whole = content.lastIndexOf("\n") + 1;
    for (const line of content.subarray(0, whole).toString().split("\n")) {
      if (line) {
        const change = JSON.parse(line);
        this.#newest.set(change.sku, change);
      }
    }
    if (whole < content.length) await truncate(this.#path, whole);
  }
}
