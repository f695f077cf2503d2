-- The trace's base tables. They may change by migration; the views in views.sql are what users build on.
-- Text columns hold TEXT where the bytes are UTF-8 without NUL and BLOB otherwise: the bytes are the same either way.

CREATE TABLE runs (
    id INTEGER PRIMARY KEY,
    run_id BLOB NOT NULL UNIQUE,            -- 16 random bytes the front made at its start
    started_at_us INTEGER NOT NULL,         -- UTC, microseconds since 1970
    started_monotonic_ns INTEGER NOT NULL,  -- the monotonic clock at the same moment
    first_exchange_id INTEGER NOT NULL,     -- exchange n of this run has the id first_exchange_id + n - 1
    ended TEXT                              -- 'in order', 'interrupted', or NULL while it runs
);

CREATE TABLE journal_position (             -- one row: how far the journal has been taken in
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    segment TEXT NOT NULL,                  -- file name
    offset INTEGER NOT NULL,
    first_segment TEXT                      -- the first that the last transaction took in: those from it on are done with
);

CREATE TABLE heads (                        -- header fields, content-addressed
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,            -- BLAKE3, 20 bytes, of fields; one of 16 bytes is BLAKE2b
    fields TEXT NOT NULL                    -- JSON: [["Name","value"],...] in order, case kept; bytes read as Latin-1
);

CREATE TABLE blobs (                        -- parts of bodies, content-addressed
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,            -- BLAKE3, 20 bytes, of data; 16 bytes: BLAKE2b
    data NOT NULL
);

CREATE TABLE bodies (                       -- a body is its parts, one after the other
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL,                   -- BLAKE3, 20 bytes, of the whole body; 16 bytes: BLAKE2b
    bytes INTEGER NOT NULL,
    parts TEXT NOT NULL                     -- JSON: [[first blob id, last blob id],...]: a chat's new messages have new,
);                                          --   neighbouring ids, so that a history of any length takes few ranges

CREATE TABLE recorded_exchanges (
    id INTEGER PRIMARY KEY,
    run INTEGER NOT NULL REFERENCES runs(id),
    connection INTEGER NOT NULL,            -- client connection, counted within the run
    kind TEXT NOT NULL,                     -- 'http' or 'websocket'
    client TEXT NOT NULL,                   -- address:port
    upstream TEXT,                          -- configured name; NULL where none was chosen
    upstream_url TEXT,
    started_at_us INTEGER NOT NULL,         -- UTC of the request's first byte; other *_us count from it
    method TEXT, target TEXT,               -- byte for byte (Latin-1); NULL for a malformed request
    http_version TEXT,                      -- of the request: '1.1'
    request_head INTEGER REFERENCES heads(id),    -- as received
    forwarded_target TEXT,                  -- NULL where nothing was forwarded
    forwarded_head INTEGER REFERENCES heads(id),
    status INTEGER, reason TEXT,            -- as sent to the client; NULL where no head came
    response_head INTEGER REFERENCES heads(id),   -- as the upstream sent it; NULL where the proxy answered
    sent_head INTEGER REFERENCES heads(id),       -- as sent to the client
    interim_heads TEXT,                     -- JSON: [[status, [["Name","value"],...]],...] of 1xx responses
    request_trailers TEXT, response_trailers TEXT,  -- JSON as heads.fields
    model TEXT,                             -- the top-level "model" of a JSON request body, where there is one
    request_body INTEGER REFERENCES bodies(id),   -- NULL where chunks hold the bytes, or there are none
    response_body INTEGER REFERENCES bodies(id),
    request_digest BLOB, response_digest BLOB,    -- as above, of what ingest read from the journal, masked
    request_is_text INTEGER, response_is_text INTEGER, -- whether it is UTF-8 without NUL; NULL where nothing came
    request_masked INTEGER NOT NULL DEFAULT 0,    -- values masked inside the body
    response_masked INTEGER NOT NULL DEFAULT 0,
    request_bytes INTEGER NOT NULL DEFAULT 0,     -- body (or tunnel) bytes counted by the front, recorded or not
    response_bytes INTEGER NOT NULL DEFAULT 0,
    request_chunks INTEGER NOT NULL DEFAULT 0,    -- recorded
    response_chunks INTEGER NOT NULL DEFAULT 0,
    request_complete_us INTEGER, first_byte_us INTEGER, done_us INTEGER,
    outcome TEXT,                           -- NULL while it runs
    error TEXT
);

CREATE TABLE chunk_frames (                 -- what the chunks of a stream have in common; a long chunk is one itself
    id INTEGER PRIMARY KEY,
    head NOT NULL,
    tail NOT NULL
);

CREATE TABLE recorded_chunks (              -- socket reads, or WebSocket messages and control frames, in runs
    exchange_id INTEGER NOT NULL REFERENCES recorded_exchanges(id),
    side INTEGER NOT NULL,                  -- 0 client, 1 upstream
    seq INTEGER NOT NULL,                   -- of the run's first chunk; from 0, within the exchange and side
    at_us INTEGER NOT NULL,                 -- of the run's first chunk, since the request's first byte
    opcode INTEGER,                         -- WebSocket: 1 text, 2 binary, 8 close, 9 ping, 10 pong; else NULL
    frame_id INTEGER REFERENCES chunk_frames(id), -- bytes are head || middle || tail; NULL: bytes are middle
    middle NOT NULL,                        -- of the first chunk; an INTEGER: the body holds so many bytes of it
    more TEXT,                              -- JSON, the run's later chunks: [[microseconds after at_us, middle],...]
    PRIMARY KEY (exchange_id, side, seq)
) WITHOUT ROWID;

CREATE TABLE staged_chunks (                -- bytes of running exchanges that have no place yet; empty once they ended
    exchange_id INTEGER NOT NULL,
    side INTEGER NOT NULL,
    seq INTEGER NOT NULL,                   -- their order; -1: the 32 KiB that came before, for a compressed WebSocket
    at_us INTEGER NOT NULL,
    data BLOB,                              -- a body's reads, chunks held back, a message's start; a BLOB is sealed, see sealed.py
    blob_id INTEGER REFERENCES blobs(id),   -- or a part of a long body, in its place already
    PRIMARY KEY (exchange_id, side, seq)
);

CREATE TABLE recorded_gaps (
    id INTEGER PRIMARY KEY,
    run INTEGER REFERENCES runs(id),        -- NULL: a segment that does not tell
    exchange_id INTEGER,                    -- NULL: whole exchanges, or not known which
    since_us INTEGER NOT NULL,              -- UTC, microseconds since 1970
    until_us INTEGER NOT NULL,
    lost_exchanges INTEGER NOT NULL,
    lost_records INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    reason TEXT NOT NULL
);

CREATE TABLE model_totals (                 -- kept by ingest, so that grouping by model needs no scan
    model TEXT NOT NULL,                    -- '' where the request named none
    outcome TEXT NOT NULL,
    exchanges INTEGER NOT NULL,
    request_bytes INTEGER NOT NULL,
    response_bytes INTEGER NOT NULL,
    duration_us INTEGER NOT NULL,
    PRIMARY KEY (model, outcome)
) WITHOUT ROWID;

CREATE INDEX recorded_exchanges_started ON recorded_exchanges(started_at_us);
CREATE INDEX recorded_exchanges_model ON recorded_exchanges(model) WHERE model IS NOT NULL;
CREATE INDEX recorded_exchanges_running ON recorded_exchanges(id) WHERE outcome IS NULL;
CREATE INDEX recorded_gaps_exchange ON recorded_gaps(exchange_id);
