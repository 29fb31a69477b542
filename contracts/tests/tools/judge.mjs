// What others say of our files: the AsyncAPI parser, the AsyncAPI schema, the CloudEvents schema,
// and a second JSON Schema validator. Prints one JSON object: {file: [complaint, ...]}.
// Usage: node judge.mjs asyncapi FILE... | cloudevents FILE... | schema SCHEMA FILE...
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(import.meta.url);
const [mode, ...files] = process.argv.slice(2);
const read = (file) => JSON.parse(readFileSync(file, "utf8"));
const told = (errors) => (errors ?? []).map((e) => `${e.instancePath} ${e.message}`);

async function asyncapi() {
  const { Parser } = require("@asyncapi/parser");
  const Ajv = require("ajv").default;
  const ajv = new Ajv({ allErrors: false, strict: false, logger: false, validateFormats: false });
  const valid = ajv.compile(require("@asyncapi/specs/schemas/3.1.0-without-$id.json"));
  const parser = new Parser();
  const said = {};
  for (const file of files) {
    const text = readFileSync(file, "utf8");
    const { document, diagnostics } = await parser.parse(text, { source: file });
    said[file] = diagnostics.map((d) => `${d.code} ${d.path.join("/")}: ${d.message}`);
    if (!document) said[file].push("the parser made no document of it");
    if (!valid(JSON.parse(text))) said[file].push(...told(valid.errors));
  }
  return said;
}

function cloudevents() {
  // the schema of the CloudEvents specification, compiled into its own SDK
  const valid = require("cloudevents/dist/schema/v1.js");
  const { HTTP } = require("cloudevents");
  const said = {};
  for (const file of files) {
    said[file] = valid(read(file)) ? [] : told(valid.errors);
    try {
      const headers = { "content-type": "application/cloudevents+json" };
      HTTP.toEvent({ headers, body: readFileSync(file, "utf8") }).validate();
    } catch (error) {
      said[file].push(`the SDK: ${error.message}`);
    }
  }
  return said;
}

function schema() {
  const Ajv2020 = require("ajv/dist/2020").default;
  const ajv = new Ajv2020({ strict: true, strictRequired: false });
  require("ajv-formats").default(ajv);
  ["x-open-enum", "x-sunset", "x-amqp"].forEach((name) => ajv.addKeyword(name));
  const [first, ...events] = files;
  const valid = ajv.compile(read(first));
  return Object.fromEntries(
    events.map((file) => [file, valid(read(file).data) ? [] : told(valid.errors)]),
  );
}

const said = await { asyncapi, cloudevents, schema }[mode]();
process.stdout.write(JSON.stringify(said));
