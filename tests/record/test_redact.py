"""Secrets are masked before they leave memory, and nothing else is."""

import json
import zlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.record.redact import FirstMessageMask, HeadMask
from proxy.secret import masked

KEY = b"k" * 32
NAMES = ("authorization", "x-api-key", "cookie", "set-cookie")
AUTH = b'{"authVersion":1,"clientIdentifier":"guest:a","clientPasskey":"pass-\\"word"}'
MASKED_AUTH = AUTH.replace(b'pass-\\"word', masked(b'pass-\\"word', KEY))


def frame(opcode: int, payload: bytes, *, key: bytes, fin: bool = True, rsv1: bool = False) -> bytes:
    """A client's frame (RFC 6455, section 5.2)."""
    size = len(payload)
    if size < 126:
        length = bytes([0x80 | size])
    else:
        length = b"\xfe" + size.to_bytes(2, "big") if size < 1 << 16 else b"\xff" + size.to_bytes(8, "big")
    hidden = bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))
    return bytes([0x80 * fin | 0x40 * rsv1 | opcode]) + length + key + hidden


@pytest.mark.parametrize(
    ("line", "kept", "secret"),
    [
        (b"Authorization: Bearer sk-1", b"Authorization: Bearer ", b"sk-1"),
        (b"authorization:bearer sk-1", b"authorization:bearer ", b"sk-1"),
        (b"X-API-Key:  abc ", b"X-API-Key:  ", b"abc"),
        (b"Set-Cookie: a=b; Path=/", b"Set-Cookie: ", b"a=b; Path=/"),
        (b"AUTHORIZATION : x", b"AUTHORIZATION : ", b"x"),
    ],
)
def test_the_value_of_a_secret_field_is_masked_and_its_scheme_kept(line: bytes, kept: bytes, secret: bytes) -> None:
    head = b"GET /authorization:x HTTP/1.1\r\nHost: a\r\n" + line + b"\r\nX-Authorization: y\r\n"
    assert HeadMask(NAMES, KEY)(head) == head.replace(line, kept + masked(secret, KEY))


def test_two_uses_of_one_key_can_be_told_together() -> None:
    mask = HeadMask(NAMES, KEY)
    one, same, other = (mask(b"A\r\nX-Api-Key: %b\r\n" % key) for key in (b"1", b"1", b"2"))
    assert one == same != other


def test_no_names_mask_nothing() -> None:
    assert HeadMask((), KEY)(b"A\r\nAuthorization: x\r\n") == b"A\r\nAuthorization: x\r\n"


def feed_all(mask: FirstMessageMask, data: bytes, cuts: list[int]) -> bytes:
    places = sorted({number % (len(data) + 1) for number in cuts} | {0, len(data)})
    return b"".join(mask.feed(data[start:end]) for start, end in pairwise(places)) + mask.finish()


def plain(opcode: int, payload: bytes) -> bytes:
    """A client's frame as it is recorded: with a masking key of zeros."""
    return frame(opcode, payload, key=bytes(4))


@given(cuts=st.lists(st.integers(min_value=0), max_size=8))
def test_the_first_message_is_masked_however_it_is_cut(cuts: list[int]) -> None:
    later = frame(1, b'{"clientPasskey":"not the first"}', key=b"1234") + frame(8, b"\x03\xe8", key=b"abcd")
    recorded = feed_all(FirstMessageMask(["clientPasskey"], KEY), frame(1, AUTH, key=b"wxyz") + later, cuts)
    assert recorded == plain(1, MASKED_AUTH) + later


@given(cuts=st.lists(st.integers(min_value=0), max_size=8))
def test_a_first_message_in_fragments_with_a_ping_between_is_masked(cuts: list[int]) -> None:
    sent = frame(1, AUTH[:70], key=b"1111", fin=False) + frame(9, b"?", key=b"2222") + frame(0, AUTH[70:], key=b"3333")
    recorded = feed_all(FirstMessageMask(["clientPasskey"], KEY), sent, cuts)
    assert recorded == plain(9, b"?") + plain(1, MASKED_AUTH)


def test_a_first_message_cut_short_is_never_recorded() -> None:
    mask = FirstMessageMask(["clientPasskey"], KEY)
    assert mask.feed(frame(1, AUTH, key=bytes(4))[:-1]) == b""
    rest = mask.finish()
    assert b"pass-" not in rest
    assert b"cut short" in rest


def test_a_long_first_message_is_content_and_passes_as_it_is() -> None:
    sent = frame(2, b"x" * 100_000, key=b"1234")
    assert feed_all(FirstMessageMask(["clientPasskey"], KEY), sent, [90_000]) == sent


def test_with_compression_every_message_is_recorded_uncompressed() -> None:
    compress = zlib.compressobj(wbits=-15)

    def deflated(message: bytes) -> bytes:
        data = compress.compress(message) + compress.flush(zlib.Z_SYNC_FLUSH)
        return frame(1, data[:-4], key=b"1234", rsv1=True)

    later = json.dumps({"type": "rpcCall", "clientIdentifier": "guest:a"}).encode()
    mask = FirstMessageMask(["clientPasskey"], KEY, b"permessage-deflate")
    assert mask.feed(deflated(AUTH)) == plain(1, MASKED_AUTH)
    assert mask.feed(deflated(later)) == plain(1, later)


def test_what_is_no_websocket_traffic_is_said_to_be_so() -> None:
    assert b"no WebSocket frames" in FirstMessageMask(["clientPasskey"], KEY).feed(b"\xff" * 40)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nAuthorization:\r\n Bearer sk-1\r\n",
        b"GET / HTTP/1.1\r\n Authorization: Bearer sk-1\r\n",
        b"GET / HTTP/1.1\r\nCookie: a\r\n\tsk-1\r\n",
        b"GET / HTTP/1.1\r\nX: 1\rAuthorization: Bearer sk-1\r\n",
        b"GET / HTTP/1.1\nx-api-key\x00: sk-1\n",
        b"Authorization: Bearer sk-1\r\n",
    ],
)
def test_what_is_no_head_is_masked_in_any_shape(data: bytes) -> None:
    masked_data = HeadMask(NAMES, KEY).malformed(data)
    assert b"sk-1" not in masked_data
    assert b"[masked:" in masked_data


def test_a_password_in_the_target_is_masked() -> None:
    head = b"GET http://user:secret@other/ HTTP/1.1\r\nHost: other\r\n"
    assert HeadMask(NAMES, KEY)(head) == head.replace(b"user:secret", masked(b"user:secret", KEY))


@pytest.mark.parametrize("extensions", [b"permessage-deflate; server_max_window_bits=8", b"permessage-deflate"])
def test_a_message_that_inflates_without_end_is_not_recorded(extensions: bytes) -> None:
    compress = zlib.compressobj(wbits=-15)
    bomb = compress.compress(bytes(100 << 20)) + compress.flush(zlib.Z_SYNC_FLUSH)
    recorded = FirstMessageMask(["clientPasskey"], KEY, extensions).feed(frame(1, bomb[:-4], key=b"1234", rsv1=True))
    assert recorded.startswith(b"[not recorded")


@pytest.mark.parametrize("option", [b"client_max_window_bits", b"server_max_window_bits=abc"])
def test_an_odd_agreement_on_compression_raises_nothing_and_records_no_secret(option: bytes) -> None:
    mask = FirstMessageMask(["clientPasskey"], KEY, b"permessage-deflate; " + option)
    assert b"pass" not in mask.feed(frame(1, AUTH, key=bytes(4)))
