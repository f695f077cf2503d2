-- The views are the trace's public interface: they may only grow. Bytes are shown as text wherever they are UTF-8
-- (a BLOB otherwise), times are UTC or milliseconds since the request's first byte, what is not known is NULL.

CREATE VIEW exchanges AS
SELECT
    e.id,
    strftime('%Y-%m-%dT%H:%M:%S', e.started_at_us / 1000000, 'unixepoch')
        || printf('.%06dZ', e.started_at_us % 1000000) AS started_at,   -- UTC; to search by time use started_at_us
    e.client,                                   -- address:port
    e.kind,                                     -- 'http' or 'websocket'
    e.upstream,                                 -- its configured name
    e.method,
    e.target AS path,                           -- as received, with its query
    e.status,                                   -- as sent to the client
    e.reason,
    e.model,                                    -- the request's top-level "model"
    e.request_bytes,                            -- of the body (WebSocket: of everything), without transfer framing
    e.response_bytes,
    e.request_chunks,                           -- socket reads (WebSocket: messages and control frames)
    e.response_chunks,
    e.request_complete_us / 1000.0 AS request_complete_ms,
    e.first_byte_us / 1000.0 AS first_byte_ms,
    e.done_us / 1000.0 AS duration_ms,
    e.outcome,                                  -- NULL while it runs
    e.error,
    e.request_masked + e.response_masked AS masked,     -- values masked inside the bodies
    (SELECT count(*) FROM recorded_gaps g WHERE g.exchange_id = e.id) AS gaps,
    request_head.fields AS request_headers,     -- JSON: [["Name","value"],...], as received from the client
    forwarded_head.fields AS forwarded_headers, -- as sent to the upstream
    response_head.fields AS response_headers,   -- as received from the upstream
    sent_head.fields AS sent_headers,           -- as sent to the client
    e.http_version,
    e.forwarded_target AS forwarded_path,
    e.interim_heads,                            -- JSON: [[status, [["Name","value"],...]],...] of 1xx responses
    e.request_trailers,
    e.response_trailers,
    e.connection,                               -- the client's connection, counted within the run
    e.run,
    e.started_at_us,
    e.upstream_url
FROM recorded_exchanges e
LEFT JOIN heads request_head ON request_head.id = e.request_head
LEFT JOIN heads forwarded_head ON forwarded_head.id = e.forwarded_head
LEFT JOIN heads response_head ON response_head.id = e.response_head
LEFT JOIN heads sent_head ON sent_head.id = e.sent_head;

-- Every chunk by itself. text is NULL where the body holds the bytes: then `bytes` of them, after those of the chunks
-- before (where values were masked, bytes are still those that were received).
CREATE VIEW chunks AS
WITH each_chunk AS (
    SELECT exchange_id, side, seq, at_us, opcode, frame_id, middle FROM recorded_chunks
    UNION ALL
    SELECT c.exchange_id, c.side, c.seq + 1 + m.key, c.at_us + json_extract(m.value, '$[0]'), c.opcode, c.frame_id,
        json_extract(m.value, '$[1]')
    FROM recorded_chunks c, json_each(c.more) m WHERE c.more IS NOT NULL
)
SELECT
    c.exchange_id,
    CASE c.side WHEN 0 THEN 'client' ELSE 'upstream' END AS side,
    c.seq,
    c.at_us / 1000.0 AS at_ms,
    c.at_us,
    CASE
        WHEN typeof(c.middle) = 'integer' THEN NULL
        WHEN c.frame_id IS NULL THEN c.middle
        WHEN typeof(c.middle) = 'text' THEN f.head || c.middle || f.tail
        ELSE CAST(f.head || c.middle || f.tail AS BLOB)
    END AS text,
    CASE typeof(c.middle)
        WHEN 'integer' THEN c.middle
        ELSE length(CAST(c.middle AS BLOB)) + coalesce(length(CAST(f.head AS BLOB)) + length(CAST(f.tail AS BLOB)), 0)
    END AS bytes,
    CASE c.opcode
        WHEN 1 THEN 'text' WHEN 2 THEN 'binary' WHEN 8 THEN 'close' WHEN 9 THEN 'ping' WHEN 10 THEN 'pong'
    END AS kind                                 -- WebSocket only
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
    END AS close_code,
    CASE WHEN c.kind = 'close' AND c.bytes >= 2 THEN CAST(substr(CAST(c.text AS BLOB), 3) AS TEXT) END AS close_reason
FROM chunks c JOIN recorded_exchanges e ON e.id = c.exchange_id
WHERE e.kind = 'websocket' AND e.status = 101;

-- The bodies of HTTP exchanges, whole. text is as sent, its content encoding not decoded, and a BLOB where it is not
-- UTF-8; NULL above 500 MB, as SQLite makes no longer strings, and while a body is still on its way.
CREATE VIEW request_bodies AS
SELECT
    exchange_id,
    CASE WHEN is_text THEN CAST(joined AS TEXT) ELSE CAST(joined AS BLOB) END AS text,
    bytes,
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

CREATE VIEW response_bodies AS
SELECT
    exchange_id,
    CASE WHEN is_text THEN CAST(joined AS TEXT) ELSE CAST(joined AS BLOB) END AS text,
    bytes,
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
SELECT h.exchange_id, h.which, f.key AS position,
    json_extract(f.value, '$[0]') AS name, json_extract(f.value, '$[1]') AS value
FROM each_head h JOIN heads ON heads.id = h.head, json_each(heads.fields) f;

-- What could not be recorded. exchange_id is NULL where whole exchanges are missing, or it is not known which.
CREATE VIEW gaps AS
SELECT
    id,
    exchange_id,
    strftime('%Y-%m-%dT%H:%M:%S', since_us / 1000000, 'unixepoch') || printf('.%06dZ', since_us % 1000000) AS since,
    strftime('%Y-%m-%dT%H:%M:%S', until_us / 1000000, 'unixepoch') || printf('.%06dZ', until_us % 1000000) AS until,
    lost_exchanges,
    lost_records,
    request_bytes,                              -- body bytes lost
    response_bytes,
    reason,
    run,
    since_us,
    until_us
FROM recorded_gaps;

-- Ended exchanges by model ('' where the request named none).
CREATE VIEW models AS
SELECT
    model,
    sum(exchanges) AS exchanges,
    sum(CASE WHEN outcome = 'completed' THEN exchanges ELSE 0 END) AS completed,
    sum(CASE WHEN outcome <> 'completed' THEN exchanges ELSE 0 END) AS failed,
    sum(request_bytes) AS request_bytes,
    sum(response_bytes) AS response_bytes,
    sum(duration_us) / 1000.0 / sum(exchanges) AS mean_duration_ms
FROM model_totals GROUP BY model;
