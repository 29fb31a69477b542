"""Our frames and pamqp's are the same bytes."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame
from pamqp.body import ContentBody
from pamqp.header import ContentHeader

from bus import frames
from bus.frames import Message

CHANNEL = 7
SHORT = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60)
KEY = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=32)
"""The name of a header: at most 128 bytes, which is where pamqp begins to cut."""

messages = st.builds(
    Message,
    key=SHORT,
    body=st.binary(max_size=300),
    content_type=SHORT,
    message_id=SHORT,
    correlation_id=st.none() | SHORT,
    type=SHORT,
    app_id=SHORT,
    timestamp=st.integers(0, 2**31),
    headers=st.dictionaries(KEY, st.text(max_size=200), max_size=3),
)


@given(messages)
def test_a_publish_is_what_pamqp_makes_of_it(message: Message) -> None:
    method = commands.Basic.Publish(
        exchange="stock.events", routing_key=message.key, mandatory=True
    )
    properties = commands.Basic.Properties(
        content_type=message.content_type,
        headers=dict(message.headers),
        delivery_mode=2,
        correlation_id=message.correlation_id,
        message_id=message.message_id,
        timestamp=datetime.fromtimestamp(message.timestamp, UTC),
        message_type=message.type,
        app_id=message.app_id,
    )
    header = ContentHeader(body_size=len(message.body), properties=properties)
    expected = frame.marshal(method, CHANNEL) + frame.marshal(header, CHANNEL)
    if message.body:
        expected += frame.marshal(ContentBody(message.body), CHANNEL)

    assert _read(expected) == _read(frames.publish(message, "stock.events", CHANNEL, 131_072))


@given(messages, st.integers(20, 60))
def test_a_body_too_long_for_one_frame_takes_several(message: Message, frame_max: int) -> None:
    sent = frames.publish(message, "stock.events", CHANNEL, frame_max)

    _, header, *bodies = _frames(sent)
    assert len(message.body) == header.body_size
    assert message.body == b"".join(body.value for body in bodies)
    assert all(len(body.value) <= frame_max - frames.FRAME_OVERHEAD for body in bodies)


def test_acks_and_rejects_are_what_pamqp_makes_of_them() -> None:
    one = frame.marshal(commands.Basic.Ack(delivery_tag=9), CHANNEL)
    many = frame.marshal(commands.Basic.Ack(delivery_tag=9, multiple=True), CHANNEL)
    refused = frame.marshal(commands.Basic.Reject(delivery_tag=9, requeue=False), CHANNEL)

    assert one == frames.ack(9, CHANNEL, multiple=False)
    assert many == frames.ack(9, CHANNEL, multiple=True)
    assert refused == frames.reject(9, CHANNEL)


def _frames(data: bytes) -> list[object]:
    found = []
    while data:
        size, channel, one = frame.unmarshal(data)
        assert CHANNEL == channel
        found.append(one)
        data = data[size:]
    return found


def _read(data: bytes) -> list[object]:
    """What a reader gets of the frames; the order of a table's fields is free."""
    return [
        (dict(one.properties), one.body_size)
        if isinstance(one, ContentHeader)
        else one.value
        if isinstance(one, ContentBody)
        else dict(one)
        for one in _frames(data)
    ]
