-- What readers say the recordings mean. Derived: everything here can be made again from the tables in schema.sql.

CREATE TABLE readers (                      -- who read: a reader's name and version
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    version INTEGER NOT NULL,
    UNIQUE (name, version)
);

CREATE TABLE unread_exchanges (             -- ended, and not read yet (or to be read again); filled by ingest
    exchange_id INTEGER PRIMARY KEY
);

CREATE TABLE read_exchanges (               -- read, by whom
    exchange_id INTEGER PRIMARY KEY,
    reader_id INTEGER REFERENCES readers(id),   -- NULL: nobody claimed it
    failure TEXT                            -- why it could not be read: a reader's bug; it is not tried again by itself
);

CREATE TABLE reading_attempts (             -- what is being read at this moment: found after a crash, it is to blame
    exchange_id INTEGER PRIMARY KEY,
    attempts INTEGER NOT NULL
);

CREATE TABLE read_values (                  -- JSON that many calls share, content-addressed: parameters, tools, schemas
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,            -- BLAKE2b, 16 bytes, of data
    data TEXT NOT NULL
);

CREATE TABLE read_messages (                -- messages and answers, content-addressed
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,            -- BLAKE2b, 16 bytes, of role, name and parts
    role TEXT NOT NULL,
    name TEXT,
    text TEXT,                              -- its text; NULL where a blob holds it
    blob_id INTEGER REFERENCES blobs(id),   -- a part of a request's body that holds the text,
    path TEXT,                              --   and where in its JSON
    parts TEXT,                             -- JSON: [{"kind","text",...},...]; NULL where it is one text
    first_call_id INTEGER NOT NULL,         -- the call that had it first
    tiktoken_tokens INTEGER                 -- of its texts, by the encoding in read_settings; NULL: not counted
);

CREATE TABLE read_calls (                   -- calls, and the other requests that a reader understands
    id INTEGER PRIMARY KEY,
    exchange_id INTEGER NOT NULL REFERENCES recorded_exchanges(id),
    seq INTEGER NOT NULL,                   -- from 0, within the exchange
    reader_id INTEGER NOT NULL REFERENCES readers(id),
    operation TEXT NOT NULL,
    is_call INTEGER NOT NULL,               -- a model computed something
    is_streamed INTEGER NOT NULL,
    is_observed INTEGER NOT NULL,
    is_running INTEGER NOT NULL,
    started_at_us INTEGER NOT NULL,         -- UTC, microseconds since 1970
    client TEXT NOT NULL,                   -- address without port
    session_id INTEGER REFERENCES read_sessions(id),
    tag TEXT,
    model_asked TEXT,
    model_answered TEXT,
    label TEXT,                             -- how it goes on from earlier calls
    thread_id INTEGER,                      -- id of the thread's first call
    parent_id INTEGER,                      -- the call whose answer it goes on from
    input_key INTEGER, output_key INTEGER,  -- hash of the chain of messages, without and with the answer
    system_key INTEGER,                     -- hash of the system messages, or of those the server kept; NULL: none
    is_system_changed INTEGER,              -- against the parent's; NULL: no parent, or not known
    input TEXT,                             -- JSON: [[first message id, last message id],...]
    answer_id INTEGER REFERENCES read_messages(id),
    more_answers TEXT,                      -- JSON: [message id,...]
    running_text TEXT,                      -- what was answered so far, while it runs
    parameters_id INTEGER REFERENCES read_values(id),   -- JSON: [[name, value, origin, sent_as, note, is_ignored],...]
    tools_id INTEGER REFERENCES read_values(id),        -- JSON: [{"name","description","schema","kind"},...]
    output_schema_id INTEGER REFERENCES read_values(id),
    stop_reason TEXT, stop_reason_raw TEXT, stop_string TEXT,
    input_tokens INTEGER, output_tokens INTEGER, total_tokens INTEGER, reasoning_tokens INTEGER,  -- reported
    cached_tokens INTEGER,
    tokens_per_second REAL, ttft_s REAL, total_time_s REAL, generation_time_s REAL, load_time_s REAL, -- reported
    prompt_time_s REAL, prompt_tokens_per_second REAL, gpu_layers INTEGER,
    draft_model TEXT, draft_tokens INTEGER, accepted_draft_tokens INTEGER,
    stats TEXT,                             -- the whole block as JSON, as sent
    model_info_id INTEGER REFERENCES read_values(id), runtime_id INTEGER REFERENCES read_values(id),
    request_complete_us INTEGER, first_byte_us INTEGER, first_token_us INTEGER, first_content_us INTEGER,
    last_token_us INTEGER, token_events INTEGER NOT NULL, longest_gap_us INTEGER, load_us INTEGER, prompt_us INTEGER,
    done_us INTEGER,                        -- these since the call's start
    response_id TEXT, previous_response_id TEXT,
    details_id INTEGER REFERENCES read_values(id)   -- JSON
);

CREATE TABLE read_problems (                -- what the server said went wrong, and what readers stumbled over
    exchange_id INTEGER NOT NULL,
    call_id INTEGER,
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    code TEXT,
    place TEXT,                             -- of an error: body, stream, channel or outcome; NULL: a reader's note
    PRIMARY KEY (exchange_id, seq)
) WITHOUT ROWID;

CREATE TABLE unread_fields (                -- fields that no reader knows, counted: a new version of a server shows itself
    reader_id INTEGER NOT NULL REFERENCES readers(id),
    path TEXT NOT NULL,
    count INTEGER NOT NULL,
    last_exchange_id INTEGER NOT NULL,
    PRIMARY KEY (reader_id, path)
) WITHOUT ROWID;

CREATE TABLE read_sessions (                -- by a client's own word, a path prefix, or client and time
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    origin TEXT NOT NULL,                   -- header, prefix or client
    client TEXT NOT NULL,
    last_at_us INTEGER NOT NULL
);

CREATE TABLE model_configs (                -- settings of a model as a server told them, by time
    model TEXT NOT NULL,
    at_us INTEGER NOT NULL,                 -- UTC
    call_id INTEGER NOT NULL,
    parameters_id INTEGER NOT NULL REFERENCES read_values(id),
    PRIMARY KEY (model, at_us, call_id)
) WITHOUT ROWID;

CREATE TABLE call_totals (                  -- kept by the indexer, so that grouping needs no scan
    model TEXT NOT NULL,
    operation TEXT NOT NULL,
    calls INTEGER NOT NULL,
    failed INTEGER NOT NULL,                -- with an error
    input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL,  -- reported
    reported_speeds INTEGER NOT NULL, tokens_per_second REAL NOT NULL,  -- how many, and their sum
    measured_ttfts INTEGER NOT NULL, ttft_us INTEGER NOT NULL,
    measured_speeds INTEGER NOT NULL, measured_tokens_per_second REAL NOT NULL,
    PRIMARY KEY (model, operation)
) WITHOUT ROWID;

CREATE TABLE server_token_counts (          -- by the model's own tokenizer, as its server counted when asked
    message_id INTEGER PRIMARY KEY,
    model TEXT NOT NULL,
    tokens INTEGER NOT NULL
);

CREATE TABLE read_settings (                -- how readings were made
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE VIRTUAL TABLE message_search USING fts5(   -- rowid: the message's id; text without accents and case
    text, content='', tokenize='trigram', detail=none, columnsize=0
);
CREATE VIRTUAL TABLE message_trigrams USING fts5vocab(message_search, row);

CREATE UNIQUE INDEX read_calls_exchange ON read_calls(exchange_id, seq);
CREATE INDEX read_calls_started ON read_calls(started_at_us);
CREATE INDEX read_calls_thread ON read_calls(thread_id, id) WHERE thread_id IS NOT NULL;
CREATE INDEX read_calls_parent ON read_calls(parent_id) WHERE parent_id IS NOT NULL;
CREATE INDEX read_calls_input ON read_calls(input_key) WHERE input_key IS NOT NULL;
CREATE INDEX read_calls_output ON read_calls(output_key) WHERE output_key IS NOT NULL;
CREATE INDEX read_calls_response ON read_calls(response_id) WHERE response_id IS NOT NULL;
CREATE INDEX read_calls_running ON read_calls(exchange_id) WHERE is_running;
CREATE INDEX read_sessions_client ON read_sessions(client, last_at_us);
CREATE INDEX read_problems_call ON read_problems(call_id) WHERE call_id IS NOT NULL;
