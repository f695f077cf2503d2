-- What the models saw, for users; a part of the trace's public interface as views.sql is.

-- What LM Studio's own log told: prompts as the engine got them, outputs as it made them.
CREATE VIEW engine_events AS
SELECT
    c.id,                                       -- the id in readings
    c.exchange_id,                              -- the recorded log stream
    json_extract(v.data, '$.event') AS event,   -- 'input', 'output', or 'generated' for a line with an answer's id
    strftime('%Y-%m-%dT%H:%M:%S', c.started_at_us / 1000000, 'unixepoch')
        || printf('.%06dZ', c.started_at_us % 1000000) AS received_at,   -- UTC, when it was received
    json_extract(v.data, '$.timestamp_ms') AS timestamp_ms, -- LM Studio's own time, milliseconds since 1970
    c.model_answered AS model,                  -- its identifier, as the event tells
    json_extract(v.data, '$.model_path') AS model_path,     -- its file, as the event tells
    CASE json_extract(v.data, '$.event') WHEN 'input' THEN
        (SELECT m.text FROM messages m WHERE m.id = json_extract(c.input, '$[0][0]'))
        ELSE (SELECT m.text FROM messages m WHERE m.id = c.answer_id) END AS text,  -- the prompt, or the raw output
    c.stats,                                    -- of an output: the whole block as JSON, as sent
    c.response_id,                              -- of 'generated'
    coalesce((SELECT p.call_id FROM read_pairings p WHERE p.input_event_id = c.id),
        (SELECT p.call_id FROM read_pairings p WHERE p.output_event_id = c.id)) AS call_id, -- whose it is; NULL: not known
    c.started_at_us                             -- when it was received, microseconds since 1970 UTC
FROM read_calls c JOIN read_values v ON v.id = c.details_id
WHERE c.tag = 'engine-log' AND json_extract(v.data, '$.event') IN ('input', 'output', 'generated');

-- Rendered prompts: the exact text that a model got, each with its source. The first in this order is the one to trust:
-- observed in the engine's log, asked of the server, computed from the model's template.
CREATE VIEW rendered_prompts AS
SELECT
    p.id,                                       -- counts up as prompts are found
    p.call_id,                                  -- the id in calls
    p.source,                                   -- 'observed', 'asked' or 'computed'
    CASE WHEN p.event_id IS NOT NULL THEN
        (SELECT m.text FROM read_calls e JOIN messages m ON m.id = json_extract(e.input, '$[0][0]')
            WHERE e.id = p.event_id)
    ELSE (SELECT group_concat(each.text, '') FROM (SELECT t.text FROM json_each(p.parts) i
        JOIN read_prompt_parts t ON t.id BETWEEN json_extract(i.value, '$[0]') AND json_extract(i.value, '$[1]')
        ORDER BY i.key, t.id) each) END AS text, -- the prompt
    p.confidence,                               -- that the engine got this for this call: 0 to 1
    NOT EXISTS (SELECT 1 FROM read_prompts o WHERE o.call_id = p.call_id
        AND instr('observed asked computed', o.source) < instr('observed asked computed', p.source))
        AS is_best,                             -- no source that is more to be trusted has one
    p.template_id,                              -- the id in prompt_templates; NULL: not known which was used
    p.event_id,                                 -- of 'observed': the id in engine_events
    p.note,                                     -- how it was come by, what is uncertain
    p.at_us                                     -- UTC when it was found, microseconds since 1970
FROM read_prompts p;

-- The log's events of each call, how sure that is, and what else might be it.
CREATE VIEW prompt_pairings AS
SELECT
    call_id,                                    -- the id in calls
    input_event_id,                             -- the id in engine_events of its prompt; NULL: none, see why
    input_confidence,                           -- 0 to 1
    input_rivals,                               -- JSON: ids of events that might be it as well
    output_event_id,                            -- the id in engine_events of its raw output; NULL: none, see why
    output_confidence,                          -- 0 to 1
    output_rivals,                              -- JSON: ids of events that might be it as well
    why                                         -- why nothing was paired, or not surely; NULL: it is sure
FROM read_pairings;

-- The prompt of each call (the most trusted one) in pieces: which text came from where.
CREATE VIEW prompt_spans AS
SELECT
    p.call_id,                                  -- the id in calls
    s.prompt_id,                                -- the id in rendered_prompts
    s.seq,                                      -- from 0, in order
    s.start,                                    -- its first character in the prompt, from 0
    s.length,                                   -- characters
    s.kind,                                     -- 'message', 'tools', or 'template' for what the client never sent
    s.position,                                 -- of the message in call_messages, or of the tool; NULL: neither, or
                                                -- a message of an earlier call, which the server keeps
    s.message_id,                               -- the id in messages, of 'message'
    s.part,                                     -- which of the message's parts, from 0
    s.part_start,                               -- where in that part it begins
    s.tokens,                                   -- by the model's own tokenizer, as its server counted; NULL: not asked
    substr(r.text, s.start + 1, s.length) AS text   -- the piece
FROM read_prompt_spans s JOIN read_prompts p ON p.id = s.prompt_id JOIN rendered_prompts r ON r.id = p.id;

-- What became of each message on its way into the prompt, those among them that the client left out this time.
CREATE VIEW message_fates AS
SELECT
    f.call_id,                                  -- the id in calls
    f.position,                                 -- in call_messages; NULL: not sent with this call: the client left it
                                                -- out, or the server keeps the chat
    f.message_id,                               -- the id in messages
    m.role,
    f.fate,                                     -- 'kept', 'partly', 'missing', 'changed' (the template rewrote it),
                                                -- 'not_text' (an image)
    f.ranges,                                   -- JSON: [[part, start, end],...] of its texts which the prompt has
    f.tokens,                                   -- that it takes in the prompt, by the model's own tokenizer
    f.dropped_by,                               -- 'client' (sent less than the turn before), 'server' (sent, but not in
                                                -- the prompt), 'refused' (the whole call); NULL: nothing was dropped
    m.text                                      -- the whole message
FROM read_message_fates f JOIN messages m ON m.id = f.message_id;

-- The context window that each call met, with the prompt's tokens by each counter.
CREATE VIEW context_windows AS
SELECT
    w.call_id,                                  -- the id in calls
    w.context_length,                           -- tokens that prompt and answer may have together; NULL: nobody told
    w.context_source,                           -- who told
    coalesce(c.input_tokens, w.tokens_from_error, w.prompt_tokens) AS prompt_tokens,  -- reported; where nobody did, counted
    CASE WHEN c.input_tokens IS NOT NULL THEN 'reported' WHEN w.tokens_from_error IS NOT NULL THEN 'reported in the error'
        WHEN w.prompt_tokens IS NOT NULL THEN w.prompt_counter END AS prompt_counter, -- who counted these
    c.input_tokens AS reported_tokens,          -- the prompt's, by the answer
    w.prompt_tokens AS server_tokens,           -- the prompt's, by the model's own tokenizer, as its server counted
    w.tiktoken_tokens,                          -- the prompt's, by tiktoken: an estimate
    c.output_tokens,                            -- of the answer, as reported
    round(1.0 * coalesce(c.input_tokens, w.tokens_from_error, w.prompt_tokens) / w.context_length, 4)
        AS share,                               -- of the window that the prompt takes
    w.context_length - coalesce(c.input_tokens, w.tokens_from_error, w.prompt_tokens)
        AS room,                                -- tokens left for the answer; negative: it did not fit
    (SELECT count(*) FROM read_message_fates f WHERE f.call_id = w.call_id AND f.dropped_by = 'client')
        AS dropped_by_client,                   -- messages that it left out or cut
    (SELECT count(*) FROM read_message_fates f WHERE f.call_id = w.call_id AND f.dropped_by = 'server')
        AS dropped_by_server                    -- the same of the server
FROM read_windows w JOIN read_calls c ON c.id = w.call_id;

-- Prompt templates, with where each was found.
CREATE VIEW prompt_templates AS
SELECT
    t.id,                                       -- counts up as templates are found
    s.model,                                    -- whose it is
    s.source,                                   -- 'request', 'effective' (told by the predict channel), 'model_default',
                                                -- 'props', 'gguf', 'override' (of the user, in LM Studio's folder)
    s.detail,                                   -- which file, which call
    s.first_at_us,                              -- UTC, when it was first found there
    s.last_at_us,                               -- and last
    t.text,                                     -- Jinja
    s.bos_token,                                -- that it is rendered with; NULL: not told
    s.eos_token                                 -- the same
FROM read_templates t JOIN read_template_sources s ON s.template_id = t.id;
