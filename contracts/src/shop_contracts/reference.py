"""The HTML reference of all events: one page that opens offline, from the same Structs. No I/O.

No script and nothing from elsewhere: it can be mailed, printed and read in a train.
"""

from collections.abc import Iterable, Iterator, Mapping
from html import escape
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import msgspec
from msgspec import Struct

from shop_contracts import schemas, topology
from shop_contracts.envelope import TYPE_PREFIX
from shop_contracts.events import EVENTS
from shop_contracts.events.base import Fact, major_of, name_of
from shop_contracts.types import MAX_SAFE


class Row(Struct, frozen=True):
    """One field as it is shown: `lines[].qty`, what it holds, whether it is always there."""

    path: str
    holds: str
    required: bool
    note: str


def page(examples: Mapping[str, Mapping[str, Any]]) -> str:
    """The whole page; `examples` are whole events by routing key and name."""
    nav = "".join(
        f"<h2>{owner}</h2><ul>{''.join(_link(fact) for fact in facts)}</ul>"
        for owner, facts in EVENTS.items()
    )
    owners = "".join(_owner(owner, facts, examples) for owner, facts in EVENTS.items())
    css = (files("shop_contracts") / "reference.css").read_text()
    return _PAGE.format(
        css=css,
        version=version("shop-contracts"),
        nav=nav,
        count=sum(map(len, EVENTS.values())),
        envelope=_table(rows(schemas.envelope())),
        owners=owners,
        queues=_queues(),
    )


def rows(schema: Mapping[str, Any]) -> list[Row]:
    """The fields of a schema, those of inner objects below the field that holds them."""
    definitions = schema["$defs"]
    return list(_rows(_resolved(schema, definitions), definitions, ""))


def _rows(spec: Mapping[str, Any], definitions: Mapping[str, Any], above: str) -> Iterator[Row]:
    for name, field in spec.get("properties", {}).items():
        inner, nullable = _plain(field, definitions)
        path, item = above + name, inner
        if inner.get("type") == "array":
            item, _ = _plain(inner["items"], definitions)
            path += "[]"
        holds = _holds(item, definitions)
        if inner is not item:
            holds = f"list of {holds}" if "properties" not in item else "list"
        if nullable:
            holds += " or null"
        note = [item["description"]] if "description" in item else []
        if "default" in field and field["default"] not in (None, [], {}, ""):
            note.append(f"{msgspec.json.encode(field['default']).decode()} where it is absent")
        yield Row(path, holds, name in spec.get("required", ()), "; ".join(note))
        yield from _rows(item, definitions, f"{path}.")


def _plain(
    spec: Mapping[str, Any], definitions: Mapping[str, Any]
) -> tuple[Mapping[str, Any], bool]:
    """The schema without its reference and without `or null`, and whether null may come."""
    spec = _resolved(spec, definitions)
    if "anyOf" not in spec:
        return spec, False
    members = [_resolved(each, definitions) for each in spec["anyOf"]]
    return next(each for each in members if each.get("type") != "null"), True


def _resolved(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any]:
    if "$ref" not in spec:
        return spec
    found: Mapping[str, Any] = definitions[spec["$ref"].rpartition("/")[2]]
    return found


def _holds(spec: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    words = spec.get("enum") or spec.get(schemas.OPEN_ENUM)
    if words:
        return " | ".join([*words, "…"] if schemas.OPEN_ENUM in spec else words)
    match spec.get("type"):
        case "integer":
            return f"integer {_number(spec['minimum'])} … {_number(spec['maximum'])}"
        case "string":
            return _string(spec)
        case "object" if "properties" not in spec:
            inner, _ = _plain(spec["additionalProperties"], definitions)
            return f"map to {_holds(inner, definitions)}"
    return str(spec.get("type", "the event's data"))


def _string(spec: Mapping[str, Any]) -> str:
    if "format" in spec:
        return str(spec["format"])
    if "pattern" in spec:
        return f"string {spec['pattern']}"
    low, high = spec.get("minLength", 0), spec.get("maxLength")
    return f"string of {low} … {high}" if high else f"string of {low} or more"


def _number(value: int) -> str:
    return "2⁵³ - 1" if value == MAX_SAFE else f"{value:,}".replace(",", "\u202f")


def _link(fact: type[Fact]) -> str:
    name, major = name_of(fact.KEY), major_of(fact.KEY)
    return f'<li><a href="#{fact.KEY}">{name} <small>v{major}</small></a></li>'


def _owner(
    owner: str, facts: Iterable[type[Fact]], examples: Mapping[str, Mapping[str, Any]]
) -> str:
    shown = "".join(_event(owner, fact, examples[fact.KEY]) for fact in facts)
    return (
        f'<section class="owner" id="{owner}"><h2>{owner}</h2>'
        f"<p>Publishes on <code>{topology.exchange(owner)}</code>; the last days stand in"
        f" <code>{topology.log(owner)}</code>.</p>{shown}</section>"
    )


def _event(owner: str, fact: type[Fact], examples: Mapping[str, Any]) -> str:
    said, _, more = (fact.__doc__ or "").partition("\n")
    readers = topology.readers(owner, fact.KEY)
    facts = {
        "exchange": topology.exchange(owner),
        "routing key": fact.KEY,
        "CloudEvents type": TYPE_PREFIX + fact.KEY,
        "subject": fact.SUBJECT,
        "schema": f"{major_of(fact.KEY)}.{fact.MINOR}",
        "received by": ", ".join(readers) or "no service of the shop yet",
    }
    sunset = (
        f'<p class="sunset">Not sent after {fact.SUNSET.isoformat()}: move to a newer major.</p>'
        if fact.SUNSET
        else ""
    )
    chips = "".join(
        f"<div><dt>{name}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items()
    )
    shown = "".join(
        f"<details><summary>{escape(name)}</summary><pre>{_json(event)}</pre></details>"
        for name, event in examples.items()
    )
    return (
        f'<article id="{fact.KEY}"><h3>{name_of(fact.KEY)}'
        f' <small>v{major_of(fact.KEY)}</small></h3><p class="said">{_text(said)}</p>'
        f"{''.join(f'<p>{_text(part)}</p>' for part in [' '.join(more.split())] if part)}"
        f"{sunset}<dl>{chips}</dl>{_table(rows(schemas.schema(fact)))}"
        f'<div class="examples">{shown}</div></article>'
    )


def _table(fields: Iterable[Row]) -> str:
    body = "".join(
        f"<tr><td><code>{escape(row.path)}</code></td><td>{escape(row.holds)}</td>"
        f"<td>{'always' if row.required else 'optional'}</td><td>{_text(row.note)}</td></tr>"
        for row in fields
    )
    return (
        "<table><thead><tr><th>field</th><th>holds</th><th>there</th><th></th></tr></thead>"
        f"<tbody>{body}</tbody></table>"
    )


def _queues() -> str:
    body = "".join(
        f"<tr><td><code>{topology.queue(reader, owner)}</code></td>"
        f"<td>{' '.join(f'<code>{key}</code>' for key in keys)}</td>"
        f"<td>{', '.join(topology.RETRY_DELAYS)}</td>"
        f"<td><code>{topology.parking(topology.queue(reader, owner))}</code></td></tr>"
        for reader, owners in topology.READS.items()
        for owner, keys in owners.items()
    )
    return (
        "<table><thead><tr><th>queue</th><th>bound by</th><th>waits</th><th>parking</th></tr>"
        f"</thead><tbody>{body}</tbody></table>"
    )


def _text(value: str) -> str:
    parts = escape(value).split("`")
    return "".join(f"<code>{part}</code>" if at % 2 else part for at, part in enumerate(parts))


def _json(value: Any) -> str:
    return escape(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Events of the shop</title>
<style>
{css}</style>
</head>
<body>
<nav><a class="home" href="#top">Events of the shop</a>{nav}
<h2>All</h2><ul><li><a href="#envelope">envelope</a></li><li><a href="#queues">queues</a></li></ul>
</nav>
<main id="top">
<header>
<h1>Events of the shop</h1>
<p>{count} events, contracts {version}. Generated from the Structs that the services send.</p>
<ol class="laws">
<li><b>Bind a queue of your own.</b> Name it <code>ext.&lt;team&gt;.&lt;topic&gt;</code> and bind it
to the owner's exchange by the routing key.</li>
<li><b>Ack after your work is durable.</b> An event comes at least once: tell a repetition by
<code>source</code> and <code>id</code>.</li>
<li><b>Newer wins.</b> Of two events of one <code>subject</code> and type, the one with the larger
<code>entityversion</code> is the newer one. They may arrive in any order.</li>
<li><b>Ignore what you do not know.</b> A minor may add optional fields, and words where a list of
words ends in “…”.</li>
</ol>
</header>
<section id="envelope"><h2>Envelope</h2>
<p>A CloudEvent 1.0 in structured JSON: content type <code>application/cloudevents+json</code>, the
AMQP properties repeat its attributes.</p>{envelope}</section>
{owners}
<section id="queues"><h2>Queues of the services</h2>
<p>Quorum queues. What fails waits and comes back to its own consumer; what cannot be worked is
parked for a person.</p>{queues}</section>
</main>
</body>
</html>
"""
