"""What the models saw where no log tells it: asked of llama.cpp, computed from templates, hostile ones among them."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from proxy.demo.llama_process import LlamaProcess
from proxy.demo.lookalike_process import LookalikeProcess, Settings
from proxy.prompt.gguf import read_header
from proxy.prompt_index.indexer import PromptIndexer, PromptSettings
from proxy.store.prompts import PromptRows
from proxy.store.schema import open_for_writing
from tests.cli.recording import LMSTUDIO_URL
from tests.conftest import running
from tests.prompt_index.saw import Saw, post
from tests.store.traffic import Traffic, as_json, events, traffic, turns

OFFLINE = PromptSettings(ask=False)
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\\n' }}"
)
RHYME = "Un éléphant se balançait sur une toile d'araignée 🕷"


@pytest.fixture(scope="module")
def llama(llama_server: LlamaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Saw]:
    """A proxy before real llama.cpp."""
    with running(tmp_path_factory.mktemp("asked"), llama_server.url, {"prompt": {"ask": True}}) as proxy:
        yield Saw(proxy, llama_server.url, llama_server.model)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Traffic]:
    with traffic(tmp_path / "t.db") as one:
        yield one


def know_template(
    trace: Path, text: str, model: str = "m", *, url: str = LMSTUDIO_URL, at_us: int = 1, until_us: int | None = None
) -> None:
    with closing(open_for_writing(trace)) as connection:
        for when in (at_us, until_us or at_us):
            PromptRows(connection).template(
                text, upstream_url=url, model=model, source="props", detail=None, at_us=when
            )


def find_prompts(trace: Path, settings: PromptSettings = OFFLINE) -> None:
    prompts = PromptIndexer(trace, settings, encoding="off")
    try:
        while prompts.run_once():
            pass
    finally:
        prompts.close()


@pytest.mark.parametrize(
    "messages",
    [
        turns("Dis bonjour en français."),
        [{"role": "system", "content": "Réponds en un mot."}, *turns("Capitale de la France ?")],
        turns("Compte.", RHYME, "Continue."),
        turns(*["encore"] * 7),
    ],
)
def test_the_courses_requests_have_the_templates_exact_text_and_their_tokens_sum_exactly(
    llama: Saw, smollm2: Path, messages: list[dict[str, Any]]
) -> None:
    answer = llama.ask(messages, max_tokens=4, temperature=0)
    call = llama.call(answer["id"])
    ((text, source),) = llama.rows("SELECT text, source FROM rendered_prompts WHERE is_best AND call_id = ?", call)
    assert source == "asked"
    assert text == post(llama.upstream_url, "/apply-template", {"messages": messages})["prompt"]
    assert all(message["content"] in text for message in messages)
    spans = llama.rows("SELECT kind, position, tokens, text FROM prompt_spans WHERE call_id = ? ORDER BY seq", call)
    assert "".join(span[3] for span in spans) == text
    assert sum(span[2] for span in spans) == answer["usage"]["prompt_tokens"]
    assert [span[3] for span in spans if span[0] == "message"] == [message["content"] for message in messages]
    default = "You are a helpful AI assistant named SmolLM"
    if messages[0]["role"] != "system":
        assert default in read_header(smollm2).text("tokenizer.chat_template")
        assert default in spans[0][3]
        assert spans[0][0] == "template"
    counted = llama.rows("SELECT sum(tokens) FROM message_fates WHERE call_id = ? AND fate = 'kept'", call)
    template = sum(span[2] for span in spans if span[0] == "template")
    assert counted[0][0] + template == answer["usage"]["prompt_tokens"]
    (window,) = llama.rows(
        "SELECT prompt_tokens, server_tokens, context_length FROM context_windows WHERE call_id = ?", call
    )
    assert window == (answer["usage"]["prompt_tokens"],) * 2 + (2048,)


def test_the_very_first_call_names_the_template_that_makes_its_prompt(
    llama_server: LlamaProcess, tmp_path: Path
) -> None:
    with running(tmp_path, llama_server.url, {"prompt": {"ask": True}}) as proxy:
        llama = Saw(proxy, llama_server.url, llama_server.model)
        call = llama.call(llama.ask(turns("Which template?"), max_tokens=2)["id"])
        named = llama.rows(
            "SELECT p.source, t.source FROM rendered_prompts p JOIN prompt_templates t ON t.id = p.template_id"
            " WHERE p.call_id = ?",
            call,
        )
    assert ("asked", "props") in named


def test_a_completion_has_its_own_text_as_its_prompt(llama: Saw) -> None:
    answer = post(llama.proxy.url, "/v1/completions", {"model": llama.model, "prompt": RHYME, "max_tokens": 2})
    call = llama.call(answer["id"])
    assert llama.rows("SELECT text, confidence FROM rendered_prompts WHERE call_id = ?", call) == [(RHYME, 1.0)]


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "template_timed_out"),
        ("{{ 'a' * 10**10 }}", "template_too_large"),
        ("{{ ''.__class__.__mro__ }}", "template_unsafe"),
        ("{{ raise_exception('no system messages, please') }}", "template_refused"),
    ],
)
def test_a_hostile_template_is_a_problem_of_its_call_and_of_nothing_else(
    made: Traffic, template: str, kind: str
) -> None:
    hostile = made.chat(turns("hi"))
    other = made.exchange("/v1/chat/completions", as_json({"model": "n", "messages": turns("hi")}), b'{"model":"n"}')
    made.read()
    know_template(made.trace, template)
    know_template(made.trace, CHATML, "n")
    find_prompts(made.trace)
    problems = made.rows("SELECT exchange_id, kind FROM problems WHERE kind LIKE 'template%' OR kind = 'prompt_failed'")
    assert problems == [(hostile, kind)]
    texts = made.rows("SELECT c.exchange_id, p.text FROM rendered_prompts p JOIN calls c ON c.id = p.call_id")
    assert texts == [(other, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n")]
    assert made.values("SELECT count(*) FROM prompt_queue") == [0]


def test_each_server_has_its_own_template_for_a_models_name(made: Traffic) -> None:
    message = as_json({"model": "m", "messages": turns("hi")})
    calls = [made.exchange("/v1/chat/completions", message, b'{"model":"m"}', upstream=one) for one in ("a", "b", "c")]
    made.read()
    know_template(made.trace, "of a", url="http://a:1234")
    know_template(made.trace, "of b", url="http://b:1234")
    find_prompts(made.trace)
    texts = made.rows("SELECT c.exchange_id, p.text FROM rendered_prompts p JOIN calls c ON c.id = p.call_id")
    assert texts == [(calls[0], "of a"), (calls[1], "of b")]
    assert made.values("SELECT call_id FROM problems WHERE kind = 'prompt_unknown'") == [made.call(calls[2])["id"]]


def test_of_several_templates_the_one_in_force_at_the_calls_time_is_taken(made: Traffic) -> None:
    first, second = made.chat(turns("hi")), made.chat(turns("ho"))
    made.read()
    times = {
        one: made.values("SELECT started_at_us FROM calls WHERE exchange_id = ?", one)[0] for one in (first, second)
    }
    know_template(made.trace, "old", at_us=1, until_us=times[first] + 10_000)
    know_template(made.trace, "new", at_us=times[second], until_us=times[second] + 3_600_000_000)
    find_prompts(made.trace)
    texts = made.rows("SELECT c.exchange_id, p.text FROM rendered_prompts p JOIN calls c ON c.id = p.call_id")
    assert texts == [(first, "old"), (second, "new")]


def test_a_template_that_never_ends_is_tried_once_however_many_calls_there_are(made: Traffic) -> None:
    for number in range(40):
        made.chat(turns(f"call {number}"))
    made.read()
    know_template(made.trace, "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}")
    find_prompts(made.trace)
    assert made.values("SELECT count(*) FROM problems WHERE kind = 'template_timed_out'") == [40]


def test_a_window_that_is_full_in_the_middle_of_an_answer_is_no_refusal(made: Traffic) -> None:
    full = b'data: {"error":{"message":"Context size has been exceeded."}}\n\n'
    exchange = made.streamed_chat(turns("tell me all"), [*events("All", " of", reason=None), full])
    made.read()
    know_template(made.trace, CHATML)
    find_prompts(made.trace)
    call = made.call(exchange)["id"]
    assert made.rows("SELECT fate, dropped_by FROM message_fates WHERE call_id = ?", call) == [("kept", None)]
    kinds = made.values("SELECT kind FROM problems WHERE call_id = ? AND kind LIKE 'context%'", call)
    assert kinds == ["context_filled"]


def test_a_call_that_was_refused_has_no_prompt(made: Traffic) -> None:
    head = b"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\n\r\n"
    body = as_json({"model": "m", "messages": turns("hi"), "temperature": "hot"})
    made.exchange("/v1/chat/completions", body, b'{"error":{"message":"temperature: not a number"}}', head=head)
    made.read()
    know_template(made.trace, CHATML)
    find_prompts(made.trace)
    assert made.values("SELECT count(*) FROM calls") == [1]
    assert made.rows("SELECT * FROM rendered_prompts") == []
    assert made.rows("SELECT * FROM message_fates") == []


def test_tokens_in_anthropics_cache_are_in_the_window_too(made: Traffic) -> None:
    usage = {"input_tokens": 1, "cache_read_input_tokens": 1880, "cache_creation_input_tokens": 3, "output_tokens": 2}
    answer = {
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Yes."}],
        "stop_reason": "end_turn",
        "usage": usage,
    }
    body = as_json({"model": "m", "max_tokens": 9, "messages": turns("hi")})
    made.exchange("/v1/messages", body, as_json(answer))
    made.read()
    find_prompts(made.trace)
    assert made.values("SELECT reported_tokens FROM context_windows") == [1884]


def test_a_prompt_with_other_tokens_than_the_engine_got_says_nothing_of_fates(smollm2: Path, tmp_path: Path) -> None:
    switches = {"context_length": "256", "overflow": "truncateMiddle"}
    settings = Settings(model_file=str(smollm2), model="smollm2", port=0, switches=switches)
    with (
        LookalikeProcess.start(settings, log=tmp_path / "log") as look,
        running(tmp_path / "proxy", look.ready.url, {"prompt": {"ask": True}}) as proxy,
    ):
        saw = Saw(proxy, look.ready.url, look.ready.model)
        call = saw.call(saw.ask(turns(*[f"{number} {RHYME}" for number in range(15)]), max_tokens=3)["id"])
        told = saw.rows("SELECT source, confidence, note FROM rendered_prompts WHERE call_id = ?", call)
        fates = saw.rows("SELECT fate FROM message_fates WHERE call_id = ?", call)
        kinds = {kind for (kind,) in saw.rows("SELECT kind FROM problems WHERE call_id = ?", call)}
        page = proxy.run("explain", "last").stdout.decode()
    assert [(source, confidence) for source, confidence, _ in told] == [("asked", 0.1)]
    assert "not what the engine got" in told[0][2]
    assert fates == []
    assert "prompt_differs" in kinds
    assert "which messages it got is not known" in " ".join(page.split())
    assert "whole" not in page


def test_the_file_of_the_models_name_has_the_template(made: Traffic, tmp_path: Path) -> None:
    folder = tmp_path / "lm/models/apple/m"
    folder.mkdir(parents=True)
    (folder / "tokenizer_config.json").write_text('{"chat_template": "{{ messages[0].content }}!"}')
    made.chat(turns("hi"))
    made.read()
    find_prompts(made.trace, PromptSettings(ask=False, lmstudio_home=str(tmp_path / "lm")))
    assert made.rows("SELECT source, text FROM rendered_prompts") == [("computed", "hi!")]
    assert made.values("SELECT source FROM prompt_templates") == ["tokenizer"]


def test_without_any_source_the_call_says_so(made: Traffic) -> None:
    made.chat(turns("hi"))
    made.read()
    find_prompts(made.trace)
    ((kind, detail),) = made.rows("SELECT kind, detail FROM problems WHERE kind LIKE 'prompt%'")
    assert kind == "prompt_unknown"
    assert "no template of the model is known" in detail


def test_what_a_client_leaves_out_is_named_though_it_breaks_the_thread(made: Traffic) -> None:
    first = made.chat(turns("one", "two", "three"), "four")
    assert first
    shorter = made.chat([{"role": "user", "content": "three"}, *turns("five")[:0], *turns("x", "four", "five")[1:]])
    made.read()
    find_prompts(made.trace)
    call = made.call(shorter)["id"]
    left_out = made.rows(
        "SELECT text, fate, dropped_by FROM message_fates WHERE call_id = ? AND position IS NULL", call
    )
    assert left_out == [("one", "missing", "client"), ("two", "missing", "client")]
    assert made.values("SELECT dropped_by_client FROM context_windows WHERE call_id = ?", call) == [2]


def test_from_ninety_percent_of_the_window_on_problems_warns(made: Traffic) -> None:
    models = {"data": [{"id": "m", "state": "loaded", "loaded_context_length": 100, "max_context_length": 4096}]}
    made.exchange("/api/v0/models", b"", as_json(models), method="GET")
    calls = [made.chat(turns(f"{n}"), told={"usage": {"prompt_tokens": n, "completion_tokens": 1}}) for n in (89, 90)]
    made.read()
    find_prompts(made.trace)
    assert made.rows("SELECT exchange_id, detail FROM problems WHERE kind = 'context_nearly_full'") == [
        (calls[1], "90 of 100 tokens, 90% of the context window")
    ]
    shares = made.rows("SELECT share, room, context_source FROM context_windows ORDER BY call_id")
    assert shares == [(0.89, 11, "the model list of exchange 1"), (0.9, 10, "the model list of exchange 1")]


def test_what_was_asked_stays_when_readings_are_made_again(llama: Saw, tmp_path: Path) -> None:
    answer = llama.ask(turns("Stay."), max_tokens=2)
    call = llama.call(answer["id"])
    copy = tmp_path / "copy.db"
    with closing(sqlite3.connect(llama.proxy.trace)) as connection, closing(sqlite3.connect(copy)) as target:
        connection.backup(target)
    query = "SELECT seq, tokens, text FROM prompt_spans WHERE call_id = ? ORDER BY seq"
    with closing(sqlite3.connect(copy)) as connection:
        before = connection.execute(query, (call,)).fetchall()
    llama.proxy.run("reread", "--all", "--trace", str(copy))
    with closing(sqlite3.connect(copy)) as connection:
        assert connection.execute(query, (call,)).fetchall() == before
        sources = connection.execute("SELECT source FROM rendered_prompts WHERE is_best AND call_id = ?", (call,))
        assert sources.fetchall() == [("asked",)]
