"""The views are the trace's public interface: they may only grow, and what is asked every day has an index."""

import re

import pytest

from tests.store.traffic import Traffic, turns

VIEWS = {
    "exchanges": (
        "id started_at client kind upstream method path status reason model request_bytes response_bytes "
        "request_chunks response_chunks request_complete_ms first_byte_ms duration_ms outcome error masked gaps "
        "request_headers forwarded_headers response_headers sent_headers http_version forwarded_path "
        "interim_heads request_trailers response_trailers connection run started_at_us upstream_url"
    ),
    "chunks": "exchange_id side seq at_ms at_us text bytes kind",
    "websocket_messages": "exchange_id side seq at_ms at_us kind text bytes close_code close_reason",
    "request_bodies": "exchange_id text bytes is_text masked",
    "response_bodies": "exchange_id text bytes is_text masked",
    "headers": "exchange_id which position name value",
    "gaps": (
        "id exchange_id since until lost_exchanges lost_records request_bytes response_bytes reason run since_us "
        "until_us"
    ),
    "models": (
        "model exchanges completed failed request_bytes response_bytes mean_duration_ms calls failed_calls "
        "input_tokens output_tokens mean_reported_tokens_per_second mean_measured_ttft_ms "
        "mean_measured_tokens_per_second"
    ),
    "messages": "id role name text parts first_call_id tiktoken_tokens",
    "calls": (
        "id exchange_id seq started_at operation dialect client session tag model_asked model_answered label "
        "thread_id parent_id is_system_changed last_input answer answer_parts stop_reason stop_reason_raw "
        "stop_string error is_streamed is_running is_observed reported_input_tokens reported_output_tokens "
        "reported_total_tokens reported_reasoning_tokens reported_cached_tokens reported_tokens_per_second "
        "reported_ttft_s reported_total_time_s reported_generation_time_s reported_load_time_s "
        "reported_prompt_time_s reported_prompt_tokens_per_second reported_gpu_layers reported_draft_model "
        "reported_draft_tokens reported_accepted_draft_tokens stats model_info runtime first_byte_ms "
        "measured_ttft_ms measured_first_content_ms measured_tokens_per_second longest_gap_ms token_events "
        "measured_load_ms measured_prompt_ms duration_ms output_schema response_id previous_response_id details "
        "started_at_us session_id"
    ),
    "readings": (
        "id exchange_id seq operation dialect reader_version model_asked model_answered reported_load_time_s "
        "measured_load_ms duration_ms details started_at_us"
    ),
    "call_messages": "call_id position is_answer message_id role text parts tiktoken_tokens",
    "tool_calls": "call_id exchange_id position tool arguments tool_call_id result choice",
    "call_parameters": "call_id name value origin sent_as note is_ignored",
    "token_counts": "call_id what counter message_id tokens",
    "threads": "id started_at client session model calls branches repeats last_call_id beginning started_at_us",
    "speeds": (
        "call_id exchange_id started_at_us model operation is_streamed reported_input_tokens "
        "reported_output_tokens reported_tokens_per_second measured_tokens_per_second reported_ttft_s "
        "measured_ttft_ms measured_first_content_ms first_byte_ms reported_total_time_s "
        "reported_generation_time_s reported_prompt_time_s reported_load_time_s measured_load_ms "
        "measured_prompt_ms longest_gap_ms token_events duration_ms"
    ),
    "sessions": "id name origin last_at_us calls",
    "problems": "exchange_id call_id severity kind detail code place count",
    "engine_events": (
        "id exchange_id event received_at timestamp_ms model model_path text stats response_id call_id started_at_us"
    ),
    "rendered_prompts": "id call_id source text confidence is_best template_id event_id note at_us",
    "prompt_pairings": (
        "call_id input_event_id input_confidence input_rivals output_event_id output_confidence output_rivals why"
    ),
    "prompt_spans": "call_id prompt_id seq start length kind position message_id part part_start tokens text",
    "message_fates": "call_id position message_id role fate ranges tokens dropped_by text",
    "context_windows": (
        "call_id context_length context_source prompt_tokens prompt_counter reported_tokens server_tokens "
        "tiktoken_tokens output_tokens share room dropped_by_client dropped_by_server log_tokens"
    ),
    "prompt_templates": "id model source detail first_at_us last_at_us text bos_token eos_token upstream_url",
    "call_snapshots": "call_id source upstream_url model told told_at_us settings",
    "precedence_findings": "upstream_url model surface name won evidence call_ids at_us session_id",
    "call_settings": "call_id name request_value base_value effective_value won value how base_at",
}

"""Every view with its columns. Add what is new; what is here is in users' queries and must stay."""


PROMPT_VIEWS = (
    *("engine_events", "rendered_prompts", "prompt_pairings", "prompt_spans", "message_fates", "context_windows"),
    *("prompt_templates", "call_snapshots", "precedence_findings"),
)
"""Those that are filled after the readings; see tests/prompt_index."""

WHOLE_TABLE = re.compile(r"SCAN (c|m|t|a|b|read_\w+|recorded_\w+|blobs)\b")
"""A step of SQLite's plan that looks at every row of a table that grows, by its name in the views."""


def columns(made: Traffic) -> dict[str, list[str]]:
    views = made.values("SELECT name FROM sqlite_schema WHERE type = 'view' ORDER BY name")
    return {name: made.values(f"SELECT name FROM pragma_table_info('{name}') ORDER BY cid") for name in views}


def test_no_view_and_no_column_was_taken_away(made: Traffic) -> None:
    now = columns(made)
    missing = {
        name: gone
        for name, those in VIEWS.items()
        if (gone := set(those.split()) - set(now.get(name, ()))) or name not in now
    }
    assert missing == {}


def test_what_is_new_is_listed(made: Traffic) -> None:
    """So that it is kept from now on."""
    new = {
        name: more for name, those in columns(made).items() if (more := set(those) - set(VIEWS.get(name, "").split()))
    }
    assert new == {}, "add it to VIEWS in this file"


def test_every_view_gives_rows_of_an_ordinary_call(made: Traffic) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "find", "arguments": "{}"}}
    made.chat(turns("hi"), {"role": "assistant", "content": None, "tool_calls": [call]}, more={"shininess": 9})
    made.read()
    empty = {name for name in VIEWS if made.values(f"SELECT count(*) FROM {name}") == [0]}
    assert empty == {"gaps", "websocket_messages", "token_counts", *PROMPT_VIEWS}


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT * FROM calls WHERE started_at_us > 5", "read_calls_started"),
        ("SELECT * FROM calls WHERE thread_id = 5", "read_calls_thread"),
        ("SELECT * FROM calls WHERE parent_id = 5", "read_calls_parent"),
        ("SELECT * FROM calls WHERE exchange_id = 5", "read_calls_exchange"),
        ("SELECT * FROM calls WHERE response_id = 'a'", "read_calls_response"),
        ("SELECT * FROM calls ORDER BY id DESC LIMIT 20", None),
        ("SELECT * FROM call_messages WHERE call_id = 5", None),
        ("SELECT * FROM call_parameters WHERE call_id = 5", None),
        ("SELECT * FROM call_settings WHERE call_id = 5", None),
        ("SELECT * FROM precedence_findings", "read_calls_tag"),
        ("SELECT * FROM token_counts WHERE call_id = 5", None),
        ("SELECT * FROM tool_calls WHERE call_id = 5", None),
        ("SELECT * FROM messages WHERE id = 5", None),
        ("SELECT * FROM threads WHERE id = 5", None),
        ("SELECT * FROM speeds WHERE call_id = 5", None),
    ],
)
def test_no_everyday_question_reads_the_whole_trace(made: Traffic, query: str, index: str | None) -> None:
    """None: the primary key does."""
    plan = [detail for *_, detail in made.rows(f"EXPLAIN QUERY PLAN {query}")]
    scans = [step for step in plan if WHOLE_TABLE.match(step) and "VIRTUAL" not in step]
    assert scans == [] or "LIMIT" in query, plan
    assert index is None or any(index in step for step in plan), plan
