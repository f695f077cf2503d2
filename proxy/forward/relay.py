"""One exchange: a request carried to the upstream, its response carried back, each read recorded on the way.

Bytes go on as they come; only heads are rewritten. Nothing is buffered but an unfinished head: where one side is
slower, reading from the other is paused. Whoever breaks off is answered in kind: a client that leaves ends the
upstream's work, an upstream that breaks in the middle of a body breaks the client's.
"""

import asyncio
import re

from proxy.clock import monotonic_ns
from proxy.exchange import Outcome
from proxy.forward import answers
from proxy.forward.framing import (
    BodyFraming,
    ChunkedBody,
    FramingError,
    RequestHead,
    ResponseHead,
    UntilCloseBody,
    read_response_head,
    split_head,
)
from proxy.forward.headers import forwarded_request, is_websocket_upgrade, sent_response, wants_close
from proxy.forward.refusals import Refusal, origin_form, own_answer
from proxy.forward.roles import Client, Forwarding
from proxy.forward.upstream import Upstream, UpstreamLink
from proxy.forward.valve import CONNECTING, OTHER_SIDE_FULL, Valve
from proxy.record.journal import Kind, Open
from proxy.record.recorder import Recording

_LEAVING_S = 0.05
"""After a client left, what the upstream had already sent is still recorded for so long."""
_TIMEOUT = re.compile(rb"(?i)timeout=(\d{1,9})")
_ADVICE = (
    "start its server (in LM Studio: Developer, Start server), "
    "or correct its address (--upstream, or upstreams in config.toml)"
)
_SAFE_TO_REPEAT = frozenset((b"GET", b"HEAD", b"OPTIONS"))


class Exchange:
    """One request and its response. It ends exactly once, with an `Outcome`."""

    # What most exchanges never change stands here, not in __init__: it is made for every request.
    is_tunnel = False
    _upstream: Upstream | None = None
    _link: UpstreamLink | None = None
    _connecting: asyncio.Task[None] | None = None
    _leaving: asyncio.TimerHandle | None = None
    _gone = ("", 0)  # why the client left, and when
    _forwarded = b""
    _unsent = b""  # request bytes read while there is no link
    _response: ResponseHead | None = None
    _response_body: BodyFraming | None = None
    _response_head = b""  # an unfinished one
    _is_upgrade = False
    _is_unchunked = False
    _is_waiting_for_client = False
    _is_client_slow = False
    _has_sent = False
    _head_began_ns = 0

    def __init__(self, forwarding: Forwarding, client: Client, head: RequestHead, started_ns: int) -> None:
        """Raises `FramingError` where the request's body cannot be framed; then nothing was recorded yet."""
        self._forwarding = forwarding
        self._client = client
        self._head = head
        self._started_ns = started_ns
        self.request_body = head.body()
        self._is_kept = not wants_close(head)
        self._recording: Recording

    # --- the request --------------------------------------------------------------------------------------------------

    def start(self, data: bytes, at_ns: int) -> int:
        """Begin with the bytes read behind the head; gives the offset in them after the request's end."""
        head, forwarding, client = self._head, self._forwarding, self._client
        self._is_upgrade = is_websocket_upgrade(head)
        answer = own_answer(head, forwarding.cors, client.is_own_authority, is_upgrade=self._is_upgrade)
        upstream = None
        if answer is None:
            upstream, target = forwarding.upstreams.route(origin_form(head.target))
            self._upstream = upstream
            self._forwarded = forwarded_request(head, target, upstream.authority, is_upgrade=self._is_upgrade)
        self._recording = forwarding.recorder.open(
            Open(
                client.number,
                client.address,
                upstream.name if upstream else "",
                upstream.url if upstream else "",
                head.raw,
                self._forwarded[:-2],
                self._is_upgrade,
            ),
            self._started_ns,
        )
        taken = self.client_data(data, at_ns)
        if self._recording.is_closed:
            return taken
        if answer is not None:
            self._answer(answer, Outcome.COMPLETED)
        elif upstream is not None:
            # Not at once: if a kept-alive connection has ended, the loop may know it only after this round of events,
            # and a POST that went out on it could not be sent again.
            asyncio.get_running_loop().call_soon(self._find_link, upstream)
        return taken

    def _find_link(self, upstream: Upstream) -> None:
        if self._recording.is_closed:
            return
        link = upstream.take_idle()
        if link is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect(upstream))
        else:
            self._attach(link)

    def client_data(self, data: bytes, at_ns: int) -> int:
        """Bytes read from the client; gives the offset after the request's end."""
        body = self.request_body
        if self.is_tunnel:
            self._pass_to_upstream(data)
            self._record_client_data(data, at_ns)
            return len(data)
        if body.is_done:
            self._recording.request_complete_ns = self._recording.request_complete_ns or at_ns
            return 0
        try:
            payload, end = body.feed(data)
        except FramingError as error:
            self._refuse_body(error, data, at_ns)
            return len(data)
        if end:
            self._pass_to_upstream(data[:end])  # a slice of all is no copy
        if payload:
            self._record_client_data(payload, at_ns)
        if body.is_done:
            self._recording.request_complete_ns = at_ns
            if isinstance(body, ChunkedBody) and body.trailers:
                self._recording.lines(Kind.CLIENT_TRAILERS, at_ns, body.trailers)
        return end

    def _pass_to_upstream(self, data: bytes) -> None:
        if self._link is not None:
            self._link.transport.write(data)
        else:
            self._unsent += data
            if not self.request_body.is_done:  # or the rest of a long body, read in one go, would gather here
                self._client.valve.hold(CONNECTING)

    def _record_client_data(self, data: bytes, at_ns: int) -> None:
        if self._recording.client_data(at_ns, data) and self._link is not None:
            self._client.valve.pace(self._forwarding.recorder.is_behind)

    def upstream_slow(self, is_slow: bool) -> None:
        """See `roles.LinkUser`."""
        _hold_or_release(self._client.valve, is_slow)

    def client_slow(self, is_slow: bool) -> None:
        """The client's connection takes no more for now (or again)."""
        self._is_client_slow = is_slow
        if self._is_waiting_for_client and not is_slow:
            self._end(Outcome.COMPLETED)
        elif self._link is not None:
            _hold_or_release(self._link.valve, is_slow)

    def client_gone(self, error: Exception | None) -> None:
        """The client left: end the upstream's work at once, and record what it had already sent."""
        if self._recording.is_closed or self._leaving is not None:
            return
        self._gone = "the client closed the connection" + (f": {error}" if error else ""), monotonic_ns()
        link = self._link
        if link is None or self.is_tunnel:
            self._drop_link(is_flushed=error is None)
            self._end(Outcome.CLIENT_GONE, *self._gone)
            return
        link.valve.open()
        self._leaving = asyncio.get_running_loop().call_later(_LEAVING_S, self._left)
        link.end_sending()
        if link.user is None:
            self._left()

    def stop(self) -> None:
        """The proxy stops: break both sides off."""
        if not self._recording.is_closed:
            self._drop_link(is_flushed=False)
            self._client.broken(isinstance(self._response_body, UntilCloseBody) or self._is_unchunked)
            self._end(Outcome.PROXY_STOPPED, "proxy-log was stopped while this exchange was running")

    # --- the upstream -------------------------------------------------------------------------------------------------

    async def _connect(self, upstream: Upstream) -> None:
        try:
            link = await upstream.connect()
        except TimeoutError:
            self._connecting = None
            self._fail(504, Outcome.UPSTREAM_TIMEOUT, f"did not accept the connection in time; {_ADVICE}")
        except (OSError, UnicodeError) as error:  # the latter for a host name that cannot be one
            self._connecting = None
            why = getattr(error, "strerror", None) or str(error)
            self._fail(502, Outcome.UPSTREAM_UNREACHABLE, f"cannot be reached: {why}; {_ADVICE}")
        else:
            self._connecting = None
            self._attach(link)

    def _attach(self, link: UpstreamLink) -> None:
        self._link = link
        self._client.valve.release(CONNECTING)
        link.user = self
        link.transport.write(self._forwarded + self._unsent if self._unsent else self._forwarded)
        self._unsent = b""

    def upstream_data(self, data: bytes, at_ns: int) -> None:
        """See `roles.LinkUser`."""
        if self._response_body is not None:
            self._carry_body(self._response_body, data, 0, at_ns, b"")
        elif self.is_tunnel:
            if self._leaving is None:
                self._client.transport.write(data)
            if self._recording.upstream_data(at_ns, data) and self._link is not None:
                self._link.valve.pace(self._forwarding.recorder.is_behind)
        else:
            self._carry_head(data, at_ns)

    def upstream_lost(self, error: Exception | None) -> None:
        """See `roles.LinkUser`."""
        link, self._link = self._link, None
        because = f": {error}" if error else ""
        if self._leaving is not None:
            self._left()
        elif self.is_tunnel:
            self._client.broken(error is not None)
            self._end(Outcome.UPSTREAM_GONE, f"the upstream closed the connection{because}")
        elif self._response is None:
            if link is not None and self._may_repeat(link):
                assert self._upstream is not None
                self._connecting = asyncio.get_running_loop().create_task(self._connect(self._upstream))
                return
            how = "in the middle of the response's head" if self._response_head else "without an answer"
            self._fail(502, Outcome.UPSTREAM_GONE, f"closed the connection {how}{because}")
        elif isinstance(self._response_body, UntilCloseBody) and error is None:
            self._response_complete(self._response, is_link_usable=False)
        else:
            self._break(f"the upstream closed the connection in the middle of the response{because}")

    def _may_repeat(self, link: UpstreamLink) -> bool:
        """Whether the request may go out again: only what is safe, and only where a kept-alive connection was stale."""
        return (
            not link.is_fresh
            and not self._response_head
            and not self._has_sent
            and self._head.method in _SAFE_TO_REPEAT
            and not self._recording.client_bytes
            and self.request_body.is_done
            and not isinstance(self.request_body, ChunkedBody)  # even an empty one has bytes, which are not kept
        )

    # --- the response -------------------------------------------------------------------------------------------------

    def _carry_head(self, data: bytes, at_ns: int) -> None:
        searched = len(self._response_head)
        if searched:
            data = self._response_head + data
        else:
            self._head_began_ns = at_ns
        while True:
            try:
                found = split_head(data, searched, self._forwarding.max_head_bytes, b"HTTP/1.")
                if found is None:
                    self._response_head = data
                    return
                raw, end = found
                head = read_response_head(raw)
                body = head.body(self._head.method)
            except FramingError as error:
                self._drop_link(is_flushed=False)
                self._fail(502, Outcome.UPSTREAM_GONE, f"sent something that is not HTTP: {error}")
                return
            self._response_head = b""
            if head.status >= 200:
                break
            if head.status == 101:
                if self._is_upgrade:
                    self._become_tunnel(head, data, end, at_ns)
                else:
                    self._drop_link(is_flushed=False)
                    self._fail(502, Outcome.UPSTREAM_GONE, "switched to another protocol, which nobody had asked for")
                return
            self._recording.lines(Kind.INTERIM, at_ns, raw)
            if self._head.version == b"1.1" and self._leaving is None:
                self._has_sent = True
                self._client.transport.write(data[:end])
            data, searched = data[end:], 0
            if not data:
                return
        self._response = head
        self._response_body = body
        self._is_unchunked = self._head.version == b"1.0" and isinstance(body, ChunkedBody)
        self._is_kept = self._is_kept and self.request_body.is_done and not isinstance(body, UntilCloseBody)
        sent = sent_response(
            head,
            cors=self._forwarding.cors.response_lines(self._head),
            is_unchunked=self._is_unchunked,
            is_closing=not self._is_kept,
        )
        self._recording.response(self._head_began_ns, raw, sent[:-2])
        self._carry_body(body, data, end, at_ns, sent)

    def _carry_body(self, body: BodyFraming, data: bytes, start: int, at_ns: int, head: bytes) -> None:
        """Pass on what was read, behind the head if that has not been sent yet."""
        try:
            payload, end = body.feed(data, start) if not body.is_done else (b"", start)
        except FramingError as error:
            self._carry_garbage(data[start:], at_ns, head, error)
            return
        if self._leaving is None:
            self._has_sent = True
            raw = payload if self._is_unchunked else data[start:end]  # a slice of all is no copy
            self._client.transport.write(head + raw if head else raw)
        if payload and self._recording.upstream_data(at_ns, payload) and self._link is not None:
            self._link.valve.pace(self._forwarding.recorder.is_behind)
        if body.is_done:
            if isinstance(body, ChunkedBody) and body.trailers:
                self._recording.lines(Kind.UPSTREAM_TRAILERS, at_ns, body.trailers)
            assert self._response is not None
            self._response_complete(self._response, is_link_usable=end == len(data))

    def _carry_garbage(self, data: bytes, at_ns: int, head: bytes, error: FramingError) -> None:
        """The body's framing is broken: the client gets the same bytes, and then the same broken connection."""
        self._recording.upstream_data(at_ns, data)
        if self._leaving is None:
            self._client.transport.write(head + data)
        self._drop_link(is_flushed=False)
        self._break(f"the upstream's response is not framed as HTTP ({error})")

    def _response_complete(self, response: ResponseHead, is_link_usable: bool) -> None:
        link, self._link = self._link, None
        if link is not None:
            if (
                is_link_usable
                and self._leaving is None
                and self.request_body.is_done
                and self._head.version == response.version == b"1.1"
                and b"close" not in response.connection
            ):
                assert self._upstream is not None
                self._upstream.keep(link, _announced_s(response))
            else:
                link.abort()
        if self._leaving is not None:
            self._left()
        elif self._is_client_slow:
            self._is_waiting_for_client = True  # not delivered yet: it ends when the client has taken it, or left
        else:
            self._end(Outcome.COMPLETED)

    def _become_tunnel(self, head: ResponseHead, data: bytes, end: int, at_ns: int) -> None:
        """Both agreed on a WebSocket: from here on bytes are passed as they come."""
        self.is_tunnel = True
        self._is_kept = False
        self._response = head
        self._recording.response(self._head_began_ns, head.raw, head.raw)
        if self._leaving is None:
            self._client.transport.write(data[:end])
        if end < len(data):
            self.upstream_data(data[end:], at_ns)
        early = self._client.take_early()
        if early:
            self.client_data(early, at_ns)

    # --- what the proxy answers by itself -----------------------------------------------------------------------------

    def _refuse_body(self, error: FramingError, data: bytes, at_ns: int) -> None:
        """The request's body breaks its framing: 400 if nothing was answered yet, and the end of it all."""
        self._recording.client_data(at_ns, data)
        self._drop_link(is_flushed=False)
        message = f"the request's body is malformed: {error}"
        if self._has_sent:
            self._client.broken(False)
            self._end(Outcome.COMPLETED, message)
        else:
            self._answer(Refusal(400, "invalid_request_error", message), Outcome.COMPLETED)

    def _fail(self, status: int, outcome: Outcome, what: str) -> None:
        """Nothing was sent to the client yet (1xx apart): tell it what became of the upstream."""
        if self._leaving is not None:
            self._left()
            return
        assert self._upstream is not None
        message = f"the upstream {self._upstream.name} at {self._upstream.url} {what}"
        self._answer(Refusal(status, outcome.value, message), outcome)

    def _answer(self, answer: bytes | Refusal, outcome: Outcome) -> None:
        """Answer with an error, or a preflight's lines; what is left of the request is not waited for."""
        self._is_kept = self._is_kept and self.request_body.is_done
        closing = b"" if self._is_kept else b"Connection: close\r\n"
        if isinstance(answer, Refusal):
            lines = self._forwarding.cors.response_lines(self._head) or b""
            head, body = answers.error(*answer, lines + closing)
            error = answer.message
        else:
            head, body = answers.answer(204, answer + closing)
            error = ""
        now = monotonic_ns()
        self._recording.response(now, b"", head[:-2])
        if body and self._head.method != b"HEAD":
            self._recording.upstream_data(now, body)
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
        """End the connection to the upstream, or the attempt to make one."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        link, self._link = self._link, None
        if link is None:
            return
        if is_flushed:
            link.user = None
            link.transport.close()
        else:
            link.abort()

    def _end(self, outcome: Outcome, error: str = "", done_ns: int = 0) -> None:
        if not self._recording.is_closed:
            self._recording.close(outcome, error, done_ns or monotonic_ns())
            self._client.ended(self._is_kept)


def _hold_or_release(valve: Valve, is_other_side_full: bool) -> None:
    if is_other_side_full:
        valve.hold(OTHER_SIDE_FULL)
    else:
        valve.release(OTHER_SIDE_FULL)


def _announced_s(response: ResponseHead) -> float | None:
    """How long the upstream says it keeps an idle connection: `Keep-Alive: timeout=5`."""
    for value in response.values.get(b"keep-alive", ()):
        if found := _TIMEOUT.search(value):
            return float(found[1])
    return None
