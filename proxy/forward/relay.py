"""One exchange: a request carried to the upstream, its response carried back, each read recorded on the way.

Bytes go on as they come; only heads are rewritten. Nothing is buffered but an unfinished head: where one side is
slower, reading from the other is paused. Whoever breaks off is answered in kind: a client that leaves ends the
upstream's work, an upstream that breaks in the middle of a body breaks the client's.
"""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Protocol

from proxy.clock import monotonic_ns
from proxy.exchange import Outcome, Side
from proxy.forward import answers
from proxy.forward.cors import Cors
from proxy.forward.framing import (
    BodyFraming,
    ChunkedBody,
    FramingError,
    RequestHead,
    ResponseHead,
    UntilCloseBody,
    split_head,
)
from proxy.forward.headers import forwarded_request, is_websocket_upgrade, sent_response, wants_close
from proxy.forward.upstream import Upstream, UpstreamLink, Upstreams
from proxy.record.journal import Close, Kind, Open, Response
from proxy.record.recorder import Recorder, Recording

_LEAVING_S = 0.05
"""After a client left, what the upstream had already sent is still recorded for so long."""
_SAFE_TO_REPEAT = frozenset((b"GET", b"HEAD", b"OPTIONS"))


@dataclass(frozen=True, slots=True)
class Forwarding:
    """What every exchange needs and shares."""

    recorder: Recorder
    upstreams: Upstreams
    cors: Cors
    max_head_bytes: int


class Client(Protocol):
    """The client's connection, as an exchange sees it."""

    transport: asyncio.Transport
    number: int
    address: str

    def is_own_authority(self, authority: bytes) -> bool:
        """Whether a request for this `host:port` was meant for the proxy."""
        ...

    def hold(self, is_held: bool) -> None:
        """Pause (or resume) reading the request's body."""
        ...

    def take_early(self) -> bytes:
        """What the client sent behind its request, before the answer."""
        ...

    def ended(self, is_kept: bool) -> None:
        """The exchange is over; the connection is kept for the next, or closed once all is sent."""
        ...

    def broken(self, is_reset: bool) -> None:
        """The exchange broke off: close once all is sent; `is_reset` says it loudly where a mere end looks complete."""
        ...


class Exchange:
    """One request and its response. It ends exactly once, with an `Outcome`."""

    def __init__(self, forwarding: Forwarding, client: Client, head: RequestHead, started_ns: int) -> None:
        """Raises `FramingError` where the request's body cannot be framed; then nothing was recorded yet."""
        self._forwarding = forwarding
        self._client = client
        self._head = head
        self._started_ns = started_ns
        self.request_body = head.body()
        self.is_tunnel = False
        self._recording: Recording | None = None
        self._upstream: Upstream | None = None
        self._link: UpstreamLink | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self._forwarded = b""
        self._unsent = b""  # request bytes read while there is no link
        self._response: ResponseHead | None = None
        self._response_body: BodyFraming | None = None
        self._response_head = b""  # an unfinished one
        self._is_upgrade = False
        self._is_unchunked = False
        self._is_kept = not wants_close(head)
        self._is_waiting_for_client = False
        self._is_client_slow = False
        self._has_sent = False
        self._is_over = False
        self._request_complete_ns = 0
        self._first_byte_ns = 0
        self._client_bytes = 0
        self._upstream_bytes = 0
        self._gone = ("", 0)  # why the client left, and when

    # --- the request --------------------------------------------------------------------------------------------------

    def start(self, data: bytes, at_ns: int) -> int:
        """Begin with the bytes read behind the head; gives the offset in them after the request's end."""
        head, forwarding = self._head, self._forwarding
        target = head.target
        if target[:1] != b"/" and target != b"*":
            origin_form = self._origin_form(target)
            if origin_form is None:
                return self._refuse_target(data, at_ns)
            target = origin_form
        if forwarding.cors.is_preflight(head):
            return self._answer_preflight(data, at_ns)
        self._is_upgrade = is_websocket_upgrade(head)
        if self._is_upgrade and not forwarding.cors.allows_upgrade(head):
            return self._refuse(
                data, at_ns, 403, "forbidden_origin", "this origin may not open WebSockets; see cors.allow_origins"
            )
        self._upstream, target = forwarding.upstreams.route(target)
        self._forwarded = forwarded_request(head, target, self._upstream.authority, is_upgrade=self._is_upgrade)
        self._open(at_ns)
        taken = self.client_data(data, at_ns)
        if not self._is_over:
            link = self._upstream.take_idle()
            if link is None:
                self._connecting = asyncio.get_running_loop().create_task(self._connect(self._upstream))
            else:
                self._attach(link)
        return taken

    def client_data(self, data: bytes, at_ns: int) -> int:
        """Bytes read from the client; gives the offset after the request's end."""
        if self.is_tunnel:
            self._tunnelled(Side.CLIENT, data, at_ns)
            return len(data)
        body = self.request_body
        if body.is_done:
            if not self._request_complete_ns:
                self._request_complete_ns = at_ns
            return 0
        try:
            payload, end = body.feed(data)
        except FramingError as error:
            self._refuse_body(error, data, at_ns)
            return len(data)
        if payload:
            self._client_bytes += len(payload)
            self._record().data(Side.CLIENT, at_ns, payload)
        raw = data[:end]  # a slice of all is no copy
        if self._link is not None:
            self._link.transport.write(raw)
        elif raw:
            self._unsent += raw
            if self._connecting is not None:
                self._client.hold(True)  # until there is a connection to send it on
        if body.is_done:
            self._request_complete_ns = at_ns
            if isinstance(body, ChunkedBody) and body.trailers:
                self._record().head(Kind.CLIENT_TRAILERS, at_ns, body.trailers)
        return end

    def hold_client(self, is_held: bool) -> None:
        """See `upstream.LinkUser`."""
        self._client.hold(is_held)

    def client_slow(self, is_slow: bool) -> None:
        """The client's connection takes no more for now (or again)."""
        self._is_client_slow = is_slow
        if self._is_waiting_for_client and not is_slow:
            self._end(Outcome.COMPLETED)
        elif self._link is not None:
            if is_slow:
                self._link.transport.pause_reading()
            else:
                self._link.transport.resume_reading()

    def client_gone(self, error: Exception | None) -> None:
        """The client left: end the upstream's work at once, and record what it had already sent."""
        if self._is_over or self._leaving is not None:
            return
        self._gone = "the client closed the connection" + (f": {error}" if error else ""), monotonic_ns()
        if self._connecting is not None:
            self._connecting.cancel()
        link = self._link
        if link is None or self.is_tunnel or link.is_lost:
            self._drop_link(is_flushed=error is None)
            self._end(Outcome.CLIENT_GONE, *self._gone)
            return
        link.transport.resume_reading()
        self._leaving = asyncio.get_running_loop().call_later(_LEAVING_S, self._left)
        link.end_sending()
        if link.user is None:
            self._left()

    def stop(self) -> None:
        """The proxy stops: break both sides off."""
        if not self._is_over:
            self._drop_link(is_flushed=False)
            if self._connecting is not None:
                self._connecting.cancel()
            self._client.broken(isinstance(self._response_body, UntilCloseBody))
            self._end(Outcome.PROXY_STOPPED, "proxy-log was stopped while this exchange was running")

    # --- the upstream -------------------------------------------------------------------------------------------------

    async def _connect(self, upstream: Upstream) -> None:
        try:
            link = await upstream.connect()
        except TimeoutError:
            self._connecting = None
            self._unreachable(504, Outcome.UPSTREAM_TIMEOUT, "it did not accept the connection in time")
        except OSError as error:
            self._connecting = None
            self._unreachable(502, Outcome.UPSTREAM_UNREACHABLE, error.strerror or str(error))
        else:
            self._connecting = None
            if self._is_over:
                link.abort()
            else:
                self._client.hold(False)
                self._attach(link)

    def _attach(self, link: UpstreamLink) -> None:
        self._link = link
        link.user = self
        link.transport.write(self._forwarded + self._unsent if self._unsent else self._forwarded)
        self._unsent = b""

    def upstream_data(self, data: bytes, at_ns: int) -> None:
        """See `upstream.LinkUser`."""
        if self.is_tunnel:
            self._tunnelled(Side.UPSTREAM, data, at_ns)
        elif self._response_body is not None:
            self._carry_body(self._response_body, data, 0, at_ns, b"")
        else:
            self._carry_head(data, at_ns)

    def upstream_lost(self, error: Exception | None) -> None:
        """See `upstream.LinkUser`."""
        link, self._link = self._link, None
        if self._leaving is not None:
            self._left()
        elif self.is_tunnel:
            self._client.broken(error is not None)
            self._end(Outcome.UPSTREAM_GONE, "the upstream closed the connection" + (f": {error}" if error else ""))
        elif self._response is None:
            if link is not None and self._may_repeat(link):
                assert self._upstream is not None
                self._connecting = asyncio.get_running_loop().create_task(self._connect(self._upstream))
                return
            how = "in the middle of the response's head" if self._response_head else "without an answer"
            self._fail(502, Outcome.UPSTREAM_GONE, f"closed the connection {how}" + (f" ({error})" if error else ""))
        elif isinstance(self._response_body, UntilCloseBody) and error is None:
            self._response_complete(is_link_usable=False)
        else:
            self._break(
                "the upstream closed the connection in the middle of the response" + (f": {error}" if error else "")
            )

    def _may_repeat(self, link: UpstreamLink) -> bool:
        """Whether the request may go out again: only what is safe, and only where a kept-alive connection was stale."""
        return (
            not link.is_fresh
            and not self._response_head
            and not self._has_sent
            and self._head.method in _SAFE_TO_REPEAT
            and not self._client_bytes
            and self.request_body.is_done
        )

    # --- the response -------------------------------------------------------------------------------------------------

    def _carry_head(self, data: bytes, at_ns: int) -> None:
        searched = len(self._response_head)
        if not searched:
            self._first_byte_ns = at_ns
        data = self._response_head + data if searched else data
        while True:
            try:
                found = split_head(data, searched, self._forwarding.max_head_bytes)
                if found is None:
                    self._response_head = data
                    return
                raw, end = found
                head = ResponseHead(raw)
                body = head.body(self._head.method)
            except FramingError as error:
                self._drop_link(is_flushed=False)
                self._fail(502, Outcome.UPSTREAM_GONE, f"sent something that is not HTTP ({error}): {data[:200]!r}")
                return
            self._response_head = b""
            if head.status == 101 and self._is_upgrade:
                self._become_tunnel(head, data, end, at_ns)
                return
            if head.status >= 200:
                break
            self._record().head(Kind.INTERIM, at_ns, raw)
            if self._head.version == b"1.1" and self._leaving is None:
                self._has_sent = True
                self._client.transport.write(data[:end])
            data, searched = data[end:], 0
            if not data:
                return
        self._response = head
        self._response_body = body
        is_until_close = isinstance(body, UntilCloseBody)
        self._is_unchunked = self._head.version == b"1.0" and isinstance(body, ChunkedBody)
        self._is_kept = self._is_kept and not is_until_close and self.request_body.is_done
        sent = sent_response(
            head,
            cors=self._forwarding.cors.response_lines(self._head),
            is_unchunked=self._is_unchunked,
            is_closing=not self._is_kept,
        )
        self._record().head(Kind.RESPONSE, self._first_byte_ns, Response(raw, sent[:-2]))
        self._carry_body(body, data, end, at_ns, sent)

    def _carry_body(self, body: BodyFraming, data: bytes, start: int, at_ns: int, head: bytes) -> None:
        """Pass on what was read, behind the head if that has not been sent yet."""
        if body.is_done:
            payload, end = b"", start
        else:
            try:
                payload, end = body.feed(data, start)
            except FramingError as error:
                self._carry_garbage(data[start:], at_ns, head, error)
                return
        if payload:
            self._upstream_bytes += len(payload)
            self._record().data(Side.UPSTREAM, at_ns, payload)
        if self._leaving is None:
            self._has_sent = True
            raw = payload if self._is_unchunked else data[start:end]  # a slice of all is no copy
            self._client.transport.write(head + raw if head else raw)
        if body.is_done:
            if isinstance(body, ChunkedBody) and body.trailers:
                self._record().head(Kind.UPSTREAM_TRAILERS, at_ns, body.trailers)
            self._response_complete(is_link_usable=end == len(data))

    def _carry_garbage(self, data: bytes, at_ns: int, head: bytes, error: FramingError) -> None:
        """The body's framing is broken: the client gets the same bytes, and then the same broken connection."""
        self._upstream_bytes += len(data)
        self._record().data(Side.UPSTREAM, at_ns, data)
        self._client.transport.write(head + data)
        self._drop_link(is_flushed=False)
        self._break(f"the upstream's response is not framed as HTTP ({error})")

    def _response_complete(self, is_link_usable: bool) -> None:
        assert self._response is not None
        assert self._upstream is not None
        link, self._link = self._link, None
        if link is not None:
            is_kept = (
                is_link_usable
                and self._leaving is None
                and self.request_body.is_done
                and self._head.version == self._response.version == b"1.1"
                and not isinstance(self._response_body, UntilCloseBody)
                and b"close" not in self._response.tokens(b"connection")
            )
            if is_kept:
                self._upstream.keep(link, _announced_s(self._response))
            else:
                link.abort()
        if self._leaving is not None:
            self._left()
        elif self._is_client_slow:
            self._is_waiting_for_client = True  # not delivered yet: it ends when the client has taken it, or left
        else:
            self._end(Outcome.COMPLETED)

    # --- tunnels ------------------------------------------------------------------------------------------------------

    def _become_tunnel(self, head: ResponseHead, data: bytes, end: int, at_ns: int) -> None:
        self.is_tunnel = True
        self._is_kept = False
        self._response = head
        self._record().head(Kind.RESPONSE, self._first_byte_ns, Response(head.raw, head.raw))
        self._client.transport.write(data[:end])
        if end < len(data):
            self._tunnelled(Side.UPSTREAM, data[end:], at_ns)
        early = self._client.take_early()
        if early:
            self._tunnelled(Side.CLIENT, early, at_ns)

    def _tunnelled(self, side: Side, data: bytes, at_ns: int) -> None:
        self._record().data(side, at_ns, data)
        if side is Side.UPSTREAM:
            self._upstream_bytes += len(data)
            self._client.transport.write(data)
        else:
            self._client_bytes += len(data)
            if self._link is not None:
                self._link.transport.write(data)

    # --- what the proxy answers by itself -----------------------------------------------------------------------------

    def _origin_form(self, target: bytes) -> bytes | None:
        """The path of an absolute-form target that is meant for the proxy itself; None for any other."""
        scheme, separator, rest = target.partition(b"://")
        authority, slash, path = rest.partition(b"/")
        if not separator or scheme.lower() != b"http" or self._head.method == b"CONNECT":
            return None
        if not self._client.is_own_authority(authority):
            return None
        return slash + path if slash else b"/"

    def _refuse_target(self, data: bytes, at_ns: int) -> int:
        shown = self._head.target[:100].decode("latin-1")
        if self._head.method == b"CONNECT":
            return self._refuse(
                data, at_ns, 405, "invalid_request_error", f"this is no open proxy: CONNECT {shown} is refused"
            )
        if b"://" in self._head.target:
            return self._refuse(
                data, at_ns, 421, "invalid_request_error", f"this is no open proxy: requests for {shown} are refused"
            )
        return self._refuse(data, at_ns, 400, "invalid_request_error", f"the request target {shown} is not a path")

    def _refuse(self, data: bytes, at_ns: int, status: int, kind: str, message: str) -> int:
        """Answer without an upstream; the request's body, if it has one, is not waited for."""
        self._open(at_ns)
        taken = self.client_data(data, at_ns)
        if not self._is_over:
            lines = self._forwarding.cors.response_lines(self._head) or b""
            self._answer(answers.error(status, kind, message, self._closing_line() + lines), Outcome.COMPLETED, message)
        return taken

    def _refuse_body(self, error: FramingError, data: bytes, at_ns: int) -> None:
        """The request's body breaks its framing: 400 if nothing was answered yet, and the end of it all."""
        self._client_bytes += len(data)
        self._record().data(Side.CLIENT, at_ns, data)
        if self._connecting is not None:
            self._connecting.cancel()
        self._drop_link(is_flushed=False)
        message = f"the request's body is malformed: {error}"
        if self._has_sent:
            self._client.broken(False)
            self._end(Outcome.COMPLETED, message)
        else:
            self._is_kept = False
            lines = self._forwarding.cors.response_lines(self._head) or b""
            lines += self._closing_line()
            self._answer(answers.error(400, "invalid_request_error", message, lines), Outcome.COMPLETED, message)

    def _answer_preflight(self, data: bytes, at_ns: int) -> int:
        lines = self._forwarding.cors.preflight_lines(self._head)
        if lines is None:
            message = "this origin is not allowed; see cors.allow_origins"
            return self._refuse(data, at_ns, 403, "forbidden_origin", message)
        self._open(at_ns)
        taken = self.client_data(data, at_ns)
        if not self._is_over:
            self._answer(answers.answer(204, self._closing_line() + lines), Outcome.COMPLETED)
        return taken

    def _unreachable(self, status: int, outcome: Outcome, why: str) -> None:
        assert self._upstream is not None
        advice = (
            "start its server (in LM Studio: Developer, Start server), or tell proxy-log where it is with --upstream"
        )
        self._fail(status, outcome, f"cannot be reached: {why}; {advice}")

    def _fail(self, status: int, outcome: Outcome, what: str) -> None:
        """Nothing was sent to the client yet (1xx apart): tell it what became of the upstream."""
        assert self._upstream is not None
        self._link = None
        if self._leaving is not None:
            self._left()
            return
        message = f"the upstream {self._upstream.name} at {self._upstream.url} {what}"
        self._is_kept = self._is_kept and self.request_body.is_done
        lines = (self._forwarding.cors.response_lines(self._head) or b"") + self._closing_line()
        self._answer(answers.error(status, str(outcome), message, lines), outcome, message)

    def _closing_line(self) -> bytes:
        self._is_kept = self._is_kept and self.request_body.is_done
        return b"" if self._is_kept else b"Connection: close\r\n"

    def _answer(self, answer: tuple[bytes, bytes], outcome: Outcome, error: str = "") -> None:
        head, body = answer
        now = monotonic_ns()
        self._first_byte_ns = now
        self._record().head(Kind.RESPONSE, now, Response(b"", head[:-2]))
        if body and self._head.method != b"HEAD":
            self._upstream_bytes += len(body)
            self._record().data(Side.UPSTREAM, now, body)
            head += body
        self._client.transport.write(head)
        self._end(outcome, error)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _left(self) -> None:
        """What the upstream had sent before it learnt that the client has gone is recorded; now it ends."""
        if self._leaving is not None:
            self._leaving.cancel()
        self._drop_link(is_flushed=False)
        self._end(Outcome.CLIENT_GONE, *self._gone)

    def _break(self, error: str) -> None:
        """The response broke off after its head: break the client's too, never end it cleanly."""
        if self._leaving is not None:
            self._left()
            return
        self._client.broken(isinstance(self._response_body, UntilCloseBody) or self._is_unchunked)
        self._end(Outcome.UPSTREAM_GONE, error)

    def _drop_link(self, is_flushed: bool) -> None:
        link, self._link = self._link, None
        if link is None:
            return
        if is_flushed:
            link.user = None
            link.transport.close()
        else:
            link.abort()

    def _record(self) -> Recording:
        assert self._recording is not None
        return self._recording

    def _open(self, at_ns: int) -> None:
        upstream = self._upstream
        self._recording = self._forwarding.recorder.open(
            Open(
                self._client.number,
                self._client.address,
                upstream.name if upstream else "",
                upstream.url if upstream else "",
                self._head.raw,
                self._forwarded[:-2],
                self._is_upgrade,
            ),
            self._started_ns,
        )

    def _end(self, outcome: Outcome, error: str = "", done_ns: int = 0) -> None:
        if self._is_over:
            return
        self._is_over = True
        self._record().close(
            Close(
                outcome,
                error,
                self._request_complete_ns,
                self._first_byte_ns,
                done_ns or monotonic_ns(),
                self._client_bytes,
                self._upstream_bytes,
            )
        )
        self._client.ended(self._is_kept and outcome is not Outcome.CLIENT_GONE)


def _announced_s(response: ResponseHead) -> float | None:
    """How long the upstream says it keeps an idle connection: `Keep-Alive: timeout=5`."""
    for token in response.tokens(b"keep-alive"):
        name, _, value = token.partition(b"=")
        if name.strip() == b"timeout":
            with contextlib.suppress(ValueError):
                return float(value)
    return None
