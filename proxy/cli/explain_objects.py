"""What `proxy-log explain --json` prints: the layers of a call as JSON values."""

import json
from dataclasses import asdict
from typing import Any

from proxy.cli.call_rows import JSON_COLUMNS
from proxy.meaning import Message
from proxy.store.call_layers import CallLayers, Row


def layers_object(layers: CallLayers) -> dict[str, Any]:
    """A key for each layer, and for what concerns them all; what is not known is null, and `why` says why."""
    exchange, changed = layers.exchange, layers.differences
    call = {name: json.loads(value) if name in JSON_COLUMNS and value else value for name, value in layers.call.items()}
    prompt = layers.prompt
    return {
        "exchange": exchange.id,
        "call": call,
        "request": {
            "messages": [_message(one) for one in layers.messages],
            "tools": [asdict(one) for one in layers.tools],
            "parameters": layers.parameters,
            "differences": changed.request,
        },
        "forwarded": {
            "to": exchange.upstream_url if exchange.upstream else None,
            "request_headers": _json(exchange.request_headers),
            "forwarded_headers": _json(exchange.forwarded_headers),
            "differences": changed.forwarded,
        },
        "prompt": {
            **({"text": None} if prompt is None else asdict(prompt)),
            "why": layers.why_no_prompt,
            "template": layers.template,
            "spans": [asdict(one) for one in layers.spans],
            "fates": [{**asdict(one), "message": _message(one.message)} for one in layers.fates],
            "others": [asdict(one) for one in layers.prompts[1:]],
            "differences": changed.prompt,
        },
        "output": {
            "text": layers.output["text"] if layers.output is not None else None,
            "why": layers.why_no_output,
            "stats": _json(layers.output["stats"]) if layers.output is not None else None,
            "pairing": _pairing(layers.pairing),
        },
        "answer": {
            "answers": [_message(one) for one in layers.answers],
            "differences": changed.answer,
        },
        "window": layers.window,
        "problems": layers.problems,
    }


def _message(message: Message) -> dict[str, Any]:
    return {
        "role": message.role,
        "text": message.text,
        "parts": [{name: value for name, value in asdict(part).items() if value is not None} for part in message.parts],
    }


def _pairing(row: Row | None) -> Row | None:
    if row is None:
        return None
    return {name: _json(value) if name.endswith("_rivals") else value for name, value in row.items()}


def _json(value: str | None) -> Any:
    return json.loads(value) if value else None
