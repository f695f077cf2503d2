"""`proxy-log show` gives one exchange: readable, as JSON, or its very bytes."""

import gzip
import json
import re
import subprocess
import sys

import pytest

from proxy.exchange import Outcome, Side
from proxy.record.journal import Gap, Kind, Response
from tests.cli.conftest import Run
from tests.cli.conversations import ask, read, record_conversations, said
from tests.cli.recording import ANSWER, CHAT, EVENTS, Recording

MASKED = b'{"tools":[{"authorization":"secret"}]}'


def _frame(opcode: int, payload: bytes, *, is_masked: bool = False) -> bytes:
    key = b"\0\0\0\0" if is_masked else b""
    return bytes([0x80 | opcode, len(payload) | (0x80 if is_masked else 0)]) + key + payload


def test_page_tells_heads_bodies_chunks_and_times(recorded: Recording, run: Run) -> None:
    recorded.chat()
    recorded.take_in()
    lines = run("show", "1").stdout.splitlines()
    assert lines[0] == "Exchange 1  POST /v1/chat/completions  200 OK  completed"
    assert "from 127.0.0.1:50123 to lmstudio (http://localhost:1234)" in lines[1]
    assert lines[2] == "request complete 82ms  first byte 83ms  done 85ms"
    page = "\n".join(lines)
    assert (
        "\nRequest  96 bytes in 1 chunk\n  POST /v1/chat/completions HTTP/1.1\n- Host: localhost:8234\n+ Host:" in page
    )
    assert '\n  {\n    "model": "smollm2-135m-instruct",\n    "messages": [\n' in page
    assert '    "temperature": 1.50\n' in page, "numbers stay as they were written"
    assert "\nResponse  96 bytes in 1 chunk\n  200 OK\n  Content-Type: application/json\n+ Access-Control-" in page
    assert '"content": "Hello! \u00fc"' in page
    assert re.search(r"\n +83\.0ms +\+83\.0ms  upstream    96  \{\"choices\":", page)


def test_stream_is_shown_as_text_and_in_time(recorded: Recording, run: Run) -> None:
    recorded.stream()
    recorded.take_in()
    page = run("show", "last").stdout
    assert "\n  Once upon a time there was a mouse.\n" in page
    assert re.search(r"\n +65\.0ms  \+12\.5ms  upstream   102  ' upon' data: \{", page)
    assert "Chunks" not in run("show", "last", "--no-chunks").stdout


def test_long_list_of_chunks_is_cut_unless_all_are_wanted(recorded: Recording, run: Run) -> None:
    exchange = recorded.begin_stream()
    recorded.data(exchange, Side.UPSTREAM, *EVENTS[:1] * 500)
    recorded.close(exchange)
    recorded.take_in()
    assert "  469 chunks more; --chunks lists them all\n" in run("show", "1").stdout
    assert len(re.findall(r"  upstream +101  ", run("show", "1").stdout)) == 31
    assert len(re.findall(r"  upstream +101  ", run("show", "1", "--chunks").stdout)) == 500


@pytest.mark.parametrize(("which", "number"), [("2", 2), ("last", 3), ("-1", 3), ("-3", 1)])
def test_exchange_is_named_by_number_or_from_the_end(recorded: Recording, run: Run, which: str, number: int) -> None:
    for _ in range(3):
        recorded.chat()
    recorded.take_in()
    assert run("show", which).stdout.startswith(f"Exchange {number} ")


@pytest.mark.parametrize("which", ["4", "-4", "0"])
def test_exchange_that_is_not_there_is_an_error(recorded: Recording, run: Run, which: str) -> None:
    for _ in range(3):
        recorded.chat()
    recorded.take_in()
    result = run("show", which)
    assert (result.exit_code, result.stderr) == (1, f"Error: there is no exchange {which}; the newest is 3\n")


def test_websocket_is_shown_message_by_message(recorded: Recording, run: Run) -> None:
    head = b"GET /llm HTTP/1.1\r\nHost: localhost:8234\r\nUpgrade: websocket\r\n"
    exchange = recorded.open(head, is_websocket=True)
    recorded.respond(exchange, b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n")
    recorded.data(exchange, Side.CLIENT, _frame(1, b'{"authVersion":1}', is_masked=True), every_ms=1)
    recorded.data(exchange, Side.UPSTREAM, _frame(1, b'{"success":true}'), every_ms=1500)
    recorded.data(exchange, Side.CLIENT, _frame(9, b"", is_masked=True), every_ms=1)
    recorded.data(exchange, Side.UPSTREAM, _frame(8, b"\x03\xe8bye"), every_ms=1)
    recorded.close(exchange)
    recorded.take_in()
    page = run("show", "1").stdout
    messages = [line.split(maxsplit=4) for line in page.partition("Messages\n")[2].splitlines()[1:]]
    assert messages == [
        ["1.0ms", "client", "17", '{"authVersion":1}'],
        ["1.50s", "+1.50s", "upstream", "16", '{"success":true}'],
        ["1.50s", "+1.0ms", "client", "0", "ping"],
        ["1.50s", "+1.0ms", "upstream", "5", "close 1000 bye"],
    ]
    found = json.loads(run("show", "1", "--json").stdout)
    assert [(chunk["side"], chunk["kind"]) for chunk in found["chunks"]] == [
        *(("client", "text"), ("client", "ping")),
        *(("upstream", "text"), ("upstream", "close")),
    ]


def test_failure_gap_mask_and_early_hint_are_told(recorded: Recording, run: Run) -> None:
    exchange = recorded.open()
    recorded.data(exchange, Side.CLIENT, MASKED)
    recorded.write(Kind.INTERIM, exchange, b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n")
    recorded.gap(exchange, Gap(recorded.now_ns, 0, 2, 0, 77, reason="the disk was full"))
    recorded.close(exchange, Outcome.UPSTREAM_GONE, "the connection was reset")
    recorded.take_in()
    page = run("show", "1").stdout
    assert "  no response  upstream_gone\n" in page
    assert "\nthe connection was reset\n" in page
    assert "\n1 value is masked in what follows\n" in page
    assert re.search(r"\nNot recorded: 2 records, 0 \+ 77 body bytes, at .*: the disk was full\n", page)
    raw = run("show", "1", "--raw", "request")
    assert raw.stderr.startswith("Note: 1 value")
    assert "Note: not all of it could be recorded" in raw.stderr
    assert b"[masked:" in raw.stdout_bytes


def test_answer_of_the_proxy_itself_is_told(recorded: Recording, run: Run) -> None:
    exchange = recorded.open(b"", upstream="")
    recorded.data(exchange, Side.CLIENT, b"GARBAGE\r\n\r\n")
    recorded.write(Kind.RESPONSE, exchange, Response(b"", b"HTTP/1.1 400 Bad Request\r\n").pack())
    recorded.close(exchange, error="the request line is malformed")
    recorded.take_in()
    page = run("show", "1").stdout
    assert page.startswith("Exchange 1  (malformed)   400 Bad Request  completed\n")
    assert "to nobody: the proxy answered" in page
    assert "\n  400 Bad Request\n" in page


@pytest.mark.parametrize("body", [CHAT, bytes(range(256)) * 40, gzip.compress(ANSWER, mtime=0), b"\xff", b"\r\n"])
def test_raw_gives_the_very_bytes(recorded: Recording, run: Run, body: bytes) -> None:
    recorded.chat(body, body[::-1])
    recorded.take_in()
    request, response = run("show", "1", "--raw", "request"), run("show", "1", "--raw", "response")
    assert (request.stdout_bytes, request.stderr) == (body, "")
    assert (response.stdout_bytes, response.stderr) == (body[::-1], "")


def test_raw_gives_a_stream_whole(recorded: Recording, run: Run) -> None:
    recorded.stream()
    recorded.take_in()
    assert run("show", "1", "--raw", "response").stdout_bytes == b"".join(EVENTS)


def test_raw_of_a_running_exchange_says_so(recorded: Recording, run: Run) -> None:
    exchange = recorded.begin_stream()
    recorded.data(exchange, Side.UPSTREAM, *EVENTS[:4])
    recorded.take_in()
    raw = run("show", "1", "--raw", "response")
    assert b"".join(EVENTS[:4]).startswith(raw.stdout_bytes)
    assert raw.stderr.startswith("Note: the exchange is still running")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_raw_of_a_huge_body_keeps_memory_flat(recorded: Recording) -> None:
    exchange = recorded.open()
    part = bytes(range(256)) * 4096
    for number in range(100):
        recorded.data(exchange, Side.CLIENT, number.to_bytes(4, "big") + part)
    recorded.close(exchange)
    recorded.take_in()
    program = (
        "import sys; from pathlib import Path; from proxy.cli.main import cli\n"
        "cli(['show', '1', '--raw', 'request'], standalone_mode=False)\n"
        "sys.stderr.write(Path('/proc/self/status').read_text())"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert len(ran.stdout) == 100 * (4 + len(part))
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", ran.stderr.decode())
    assert int(peak) < 80_000, "the body has 100 MiB"


def test_json_holds_everything(recorded: Recording, run: Run) -> None:
    recorded.chat(CHAT, b"\xff\xfe")
    recorded.take_in()
    found = json.loads(run("show", "1", "--json").stdout)
    assert found["request_body"] == {"text": CHAT.decode()}
    assert found["response_body"] == {"base64": "//4="}
    assert found["sent_headers"] == [["Content-Type", "application/json"], ["Access-Control-Allow-Origin", "*"]]
    assert [(chunk["side"], chunk["bytes"], chunk["at_ms"]) for chunk in found["chunks"]] == [
        *(("client", 96, 0.0), ("upstream", 2, 83.0)),
    ]
    assert found["gaps"] == []
    assert "chunks" not in json.loads(run("show", "1", "--json", "--no-chunks").stdout)


# --- readings ---------------------------------------------------------------------------------------------------------


def _reading(page: str) -> dict[str, list[str]]:
    """The lines of the section "Reading" by what stands before them."""
    found: dict[str, list[str]] = {}
    label = ""
    for line in page.partition("\nReading ")[2].partition("\n\nRequest ")[0].splitlines()[1:]:
        label = line[:14].strip() or label
        found.setdefault(label, []).append(line[14:])
    return found


def test_reading_tells_what_was_asked_and_answered(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    page = run("show", "7").stdout
    assert "\nReading  call 7: chat by openai_chat, streamed\n" in page
    reading = _reading(page)
    assert reading["model"] == ["qwen3-4b, answered by qwen3-4b-q4_k_m"]
    assert reading["label"] == ["new, conversation 7"]
    (parameters,) = reading["parameters"]
    assert "max_tokens=4 (request)" in parameters
    assert "unknown" not in parameters, "only what somebody told"
    assert reading["input"] == [
        *("system     You are a poet.", "           You write in verses.", "           Be brief."),
        "user       Write about the sea.",
    ]
    assert reading["answer"] == ["assistant  The sea is d\u00e9ep"]
    assert reading["stopped"] == ["length (sent as 'length')"]


def test_reading_keeps_reported_and_measured_apart(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    plain, streamed = _reading(run("show", "1").stdout), _reading(run("show", "7").stdout)
    assert plain["reported"] == [
        "tokens in 31, tokens out 12, tokens in all 43, first token after 0.125s, tok/s 61.2, generation 0.2s"
    ]
    assert plain["measured"] == ["first byte after 83ms, whole 85ms"]
    assert streamed["reported"] == ["tokens in 20, tokens out 4, tokens in all 24"]
    assert "tok/s 50.0" in streamed["measured"][0]


def test_reading_tells_its_place_in_a_conversation(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    assert _reading(run("show", "3").stdout)["label"] == ["branch, goes on from call 1, conversation 1"]


def test_reading_tells_errors_and_tool_calls(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    assert _reading(run("show", "8").stdout)["error"] == ["model_not_found: no model is loaded"]
    asked, resulted = _reading(run("show", "5").stdout), _reading(run("show", "6").stdout)
    assert asked["answer"] == ['assistant  weather({"city":"Paris"})']
    assert resulted["input"][-1] == "tool       [tool result] 18 degrees, rain"


def test_long_reading_is_cut_unless_all_is_wanted(recorded: Recording, run: Run) -> None:
    texts = [f"Message {number}." for number in range(31)]
    ask(recorded, said(*texts[:-1], "\n".join(map(str, range(100)))), "x" * 1000)
    read(recorded)
    short, whole = _reading(run("show", "1").stdout), _reading(run("show", "1", "--full").stdout)
    assert short["input"][:2] == ["user       Message 0.", "19 messages more; --full shows them"]
    assert short["input"][2] == "assistant  Message 20." or short["input"][2] == "user       Message 20."
    assert short["input"][-1] == "           94 more lines; --full shows them"
    assert short["answer"][0].endswith("x\u2026")
    assert len(whole["input"]) == 130
    assert whole["answer"] == ["assistant  " + "x" * 1000]


def test_reading_of_what_is_no_call_is_told(recorded: Recording, run: Run) -> None:
    exchange = recorded.open(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n")
    recorded.respond(exchange)
    recorded.data(exchange, Side.UPSTREAM, b'{"object":"list","data":[{"id":"m","object":"model"}]}')
    recorded.close(exchange)
    read(recorded)
    assert "\nReading  models by " in run("show", "1").stdout
    (reading,) = json.loads(run("show", "1", "--json").stdout)["readings"]
    assert reading["operation"] == "models"
    assert "stop_reason" not in reading


def test_exchange_that_is_not_read_has_no_reading(recorded: Recording, run: Run) -> None:
    recorded.chat()
    recorded.take_in()
    assert "Reading" not in run("show", "1").stdout
    assert json.loads(run("show", "1", "--json").stdout)["readings"] == []


def test_json_has_readings(recorded: Recording, run: Run) -> None:
    record_conversations(recorded)
    read(recorded)
    (reading,) = json.loads(run("show", "7", "--json").stdout)["readings"]
    assert (reading["id"], reading["dialect"], reading["label"]) == (7, "openai_chat", "new")
    assert [message["role"] for message in reading["messages"]] == ["system", "user"]
    assert [message["text"] for message in reading["answers"]] == ["The sea is d\u00e9ep"]
    assert {"max_tokens": 4}.items() <= {each["name"]: each["value"] for each in reading["parameters"]}.items()
    assert all(each["origin"] == "request" for each in reading["parameters"])
    (refused,) = json.loads(run("show", "8", "--json").stdout)["readings"]
    assert [problem["detail"] for problem in refused["problems"]] == ["no model is loaded"]
    (tools,) = json.loads(run("show", "5", "--json").stdout)["readings"]
    assert tools["answers"][0]["parts"][0]["name"] == "weather"


def test_foreign_text_in_a_reading_cannot_steer_the_terminal(recorded: Recording, run: Run) -> None:
    evil = "\x1b[2J\x9b\u202e"
    fields = {"model": evil, "stop": [evil], f"x{evil}": evil}
    ask(recorded, [{"role": f"user{evil}", "content": evil}], {"role": "assistant", "content": evil}, **fields)
    read(recorded)
    assert not re.search("[\x1b\x9b\u202e]", run("show", "1", "--no-chunks").stdout)
