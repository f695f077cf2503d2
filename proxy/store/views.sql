-- The views are the trace's public interface: they may only grow. Bytes are shown as text wherever they are UTF-8
-- (a BLOB otherwise), times are UTC or milliseconds since the request's first byte, what is not known is NULL.

CREATE VIEW exchanges AS
SELECT
    e.id,                                       -- counts up in the order in which requests came
    strftime('%Y-%m-%dT%H:%M:%S', e.started_at_us / 1000000, 'unixepoch')
        || printf('.%06dZ', e.started_at_us % 1000000) AS started_at,   -- UTC; to search by time use started_at_us
    e.client,                                   -- address:port
    e.kind,                                     -- 'http' or 'websocket'
    e.upstream,                                 -- its configured name
    e.method,                                   -- as received; NULL for what is no HTTP
    e.target AS path,                           -- as received, with its query
    e.status,                                   -- as sent to the client
    e.reason,                                   -- the words after the status
    e.model,                                    -- the request's top-level "model"
    e.request_bytes,                            -- of the body (WebSocket: of everything), without transfer framing
    e.response_bytes,                           -- the same of the response
    e.request_chunks,                           -- socket reads (WebSocket: messages and control frames)
    e.response_chunks,                          -- the same of the response
    e.request_complete_us / 1000.0 AS request_complete_ms,  -- the request's last byte was read
    e.first_byte_us / 1000.0 AS first_byte_ms,  -- the first byte of the response's head was read, or made
    e.done_us / 1000.0 AS duration_ms,          -- the exchange ended
    e.outcome,                                  -- NULL while it runs
    e.error,                                    -- what went wrong, in words; NULL where nothing did
    e.request_masked + e.response_masked AS masked,     -- values masked inside the bodies
    (SELECT count(*) FROM recorded_gaps g WHERE g.exchange_id = e.id) AS gaps,  -- gaps in it
    request_head.fields AS request_headers,     -- JSON: [["Name","value"],...], as received from the client
    forwarded_head.fields AS forwarded_headers, -- as sent to the upstream
    response_head.fields AS response_headers,   -- as received from the upstream
    sent_head.fields AS sent_headers,           -- as sent to the client
    e.http_version,                             -- of the request: '1.1'
    e.forwarded_target AS forwarded_path,       -- as sent to the upstream; NULL where nothing was forwarded
    e.interim_heads,                            -- JSON: [[status, [["Name","value"],...]],...] of 1xx responses
    e.request_trailers,                         -- JSON as the headers: lines after a chunked body
    e.response_trailers,                        -- the same of the response
    e.connection,                               -- the client's connection, counted within the run
    e.run,                                      -- which start of proxy-log serve recorded it
    e.started_at_us,                            -- microseconds since 1970 UTC; has an index
    e.upstream_url                              -- where it was at the time
FROM recorded_exchanges e
LEFT JOIN heads request_head ON request_head.id = e.request_head
LEFT JOIN heads forwarded_head ON forwarded_head.id = e.forwarded_head
LEFT JOIN heads response_head ON response_head.id = e.response_head
LEFT JOIN heads sent_head ON sent_head.id = e.sent_head;

-- Every chunk by itself: one socket read, or one WebSocket message or control frame. text is NULL where the body holds
-- the bytes: then `bytes` of them, after those of the chunks before (where values were masked, bytes are still those
-- that were received).
CREATE VIEW chunks AS
WITH each_chunk AS (
    SELECT exchange_id, side, seq, at_us, opcode, frame_id, middle FROM recorded_chunks
    UNION ALL
    SELECT c.exchange_id, c.side, c.seq + 1 + m.key, c.at_us + json_extract(m.value, '$[0]'), c.opcode, c.frame_id,
        json_extract(m.value, '$[1]')
    FROM recorded_chunks c, json_each(c.more) m WHERE c.more IS NOT NULL
)
SELECT
    c.exchange_id,                              -- the id in exchanges
    CASE c.side WHEN 0 THEN 'client' ELSE 'upstream' END AS side,   -- who sent it
    c.seq,                                      -- from 0, within the exchange and side
    c.at_us / 1000.0 AS at_ms,                  -- milliseconds since the request's first byte
    c.at_us,                                    -- the same in microseconds
    CASE
        WHEN typeof(c.middle) = 'integer' THEN NULL
        WHEN c.frame_id IS NULL THEN c.middle
        WHEN typeof(c.middle) = 'text' THEN f.head || c.middle || f.tail
        ELSE CAST(f.head || c.middle || f.tail AS BLOB)
    END AS text,                                -- its bytes; NULL where the body holds them
    CASE typeof(c.middle)
        WHEN 'integer' THEN c.middle
        ELSE length(CAST(c.middle AS BLOB)) + coalesce(length(CAST(f.head AS BLOB)) + length(CAST(f.tail AS BLOB)), 0)
    END AS bytes,                               -- how many they are
    CASE c.opcode
        WHEN 1 THEN 'text' WHEN 2 THEN 'binary' WHEN 8 THEN 'close' WHEN 9 THEN 'ping' WHEN 10 THEN 'pong'
    END AS kind                                 -- of a WebSocket: what it is; NULL for a socket read
FROM each_chunk c LEFT JOIN chunk_frames f ON f.id = c.frame_id;

-- WebSocket traffic, a row per message or control frame. close_code and close_reason are read from a close frame.
CREATE VIEW websocket_messages AS
SELECT
    c.exchange_id, c.side, c.seq, c.at_ms, c.at_us, c.kind, c.text, c.bytes,
    CASE WHEN c.kind = 'close' AND c.bytes >= 2 THEN
        (instr('123456789ABCDEF', substr(hex(c.text), 1, 1)) << 12)
        + (instr('123456789ABCDEF', substr(hex(c.text), 2, 1)) << 8)
        + (instr('123456789ABCDEF', substr(hex(c.text), 3, 1)) << 4)
        + instr('123456789ABCDEF', substr(hex(c.text), 4, 1))
    END AS close_code,                          -- of a close frame: 1000 is the ordinary one
    CASE WHEN c.kind = 'close' AND c.bytes >= 2 THEN CAST(substr(CAST(c.text AS BLOB), 3) AS TEXT)
    END AS close_reason                         -- its words
FROM chunks c JOIN recorded_exchanges e ON e.id = c.exchange_id
WHERE e.kind = 'websocket' AND e.status = 101;

-- The bodies of HTTP exchanges, whole. text is as sent, its content encoding not decoded, and a BLOB where it is not
-- UTF-8; NULL above 500 MB, as SQLite makes no longer strings, and while a body is still on its way.
CREATE VIEW request_bodies AS
SELECT
    exchange_id,
    CASE WHEN is_text THEN CAST(joined AS TEXT) ELSE CAST(joined AS BLOB) END AS text,  -- the body
    bytes,                                      -- as the proxy counted them
    is_text,                                    -- whether it is UTF-8 without NUL
    masked                                      -- values masked inside it
FROM (
    SELECT
        e.id AS exchange_id,
        CASE
            WHEN e.request_bytes > 500000000 THEN NULL
            WHEN e.request_body IS NULL THEN (
                SELECT group_concat(CAST(text AS TEXT), '') FROM
                    (SELECT text FROM chunks WHERE exchange_id = e.id AND side = 'client' ORDER BY seq))
            ELSE (
                SELECT group_concat(CAST(data AS TEXT), '') FROM
                    (SELECT b.data FROM bodies o, json_each(o.parts) p
                    JOIN blobs b ON b.id BETWEEN json_extract(p.value, '$[0]') AND json_extract(p.value, '$[1]')
                    WHERE o.id = e.request_body ORDER BY p.key, b.id))
        END AS joined,
        e.request_bytes AS bytes,
        e.request_is_text AS is_text,
        e.request_masked AS masked
    FROM recorded_exchanges e WHERE e.kind = 'http'
);

-- The same of the responses.
CREATE VIEW response_bodies AS
SELECT
    exchange_id,
    CASE WHEN is_text THEN CAST(joined AS TEXT) ELSE CAST(joined AS BLOB) END AS text,  -- the body
    bytes,                                      -- as the proxy counted them
    is_text,                                    -- whether it is UTF-8 without NUL
    masked                                      -- values masked inside it
FROM (
    SELECT
        e.id AS exchange_id,
        CASE
            WHEN e.response_bytes > 500000000 THEN NULL
            WHEN e.response_body IS NULL THEN (
                SELECT group_concat(CAST(text AS TEXT), '') FROM
                    (SELECT text FROM chunks WHERE exchange_id = e.id AND side = 'upstream' ORDER BY seq))
            ELSE (
                SELECT group_concat(CAST(data AS TEXT), '') FROM
                    (SELECT b.data FROM bodies o, json_each(o.parts) p
                    JOIN blobs b ON b.id BETWEEN json_extract(p.value, '$[0]') AND json_extract(p.value, '$[1]')
                    WHERE o.id = e.response_body ORDER BY p.key, b.id))
        END AS joined,
        e.response_bytes AS bytes,
        e.response_is_text AS is_text,
        e.response_masked AS masked
    FROM recorded_exchanges e WHERE e.kind = 'http'
);

-- Header fields, a row each; which is 'request', 'forwarded', 'response' or 'sent'.
CREATE VIEW headers AS
WITH each_head AS (
    SELECT id AS exchange_id, 'request' AS which, request_head AS head FROM recorded_exchanges
    UNION ALL SELECT id, 'forwarded', forwarded_head FROM recorded_exchanges
    UNION ALL SELECT id, 'response', response_head FROM recorded_exchanges
    UNION ALL SELECT id, 'sent', sent_head FROM recorded_exchanges
)
SELECT
    h.exchange_id,
    h.which,                                    -- which head: received or passed on, of which side
    f.key AS position,                          -- from 0, in the order of the head
    json_extract(f.value, '$[0]') AS name,      -- as sent: case is kept
    json_extract(f.value, '$[1]') AS value      -- secrets masked
FROM each_head h JOIN heads ON heads.id = h.head, json_each(heads.fields) f;

-- What could not be recorded. exchange_id is NULL where whole exchanges are missing, or it is not known which.
CREATE VIEW gaps AS
SELECT
    id,                                         -- of the gap
    exchange_id,
    strftime('%Y-%m-%dT%H:%M:%S', since_us / 1000000, 'unixepoch') || printf('.%06dZ', since_us % 1000000)
        AS since,                               -- UTC of the first loss
    strftime('%Y-%m-%dT%H:%M:%S', until_us / 1000000, 'unixepoch') || printf('.%06dZ', until_us % 1000000)
        AS until,                               -- UTC of the last
    lost_exchanges,                             -- of which nothing at all is recorded
    lost_records,                               -- reads, heads and the like
    request_bytes,                              -- body bytes lost
    response_bytes,                             -- the same of the response
    reason,                                     -- why, in words
    run,
    since_us,                                   -- as microseconds since 1970 UTC
    until_us                                    -- the same
FROM recorded_gaps;

-- Ended exchanges by model as requests name it ('' where they name none), and beside them calls by the model that
-- answered.
CREATE VIEW models AS
WITH by_exchange AS (
    SELECT model, sum(exchanges) AS exchanges,
        sum(CASE WHEN outcome = 'completed' THEN exchanges ELSE 0 END) AS completed,
        sum(CASE WHEN outcome <> 'completed' THEN exchanges ELSE 0 END) AS failed,
        sum(request_bytes) AS request_bytes, sum(response_bytes) AS response_bytes, sum(duration_us) AS duration_us
    FROM model_totals GROUP BY model
), by_call AS (
    SELECT model, sum(calls) AS calls, sum(failed) AS failed_calls, sum(input_tokens) AS input_tokens,
        sum(output_tokens) AS output_tokens, sum(reported_speeds) AS reported_speeds,
        sum(tokens_per_second) AS tokens_per_second, sum(measured_ttfts) AS measured_ttfts, sum(ttft_us) AS ttft_us,
        sum(measured_speeds) AS measured_speeds, sum(measured_tokens_per_second) AS measured_tokens_per_second
    FROM call_totals GROUP BY model
), names AS (SELECT model FROM by_exchange UNION SELECT model FROM by_call)
SELECT
    n.model,                                    -- as requests name it, or as answers do
    coalesce(x.exchanges, 0) AS exchanges,      -- how many requests named it
    coalesce(x.completed, 0) AS completed,      -- with this outcome
    coalesce(x.failed, 0) AS failed,            -- with any other outcome
    coalesce(x.request_bytes, 0) AS request_bytes,      -- of all bodies together
    coalesce(x.response_bytes, 0) AS response_bytes,    -- the same of the responses
    x.duration_us / 1000.0 / x.exchanges AS mean_duration_ms,   -- from first byte to end
    coalesce(y.calls, 0) AS calls,              -- calls that it answered (or was asked in, where nobody answered)
    coalesce(y.failed_calls, 0) AS failed_calls,        -- of these, with an error from the server
    y.input_tokens,                             -- as reported, of all calls together
    y.output_tokens,                            -- the same of the answers
    y.tokens_per_second / nullif(y.reported_speeds, 0) AS mean_reported_tokens_per_second, -- of calls that tell it
    y.ttft_us / 1000.0 / nullif(y.measured_ttfts, 0) AS mean_measured_ttft_ms,  -- of streamed calls
    y.measured_tokens_per_second / nullif(y.measured_speeds, 0) AS mean_measured_tokens_per_second -- of these
FROM names n LEFT JOIN by_exchange x ON x.model = n.model LEFT JOIN by_call y ON y.model = n.model;

-- Messages, each once however often it was sent. Answers are messages, too.
CREATE VIEW messages AS
SELECT
    m.id,                                       -- counts up in the order in which messages were first seen
    m.role,                                     -- as sent; 'prompt' for a raw prompt, 'input' for a text to embed
    m.name,                                     -- of the author, where one is given
    coalesce(m.text, json_extract(ltrim(b.data, char(9, 10, 13, 32, 44)), m.path)) AS text, -- its text parts
    m.parts,                                    -- JSON: [{"kind","text","name","id",...},...]; NULL: it is one text
    m.first_call_id,                            -- the call that had it first
    m.tiktoken_tokens                           -- estimated by tiktoken; NULL: not counted
FROM read_messages m LEFT JOIN blobs b ON b.id = m.blob_id;

-- Calls: whenever a model was asked to compute something. Reported is what the server said, measured what our clock
-- saw; times are since the call's start.
CREATE VIEW calls AS
SELECT
    c.id,                                       -- counts up in the order in which calls were read
    c.exchange_id,                              -- the exchange that carried it
    c.seq,                                      -- from 0, within the exchange: a WebSocket carries many
    strftime('%Y-%m-%dT%H:%M:%S', c.started_at_us / 1000000, 'unixepoch')
        || printf('.%06dZ', c.started_at_us % 1000000) AS started_at,   -- UTC; to search by time use started_at_us
    c.operation,                                -- 'chat', 'completion' or 'embedding'
    r.name AS dialect,                          -- who read it: 'openai_chat', 'lmstudio_sdk'
    c.client,                                   -- address
    s.name AS session,                          -- what belongs together, see sessions
    c.tag,                                      -- the client's own word: X-Proxy-Log-Tag
    c.model_asked,                              -- as the request names it
    c.model_answered,                           -- as the answer names it
    c.label,                                    -- 'new', 'continue', 'regenerate', 'branch', 'continue_answer', 'retry'...
    c.thread_id,                                -- the conversation: the id of its first call
    c.parent_id,                                -- the call whose answer it goes on from
    c.is_system_changed,                        -- its system messages differ from those of the call it goes on from
    (SELECT text FROM messages WHERE id = json_extract(c.input, '$[#-1][1]'))
        AS last_input,                          -- the text of the input's last message
    coalesce(a.text, json_extract(ltrim(a_blob.data, char(9, 10, 13, 32, 44)), a.path), c.running_text)
        AS answer,                              -- its text without reasoning; while it runs, all that came so far
    a.parts AS answer_parts,                    -- JSON: reasoning, tool calls and text; NULL: it is one text
    c.stop_reason,                              -- in one vocabulary: 'stop', 'length', 'tool_calls', 'cancelled'...; of
                                                -- the first answer where there are more: details has the others'. NULL:
                                                -- the server told none: after an error (see error), where the answer
                                                -- broke off or still comes, in a dialect that has none
    c.stop_reason_raw,                          -- as sent
    c.stop_string,                              -- the stop string that was met, where that is told
    (SELECT p.detail FROM read_problems p WHERE p.call_id = c.id AND p.place IS NOT NULL ORDER BY p.seq LIMIT 1)
        AS error,                               -- what the server said went wrong
    c.is_streamed,                              -- the answer came as a stream
    c.is_running,                               -- it goes on
    c.is_observed,                              -- known from the engine's log alone
    c.input_tokens AS reported_input_tokens,    -- the course's promptTokensCount
    c.output_tokens AS reported_output_tokens,  -- predictedTokensCount
    c.total_tokens AS reported_total_tokens,    -- totalTokensCount
    c.reasoning_tokens AS reported_reasoning_tokens,    -- of the output
    c.cached_tokens AS reported_cached_tokens,  -- of the input
    c.tokens_per_second AS reported_tokens_per_second,  -- tokensPerSecond
    c.ttft_s AS reported_ttft_s,                -- timeToFirstTokenSec
    c.total_time_s AS reported_total_time_s,    -- totalTimeSec; in most versions the generation alone
    c.generation_time_s AS reported_generation_time_s,  -- generation_time
    c.load_time_s AS reported_load_time_s,      -- if the call loaded the model
    c.prompt_time_s AS reported_prompt_time_s,  -- of prompt processing
    c.prompt_tokens_per_second AS reported_prompt_tokens_per_second,    -- the same as a speed
    c.gpu_layers AS reported_gpu_layers,        -- numGpuLayers; -1 in every capture
    c.draft_model AS reported_draft_model,      -- of speculative decoding
    c.draft_tokens AS reported_draft_tokens,    -- all that it proposed
    c.accepted_draft_tokens AS reported_accepted_draft_tokens,  -- of these, taken
    c.stats,                                    -- the server's whole block as JSON, as sent
    info.data AS model_info,                    -- JSON, as sent
    runtime.data AS runtime,                    -- JSON, as sent
    c.first_byte_us / 1000.0 AS first_byte_ms,  -- measured: the first byte of the response's head
    (c.first_token_us - c.request_complete_us) / 1000.0 AS measured_ttft_ms,    -- last request byte to first token
    (c.first_content_us - c.request_complete_us) / 1000.0
        AS measured_first_content_ms,           -- the same to the first token that is no reasoning
    CASE WHEN c.output_tokens > 1 AND c.last_token_us > c.first_token_us
        THEN (c.output_tokens - 1) * 1000000.0 / (c.last_token_us - c.first_token_us)
    END AS measured_tokens_per_second,          -- reported tokens over measured time: (tokens - 1) / (last - first)
    c.longest_gap_us / 1000.0 AS longest_gap_ms,    -- between two events with generated text
    c.token_events,                             -- how many of these; an event is not a token
    c.load_us / 1000.0 AS measured_load_ms,     -- loading the model, where events show it
    c.prompt_us / 1000.0 AS measured_prompt_ms, -- prompt processing, where events show it
    c.done_us / 1000.0 AS duration_ms,          -- from its start to its end
    schema.data AS output_schema,               -- JSON Schema that the answer had to follow
    c.response_id,                              -- the server's id of the answer
    c.previous_response_id,                     -- of the answer it goes on from, on a server that keeps chats
    details.data AS details,                    -- JSON: what fits nowhere else
    c.started_at_us,                            -- microseconds since 1970 UTC; has an index
    c.session_id                                -- the id in sessions
FROM read_calls c
JOIN readers r ON r.id = c.reader_id
LEFT JOIN read_sessions s ON s.id = c.session_id
LEFT JOIN read_messages a ON a.id = c.answer_id
LEFT JOIN blobs a_blob ON a_blob.id = a.blob_id
LEFT JOIN read_values info ON info.id = c.model_info_id
LEFT JOIN read_values runtime ON runtime.id = c.runtime_id
LEFT JOIN read_values schema ON schema.id = c.output_schema_id
LEFT JOIN read_values details ON details.id = c.details_id
WHERE c.is_call;

-- Every request that a reader understood: calls, and what is none (lists of models, loads, tokenizing, logs).
CREATE VIEW readings AS
SELECT
    c.id,                                       -- the id in calls, if it is one
    c.exchange_id,
    c.seq,                                      -- from 0, within the exchange
    c.operation,                                -- 'chat', 'models', 'load', 'tokenize', 'config', 'log', 'other'...
    r.name AS dialect,                          -- who read it
    r.version AS reader_version,                -- and which version of that reader
    c.model_asked,
    c.model_answered,
    c.load_time_s AS reported_load_time_s,      -- of a load
    c.load_us / 1000.0 AS measured_load_ms,     -- the same by our clock, where events show it
    c.done_us / 1000.0 AS duration_ms,
    details.data AS details,                    -- JSON: models, counts, what the dialect tells
    c.started_at_us
FROM read_calls c JOIN readers r ON r.id = c.reader_id LEFT JOIN read_values details ON details.id = c.details_id;

-- The messages of each call in order, the answers behind the input.
CREATE VIEW call_messages AS
WITH each AS (
    SELECT c.id AS call_id, i.key AS range, m.id AS message_id, 0 AS is_answer
    FROM read_calls c, json_each(c.input) i
    JOIN read_messages m ON m.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]')
    UNION ALL SELECT id, 0, answer_id, 1 FROM read_calls WHERE answer_id IS NOT NULL
    UNION ALL SELECT c.id, j.key + 1, j.value, 1 FROM read_calls c, json_each(c.more_answers) j
)
SELECT
    e.call_id,                                  -- the id in calls
    row_number() OVER (PARTITION BY e.call_id ORDER BY e.is_answer, e.range, e.message_id) - 1 AS position, -- from 0
    e.is_answer,                                -- the model wrote it in this call
    e.message_id,                               -- the id in messages
    m.role,
    m.text,
    m.parts,
    m.tiktoken_tokens
FROM each e JOIN messages m ON m.id = e.message_id;

-- Tool calls that models made, with the result where it was sent back (or where the server ran the tool itself).
CREATE VIEW tool_calls AS
SELECT
    c.id AS call_id,                            -- the call whose answer it is in
    c.exchange_id,
    p.key AS position,                          -- within the answer
    json_extract(p.value, '$.name') AS tool,    -- its name
    json_extract(p.value, '$.text') AS arguments,   -- as sent: JSON as a rule
    json_extract(p.value, '$.id') AS tool_call_id,  -- joins it with the result; NULL: the dialect has no ids
    coalesce(
        (SELECT json_extract(q.value, '$.text') FROM json_each(m.parts) q
            WHERE json_extract(q.value, '$.kind') = 'tool_result'
            AND json_extract(q.value, '$.id') = json_extract(p.value, '$.id')),
        -- A result without an id is told by its tool and its place: the first is of the tool's first call, and so on.
        (SELECT r.text FROM
            (SELECT count(*) AS calls FROM json_each(m.parts) o
                WHERE o.key < p.key AND json_extract(o.value, '$.kind') = 'tool_call'
                AND json_extract(o.value, '$.name') IS json_extract(p.value, '$.name')) prior,
            (SELECT json_extract(q.value, '$.text') AS text, row_number() OVER (ORDER BY q.key) AS place
                FROM json_each(m.parts) q
                WHERE json_extract(q.value, '$.kind') = 'tool_result' AND json_extract(q.value, '$.id') IS NULL
                AND json_extract(q.value, '$.name') IS json_extract(p.value, '$.name')) r
            WHERE r.place = prior.calls + 1),
        -- Some servers give the same ids in every answer: the last of them in the input is of the last answer.
        (SELECT json_extract(q.value, '$.text') FROM read_calls n, json_each(n.input) i
            JOIN read_messages t ON t.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]'),
            json_each(t.parts) q
            WHERE n.parent_id = c.id AND json_extract(q.value, '$.kind') = 'tool_result'
            AND json_extract(q.value, '$.id') = json_extract(p.value, '$.id')
            ORDER BY n.id, i.key DESC, t.id DESC, q.key DESC LIMIT 1),
        -- The input that goes on begins with this call's own and the results in it (unless the server keeps the chat).
        (SELECT r.text FROM
            (SELECT count(*) AS calls FROM json_each(m.parts) o
                WHERE o.key < p.key AND json_extract(o.value, '$.kind') = 'tool_call'
                AND json_extract(o.value, '$.name') IS json_extract(p.value, '$.name')) prior,
            (SELECT count(*) AS results FROM json_each(c.input) i
                JOIN read_messages t ON t.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]'),
                json_each(t.parts) q
                WHERE json_extract(q.value, '$.kind') = 'tool_result' AND json_extract(q.value, '$.id') IS NULL
                AND json_extract(q.value, '$.name') IS json_extract(p.value, '$.name')) earlier,
            (SELECT n.id, n.previous_response_id, json_extract(q.value, '$.text') AS text,
                row_number() OVER (PARTITION BY n.id ORDER BY i.key, t.id, q.key) AS place
                FROM read_calls n, json_each(n.input) i
                JOIN read_messages t ON t.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]'),
                json_each(t.parts) q
                WHERE n.parent_id = c.id AND json_extract(q.value, '$.kind') = 'tool_result'
                AND json_extract(q.value, '$.id') IS NULL
                AND json_extract(q.value, '$.name') IS json_extract(p.value, '$.name')) r
            WHERE r.place = 1 + prior.calls + CASE WHEN r.previous_response_id IS NULL THEN earlier.results ELSE 0 END
            ORDER BY r.id LIMIT 1)
    ) AS result,                                -- as sent back in the call that goes on; NULL: not seen
    a.key AS choice                             -- which answer it is in, from 0: some calls ask for more than one
FROM read_calls c, json_each('[' || c.answer_id || coalesce(',' || substr(c.more_answers, 2), ']')) a
JOIN read_messages m ON m.id = a.value, json_each(m.parts) p
WHERE json_extract(p.value, '$.kind') = 'tool_call';

-- Settings of calls, a row for each source: what the request set, what the server told, and for the usual ones that
-- nobody told, that they are unknown.
CREATE VIEW call_parameters AS
SELECT
    c.id AS call_id,                            -- the id in calls
    json_extract(p.value, '$[0]') AS name,      -- one name for one setting, whatever the dialect calls it
    CASE json_type(p.value, '$[1]') WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'
        ELSE json_extract(p.value, '$[1]') END AS value,    -- arrays and objects as JSON; NULL: off, or not known
    json_extract(p.value, '$[2]') AS origin,    -- 'request', 'preset', 'model_default', 'effective', 'server', 'unknown'
    json_extract(p.value, '$[3]') AS sent_as,   -- the dialect's name, where it is another
    json_extract(p.value, '$[4]') AS note,      -- why it is ignored or unknown, and what else is to be known
    json_extract(p.value, '$[5]') AS is_ignored -- the server is known to ignore it
FROM read_calls c JOIN read_values v ON v.id = c.parameters_id, json_each(v.data) p
UNION ALL
SELECT c.id, json_extract(p.value, '$[0]'),
    CASE json_type(p.value, '$[1]') WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'
        ELSE json_extract(p.value, '$[1]') END, 'model_default',
    json_extract(p.value, '$[3]'), 'the last base configuration that was recorded before the call', 0
FROM read_calls c
JOIN read_values v ON v.id = (SELECT g.parameters_id FROM model_configs g
    WHERE g.model IN (c.model_answered, c.model_asked) AND g.at_us <= c.started_at_us
        AND EXISTS (SELECT 1 FROM read_values d WHERE d.id = g.parameters_id AND instr(d.data, '"model_default"'))
    ORDER BY g.at_us DESC LIMIT 1),
    json_each(v.data) p
WHERE c.operation IN ('chat', 'completion') AND json_extract(p.value, '$[2]') = 'model_default'
UNION ALL
SELECT c.id, json_extract(p.value, '$[0]'),
    CASE json_type(p.value, '$[1]') WHEN 'true' THEN 'true' WHEN 'false' THEN 'false'
        ELSE json_extract(p.value, '$[1]') END, 'model_default',
    json_extract(p.value, '$[3]'), s.source || ', asked ' || s.told, 0
FROM read_calls c JOIN call_snapshots s ON s.call_id = c.id, json_each(s.settings) p
WHERE json_extract(p.value, '$[2]') = 'model_default'
    AND NOT EXISTS (SELECT 1 FROM read_values v, json_each(v.data) q
        WHERE v.id = (SELECT g.parameters_id FROM model_configs g
            WHERE g.model IN (c.model_answered, c.model_asked) AND g.at_us <= c.started_at_us
                AND EXISTS (SELECT 1 FROM read_values d WHERE d.id = g.parameters_id AND instr(d.data, '"model_default"'))
            ORDER BY g.at_us DESC LIMIT 1)
        AND json_extract(q.value, '$[2]') = 'model_default'
        AND json_extract(q.value, '$[0]') = json_extract(p.value, '$[0]'))
UNION ALL
SELECT c.id, u.value, NULL, 'unknown', NULL,
    'not in the request, and the server told neither its value nor the model''s default', 0
FROM read_calls c, json_each('["temperature","top_p","top_k","min_p","repeat_penalty","presence_penalty",'
    || '"frequency_penalty","max_tokens","stop","seed"]') u
WHERE c.operation IN ('chat', 'completion')
    AND NOT EXISTS (SELECT 1 FROM read_values v, json_each(v.data) p
        WHERE v.id = c.parameters_id AND json_extract(p.value, '$[0]') = u.value)
    AND NOT EXISTS (SELECT 1 FROM read_values v, json_each(v.data) p
        WHERE v.id = (SELECT g.parameters_id FROM model_configs g
            WHERE g.model IN (c.model_answered, c.model_asked) AND g.at_us <= c.started_at_us
                AND EXISTS (SELECT 1 FROM read_values d WHERE d.id = g.parameters_id AND instr(d.data, '"model_default"'))
            ORDER BY g.at_us DESC LIMIT 1)
        AND json_extract(p.value, '$[0]') = u.value)
    AND NOT EXISTS (SELECT 1 FROM call_snapshots s, json_each(s.settings) p
        WHERE s.call_id = c.id AND json_extract(p.value, '$[0]') = u.value);

-- Token counts side by side, each with who counted. What a tokenizer of another model counts is an estimate.
CREATE VIEW token_counts AS
SELECT
    c.id AS call_id,                            -- the id in calls
    n.what,                                     -- 'input', 'output', 'total', 'reasoning', 'cached', or 'message'
    'reported' AS counter,                      -- 'reported' by the server; 'tiktoken:' with its encoding; 'server:' with
                                                -- the model whose tokenizer counted the bare texts when asked
    NULL AS message_id,                         -- of 'message', and of a counted 'output' that is one answer; all the
                                                -- answers of n > 1 are counted together
    CASE n.what WHEN 'input' THEN c.input_tokens WHEN 'output' THEN c.output_tokens WHEN 'total' THEN c.total_tokens
        WHEN 'reasoning' THEN c.reasoning_tokens ELSE c.cached_tokens END
        AS tokens                               -- how many; NULL: not counted
FROM read_calls c, (SELECT 'input' AS what UNION ALL SELECT 'output' UNION ALL SELECT 'total'
    UNION ALL SELECT 'reasoning' UNION ALL SELECT 'cached') n
WHERE c.is_call AND tokens IS NOT NULL
UNION ALL
SELECT c.id, 'input', 'tiktoken:' || s.value, NULL,
    (SELECT sum(m.tiktoken_tokens) FROM json_each(c.input) i
        JOIN read_messages m ON m.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]'))
FROM read_calls c, read_settings s
WHERE c.is_call AND s.name = 'encoding' AND s.value <> 'off' AND c.input IS NOT NULL
UNION ALL
SELECT c.id, 'output', 'tiktoken:' || s.value, CASE WHEN c.more_answers IS NULL THEN c.answer_id END,
    (SELECT sum(m.tiktoken_tokens)
        FROM json_each('[' || c.answer_id || coalesce(',' || substr(c.more_answers, 2), ']')) a
        JOIN read_messages m ON m.id = a.value)
FROM read_calls c, read_settings s
WHERE c.is_call AND s.name = 'encoding' AND s.value <> 'off' AND c.answer_id IS NOT NULL
UNION ALL
SELECT c.id, 'message', 'tiktoken:' || s.value, m.id, m.tiktoken_tokens
FROM read_calls c, json_each(c.input) i
JOIN read_messages m ON m.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]'), read_settings s
WHERE c.is_call AND s.name = 'encoding' AND s.value <> 'off'
UNION ALL
SELECT c.id, 'message', 'server:' || t.model, t.message_id, t.tokens
FROM read_calls c, json_each(c.input) i
JOIN server_token_counts t ON t.message_id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]')
WHERE c.is_call
UNION ALL
SELECT c.id, 'output', 'server:' || t.model, CASE WHEN c.more_answers IS NULL THEN c.answer_id END,
    t.tokens + CASE WHEN c.more_answers IS NULL THEN 0 ELSE
        (SELECT CASE WHEN count(u.tokens) = count(*) THEN sum(u.tokens) END FROM json_each(c.more_answers) j
            LEFT JOIN server_token_counts u ON u.message_id = j.value) END
FROM read_calls c JOIN server_token_counts t ON t.message_id = c.answer_id WHERE c.is_call
UNION ALL
SELECT c.id, 'input', 'server:' || min(t.model), NULL, sum(t.tokens)
FROM read_calls c, json_each(c.input) i
JOIN read_messages m ON m.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]')
LEFT JOIN server_token_counts t ON t.message_id = m.id
WHERE c.is_call GROUP BY c.id HAVING count(t.tokens) = count(*);

-- Conversations: calls that go on from each other.
CREATE VIEW threads AS
SELECT
    t.id,                                       -- the id of the first call: thread_id in calls
    strftime('%Y-%m-%dT%H:%M:%SZ', t.started_at_us / 1000000, 'unixepoch') AS started_at,   -- UTC
    t.client,
    s.name AS session,
    coalesce(t.model_answered, t.model_asked) AS model, -- of the first call
    (SELECT count(*) FROM read_calls n WHERE n.thread_id = t.id) AS calls, -- how many calls it has
    (SELECT count(*) FROM read_calls n WHERE n.thread_id = t.id AND n.label = 'branch')
        AS branches,                            -- of these, how many take another way from an earlier turn
    (SELECT count(*) FROM read_calls n WHERE n.thread_id = t.id AND n.label IN ('regenerate', 'retry'))
        AS repeats,                             -- and how many ask the same again
    (SELECT max(n.id) FROM read_calls n WHERE n.thread_id = t.id) AS last_call_id,  -- the id in calls
    (SELECT substr(text, 1, 200) FROM messages WHERE id = (SELECT min(m.id) FROM json_each(t.input) i
        JOIN read_messages m ON m.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]')
        WHERE m.role = 'user')) AS beginning,   -- of the first call's first user message
    t.started_at_us                             -- microseconds since 1970 UTC
FROM read_calls t LEFT JOIN read_sessions s ON s.id = t.session_id
WHERE t.thread_id = t.id;

-- How fast calls were, as reported and as measured.
CREATE VIEW speeds AS
SELECT
    id AS call_id,                              -- the id in calls
    exchange_id, started_at_us,
    coalesce(model_answered, model_asked) AS model, -- that answered; where none did, that was asked
    operation,                                  -- 'chat', 'completion' or 'embedding'
    is_streamed, reported_input_tokens, reported_output_tokens,
    reported_tokens_per_second, measured_tokens_per_second,
    reported_ttft_s, measured_ttft_ms, measured_first_content_ms, first_byte_ms,
    reported_total_time_s, reported_generation_time_s, reported_prompt_time_s,
    reported_load_time_s,                       -- if the call loaded the model
    measured_load_ms,                           -- loading the model, where events show it
    measured_prompt_ms, longest_gap_ms, token_events, duration_ms
FROM calls;

-- Sessions: what belongs together by a client's own word, by its path prefix, or else by client and time.
CREATE VIEW sessions AS
SELECT
    s.id,                                       -- counts up in the order in which sessions were first seen
    s.name,                                     -- as the client or the configuration names it
    s.origin,                                   -- 'header', 'prefix' or 'client'
    s.last_at_us,                               -- UTC of its last request, microseconds since 1970
    (SELECT count(*) FROM read_calls c WHERE c.session_id = s.id AND c.is_call)
        AS calls                                -- how many calls belong to it
FROM read_sessions s;

-- What went wrong, what is to be known of a prompt, and what no reader knows: a new version of a server shows itself
-- here.
CREATE VIEW problems AS
SELECT
    p.exchange_id,
    p.call_id,                                  -- NULL: it concerns the whole exchange
    CASE WHEN p.place IS NOT NULL THEN 'error' ELSE 'note' END AS severity, -- 'error': the server said so
    p.kind,                                     -- its type; or 'truncated', 'not_json', 'unknown_endpoint', 'gap'...
    p.detail,                                   -- in words
    p.code,                                     -- of an error, where it has one
    p.place,                                    -- of an error: 'body', 'stream', 'channel' or 'outcome'
    1 AS count                                  -- how often; more than 1 for fields that no reader knows
FROM read_problems p
UNION ALL
SELECT c.exchange_id, q.call_id, 'note', q.kind, q.detail, NULL, NULL, 1
FROM prompt_problems q JOIN read_calls c ON c.id = q.call_id
UNION ALL
SELECT u.last_exchange_id, NULL, 'note', 'unread_field', r.name || ': ' || u.path, NULL, NULL, u.count
FROM unread_fields u JOIN readers r ON r.id = u.reader_id;
