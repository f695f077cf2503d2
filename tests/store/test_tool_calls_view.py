"""Tool calls of every answer, each with its own result: by id where there are ids, else by tool and order."""

import json
from typing import Any

import pytest

from proxy.indexer import IndexSettings
from tests.store.traffic import Traffic, as_json, events, turns

MCP = [{"type": "text", "text": "found"}]


def ollama_call(tool: str, *, id: str | None = None, **arguments: Any) -> dict[str, Any]:
    """A tool call as Ollama writes it; only newer versions give an id."""
    return {"function": {"name": tool, "arguments": arguments}, **({"id": id} if id else {})}


def calls_tools(*calls: dict[str, Any]) -> dict[str, Any]:
    """An answer that is nothing but tool calls."""
    return {"role": "assistant", "content": "", "tool_calls": list(calls)}


def result(tool: str, content: str) -> dict[str, str]:
    """A result as Ollama's clients send it back."""
    return {"role": "tool", "tool_name": tool, "content": content}


def ollama(made: Traffic, messages: list[dict[str, Any]], answer: dict[str, Any]) -> int:
    """A chat with Ollama, not streamed."""
    told = {"model": "m", "message": answer, "done": True, "done_reason": "stop"}
    return made.exchange("/api/chat", as_json({"model": "m", "messages": messages, "stream": False}), as_json(told))


def results(made: Traffic, exchange: int) -> list[tuple[Any, ...]]:
    """Tool, arguments and result of each call in an exchange's answers."""
    return made.rows(
        "SELECT tool, arguments, result FROM tool_calls WHERE exchange_id = ? ORDER BY choice, position", exchange
    )


def choice(index: int, message: dict[str, Any], reason: str) -> dict[str, Any]:
    """One of several choices of an answer that comes whole."""
    return {"index": index, "message": {"role": "assistant", **message}, "finish_reason": reason}


def openai_call(id: str, **arguments: Any) -> dict[str, Any]:
    """A call of the tool `find` as OpenAI writes it."""
    return {"id": id, "type": "function", "function": {"name": "find", "arguments": json.dumps(arguments)}}


def two_choices(made: Traffic, messages: list[dict[str, Any]], first: dict[str, Any], second: dict[str, Any]) -> int:
    """A chat completion with n = 2."""
    body = as_json({"model": "m", "messages": messages, "n": 2})
    return made.exchange("/v1/chat/completions", body, as_json({"model": "m", "choices": [first, second]}))


# --- results in the same answer ---------------------------------------------------------------------------------------


def test_tool_that_lm_studio_ran_twice_has_the_result_of_each_run(made: Traffic) -> None:
    add = [
        {"type": "tool_call", "tool": "add", "arguments": {"a": number}, "output": str(number + 1)} for number in (1, 2)
    ]
    output = [add[0], {"type": "tool_call", "tool": "find", "arguments": {}, "output": MCP}, add[1]]
    answer = {"model_instance_id": "m", "output": [*output, {"type": "message", "content": "Done."}]}
    exchange = made.exchange("/api/v1/chat", as_json({"model": "m", "input": "add"}), as_json(answer))
    made.read()
    assert results(made, exchange) == [
        ("add", '{"a":1}', "2"),
        ("find", "{}", '[{"type":"text","text":"found"}]'),
        ("add", '{"a":2}', "3"),
    ]


def test_results_that_come_after_all_the_calls_are_told_apart(made: Traffic) -> None:
    """In a stream without its end LM Studio's events stand as they came."""
    told: list[tuple[str, dict[str, Any]]] = [
        *(("tool_call.start", {"tool": "add"}) for _ in range(2)),
        *(("tool_call.arguments", {"tool": "add", "arguments": {"a": number}}) for number in (1, 2)),
        *(("tool_call.success", {"tool": "add", "arguments": {"a": n}, "output": str(n + 1)}) for n in (1, 2)),
    ]
    stream = [f"event: {name}\ndata: ".encode() + as_json({"type": name, **data}) + b"\n\n" for name, data in told]
    body = as_json({"model": "m", "input": "add", "stream": True})
    exchange = made.exchange("/api/v1/chat", body, stream)
    made.read()
    assert sorted(results(made, exchange)) == [("add", '{"a":1}', "2"), ("add", '{"a":2}', "3")]


def test_call_that_could_not_be_made_has_the_reason_as_its_result(made: Traffic) -> None:
    """Its name may be missing."""
    invalid = [{"type": "invalid_tool_call", "reason": reason} for reason in ("No such tool.", "Bad arguments.")]
    answer = {"model_instance_id": "m", "output": invalid}
    exchange = made.exchange("/api/v1/chat", as_json({"model": "m", "input": "add"}), as_json(answer))
    made.read()
    assert results(made, exchange) == [(None, None, "No such tool."), (None, None, "Bad arguments.")]


# --- results in the call that goes on ---------------------------------------------------------------------------------


def test_each_of_ollamas_calls_has_its_own_result_in_every_round(made: Traffic) -> None:
    asked = turns("compare")
    first = [*asked, calls_tools(ollama_call("weather", city="Bern"))]
    second = [*first, result("weather", "12"), calls_tools(*(ollama_call("weather", city=one) for one in "AB"))]
    third = [*second, result("weather", "20"), result("weather", "21"), calls_tools(ollama_call("time"))]
    exchanges = [
        ollama(made, asked, first[-1]),
        ollama(made, second[:-1], second[-1]),
        ollama(made, third[:-1], third[-1]),
        ollama(made, [*third, result("time", "noon")], {"role": "assistant", "content": "It is warm."}),
    ]
    made.read()
    assert made.labels(*exchanges) == ["new", *["tool_round"] * 3]
    assert [results(made, one) for one in exchanges] == [
        [("weather", '{"city":"Bern"}', "12")],
        [("weather", '{"city":"A"}', "20"), ("weather", '{"city":"B"}', "21")],
        [("time", "{}", "noon")],
        [],
    ]


def test_results_of_several_tools_may_come_in_any_order(made: Traffic) -> None:
    asked = turns("compare")
    answer = calls_tools(*(ollama_call(tool, n=n) for n in (1, 2) for tool in ("a", "b")))
    sent = [result("b", "b1"), result("a", "a1"), result("b", "b2"), result("a", "a2")]
    exchange = ollama(made, asked, answer)
    ollama(made, [*asked, answer, *sent], {"role": "assistant", "content": "ok"})
    made.read()
    assert [row[2] for row in results(made, exchange)] == ["a1", "b1", "a2", "b2"]


def test_results_with_the_same_words_are_each_ones_own(made: Traffic) -> None:
    """They are one message in the trace."""
    asked = turns("compare")
    answer = calls_tools(*(ollama_call("weather", city=one) for one in "ABC"))
    exchange = ollama(made, asked, answer)
    sent = [result("weather", word) for word in ("fog", "sun", "fog")]
    ollama(made, [*asked, answer, *sent], {"role": "assistant", "content": "ok"})
    made.read()
    assert [row[2] for row in results(made, exchange)] == ["fog", "sun", "fog"]


def test_call_whose_result_was_not_sent_has_not_that_of_an_earlier_round(made: Traffic) -> None:
    asked = turns("compare")
    first = [*asked, calls_tools(ollama_call("weather", city="Bern"))]
    second = [*first, result("weather", "12"), calls_tools(*(ollama_call("weather", city=one) for one in "AB"))]
    ollama(made, asked, first[-1])
    exchange = ollama(made, second[:-1], second[-1])
    ollama(made, [*second, result("weather", "20")], {"role": "assistant", "content": "ok"})
    made.read()
    assert results(made, exchange) == [("weather", '{"city":"A"}', "20"), ("weather", '{"city":"B"}', None)]


def test_result_is_found_where_the_next_round_was_not_recorded(made: Traffic) -> None:
    asked = turns("compare")
    first = [*asked, calls_tools(ollama_call("weather", city="Bern")), result("weather", "12")]
    later = [*first, calls_tools(ollama_call("weather", city="A")), result("weather", "20")]
    exchange = ollama(made, asked, first[1])
    ollama(made, later, {"role": "assistant", "content": "ok"})
    made.read()
    assert results(made, exchange) == [("weather", '{"city":"Bern"}', "12")]


def test_result_by_name_belongs_to_a_call_that_has_an_id(made: Traffic) -> None:
    """Newer Ollama gives ids, many of its clients do not send them back."""
    asked = turns("compare")
    answer = calls_tools(*(ollama_call("weather", id=f"call_{one}", city=one) for one in "AB"))
    exchange = ollama(made, asked, answer)
    sent = [result("weather", "20"), result("weather", "21")]
    ollama(made, [*asked, answer, *sent], {"role": "assistant", "content": "ok"})
    made.read()
    assert made.values("SELECT tool_call_id FROM tool_calls") == ["call_A", "call_B"]
    assert [row[2] for row in results(made, exchange)] == ["20", "21"]


def test_id_that_a_server_gives_again_joins_the_result_of_its_own_round(made: Traffic) -> None:
    said: list[dict[str, Any]] = turns("find")
    exchanges = []
    for number in range(3):
        answer = {"role": "assistant", "content": None, "tool_calls": [openai_call("call_0", n=number)]}
        exchanges.append(made.chat(said, answer))
        said += [answer, {"role": "tool", "tool_call_id": "call_0", "content": f"found {number}"}]
    made.chat(said, "done")
    made.read()
    assert [results(made, one)[0][2] for one in exchanges] == ["found 0", "found 1", "found 2"]


# --- more answers than one --------------------------------------------------------------------------------------------


def test_tool_calls_of_all_choices_are_there(made: Traffic) -> None:
    first = choice(0, {"content": None, "tool_calls": [openai_call("a", n=1), openai_call("b", n=2)]}, "tool_calls")
    second = choice(1, {"content": "Well:", "tool_calls": [openai_call("c", n=3)]}, "tool_calls")
    exchange = two_choices(made, turns("find"), first, second)
    said = [*turns("find"), second["message"], {"role": "tool", "tool_call_id": "c", "content": "found"}]
    made.chat(said, "done")
    made.read()
    rows = made.rows("SELECT choice, position, tool_call_id, result FROM tool_calls WHERE exchange_id = ?", exchange)
    assert rows == [(0, 0, "a", None), (0, 1, "b", None), (1, 1, "c", "found")]


def test_stop_reasons_of_the_other_choices_are_in_the_details(made: Traffic) -> None:
    exchange = two_choices(
        made, turns("hi"), choice(0, {"content": "a"}, "stop"), choice(1, {"content": "b"}, "length")
    )
    made.read()
    call = made.call(exchange)
    assert (call["stop_reason"], json.loads(call["details"])) == ("stop", {"stop_reasons": {"1": "length"}})


def test_stop_reasons_of_a_streams_choices_are_in_the_details(made: Traffic) -> None:
    chunks = [
        {"index": 2, "delta": {"content": "c"}, "finish_reason": "length"},
        {"index": 0, "delta": {"content": "a"}},
        {"index": 1, "delta": {"content": "b"}, "finish_reason": "content_filter"},
        {"index": 0, "delta": {}, "finish_reason": "stop"},
    ]
    stream = [b"data: " + as_json({"model": "m", "choices": [one]}) + b"\n\n" for one in chunks]
    exchange = made.streamed_chat(turns("hi"), [*stream, b"data: [DONE]\n\n"])
    made.read()
    call = made.call(exchange)
    assert (call["stop_reason"], json.loads(call["details"])["stop_reasons"]) == (
        "stop",
        {"1": "content_filter", "2": "length"},
    )


def test_stop_reasons_of_a_completions_other_choices_are_in_the_details(made: Traffic) -> None:
    choices = [{"index": n, "text": "x", "finish_reason": reason} for n, reason in enumerate(("stop", "length"))]
    body = as_json({"model": "m", "prompt": "hi", "n": 2})
    exchange = made.exchange("/v1/completions", body, as_json({"model": "m", "choices": choices}))
    made.read()
    call = made.call(exchange)
    assert (call["stop_reason"], json.loads(call["details"])) == ("stop", {"stop_reasons": {"1": "length"}})


def test_only_choice_needs_no_details(made: Traffic) -> None:
    whole, streamed = made.chat(turns("u1")), made.streamed_chat(turns("u2"), events("a"))
    made.read()
    assert [made.call(one)["details"] for one in (whole, streamed)] == [None, None]


def test_tokens_of_all_choices_are_counted(made: Traffic) -> None:
    """Twice, where two choices are the same."""
    made.restart(IndexSettings(encoding="cl100k_base"))
    one = made.chat(turns("hi"), "a b c")
    several = two_choices(
        made, turns("ho"), choice(0, {"content": "a b"}, "stop"), choice(1, {"content": "a b"}, "stop")
    )
    made.read()
    sql = (
        "SELECT t.tokens, t.message_id = m.message_id FROM token_counts t"
        " JOIN call_messages m ON m.call_id = t.call_id AND m.is_answer JOIN calls c ON c.id = t.call_id"
        " WHERE t.what = 'output' AND t.counter LIKE 'tiktoken:%' AND c.exchange_id = ?"
    )
    assert made.rows(sql, one) == [(3, 1)]
    assert made.rows(sql, several) == [(4, None)] * 2


def test_servers_tokens_of_all_choices_are_counted_once_all_are_known(made: Traffic) -> None:
    several = two_choices(made, turns("ho"), choice(0, {"content": "a"}, "stop"), choice(1, {"content": "b"}, "stop"))
    one = made.chat(turns("hi"), "c")
    made.read()
    sql = (
        "SELECT t.tokens FROM token_counts t JOIN calls c ON c.id = t.call_id"
        " WHERE t.what = 'output' AND t.counter = 'server:m' AND c.exchange_id = ?"
    )
    insert = "INSERT INTO server_token_counts SELECT id, 'm', %d FROM messages WHERE role = 'assistant' AND text = '%s'"
    made.change(insert % (5, "a"))
    made.change(insert % (3, "c"))
    assert (made.values(sql, several), made.values(sql, one)) == ([None], [3])
    made.change(insert % (7, "b"))
    assert made.values(sql, several) == [12]


# --- cost -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query",
    [
        "SELECT tool, count(*) FROM tool_calls GROUP BY tool",
        "SELECT tool, count(*) FROM (SELECT * FROM tool_calls) GROUP BY tool",
        "SELECT call_id, tool, arguments FROM tool_calls WHERE tool = 'find'",
    ],
)
def test_results_that_nobody_asks_for_are_not_looked_up(made: Traffic, query: str) -> None:
    plan = [detail for *_, detail in made.rows(f"EXPLAIN QUERY PLAN {query}")]
    assert not any("SUBQUERY" in step for step in plan), plan


def test_last_tool_calls_cost_no_sorting_of_all(made: Traffic) -> None:
    query = "SELECT call_id, tool, result FROM tool_calls ORDER BY call_id DESC LIMIT 100"
    plan = made.rows(f"EXPLAIN QUERY PLAN {query}")
    assert [detail for _, parent, _, detail in plan if parent == 0 and "B-TREE" in detail] == []
