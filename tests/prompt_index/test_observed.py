"""What the models saw, by the lookalike's log: real processes, many calls at once, real tokens."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import lmstudio
import pytest

from proxy.demo.lookalike_process import Settings
from tests.prompt_index.saw import Saw, before_lookalike, stream

CALLS = 1000
PLAIN = "scripted-vl-2b"
"""The scripted model that does not think before it answers."""


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saw]:
    """Scripted models whose outputs come in swapped order."""
    switches = {"swap_outputs": "true", "window": "true"}
    with before_lookalike(tmp_path_factory.mktemp("scripted"), Settings(port=0, switches=switches)) as saw:
        yield saw


@pytest.fixture(scope="module", params=["truncateMiddle", "rollingWindow"])
def small_window(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, smollm2: Path
) -> Iterator[Saw]:
    """The real model with a window of 512 tokens, whose server cuts what is too long by a policy."""
    switches = {"context_length": "512", "overflow": request.param}
    settings = Settings(model_file=str(smollm2), model="smollm2", port=0, switches=switches)
    with before_lookalike(tmp_path_factory.mktemp("window"), settings) as saw:
        yield saw


def test_no_call_of_a_thousand_at_once_is_paired_wrongly(scripted: Saw) -> None:
    def ask(number: int) -> tuple[str, str]:
        alike = number % 10  # seven have a text of their own, two are alike but for their length, one always the same
        text = "ping" if alike == 9 else f"same {number // 40}" if alike > 6 else f"own {number}"
        answer = scripted.ask(user(text), model=PLAIN, max_tokens=3 + number % 4 if 6 < alike < 9 else 20)
        return answer["id"], text

    with ThreadPoolExecutor(4) as four:
        asked = dict(four.map(ask, range(CALLS)))
    last = next(reversed(asked))
    scripted.call(last)
    rows = scripted.rows(
        "SELECT c.response_id, c.answer, p.input_event_id, p.input_confidence, i.text, p.output_event_id, o.text, p.why"
        " FROM calls c LEFT JOIN prompt_pairings p ON p.call_id = c.id"
        " LEFT JOIN engine_events i ON i.id = p.input_event_id LEFT JOIN engine_events o ON o.id = p.output_event_id"
        " WHERE c.operation = 'chat'"
    )
    rows = [row for row in rows if row[0] in asked]
    assert len(rows) == CALLS
    for response_id, answer, _, confidence, prompt, output_id, output, why in rows:
        if prompt is None:
            assert why
        else:
            assert f"<|im_start|>user\n{asked[response_id]}<|im_end|>" in prompt
            assert confidence >= 0.9 or why
        if output_id is None:
            assert why
        else:
            assert output == answer
    for which in (2, 5):
        used = [row[which] for row in rows if row[which] is not None]
        assert len(used) == len(set(used)), "an event is one call's"
    own = [row for row in rows if asked[row[0]].startswith("own ")]
    unpaired = [(asked[row[0]], *row) for row in own if row[4] is None or row[6] is None]
    assert unpaired == [], "what has a text of its own is paired"
    observed = scripted.rows("SELECT count(*) FROM calls WHERE is_observed AND last_input LIKE '%user_own %'")
    assert observed == [(0,)]


def test_a_chat_typed_in_the_window_and_a_request_to_the_engines_own_port_become_observed_calls(scripted: Saw) -> None:
    scripted.ask(user("not through the proxy"), url=scripted.upstream_url)
    found = scripted.wait("SELECT * FROM calls WHERE is_observed AND last_input LIKE '%not through the proxy%'")
    (call,) = found
    assert call["operation"] == "prediction"
    assert call["answer"].endswith("You said: not through the proxy")
    assert call["reported_output_tokens"]
    assert call["stop_reason"] == "stop"
    prompts = scripted.rows("SELECT source, text FROM rendered_prompts WHERE call_id = ?", call["id"])
    assert prompts == [("observed", call["last_input"])]


def test_what_fell_out_of_a_small_window_is_named_as_the_engine_was_really_given_it(small_window: Saw) -> None:
    messages = [{"role": "system", "content": "You count elephants."}]
    for number in range(30):
        messages += [
            {"role": "user", "content": f"Elephant number {number} went out to play upon a spider's web one day."},
            {"role": "assistant", "content": f"It had such enormous fun that it called for elephant {number + 1}."},
        ]
    messages.append({"role": "user", "content": "How many elephants were there?"})
    answer = small_window.ask(messages, max_tokens=8, temperature=0)
    call = small_window.call(answer["id"])
    ((prompt, source),) = small_window.rows(
        "SELECT text, source FROM rendered_prompts WHERE is_best AND call_id = ?", call
    )
    assert source == "observed"
    given = [position for position, message in enumerate(messages) if message["content"] in prompt]
    fates = small_window.rows("SELECT position, fate, dropped_by FROM message_fates WHERE call_id = ?", call)
    assert [position for position, fate, _ in fates if fate == "kept"] == given
    missing = [position for position, fate, by in fates if fate == "missing" and by == "server"]
    assert sorted(given + missing) == list(range(len(messages)))
    assert len(missing) > 20
    tokens = small_window.rows("SELECT sum(tokens) FROM prompt_spans WHERE call_id = ?", call)
    assert tokens == [(answer["usage"]["prompt_tokens"],)]
    problems = dict(small_window.rows("SELECT kind, detail FROM problems WHERE call_id = ?", call))
    assert f"{len(missing)} messages: {missing[0]}-{missing[-1]};" in problems["dropped_by_server"]


@pytest.mark.parametrize("policy", ["refuse", "stopAtLimit"])
def test_a_prompt_that_is_refused_says_how_long_it_is(tmp_path: Path, policy: str) -> None:
    settings = Settings(port=0, switches={"context_length": "64", "overflow": policy})
    with before_lookalike(tmp_path / "refusing", settings) as saw:
        answer = saw.ask(user("word " * 200))
        assert answer["status"] == 400
        (call,) = saw.wait("SELECT id FROM calls WHERE error IS NOT NULL")
        (window,) = saw.rows(
            "SELECT context_length, prompt_tokens, prompt_counter, room FROM context_windows WHERE call_id = ?", call[0]
        )
        assert window[0] == 64
        assert window[1] > 200
        assert window[2] == "reported in the error"
        assert window[3] == 64 - window[1]
        fates = saw.rows("SELECT fate, dropped_by FROM message_fates WHERE call_id = ?", call[0])
        assert fates == [("missing", "refused")]
        problems = dict(saw.rows("SELECT kind, detail FROM problems WHERE call_id = ?", call[0]))
        assert "does not fit" in problems["context_refused"]


def test_anything_llm_is_explained_rightly(scripted: Saw) -> None:
    """Its system message has other passages each turn, and it leaves at the finish reason."""
    said: list[dict[str, Any]] = []
    for number, question in enumerate(("How much do they eat?", "And how heavy are they?")):
        said.append({"role": "user", "content": question})
        system = {"role": "system", "content": f"Answer from the context.\n[CONTEXT 0]: passage {number}"}
        body = {"model": scripted.model, "messages": [system, *said], "stream": True, "temperature": 0.7}
        got = stream(scripted.proxy.url, "/v1/chat/completions", body, leave_at=b'"finish_reason":"stop"')
        words = [json.loads(line[6:]) for line in got.splitlines() if line.startswith(b"data: {")]
        answer = "".join(one["choices"][0]["delta"].get("content") or "" for one in words)
        said.append({"role": "assistant", "content": answer})
    query = "SELECT * FROM calls WHERE last_input = 'And how heavy are they?' AND NOT is_observed"
    (call,) = scripted.wait(query)
    assert (call["label"], call["is_system_changed"], call["stop_reason"]) == ("continue", 1, "stop")
    ((prompt, confidence),) = scripted.rows(
        "SELECT text, confidence FROM rendered_prompts WHERE is_best AND call_id = ?", call["id"]
    )
    assert "passage 1" in prompt
    assert "passage 0" not in prompt
    assert confidence == 1.0
    fates = scripted.rows("SELECT position, fate, dropped_by FROM message_fates WHERE call_id = ?", call["id"])
    assert fates == [(0, "kept", None), (1, "kept", None), (2, "kept", None), (3, "kept", None)]


def test_what_seemed_to_be_nobodys_is_its_calls_once_an_sdks_socket_is_read(scripted: Saw) -> None:
    text = "over the SDK's socket, which stays open"
    with lmstudio.Client(scripted.proxy.authority) as client:
        client.llm.model(PLAIN).respond(text)
        seen = "SELECT id FROM calls WHERE operation = ? AND is_observed = ? AND last_input LIKE '%stays open%'"
        ((observed,),) = scripted.wait(seen, "prediction", 1)
    query = (
        "SELECT p.input_event_id, c.answer, e.text FROM calls c JOIN prompt_pairings p ON p.call_id = c.id"
        " JOIN engine_events e ON e.id = p.output_event_id WHERE c.operation = 'chat' AND c.last_input = ?"
    )
    ((event, answer, output),) = scripted.wait(query, text)
    assert event == observed
    assert answer == output == f"You said: {text}"
    assert scripted.rows(seen, "prediction", 1) == []
