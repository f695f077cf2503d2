"""`proxy-log explain` shows the five layers of a call, and says in words what changed between them."""

import io
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from proxy.cli.explain_page import page_lines
from proxy.cli.explain_parameters import parameter_lines
from proxy.cli.main import cli
from proxy.exchange import Outcome
from proxy.meaning import PromptSource
from proxy.store.call_layers import calls_of_exchange, read_layers
from proxy.store.trace import Trace
from tests.cli.explained import DEFAULT, Explained, chatml, explained
from tests.cli.recording import LMSTUDIO_URL
from tests.store.traffic import turns

Run = Callable[..., Result]
QUESTION = "What is the capital of France?"
TOOL = {
    "type": "function",
    "function": {"name": "add", "description": "Adds two numbers up.", "parameters": {"type": "object"}},
}


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Explained]:
    with explained(tmp_path / "t.db") as opened:
        yield opened


@pytest.fixture
def run(made: Explained) -> Run:
    """`run("1", "--json")` on that trace."""

    def explain(*arguments: str) -> Result:
        result = CliRunner().invoke(cli, ["explain", *arguments, "--trace", str(made.trace)])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return explain


def ask(made: Explained) -> int:
    """A question to which the template adds its default system prompt; gives the exchange."""
    return made.predicted(
        turns(QUESTION),
        chatml(("system", DEFAULT), ("user", QUESTION)),
        "Paris.",
        "Paris.",
        temperature=0.5,
        told={"usage": {"prompt_tokens": 37, "completion_tokens": 3, "total_tokens": 40}},
        stats={"stopReason": "eosFound", "promptTokensCount": 37, "predictedTokensCount": 3},
    )


def section(page: str, number: int) -> list[str]:
    """The lines of one layer, behind its title."""
    found = re.search(rf"^{number}  .*?\n(.*?)(?=^{number + 1}  |\Z)", page, re.MULTILINE | re.DOTALL)
    assert found, page
    return found[1].rstrip("\n").split("\n")


def changes(page: str, number: int) -> list[str]:
    return [line.removeprefix("  > ") for line in section(page, number) if line.startswith("  > ")]


def test_page_shows_all_layers_and_what_changed_between_them(made: Explained, run: Run) -> None:
    made.listen()
    exchange = ask(made)
    made.find_prompts()
    page = run(str(exchange)).stdout
    assert page.startswith("Call ")
    assert f"  exchange {exchange}  completed\n" in page
    assert "  window      the prompt takes 37 tokens; nobody told the context length\n" in page
    assert "  parameters  temperature=0.5" in section(page, 1)
    assert f"  0 user             \u2502 {QUESTION}" in section(page, 1)
    assert changes(page, 2) == [
        'the header Host was changed from "localhost:8234" to "localhost:1234"',
        "the body was passed on as it came, 103 bytes",
    ]
    assert changes(page, 3) == [
        f'the template added a default system prompt that the client never sent: "{DEFAULT}"',
        "the only message is in the prompt, whole",
        "148 of the prompt's 178 characters are the template's own",
    ]
    assert section(page, 4) == [
        "  output             \u2502 Paris.",
        "  told        stopped: eosFound, 37 tokens in, 3 tokens out, 0.5 s to the first token",
    ]
    assert changes(page, 5) == [
        "nothing changed: the client got the engine's output as it was",
        "the header Access-Control-Allow-Origin: * was added, so that web pages may read the answer (CORS)",
    ]
    assert section(page, 5)[2:] == ["  answer             \u2502 Paris.", "  stopped     stop"]


def test_prompt_tells_without_colour_where_each_line_is_from(made: Explained, run: Run) -> None:
    made.listen()
    exchange = ask(made)
    made.find_prompts()
    lines = section(run(str(exchange)).stdout, 3)
    first, second = (number for number, line in enumerate(lines) if not line)
    assert lines[second + 1 :] == [
        "  template           \u2502 <|im_start|>system\u21b5",
        f"                     \u2502 {DEFAULT}<|im_end|>\u21b5",
        "                     \u2502 <|im_start|>user\u21b5",
        f"  0 user             \u2502 {QUESTION}",
        "  template           \u2502 <|im_end|>\u21b5",
        "                     \u2502 <|im_start|>assistant\u21b5",
    ]
    assert [line.split() for line in lines[first + 1 : second]] == [
        ["from", "characters", "tokens", "share"],
        ["the", "template", "148", "-", "83%"],
        ["message", "0", "user", "30", "-", "17%"],
        ["together", "178", "-"],
    ]


def test_tokens_of_pieces_are_shown_where_they_were_counted(made: Explained, run: Run) -> None:
    made.listen()
    exchange = ask(made)
    made.find_prompts()
    made.change_rows("UPDATE read_prompt_spans SET tokens = 10 + seq")
    made.change_rows("UPDATE read_windows SET context_length = 40, context_source = '/props', prompt_tokens = 33")
    page = run(str(exchange)).stdout
    assert "  window      the prompt takes 37 of 40 tokens (92%); 3 left for the answer\n" in page
    assert "  tokens      37 reported by the server, 33 by the model's tokenizer\n" in page
    assert "context length told by /props" in page
    assert f"  0 user          11 \u2502 {QUESTION}\n" in page
    assert re.search(r"^  together +178 +33$", page, re.MULTILINE)


def test_tokens_that_do_not_fit_are_told(made: Explained, run: Run) -> None:
    made.listen()
    exchange = ask(made)
    made.find_prompts()
    made.change_rows("UPDATE read_windows SET context_length = 30")
    assert "  window      the prompt takes 37 of 30 tokens (123%); 7 too many\n" in run(str(exchange)).stdout


def test_colours_tell_messages_apart(made: Explained) -> None:
    made.listen()
    exchange = ask(made)
    made.find_prompts()
    with Trace.open(made.trace) as trace:
        layers = read_layers(trace, made.call(exchange)["id"])
    assert layers
    console = Console(file=io.StringIO(), force_terminal=True, color_system="standard", width=80, soft_wrap=True)
    for line in page_lines(layers, [layers.call["id"]], 80, is_full=False):
        console.print(line, no_wrap=True)
    assert isinstance(console.file, io.StringIO)
    assert f"\x1b[36m{QUESTION}" in console.file.getvalue()
    assert "\x1b[2m<|im_start|>user" in console.file.getvalue()


@pytest.mark.parametrize("width", [80, 60, 120])
def test_lines_fit_the_terminal(made: Explained, width: int) -> None:
    made.listen()
    long = "An elephant went out to play. " * 30 + "\u5927\u8c61" * 80 + "\ttabs\r\n" + "x" * 300
    made.predicted(turns(long), chatml(("system", DEFAULT), ("user", long)), long, long, stop=["a" * 200])
    made.find_prompts()
    with Trace.open(made.trace) as trace:
        layers = read_layers(trace, calls_of_exchange(trace.connection, 2)[0])
    assert layers
    for is_full in (False, True):
        lines = list(page_lines(layers, [1, 2], width, is_full=is_full))
        assert max(line.cell_len for line in lines) < width


def test_prompt_alone_is_written_byte_for_byte(made: Explained, run: Run) -> None:
    made.listen()
    text = "Umlaute: \u00fc,\r\ntabs\tand \u5927\u8c61, \x1b[31m and no line end"
    exchange = made.predicted(turns(text), f"<|user|>\n{text}", "ok", "ok")
    made.find_prompts()
    assert run(str(exchange), "--prompt").stdout_bytes == f"<|user|>\n{text}".encode()
    assert "\x1b" not in run(str(exchange)).stdout


def test_where_there_is_no_prompt_the_reason_is_told(made: Explained, run: Run) -> None:
    exchange = made.chat(turns(QUESTION), "Paris.")
    made.find_prompts()
    page = run(str(exchange)).stdout
    assert "3  The prompt the engine saw   not known\n" in page
    assert "no template of the model is known" in section(page, 3)[0]
    assert section(page, 4)[0] == "  nobody listened to the engine's log at that time"
    result = run(str(exchange), "--prompt")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"Error: the prompt of call {made.call(exchange)['id']} is not known: ")


def test_prompt_that_is_still_looked_for_is_not_given_up(made: Explained, run: Run) -> None:
    exchange = made.chat(turns(QUESTION), "Paris.")
    made.read()
    page = run(str(exchange)).stdout
    for number in (3, 4):
        assert section(page, number)[0] == "  it is still looked for (by proxy-log serve, while that runs)"


def test_embedding_has_no_prompt_to_look_for(made: Explained, run: Run) -> None:
    answer = b'{"data":[{"index":0,"embedding":[0.5]}],"model":"m"}'
    exchange = made.exchange("/v1/embeddings", b'{"model":"m","input":"mice"}', answer)
    made.find_prompts()
    page = run(str(exchange)).stdout
    assert section(page, 3)[0] == "  prompts are found for chats and completions; this is an embedding"


def test_two_sources_are_compared(made: Explained, run: Run) -> None:
    made.listen()
    exchange = ask(made)
    made.find_prompts()
    with made.rows_of_prompts() as rows:
        template = rows.template(
            "{{ jinja }}", upstream_url=LMSTUDIO_URL, model="m", source="props", detail="of llama.cpp", at_us=1
        )
        text = chatml(("system", "You are a pirate"), ("user", QUESTION))
        call_id = made.call(exchange)["id"]
        source = PromptSource.COMPUTED
        rows.put_text(call_id, source, text, confidence=0.7, template_id=template, note="a guess", at_us=1)
    page = run(str(exchange)).stdout
    assert "3  The prompt the engine saw   observed in the engine's log, confidence 1.00\n" in page
    assert changes(page, 3)[-1].startswith(
        'the prompt computed differs from the one observed, from character 30 on: it has "pirate<|im_end|>" where'
    )
    made.change_rows("DELETE FROM read_prompts WHERE source = 'observed'")
    page = run(str(exchange)).stdout
    assert "3  The prompt the engine saw   computed from the template, confidence 0.70\n" in page
    assert "  note        a guess\n" in page
    assert "  template    props (of llama.cpp)\n" in page
    assert "  > which text of the prompt came from where is not found out\n" in page


def test_reasoning_and_tool_call_are_told_as_they_were_rewritten(made: Explained, run: Run) -> None:
    made.listen()
    definition = json.dumps(TOOL)
    prompt = chatml(("system", f"You can call:\n{definition}"), ("user", "add 2 and 3"))
    raw = '[TOOL_REQUEST]{"name": "add", "arguments": {"a": 2}}[END_TOOL_REQUEST]'
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":2}'}}
    answer = {"role": "assistant", "content": None, "reasoning_content": "They add.", "tool_calls": [call]}
    exchange = made.predicted(turns("add 2 and 3"), prompt, f"<think>They add.</think>{raw}", answer, tools=[TOOL])
    made.find_prompts()
    page = run(str(exchange)).stdout
    assert "  tools       add\n" in page
    assert "the tool definition was put into the system turn" in changes(page, 3)
    assert re.search(r'^  tool 0 add +\u2502 \{"type": "function", "function": ', page, re.MULTILINE)
    assert changes(page, 5)[:2] == [
        "<think> text moved to reasoning_content, 9 characters",
        f'the tool call "{raw}" was rewritten as the tool call add({{"a":2}})',
    ]
    assert '  tool call          \u2502 add({"a":2})' in section(page, 5)


def test_what_the_server_dropped_is_named(made: Explained, run: Run) -> None:
    made.listen()
    said = [f"This is what was said as number {number}." for number in range(5)]
    exchange = made.predicted(turns(*said), chatml(("user", said[0]), ("user", said[4])), "Yes.", "Yes.")
    made.find_prompts()
    page = run(str(exchange)).stdout
    assert "messages 1 to 3 are not in the prompt: dropped by the server" in changes(page, 3)
    assert re.search(r"^  note +dropped_by_server: 3 messages", page, re.MULTILINE)


def test_anythingllm_that_changes_its_system_prompt_and_leaves_at_the_end_is_explained(
    made: Explained, run: Run
) -> None:
    made.listen()
    first = [{"role": "system", "content": "Context 1: mice are small."}, *turns("How large are mice?")]
    made.predicted(first, chatml(("system", first[0]["content"]), ("user", first[1]["content"])), "Small.", "Small.")
    second = [
        {"role": "system", "content": "Context 2: cats are larger."},
        *turns("How large are mice?", "Small.", "And how large are cats?"),
    ]
    prompt = chatml(*((one["role"], one["content"]) for one in second))
    exchange = made.predicted(second, prompt, "Larger.", "Larger.", outcome=Outcome.CLIENT_GONE)
    made.find_prompts()
    page = run(str(exchange)).stdout
    parent = made.call(exchange)["parent_id"]
    assert changes(page, 1) == [f"the system messages are not those of the turn before (call {parent})"]
    assert changes(page, 3)[0] == "all 4 messages are in the prompt, whole"
    assert changes(page, 5)[:2] == [
        "nothing changed: the client got the engine's output as it was",
        "the client closed the connection when the answer had come to its end (stop)",
    ]


def test_client_that_left_messages_out_is_told_of(made: Explained, run: Run) -> None:
    made.listen()
    long = turns("How large are mice, tell me?", "They are rather small.", "And how large are cats?")
    prompt = chatml(*((one["role"], one["content"]) for one in long))
    made.predicted(long, prompt, "Cats are larger.", "Cats are larger.")
    short = turns("And how large are cats?", "Cats are larger.", "And what about dogs?")
    prompt = chatml(*((one["role"], one["content"]) for one in short))
    exchange = made.predicted(short, prompt, "Larger.", "Larger.")
    made.find_prompts()
    assert changes(run(str(exchange)).stdout, 1) == [
        'the client left out 2 messages of the turn before: user "How large are mice, tell me?" and assistant'
        ' "They are rather small."'
    ]


def test_prediction_that_nobody_proxied_is_explained_from_the_log_alone(made: Explained, run: Run) -> None:
    made.listen()
    made.logged("input", chatml(("user", "typed by hand")))
    made.recording.at_ms += 100
    made.logged("output", "Hello.", stats={"stopReason": "eosFound"})
    made.find_prompts()
    page = run(str(made.log)).stdout
    assert "1  What the client sent   not known\n  nobody proxied this call" in page
    assert "                     \u2502 typed by hand<|im_end|>\u21b5\n" in page
    assert "  output             \u2502 Hello.\n" in page
    assert "  > " not in page, "nothing is compared with what is not known"
    assert "seen in the engine's log alone\n" in page
    settings = run(str(made.log), "--parameters").stdout
    assert "the engine's log tells none of a call that nobody proxied" in settings


def test_json_holds_all_layers(made: Explained, run: Run) -> None:
    made.listen()
    exchange = ask(made)
    made.find_prompts()
    found = json.loads(run(str(exchange), "--json").stdout)
    assert list(found) == [
        *("exchange", "call", "request", "forwarded", "prompt", "output", "answer", "window", "problems")
    ]
    assert found["request"]["messages"] == [
        {"role": "user", "text": QUESTION, "parts": [{"kind": "text", "text": QUESTION}]}
    ]
    assert found["request"]["parameters"][0]["name"] == "temperature"
    assert found["forwarded"]["to"] == "http://localhost:1234"
    prompt = found["prompt"]
    assert (prompt["source"], prompt["confidence"], prompt["why"]) == ("observed", 1.0, None)
    assert "".join(prompt["text"][one["start"] : one["end"]] for one in prompt["spans"]) == prompt["text"]
    assert [(one["kind"], one["position"]) for one in prompt["spans"]] == [
        *(("template", None), ("message", 0), ("template", None))
    ]
    assert [one["fate"] for one in prompt["fates"]] == ["kept"]
    assert found["output"]["text"] == "Paris."
    assert found["output"]["stats"]["stopReason"] == "eosFound"
    assert found["answer"]["differences"][0].startswith("nothing changed")
    assert found["window"]["prompt_tokens"] == 37


def test_one_of_several_calls_is_chosen_by_its_id(made: Explained, run: Run) -> None:
    made.listen()
    for number in range(3):
        made.logged("input", f"<|user|>\nprompt number {number}")
        made.recording.at_ms += 1000
        made.logged("output", f"output number {number}")
    made.find_prompts()
    calls = made.values("SELECT id FROM calls ORDER BY id")
    assert len(calls) == 3
    assert "output number 2" in run(str(made.log)).stdout
    assert f"one of 3 calls in the exchange; --call N: {calls[0]}, {calls[1]}\n" in run(str(made.log)).stdout
    assert "output number 1" in run(str(made.log), "--call", str(calls[1])).stdout
    result = run(str(made.log), "--prompt")
    assert result.stdout == "<|user|>\nprompt number 2"
    assert result.stderr.startswith(f"Note: this is call {calls[2]}; ")
    result = run(str(made.log), "--call", "999")
    assert result.stderr == f"Error: exchange {made.log} has no call 999; its calls are {', '.join(map(str, calls))}\n"


@pytest.mark.parametrize(("which", "number"), [("last", 2), ("-1", 2), ("-2", 1)])
def test_last_is_the_last_exchange_with_a_call(made: Explained, run: Run, which: str, number: int) -> None:
    for _ in range(2):
        made.chat(turns(QUESTION), "Paris.")
    made.exchange("/v1/models", b"", b'{"data":[]}', method="GET")
    made.find_prompts()
    assert f"  exchange {number}  " in run(which).stdout


def test_exchange_without_a_call_is_an_error_that_names_one_with(made: Explained, run: Run) -> None:
    assert run("-1").stderr == (
        "Error: there is no exchange -1 with a call in it; proxy-log calls lists the calls there are\n"
    )
    made.chat(turns(QUESTION), "Paris.")
    made.exchange("/v1/models", b"", b'{"data":[]}', method="GET")
    made.find_prompts()
    assert run("2").stderr == "Error: exchange 2 asked no model for anything; the last with a call is 1\n"
    assert run("3").stderr == "Error: there is no exchange 3; the newest is 2\n"
    made.chat(turns(QUESTION), "Paris.")
    made.recording.take_in()
    assert run("3").stderr == "Error: exchange 3 is not read yet; proxy-log index reads it\n"
    assert run("last").stderr.startswith("Note: 1 exchange is not read yet; ")


def test_long_texts_are_cut_unless_all_is_wanted(made: Explained, run: Run) -> None:
    made.listen()
    long = "\n".join(f"line {number}" for number in range(100))
    exchange = made.predicted(turns(long), chatml(("user", long)), "Yes.", "Yes.")
    made.find_prompts()
    page = run(str(exchange)).stdout
    assert "lines more; --full shows them)" in page
    assert "\u2502 line 50\u21b5" not in page
    page = run(str(exchange), "--full").stdout
    assert "--full" not in page
    assert page.count("\u2502 line 50\u21b5") == 2, "in the request and in the prompt"


def test_many_messages_are_cut_in_the_middle(made: Explained, run: Run) -> None:
    made.listen()
    said = [f"This is what was said as number {number}." for number in range(41)]
    messages = turns(*said)
    prompt = chatml(*((one["role"], one["content"]) for one in messages))
    exchange = made.predicted(messages, prompt, "Yes.", "Yes.")
    made.find_prompts()
    page = run(str(exchange)).stdout
    assert "messages more; --full shows them)" in page
    assert "pieces more; --full shows them)" in page
    assert "number 0." in page
    assert "number 20." not in page
    assert "number 40." in page
    assert run(str(exchange), "--full").stdout.count("number 20.") == 2


def test_parameters_tell_which_setting_won(made: Explained, run: Run) -> None:
    exchange = made.chat(turns(QUESTION), "Paris.", more={"temperature": 0.25})
    made.find_prompts()
    page = run(str(exchange), "--parameters").stdout
    lines = page.splitlines()
    assert lines[1].split() == ["setting", "request", "base", "in", "force", "won"]
    assert lines[2].split() == ["temperature", "0.25", "-", "-", "unknown"]
    assert "proxy-log precedence finds out" in page
    assert "Nobody told anything of " in page
    assert "top_p" in page


def test_parameters_are_asked_for_in_vain_in_a_trace_that_has_none() -> None:
    """Of a version before."""
    connection = sqlite3.connect(":memory:")
    (line,) = parameter_lines(connection, 1, 80)
    assert "serve brings it up to date" in line.plain
    connection.close()
