-- What the models saw. Derived, like readings.sql: made again with the calls that it belongs to.

CREATE TABLE prompt_queue (                 -- calls whose prompt is still to be found; filled where calls are read
    call_id INTEGER PRIMARY KEY,
    step INTEGER NOT NULL                   -- 0: to be paired with the engine's log, 1: to be rendered, 2: to be aligned
);

CREATE TABLE read_pairings (                -- what the engine's log has of a call
    call_id INTEGER PRIMARY KEY,
    input_event_id INTEGER,                 -- row in read_calls with the prompt; NULL: none
    input_confidence REAL,                  -- 0 to 1
    input_rivals TEXT,                      -- JSON: [event id,...] which might be it as well
    output_event_id INTEGER,                -- row in read_calls with the raw output; NULL: none
    output_confidence REAL,
    output_rivals TEXT,
    why TEXT                                -- why there is none, or no certainty
);

CREATE TABLE read_templates (               -- prompt templates, content-addressed
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,            -- BLAKE2b, 16 bytes, of text
    text TEXT NOT NULL
);

CREATE TABLE read_template_sources (        -- where each was found
    template_id INTEGER NOT NULL REFERENCES read_templates(id),
    upstream_url TEXT NOT NULL,             -- servers may give one name to different models; '': not forwarded
    model TEXT NOT NULL,
    source TEXT NOT NULL,                   -- 'request', 'effective', 'model_default', 'props', 'gguf', 'tokenizer', 'override'
    detail TEXT,                            -- which file, which call
    bos_token TEXT, eos_token TEXT,         -- that it is to be rendered with; NULL: not told
    first_at_us INTEGER NOT NULL,           -- UTC
    last_at_us INTEGER NOT NULL,
    PRIMARY KEY (template_id, upstream_url, model, source)
) WITHOUT ROWID;

CREATE TABLE read_prompt_parts (            -- texts that prompts are made of, content-addressed
    id INTEGER PRIMARY KEY,
    digest BLOB NOT NULL UNIQUE,            -- BLAKE2b, 16 bytes, of text
    text TEXT NOT NULL
);

CREATE TABLE read_prompts (                 -- rendered prompts of calls, one of each source
    id INTEGER PRIMARY KEY,
    call_id INTEGER NOT NULL,
    source TEXT NOT NULL,                   -- 'observed', 'asked' or 'computed'
    event_id INTEGER,                       -- observed: the event, whose message is the text
    parts TEXT,                             -- asked, computed: JSON [[first part id, last part id],...], as of bodies
    confidence REAL NOT NULL,               -- that this is what the engine got: 0 to 1
    template_id INTEGER REFERENCES read_templates(id),  -- NULL: not known
    note TEXT,                              -- how it was come by, what is uncertain
    at_us INTEGER NOT NULL,                 -- UTC, when it was found
    UNIQUE (call_id, source)
);

CREATE TABLE read_prompt_spans (            -- of the most trusted prompt of a call: which text came from where
    prompt_id INTEGER NOT NULL REFERENCES read_prompts(id),
    seq INTEGER NOT NULL,
    start INTEGER NOT NULL,                 -- characters, from 0
    length INTEGER NOT NULL,
    kind TEXT NOT NULL,                     -- 'message', 'tools' or 'template'
    position INTEGER,                       -- of the message in the call, or of the tool; NULL: neither
    message_id INTEGER,                     -- row in read_messages, of 'message'
    part INTEGER,                           -- which of the message's texts
    part_start INTEGER,                     -- where in it the span begins
    tokens INTEGER,                         -- by the model's own tokenizer, as its server counted; NULL: not asked
    PRIMARY KEY (prompt_id, seq)
) WITHOUT ROWID;

CREATE TABLE read_message_fates (           -- what became of each message on its way into the prompt
    call_id INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    position INTEGER,                       -- in the call's input; NULL: it was not sent with this call
    message_id INTEGER NOT NULL,            -- row in read_messages
    fate TEXT NOT NULL,                     -- 'kept', 'partly', 'missing', 'changed' or 'not_text'
    ranges TEXT,                            -- JSON: [[part, start, end],...] of its texts which the prompt has
    tokens INTEGER,                         -- in the prompt
    dropped_by TEXT,                        -- 'client', 'server' or 'refused'; NULL: nothing was dropped
    PRIMARY KEY (call_id, seq)
) WITHOUT ROWID;

CREATE TABLE read_windows (                 -- the context window that a call met
    call_id INTEGER PRIMARY KEY,
    context_length INTEGER,                 -- tokens; NULL: nobody told
    context_source TEXT,                    -- who told
    prompt_tokens INTEGER,                  -- of the whole prompt, by the model's own tokenizer; NULL: not counted
    prompt_counter TEXT,                    -- who counted: 'server:' with the model
    tiktoken_tokens INTEGER,                -- of the whole prompt, by the encoding in read_settings
    limit_from_error INTEGER,               -- the context length that a refusal names
    tokens_from_error INTEGER               -- the prompt's tokens that a refusal names
);

CREATE TABLE prompt_problems (              -- what is to be known of a call's prompt
    call_id INTEGER NOT NULL,
    kind TEXT NOT NULL,
    detail TEXT NOT NULL,
    PRIMARY KEY (call_id, kind)
) WITHOUT ROWID;

CREATE TABLE model_snapshots (              -- settings of a model as its server told them when asked, by time
    upstream_url TEXT NOT NULL,
    model TEXT NOT NULL,
    source TEXT NOT NULL,                   -- 'getBasePredictionConfig', 'getLoadConfig', '/props', '/api/v1/models'...
    first_at_us INTEGER NOT NULL,           -- UTC: told so from then
    last_at_us INTEGER NOT NULL,            --   until then, with no other word between
    values_id INTEGER NOT NULL REFERENCES read_values(id),  -- JSON: [[name, value, origin, sent_as, note, is_ignored],...]
    PRIMARY KEY (upstream_url, model, source, first_at_us)
) WITHOUT ROWID;

CREATE TABLE engine_log_status (            -- whether the engine's log is listened to, as serve's back process says
    upstream TEXT PRIMARY KEY,              -- its configured name
    state TEXT NOT NULL,                    -- 'asking', 'unreachable', 'not_lmstudio', 'listening', 'refused' or 'lost'
    detail TEXT NOT NULL,                   -- why, in words; may be empty
    since_us INTEGER NOT NULL               -- UTC
);

CREATE INDEX prompt_queue_step ON prompt_queue(step, call_id);
CREATE INDEX read_pairings_input ON read_pairings(input_event_id) WHERE input_event_id IS NOT NULL;
CREATE INDEX read_pairings_output ON read_pairings(output_event_id) WHERE output_event_id IS NOT NULL;
CREATE INDEX read_template_sources_model ON read_template_sources(upstream_url, model);
CREATE INDEX read_calls_tag ON read_calls(tag, id) WHERE tag IS NOT NULL;
