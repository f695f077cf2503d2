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

-- Ended exchanges by model; it is '' where the request named none.
CREATE VIEW models AS
SELECT
    model,                                      -- as requests name it
    sum(exchanges) AS exchanges,                -- how many
    sum(CASE WHEN outcome = 'completed' THEN exchanges ELSE 0 END) AS completed,  -- with this outcome
    sum(CASE WHEN outcome <> 'completed' THEN exchanges ELSE 0 END) AS failed,   -- with any other outcome
    sum(request_bytes) AS request_bytes,        -- of all bodies together
    sum(response_bytes) AS response_bytes,      -- the same of the responses
    sum(duration_us) / 1000.0 / sum(exchanges) AS mean_duration_ms     -- from first byte to end
FROM model_totals GROUP BY model;
