"""OpenAI's Responses, as LM Studio (0.3.29 and newer) and others speak them.

Facts (lmstudio-api.md 2.7, 3, 6.3, 8; clients.md 2, 5; OpenAI's reference for what LM Studio does not document)
-----------------------------------------------------------------------------------------------------------------
* A stream has named events whose `type` repeats the name. Items are numbered by `output_index`, their parts by
  `content_index` or `summary_index`. Texts, parts and items come once more whole when they end, and everything once
  more in the last event's `response`: the later wins, and only what had not come before counts as generated then.
* That last event is `response.completed`, `.incomplete` or `.failed`, or an `error` whose members stand at the top.
  A `[DONE]` may follow. Some servers tell reasoning only by its end.
* `status` and `incomplete_details` are the stop reason. A completed answer with calls that the client has to make ended
  for them; calls to MCP servers are made by the server, in the same request.
* A failed response has its `error` beside all other fields, also in a body with status 200.
* `headers` and `authorization` of an MCP server hold secrets, its address may: neither they nor user info nor query are
  kept.
* The response repeats settings that the request may not have had: they are the server's word.
"""

import re

from proxy.meaning import Json, Message, Operation, Origin, Part, PartKind, StopReason
from proxy.read.call import Call
from proxy.read.http_session import read_error
from proxy.read.json_fields import Fields, encode_json
from proxy.read.openai_fields import read_parameters, read_tools, read_usage
from proxy.read.reader import Claim, RequestHead
from proxy.read.responses_items import read_input
from proxy.read.responses_stream import PIECES, read_item, read_output, read_piece, stream_of

_ONE = re.compile(r"/responses/(?P<id>[^/]+)$")
_OWN_PARAMETERS = (
    *("background", "context_management", "conversation", "include", "max_tool_calls", "prompt", "prompt_cache_key"),
    *("prompt_cache_retention", "safety_identifier", "truncation"),
)
_SERVER_SETTINGS = (
    *("max_output_tokens", "parallel_tool_calls", "service_tier", "temperature", "tool_choice", "top_logprobs"),
    *("top_p", "truncation"),
)
_REPEATED = (
    *("object", "created_at", "completed_at", "instructions", "metadata", "tools", "reasoning", "store", "text"),
    *("user", "output_text", "output", "status", "error", "incomplete_details", *_OWN_PARAMETERS, *_SERVER_SETTINGS),
)
_INCOMPLETE = {"max_output_tokens": StopReason.LENGTH, "content_filter": StopReason.CONTENT_FILTER}
_ENDED = {"failed": StopReason.FAILED, "cancelled": StopReason.CANCELLED}
_UNDER_WAY = ("queued", "in_progress")
_OF_RESPONSES = ("created", "queued", "in_progress")
_LAST = ("completed", "incomplete", "failed", "cancelled")
_SILENT = re.compile(
    r"(content_part|reasoning_summary_part)\.(added|done)|output_text\.annotation\.added|mcp_call\.(in_progress|"
    r"completed|failed)|mcp_list_tools\.(in_progress|completed|failed)|(web_search|file_search|code_interpreter|"
    r"image_generation)_call\.(in_progress|searching|interpreting|generating|completed)"
)
_SILENT_FIELDS = ("content_index", "summary_index", "part", "annotation", "annotation_index")
_USER_INFO = re.compile("//[^/@]*@")
_SHOWN = 200


class OpenAIResponses:
    """`POST …/responses`; also `GET` and `DELETE` of a response that is kept, which are no calls."""

    name = "openai_responses"
    version = 1

    def claims(self, head: RequestHead) -> Claim:
        """Whatever the prefix is."""
        if head.method == "POST":
            return Claim.YES if head.path.endswith("/responses") else Claim.NO
        found = _ONE.search(head.path) if head.method in ("GET", "DELETE") else None
        return Claim.NO if found is None else Claim.YES if found["id"].startswith("resp") else Claim.MAYBE

    def operation(self, head: RequestHead) -> Operation:
        """See `Dialect`."""
        return Operation.CHAT if head.method == "POST" else Operation.OTHER

    def read_request(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        found = _ONE.search(head.path)
        if found is not None:
            call.response_id = found["id"]
        call.model_asked = body.text("model")
        call.previous_response_id = body.text("previous_response_id")
        _read_instructions(call, body)
        read_input(call, body)
        _read_mcp_servers(call, body)
        read_tools(call, body)
        read_parameters(call, body)
        call.parameter("max_tokens", body.raw("max_output_tokens"), sent_as="max_output_tokens")
        for name in _OWN_PARAMETERS:
            call.parameter(name, body.raw(name))
        _read_reasoning_and_text(call, body)

    def read_answer(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `Dialect`."""
        if head.method == "DELETE":
            body.known("id", "object")
            deleted = body.flag("deleted")
            if deleted is not None:
                call.details["deleted"] = deleted
            return
        _read_response(call, body)
        _read_end(call, body, None)
        status = body.data.get("status")
        if head.method == "GET" and isinstance(status, str):
            call.details["status"] = status

    def read_answer_with_error(self, call: Call, body: Fields, head: RequestHead) -> None:
        """See `AnswersWithErrors`: a response that failed."""
        _read_response(call, body)
        _read_end(call, body, None)

    def read_event(self, call: Call, name: str, body: Fields, at_us: int) -> None:
        """See `Dialect`."""
        kind = body.text("type") or name
        prefix, _, event = kind.partition(".")
        event = event if prefix == "response" else ""
        body.known("sequence_number", "item_id", "output_index")
        subject, _, step = event.rpartition(".")
        if subject in PIECES and step in ("delta", "done"):
            read_piece(call, subject, step, body, at_us)
        elif event in ("output_item.added", "output_item.done"):
            read_item(call, step, body, at_us)
        elif event in _OF_RESPONSES or event in _LAST:
            response = body.object("response")
            if response is not None:
                _read_response(call, response)
                if event in _LAST:
                    if response.data.get("error"):
                        read_error(call, response, where="stream")
                    _read_end(call, response, at_us, event)
            call.is_finished = call.is_finished or event in _LAST
        elif kind == "error":
            if name != "error" and not body.data.get("error"):  # otherwise it is read for all dialects alike
                read_error(call, body, where="stream")
        elif _SILENT.fullmatch(event):
            body.known(*_SILENT_FIELDS)
        else:
            call.problem("unknown_event", kind[:_SHOWN])


# --- the request ------------------------------------------------------------------------------------------------------


def _read_instructions(call: Call, body: Fields) -> None:
    text = body.text("instructions")
    if text:
        call.messages.append(Message("system", (Part(PartKind.TEXT, text),), path="instructions"))


def _read_mcp_servers(call: Call, body: Fields) -> None:
    """What a request says of MCP servers, without what may be secret."""
    told: list[Json] = []
    tools = body.data.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if isinstance(tool, dict) and tool.get("type") == "mcp":
            about = {name: tool.get(name) for name in ("server_label", "server_url", "allowed_tools")}
            if isinstance(about["server_url"], str):
                address = re.split("[?#]", about["server_url"], maxsplit=1)[0]
                about["server_url"] = _USER_INFO.sub("//", address, count=1)
            told.append({name: value for name, value in about.items() if value is not None})
    if told:
        call.details["mcp_servers"] = told


def _read_reasoning_and_text(call: Call, body: Fields) -> None:
    reasoning, text = body.object("reasoning"), body.object("text")
    if reasoning is not None:
        call.parameter("reasoning_effort", reasoning.raw("effort"), sent_as="reasoning.effort")
        summary = reasoning.raw("summary") or reasoning.raw("generate_summary")
        call.parameter("reasoning_summary", summary, sent_as="reasoning.summary")
    if text is None:
        return
    call.parameter("verbosity", text.raw("verbosity"), sent_as="text.verbosity")
    form = text.object("format")
    if form is not None:
        call.parameter("response_format", form.raw("type"), sent_as="text.format")
        form.known("name", "description", "strict")
        schema = form.raw("schema")
        if schema is not None:
            call.output_schema = encode_json(schema)


# --- the response -----------------------------------------------------------------------------------------------------


def _read_response(call: Call, response: Fields) -> None:
    """What a response says as soon as it is there."""
    call.response_id = response.text("id") or call.response_id
    call.model_answered = response.text("model") or call.model_answered
    call.previous_response_id = call.previous_response_id or response.text("previous_response_id")
    read_usage(call, response.object("usage"))
    response.known("previous_response_id", *_REPEATED)


def _read_end(call: Call, response: Fields, at_us: int | None, event: str = "") -> None:
    """What it says in the end: all its output, the stop reason, the settings it had."""
    stream = stream_of(call)
    output = response.objects("output")
    if output:
        read_output(call, output, at_us)
    if not call.is_finished:
        for name in _SERVER_SETTINGS:
            ours = "max_tokens" if name == "max_output_tokens" else name
            call.parameter(ours, response.raw(name), sent_as=name, origin=Origin.SERVER)
    status = response.text("status")
    if status is None or (event and status in _UNDER_WAY):
        status = event
    details = response.object("incomplete_details")
    why = details.text("reason") if details is not None else None
    if status == "completed":
        call.stop(StopReason.TOOL_CALLS if stream.waits_for_client else StopReason.STOP, status)
    elif status == "incomplete":
        call.stop(_INCOMPLETE.get(why or "", StopReason.OTHER), why or status)
    elif status and status not in _UNDER_WAY:
        call.stop(_ENDED.get(status, StopReason.OTHER), status)
