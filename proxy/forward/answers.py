"""What the proxy answers by itself: errors shaped as OpenAI's, which clients know how to show, and preflights."""

from http import HTTPStatus


def answer(status: int, lines: bytes, body: bytes = b"") -> tuple[bytes, bytes]:
    """A response's head (with its empty line) and body."""
    reason = HTTPStatus(status).phrase.encode()
    length = b"" if status == 204 else b"Content-Length: %d\r\n" % len(body)
    return b"HTTP/1.1 %d %b\r\n%b%b\r\n" % (status, reason, length, lines), body


def error(status: int, kind: str, message: str, lines: bytes) -> tuple[bytes, bytes]:
    """An error in the shape `{"error": {"message", "type", "param", "code"}}`."""
    body = (
        '{"error":{"message":'
        + _json_string(f"proxy-log: {message}")
        + f',"type":"{kind}","param":null,"code":null}}}}'
    )
    return answer(status, b"Content-Type: application/json; charset=utf-8\r\n" + lines, body.encode())


def _json_string(text: str) -> str:
    """A JSON string; the front needs no more of JSON than this."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char >= " " else f"\\u{ord(char):04x}" for char in escaped) + '"'
