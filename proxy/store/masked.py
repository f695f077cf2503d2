"""Secrets inside JSON bodies, found by their path and masked in place: no other byte is touched.

A path such as `integrations[].headers.*` names object members, `[]` any element of an array and `*` any member. Every
string at or below a path is masked, also in duplicate members and in JSON that is cut short. Paths start at the top
level, or at the member `response`, in which the Responses API's events repeat the request.

Beside a secret stands as a rule the address it is for, which may hold another: of a URL in `URL_FIELDS` the user info
and the query's parameters with a secret's name are masked.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from urllib.parse import unquote_to_bytes

import msgspec

from proxy.secret import masked, masked_credentials
from proxy.store.needles import Needles

_JOINED_BYTES = 64 * 1024
MAX_LINE_BYTES = 32 << 20
"""A line of a stream longer than that is no longer kept to find its secrets."""

_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"(\s*:)?|["\[\]{}]', re.DOTALL)
_STRING_END = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_ESCAPED_ASCII = re.compile(rb"\\u00[2-7]")
_PLAIN_NAME = re.compile(r"[!-~]+")
_HAS_OTHER_ESCAPES = re.compile(r'["/\\]')
_SEAM_BYTES = 64
"""An earlier read may end inside a name that is looked for, however it is written."""
_STEP = re.compile(r"\[\]|[^.\[\]]+")
_QUOTE = ord('"')
URL_FIELDS = ("server_url", "url", "base_url")
"""Members beside a masked one that may hold a URL."""
_URL = "?"
"""The last step of a path to a URL."""
_SECRET_NAME = rb"(?:key|token|secret|pass|passwd|password|pwd|auth|authorization|credentials?|jwt|sig|signature)"
# Raw JSON: some encoders write `\/`, and `\u0026` for `&`, `\u003d` for `=`.
_PARAMETER = (
    rb"(?:[?&;#]|\\u00(?:3f|3b|26|23))[^=&;#?\\]{0,64}" + _SECRET_NAME + rb"\d*(?:=|\\u003d)"
    rb"([^&#\\]*(?:\\(?!u00(?:26|23)).?[^&#\\]*)*)"
)
_USER_INFO = rb"(?:\\?/){2}(?:([^/?#]+)@"
_IN_URL = re.compile(rb"(?is)" + _USER_INFO + rb")|" + _PARAMETER)
_IN_URL_CUT_SHORT = re.compile(rb"(?is)" + _USER_INFO + rb"|([^/?#:]*:[^/?#]*)\Z)|" + _PARAMETER)
_decode = msgspec.json.Decoder(str).decode

Edit = tuple[int, int, bytes]
"""Start, end, what stands there instead."""
_Steps = tuple[str, ...]
Read = tuple[int, bytes]
"""When it came (µs since the exchange's start), and what."""


class SecretPaths:
    """The paths of the settings, compiled."""

    def __init__(self, paths: Iterable[str], key: bytes) -> None:
        """`key` is that of the digests."""
        steps = [tuple(_STEP.findall(path)) for path in paths]
        plain = [[at for at, step in enumerate(one) if step not in ("*", "[]")][-1] for one in steps]
        beside = dict.fromkeys(one[:at] for one, at in zip(steps, plain, strict=True))
        urls = [(*one, name, _URL) for one in beside for name in URL_FIELDS]
        self.roots: tuple[_Steps, ...] = (*steps, *urls, *(("response", *one) for one in (*steps, *urls)))
        self.key = key
        self._firsts = {one[0] for one in self.roots}
        # A text that lacks a name of each path has no secret; a part without the last of them begins none.
        named = [one[: at + 1] for one, at in zip(steps, plain, strict=True)] + [one[:-1] for one in urls]
        plains = {tuple(name for name in one if name not in ("*", "[]")) for one in named}
        names = {tuple(b'"%b"' % name.encode() for name in one) for one in plains}
        self._hints = tuple({one[-1] for one in names})
        firsts = {one[0] for one in names}
        self._names = tuple((first, [one[1:] for one in names if one[0] == first]) for first in firsts)
        self._first_names = Needles(firsts)
        self._has_only_ascii_escapes = all(
            _PLAIN_NAME.fullmatch(name) and not _HAS_OTHER_ESCAPES.search(name) for one in plains for name in one
        )
        self.seam_bytes = max([_SEAM_BYTES, *(len(name) for one in names for name in one)])
        """How much of an earlier read may belong to a name that ends in the next."""

    def may_hold(self, text: bytes | bytearray) -> bool:
        """A cheap check of a whole JSON text, or of whole lines; False means that there is surely nothing to mask."""
        if self._first_names.is_any_in(text):
            for first, rests in self._names:
                if first in text and any(all(name in text for name in rest) for rest in rests):
                    return True
        return self._may_be_escaped(text)

    def may_lie_below(self, members: Collection[str]) -> bool:
        """Whether a JSON object with these members may hold something to mask."""
        return not self._firsts.isdisjoint(members) or "*" in self._firsts

    def may_enter(self, part: bytes | bytearray) -> bool:
        """Whether a part of a text holds the first name of a path; without it nothing to mask can follow."""
        return self._first_names.is_any_in(part) or self._may_be_escaped(part)

    def may_begin(self, part: bytes | bytearray, *, is_entered: bool) -> bool:
        """False means that nothing to mask follows a name that ends in this part of a text.

        `is_entered`: what `may_enter` said of some part before.
        """
        if is_entered or self.may_enter(part):
            return any(hint in part for hint in self._hints) or self._may_be_escaped(part)
        return False

    def _may_be_escaped(self, data: bytes | bytearray) -> bool:
        """Whether the name of a member may be written with escapes."""
        if b"\\" not in data or not self._hints:
            return False
        if self._has_only_ascii_escapes:
            return b"\\u00" in data and _ESCAPED_ASCII.search(data) is not None
        return True

    def mask(self, body: bytes) -> tuple[bytes, int]:
        """The body with its secrets masked, and how many there were."""
        if not self.may_hold(body):
            return body, 0
        edits = Walk(self).edits(body, is_end=True)
        return apply(body, edits), len(edits)


def apply(data: bytes, edits: list[Edit]) -> bytes:
    """The bytes with the edits made; they are in order and do not overlap."""
    if not edits:
        return data
    pieces = []
    at = 0
    for start, end, instead in edits:
        pieces += [data[at:start], instead]
        at = end
    return b"".join([*pieces, data[at:]])


class Walk:
    """A walk through one JSON text, in as many pieces as it comes."""

    def __init__(self, paths: SecretPaths) -> None:
        """Start at the top level."""
        self._key = paths.key
        self._roots = paths.roots
        self._value_steps: tuple[_Steps, ...] = paths.roots  # what is looked for at or below the value that comes next
        self._stack: list[tuple[bool, tuple[_Steps, ...]]] = []  # (is object, what is looked for in it)
        self._is_value_next = True
        self._is_inside_string = False
        self.consumed = 0
        """How much of the last piece is dealt with; the rest is to be given again, before what follows it."""

    def edits(self, data: bytes, *, is_end: bool) -> list[Edit]:
        """The edits of the next piece, which starts with what was not consumed of the one before."""
        edits: list[Edit] = []
        at = self._end_of_long_string(data)
        while at is not None:
            match = _TOKEN.search(data, at)
            start, end = match.span() if match else (len(data), len(data))
            if data.find(b",", at, start) >= 0:
                self._is_value_next = False
            if match is None:
                self.consumed = len(data)
                break
            if data[start] == _QUOTE:
                is_whole = end - start > 1
                is_key = match[1] is not None
                if not is_end and not is_key and not (is_whole and data[end:].lstrip()):
                    self._pause(data, start, is_whole=is_whole)
                    break
                # A string that the body's end cuts short may be a secret all the same.
                self._string(data, start, end if is_whole else len(data), is_key, edits)
                at = end if is_whole else len(data)
            else:
                self._bracket(data[start])
                at = end
        return edits

    def _end_of_long_string(self, data: bytes) -> int | None:
        """Where to go on if the piece before ended inside a long string: after it, or None if this one does too."""
        if not self._is_inside_string:
            return 0
        match = _STRING_END.match(data)
        if match is None:
            self.consumed = len(data) - data.endswith(b"\\")
            return None
        self._is_inside_string = False
        return match.end()

    def _bracket(self, token: int) -> None:
        if token in b"{[":
            self._stack.append((token == ord("{"), self._current_steps()))
            self._is_value_next = token == ord("[")
        elif self._stack:
            self._stack.pop()
            self._is_value_next = False
            if not self._stack:
                self._value_steps = self._roots  # another document may follow, as in a stream of lines

    def _pause(self, data: bytes, start: int, *, is_whole: bool) -> None:
        """The piece ends inside a string, or right after it; a long text of no interest need not be kept for that."""
        is_plain = self._is_a_value() and not self._is_secret() and not self._is_url()
        is_plain_value = not is_whole and is_plain and len(data) - start > 65536
        self._is_inside_string = is_plain_value
        self.consumed = len(data) - data.endswith(b"\\") if is_plain_value else start

    def _is_a_value(self) -> bool:
        return self._is_value_next or not self._stack or not self._stack[-1][0]

    def _current_steps(self) -> tuple[_Steps, ...]:
        """What is looked for in the value that starts here."""
        if not self._stack:
            return self._value_steps
        is_object, steps = self._stack[-1]
        return self._value_steps if is_object else _descend(steps, "[]")

    def _is_secret(self) -> bool:
        return () in self._current_steps()

    def _is_url(self) -> bool:
        return (_URL,) in self._current_steps()

    def _string(self, data: bytes, start: int, end: int, is_key: bool, edits: list[Edit]) -> None:
        if is_key and self._stack and self._stack[-1][0]:
            name = data[start : data.rindex(b'"', start, end) + 1]
            steps = self._stack[-1][1]
            self._value_steps = _descend(steps, _text(name)) if steps else ()
            self._is_value_next = True
            return
        is_secret = self._is_secret()
        if (is_secret or self._is_url()) and self._is_a_value():
            is_closed = end - start > 1 and data[end - 1] == _QUOTE and _TOKEN.fullmatch(data, start, end) is not None
            inner_end = end - 1 if is_closed else end
            if not is_secret:
                edits += self._url_edits(data[start + 1 : inner_end], start + 1, is_closed=is_closed)
            elif inner_end > start + 1:
                secret = _text(data[start:inner_end] + b'"').encode("utf-8", "surrogatepass")
                edits.append((start + 1, inner_end, masked_credentials(secret, self._key)))
        self._is_value_next = False

    def _url_edits(self, raw: bytes, at: int, *, is_closed: bool) -> list[Edit]:
        """What is secret in a URL, which is the JSON string without its quotes that starts `at`."""
        edits = []
        for match in (_IN_URL if is_closed else _IN_URL_CUT_SHORT).finditer(raw):
            secret = match[match.lastindex or 0]
            if secret:
                plain = unquote_to_bytes(_text(b'"' + secret + b'"').encode("utf-8", "surrogatepass"))
                start, end = match.span(match.lastindex or 0)
                edits.append((at + start, at + end, masked(plain, self._key)))
        return edits


def _descend(steps: tuple[_Steps, ...], name: str) -> tuple[_Steps, ...]:
    """What is looked for one level deeper; an empty path means that everything below is secret."""
    found = []
    for path in steps:
        if not path:
            found.append(path)
        elif path[0] == name or (path[0] == "*" and name != "[]"):
            found.append(path[1:])
    return tuple(found)


def _text(raw: bytes) -> str:
    """A JSON string's text; its bytes as they are where it is malformed."""
    try:
        return _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw[1:-1].decode("latin-1")


def joined(reads: Sequence[Read]) -> bytes | None:
    """The bytes of some reads together; None where to copy them costs more than to take them one by one."""
    if len(reads) == 1:
        return reads[0][1]
    parts = [data for _, data in reads]
    return b"".join(parts) if sum(map(len, parts)) <= _JOINED_BYTES else None


class MaskedLines:
    """Masks the JSON in the lines of a stream (SSE's `data:` lines, or JSON lines), reads kept apart.

    A read is held back only while a line that may hold a secret is incomplete.
    """

    def __init__(self, paths: SecretPaths) -> None:
        """Start at the beginning of a line."""
        self._paths = paths
        self._line = bytearray()  # the start of the line that is on its way, as far as it was given back already
        self._is_entered = False  # and whether a path may begin in it
        self.held: list[Read] = []
        """Reads that wait for the end of a line, with their times; complete lines in them are masked already."""
        self.masked = 0
        """How many values were masked."""

    def may_pass(self, lines: bytes) -> bool:
        """Whether reads that are these lines together come back from `add` as they are."""
        is_between_lines = not self.held and not self._line
        return is_between_lines and lines.endswith(b"\n") and not self._paths.may_hold(lines)

    def add(self, at_us: int, data: bytes) -> list[Read]:
        """Take a read, give back what can be stored."""
        if not self.held:
            if not self._line and data.endswith(b"\n") and not self._paths.may_hold(data):
                return [(at_us, data)]
            if not self._paths.may_begin(self._line[-self._paths.seam_bytes :] + data, is_entered=self._is_entered):
                self._keep_line(data)
                return [(at_us, data)]
        self.held.append((at_us, data))
        if b"\n" in data:
            self._mask_held(is_end=False)
            open_line = self._open_line()
            if not self._paths.may_begin(open_line, is_entered=False):
                return self._release(open_line)
        if sum(len(held) for _, held in self.held) > MAX_LINE_BYTES:
            return self.end()
        return []

    def resume(self, at_us: int, data: bytes) -> None:
        """Go on with a read that was held back."""
        self.held.append((at_us, data))

    def passed(self, data: bytes) -> None:
        """Go on after a read that was given back already."""
        self._keep_line(data)

    def end(self) -> list[Read]:
        """What is still held back: the stream ended."""
        if not self.held:
            return []
        self._mask_held(is_end=True)
        return self._release(b"")

    def _keep_line(self, data: bytes) -> None:
        start = data.rfind(b"\n") + 1
        if start:
            self._line.clear()
            self._is_entered = False
        known = max(0, len(self._line) - self._paths.seam_bytes)
        self._line += data[start:]
        self._is_entered = self._is_entered or self._paths.may_enter(self._line[known:])
        if len(self._line) > MAX_LINE_BYTES:
            self._line.clear()

    def _open_line(self) -> bytes:
        joined = b"".join([data for _, data in self.held])
        start = joined.rfind(b"\n") + 1
        return joined[start:] if start else bytes(self._line) + joined

    def _release(self, open_line: bytes) -> list[Read]:
        released, self.held = self.held, []
        self._line[:] = open_line
        self._is_entered = self._paths.may_enter(open_line)
        return released

    def _mask_held(self, *, is_end: bool) -> None:
        """Mask the complete lines in the held reads (`is_end`: all); a mask goes to the read its secret began in."""
        before = len(self._line)
        text = bytes(self._line) + b"".join([data for _, data in self.held])
        edits: list[Edit] = []
        start = 0
        while start < len(text):
            end = text.find(b"\n", start)
            if end < 0:
                if not is_end:
                    break
                end = len(text)
            line = text[start:end]
            if self._paths.may_hold(line):
                lead = 5 if line.startswith(b"data:") else 0
                for first, last, instead in Walk(self._paths).edits(line[lead:], is_end=True):
                    edits.append((start + lead + first, start + lead + last, instead))
            start = end + 1
        # A name's hint comes before its secret, so no edit lies in what was given back already.
        edits = [edit for edit in edits if edit[0] >= before and not _is_mask(text[edit[0] : edit[1]])]
        self.masked += len(edits)
        at = before
        for index, (at_us, data) in enumerate(self.held):
            self.held[index] = (at_us, _slice(text, at, at + len(data), edits))
            at += len(data)
        if b"\n" in text[before:]:
            self._line.clear()


_MASK = re.compile(rb"(?:[A-Za-z]+[ \t]+)?\[masked:[0-9a-f]{12}\]")


def _is_mask(value: bytes) -> bool:
    """A line that was masked in an earlier read's turn stands as it is."""
    return _MASK.fullmatch(value) is not None


def _slice(text: bytes, start: int, end: int, edits: list[Edit]) -> bytes:
    """`text[start:end]` with the edits made that begin in it; what an earlier slice's edit replaced is left out."""
    pieces = []
    for first, last, instead in edits:
        if last <= start or first >= end:
            continue
        if first >= start:
            pieces += [text[start:first], instead]
        start = min(last, end)
    return b"".join([*pieces, text[start:end]])
