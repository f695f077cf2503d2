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
    call_id,                                    -- the id in calls
    context_length,                             -- tokens that prompt and answer may have together; NULL: nobody told
    context_source,                             -- who told
    coalesce(reported, from_error, from_log, counted) AS prompt_tokens, -- reported; where nobody did, counted
    CASE WHEN reported IS NOT NULL THEN 'reported' WHEN from_error IS NOT NULL THEN 'reported in the error'
        WHEN from_log IS NOT NULL THEN 'engine log' WHEN counted IS NOT NULL THEN prompt_counter
        END AS prompt_counter,                  -- who counted these
    reported AS reported_tokens,                -- the prompt's, by the answer, cached ones among them
    counted AS server_tokens,                   -- the prompt's, by the model's own tokenizer, as its server counted
    tiktoken_tokens,                            -- the prompt's, by tiktoken: an estimate
    output_tokens,                              -- of the answer, as reported
    round(1.0 * coalesce(reported, from_error, from_log, counted) / context_length, 4)
        AS share,                               -- of the window that the prompt takes
    context_length - coalesce(reported, from_error, from_log, counted)
        AS room,                                -- tokens left for the answer; negative: it did not fit
    (SELECT count(*) FROM read_message_fates f WHERE f.call_id = w.call_id AND f.dropped_by = 'client')
        AS dropped_by_client,                   -- messages that it left out or cut
    (SELECT count(*) FROM read_message_fates f WHERE f.call_id = w.call_id AND f.dropped_by = 'server')
        AS dropped_by_server,                   -- the same of the server
    from_log AS log_tokens                      -- the prompt's, by the engine's log
FROM (
    SELECT w.call_id, w.context_length, w.context_source, w.prompt_tokens AS counted, w.prompt_counter, w.tiktoken_tokens,
        w.tokens_from_error AS from_error, coalesce(c.output_tokens, o.output_tokens) AS output_tokens,
        o.input_tokens AS from_log,
        c.input_tokens + CASE r.name WHEN 'anthropic_messages' THEN coalesce(c.cached_tokens, 0) + coalesce((
            SELECT json_extract(d.data, '$.cache_creation_input_tokens') FROM read_values d WHERE d.id = c.details_id), 0)
            ELSE 0 END AS reported
    FROM read_windows w JOIN read_calls c ON c.id = w.call_id JOIN readers r ON r.id = c.reader_id
    LEFT JOIN read_pairings p ON p.call_id = w.call_id LEFT JOIN read_calls o ON o.id = p.output_event_id
) w;

-- Prompt templates, with where each was found.
CREATE VIEW prompt_templates AS
SELECT
    t.id,                                       -- counts up as templates are found
    s.model,                                    -- whose it is
    s.source,                                   -- 'request', 'effective' (told by the predict channel), 'model_default',
                                                -- 'props', 'gguf', 'tokenizer', 'override' (the user's, in LM Studio's folder)
    s.detail,                                   -- which file, which call
    s.first_at_us,                              -- UTC, when it was first found there
    s.last_at_us,                               -- and last
    t.text,                                     -- Jinja
    s.bos_token,                                -- that it is rendered with; NULL: not told
    s.eos_token,                                -- the same
    s.upstream_url                              -- the server whose model it is
FROM read_templates t JOIN read_template_sources s ON s.template_id = t.id;

-- What servers told of the settings of each call's model when they were asked, the word that is nearest to the call: told
-- at most two minutes before it, else within a minute after its end, else longer ago.
CREATE VIEW call_snapshots AS
SELECT
    c.id AS call_id,                            -- the id in calls
    s.source,                                   -- 'getBasePredictionConfig' (before a call says anything), 'getLoadConfig',
                                                -- '/props', '/api/v1/models' or '/api/v0/models'
    s.upstream_url,                             -- who told it
    s.model,                                    -- of which model
    CASE WHEN s.first_at_us > c.started_at_us THEN 'after the call'
        WHEN s.last_at_us < c.started_at_us THEN 'before the call' ELSE 'before and after the call' END
        AS told,                                -- when the server said so
    CASE WHEN s.last_at_us < c.started_at_us THEN s.last_at_us ELSE s.first_at_us END
        AS told_at_us,                          -- the time nearest to the call, or (both) the first; UTC, microseconds
    v.data AS settings                          -- JSON: [[name, value, origin, sent_as, note, is_ignored],...]
FROM read_calls c JOIN recorded_exchanges e ON e.id = c.exchange_id
JOIN model_snapshots s ON s.upstream_url = e.upstream_url AND s.model = coalesce(c.model_answered, c.model_asked)
    AND s.first_at_us = coalesce(
        (SELECT max(b.first_at_us) FROM model_snapshots b
            WHERE b.upstream_url = s.upstream_url AND b.model = s.model AND b.source = s.source
            AND b.first_at_us <= c.started_at_us AND b.last_at_us >= c.started_at_us - 120000000),
        (SELECT min(b.first_at_us) FROM model_snapshots b
            WHERE b.upstream_url = s.upstream_url AND b.model = s.model AND b.source = s.source
            AND b.first_at_us BETWEEN c.started_at_us AND c.started_at_us + coalesce(c.done_us, 0) + 60000000),
        (SELECT max(b.first_at_us) FROM model_snapshots b
            WHERE b.upstream_url = s.upstream_url AND b.model = s.model AND b.source = s.source
            AND b.first_at_us <= c.started_at_us))
JOIN read_values v ON v.id = s.values_id
WHERE c.operation IN ('chat', 'completion');

-- What `proxy-log precedence` found out: whether a request's value of a setting is in force. Drawn from the recorded calls
-- with its tag alone. Where the server tells the configuration in force, that decides; else what the answers show: calls
-- that are equal but for this one setting, each of its values asked for several times.
CREATE VIEW precedence_findings AS
WITH tried AS (
    SELECT c.id, c.session_id, substr(c.tag, 12) AS name, e.upstream_url,
        coalesce(c.model_answered, c.model_asked) AS model, r.name AS surface, c.answer_id, c.output_tokens,
        c.started_at_us,
        (SELECT coalesce(json_extract(p.value, '$[1]'), 'off') FROM read_values v, json_each(v.data) p
            WHERE v.id = c.parameters_id AND json_extract(p.value, '$[0]') = substr(c.tag, 12)
            AND json_extract(p.value, '$[2]') = 'request' ORDER BY p.key DESC LIMIT 1) AS asked,
        (SELECT coalesce(json_extract(p.value, '$[1]'), 'off') FROM read_values v, json_each(v.data) p
            WHERE v.id = c.parameters_id AND json_extract(p.value, '$[0]') = substr(c.tag, 12)
            AND json_extract(p.value, '$[2]') = 'effective' ORDER BY p.key DESC LIMIT 1) AS effective
    FROM read_calls c JOIN recorded_exchanges e ON e.id = c.exchange_id JOIN readers r ON r.id = c.reader_id
    WHERE c.tag > 'precedence:' AND c.tag < 'precedence;' AND c.operation IN ('chat', 'completion')
        AND NOT c.is_running AND (c.answer_id IS NOT NULL OR c.stop_reason IS NOT NULL)
), arms AS (
    SELECT session_id, name, upstream_url, model, surface, asked, count(*) AS runs,
        count(DISTINCT coalesce(answer_id, 0)) AS answers, min(coalesce(answer_id, 0)) AS answer,
        max(started_at_us) AS at_us, group_concat(id) AS ids, count(effective) AS told,
        sum(effective IS asked OR json_array(asked) = effective
            OR (typeof(asked) IN ('integer', 'real') AND typeof(effective) IN ('integer', 'real')
                AND abs(asked - effective) <= 1e-6 * max(1.0, abs(asked)))) AS obeyed,
        sum(output_tokens > asked) AS longer
    FROM tried WHERE asked IS NOT NULL GROUP BY session_id, name, upstream_url, model, surface, asked
), living AS (
    SELECT session_id, upstream_url, model, surface, count(DISTINCT answer_id) > 1 AS is_alive FROM tried
    WHERE name NOT IN ('max_tokens', 'stop') AND asked IS NOT NULL GROUP BY session_id, upstream_url, model, surface
), settings AS (
    SELECT session_id, name, upstream_url, model, surface, count(*) AS arms, sum(runs) AS runs, min(runs) AS least,
        sum(answers = 1) AS steady, count(DISTINCT answer) AS kinds, max(at_us) AS at_us, group_concat(ids) AS ids,
        sum(told) AS told, sum(obeyed) AS obeyed, sum(longer) AS longer
    FROM arms GROUP BY session_id, name, upstream_url, model, surface
), judged AS (
    SELECT s.*,
        CASE
            WHEN s.told = s.runs AND s.arms > 1 AND s.obeyed = s.runs THEN 'told: request'
            WHEN s.told = s.runs AND s.arms > 1 THEN 'told: server'
            WHEN s.arms < 2 OR s.least < 2 THEN 'too few'
            WHEN s.steady = s.arms AND s.kinds > 1 THEN 'follows'
            WHEN s.name = 'seed' AND s.steady < s.arms THEN 'seed unused'
            WHEN s.name IN ('temperature', 'top_k', 'top_p', 'min_p') AND s.steady BETWEEN 1 AND s.arms - 1 THEN 'steadies'
            WHEN s.steady < s.arms THEN 'chance'
            WHEN s.name = 'max_tokens' AND s.longer > 0 THEN 'longer'
            WHEN s.name = 'stop' THEN 'goes on'
            WHEN s.name <> 'max_tokens' AND l.is_alive THEN 'no effect'
            ELSE 'all the same'
        END AS verdict
    FROM settings s LEFT JOIN living l ON l.session_id IS s.session_id AND l.upstream_url = s.upstream_url
        AND l.model = s.model AND l.surface = s.surface
), headed AS ( -- where the system prompt is a message, the prompt that the engine got shows what became of it
    SELECT tried.*, (SELECT f.fate = 'kept' FROM read_message_fates f JOIN read_messages m ON m.id = f.message_id
        WHERE f.call_id = tried.id AND m.role = 'system'
            AND EXISTS (SELECT 1 FROM read_prompts p WHERE p.call_id = tried.id AND p.source IN ('observed', 'asked'))
        ORDER BY f.seq LIMIT 1) AS is_kept
    FROM tried WHERE name = 'system_prompt' AND asked IS NULL AND surface <> 'lmstudio_sdk'
), together AS (
    SELECT session_id, name, upstream_url, model, surface, verdict, at_us, ids FROM judged
    UNION ALL
    SELECT session_id, name, upstream_url, model, surface,
        CASE sum(is_kept) WHEN count(is_kept) THEN 'in the prompt' WHEN 0 THEN 'not in the prompt'
            ELSE iif(count(is_kept), 'now and then', 'no prompt') END,
        max(started_at_us), coalesce(group_concat(id) FILTER (WHERE is_kept IS NOT NULL), group_concat(id))
    FROM headed GROUP BY session_id, upstream_url, model, surface
)
SELECT
    upstream_url,                               -- the server
    model,                                      -- as it answers
    surface,                                    -- the dialect of the requests: a server may differ from one to the other
    name,                                       -- the setting, as in call_settings
    CASE WHEN verdict IN ('told: request', 'follows', 'steadies', 'in the prompt') THEN 'request'
        WHEN verdict IN ('told: server', 'seed unused', 'longer', 'goes on', 'no effect', 'not in the prompt') THEN 'server'
        ELSE 'unknown' END AS won,              -- 'request', 'server' (what is set there, and not the request), 'unknown'
    CASE verdict
        WHEN 'told: request' THEN 'the server told the configuration in force: each value asked for was'
        WHEN 'told: server' THEN 'the server told the configuration in force: not each value asked for was'
        WHEN 'too few' THEN 'too few calls were answered'
        WHEN 'follows' THEN 'equal requests had equal answers, and those with another value other ones'
        WHEN 'steadies' THEN 'with one value equal requests had equal answers, with the other not'
        WHEN 'seed unused' THEN 'requests with the same seed had different answers'
        WHEN 'chance' THEN 'equal requests had different answers, so nothing can be told from differences'
        WHEN 'longer' THEN 'answers were longer than the request allows'
        WHEN 'goes on' THEN 'answers went on behind the stop string'
        WHEN 'in the prompt' THEN 'each rendered prompt has the system message of its request'
        WHEN 'not in the prompt' THEN 'no rendered prompt has the system message of its request'
        WHEN 'no prompt' THEN 'no rendered prompt is known: neither did a log tell it, nor the server when it was asked'
        WHEN 'now and then' THEN 'some rendered prompts have the system message of their request, others do not'
        WHEN 'no effect' THEN 'the answers were the same whatever was asked for, though other settings change them'
        ELSE 'all answers were the same, and no setting changed them' END AS evidence,  -- in words
    '[' || ids || ']' AS call_ids,              -- JSON: ids in calls, to look at with show and explain
    at_us,                                      -- when the last of them was made; UTC, microseconds since 1970
    session_id                                  -- the id in sessions of the run of the command
FROM together;

-- Every setting that a call had or could have had: what the request says, what the server had told before, what was in
-- force, who won, and how that is known. Values are as in call_parameters, but that 'off' says that it is switched off.
CREATE VIEW call_settings AS
WITH gathered AS (
    SELECT c.id AS call_id, c.reader_id, c.exchange_id, coalesce(c.model_answered, c.model_asked) AS model, w.value AS found
    FROM read_calls c, json_each((  -- asked for each call by itself, so that a question about one call reads only that
        SELECT json_group_array(json(wide.fields)) FROM (
            SELECT json_object('name', last_told.name,
                'request', max(CASE slot WHEN 'request' THEN value END),
                'ignored', max(CASE slot WHEN 'ignored' THEN value END),
                'ignored_why', max(CASE slot WHEN 'ignored' THEN note END),
                'preset', max(CASE slot WHEN 'preset' THEN value END),
                'base', max(CASE slot WHEN 'model_default' THEN value END),
                'base_from', max(CASE slot WHEN 'model_default' THEN note END),
                'effective', max(CASE slot WHEN 'effective' THEN value END),
                'load', max(CASE slot WHEN 'load' THEN value END),
                'load_from', max(CASE slot WHEN 'load' THEN note END),
                'base_at_us', max(CASE WHEN slot IN ('model_default', 'load') THEN at_us END),
                'is_load', max(last_told.name IN ('context_length', 'max_context_length', 'load_seed', 'gpu_offload',
                    'eval_batch_size', 'flash_attention', 'offload_kv_cache_to_gpu', 'num_experts', 'parallel',
                    'load_prompt_template') OR slot = 'load' OR sent_as GLOB 'llm.load.*' OR sent_as GLOB 'load.*')
            ) AS fields
            FROM (SELECT name, slot, value, note, at_us, sent_as, max(place) FROM (
                SELECT json_extract(p.value, '$[0]') AS name,
                    CASE json_type(p.value, '$[1]') WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' WHEN 'null' THEN 'off'
                    ELSE json_extract(p.value, '$[1]') END AS value,
                    CASE WHEN json_extract(p.value, '$[5]') THEN 'ignored' WHEN json_extract(p.value, '$[2]') = 'server'
                        THEN 'effective' ELSE json_extract(p.value, '$[2]') END AS slot,
                    json_extract(p.value, '$[4]') AS note, NULL AS at_us, p.key AS place,
                    coalesce(json_extract(p.value, '$[3]'), json_extract(p.value, '$[0]')) AS sent_as
                FROM read_values v, json_each(v.data) p WHERE v.id = c.parameters_id
                UNION ALL
                SELECT json_extract(p.value, '$[0]'),
                    CASE json_type(p.value, '$[1]') WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' WHEN 'null' THEN 'off'
                    ELSE json_extract(p.value, '$[1]') END,
                    CASE json_extract(p.value, '$[2]') WHEN 'model_default' THEN 'model_default' ELSE 'load' END,
                    s.source || ', asked ' || s.told, s.told_at_us, s.told_at_us,
                    coalesce(json_extract(p.value, '$[3]'), json_extract(p.value, '$[0]'))
                FROM call_snapshots s, json_each(s.settings) p WHERE s.call_id = c.id
                UNION ALL
                SELECT json_extract(p.value, '$[0]'),
                    CASE json_type(p.value, '$[1]') WHEN 'true' THEN 'true' WHEN 'false' THEN 'false' WHEN 'null' THEN 'off'
                    ELSE json_extract(p.value, '$[1]') END,
                    'model_default', 'a client asked for it before the call', g.at_us, g.at_us,
                    coalesce(json_extract(p.value, '$[3]'), json_extract(p.value, '$[0]'))
                FROM model_configs g JOIN read_values v ON v.id = g.parameters_id, json_each(v.data) p
                WHERE g.model IN (c.model_answered, c.model_asked) AND json_extract(p.value, '$[2]') = 'model_default'
                    AND g.at_us = (SELECT max(h.at_us) FROM model_configs h
                        JOIN read_values d ON d.id = h.parameters_id AND instr(d.data, '"model_default"')
                        WHERE h.model IN (c.model_answered, c.model_asked) AND h.at_us <= c.started_at_us)
                UNION ALL
                SELECT u.value, NULL, 'none', NULL, NULL, 0, u.value
                FROM json_each('["temperature","top_p","top_k","min_p","repeat_penalty","presence_penalty",'
                    || '"frequency_penalty","max_tokens","stop","seed","context_length"]') u
            ) GROUP BY name, slot) last_told GROUP BY last_told.name
        ) wide
    )) w
    WHERE c.operation IN ('chat', 'completion')
), wide AS (
    SELECT call_id, reader_id, exchange_id, model, json_extract(found, '$.name') AS name,
        json_extract(found, '$.request') AS request_value, json_extract(found, '$.ignored') AS ignored_value,
        json_extract(found, '$.ignored_why') AS ignored_why, json_extract(found, '$.preset') AS preset_value,
        json_extract(found, '$.base') AS base_value, json_extract(found, '$.base_from') AS base_from,
        json_extract(found, '$.effective') AS effective_value, json_extract(found, '$.load') AS load_value,
        json_extract(found, '$.load_from') AS load_from, json_extract(found, '$.base_at_us') AS base_at_us,
        json_extract(found, '$.is_load') AS is_load
    FROM gathered
), compared AS (
    SELECT w.*, r.name AS surface, e.upstream_url,
        (w.request_value IS w.base_value OR json_array(w.request_value) = w.base_value
            OR (w.request_value = -1 AND w.base_value = 'off')
            OR (typeof(w.request_value) IN ('integer', 'real') AND typeof(w.base_value) IN ('integer', 'real')
                AND abs(w.request_value - w.base_value) <= 1e-6 * max(1.0, abs(w.request_value)))) AS asks_for_base,
        (w.request_value IS w.effective_value OR json_array(w.request_value) = w.effective_value
            OR (w.request_value = -1 AND w.effective_value = 'off')
            OR (typeof(w.request_value) IN ('integer', 'real') AND typeof(w.effective_value) IN ('integer', 'real')
                AND abs(w.request_value - w.effective_value) <= 1e-6 * max(1.0, abs(w.request_value)))) AS is_obeyed,
        EXISTS (SELECT 1 FROM call_snapshots s WHERE s.call_id = w.call_id AND s.source = '/props') AS is_llamacpp
    FROM wide w JOIN recorded_exchanges e ON e.id = w.exchange_id JOIN readers r ON r.id = w.reader_id
), found AS (
    SELECT upstream_url, model, surface, name, won, max(at_us) AS at_us FROM precedence_findings
    WHERE won <> 'unknown' GROUP BY upstream_url, model, surface, name
), judged AS (
    SELECT d.*, f.at_us AS found_at_us,
        CASE
            WHEN d.is_load AND coalesce(d.effective_value, d.load_value) IS NOT NULL THEN 'loaded'
            WHEN d.is_load THEN 'load not told'
            WHEN d.effective_value IS NOT NULL AND d.request_value IS NOT NULL AND d.is_obeyed THEN 'told: request'
            WHEN d.effective_value IS NOT NULL AND d.preset_value IS d.effective_value THEN 'told: preset'
            WHEN d.effective_value IS NOT NULL AND d.base_value IS d.effective_value THEN 'told: model default'
            WHEN d.effective_value IS NOT NULL THEN 'told: server'
            WHEN d.request_value IS NULL AND d.ignored_value IS NOT NULL THEN 'ignored'
            WHEN d.name = 'max_tokens' AND typeof(d.request_value) IN ('integer', 'real') AND d.request_value > 0
                AND (SELECT c.output_tokens > d.request_value + 1
                    OR (c.stop_reason = 'length' AND c.output_tokens < d.request_value - 1)
                    FROM read_calls c WHERE c.id = d.call_id) THEN 'contradicted'
            WHEN d.request_value IS NOT NULL AND d.base_value IS NOT NULL AND d.asks_for_base THEN 'the same'
            WHEN d.request_value IS NOT NULL AND f.won = 'request' THEN 'measured: request'
            WHEN d.request_value IS NOT NULL AND f.won = 'server' THEN 'measured: server'
            WHEN d.request_value IS NOT NULL AND d.is_llamacpp THEN 'llama.cpp'
            WHEN d.request_value IS NOT NULL AND d.surface = 'lmstudio_sdk' THEN 'sdk'
            WHEN d.request_value IS NOT NULL THEN 'implied'
            WHEN d.base_value IS NOT NULL THEN 'left out'
            ELSE 'not told'
        END AS verdict
    FROM compared d LEFT JOIN found f ON f.upstream_url = d.upstream_url AND f.model = d.model
        AND f.surface = d.surface AND f.name = d.name
)
SELECT
    call_id,                                    -- the id in calls
    name,                                       -- one name for one setting, as in call_parameters
    coalesce(request_value, ignored_value) AS request_value,    -- what the request asks for; NULL: it leaves it out
    coalesce(base_value, load_value) AS base_value,     -- before a request says anything, as the server told when it
                                                -- was asked; of what is set when a model is loaded: what it was loaded with
    effective_value,                            -- in force, as the server told with this very call; NULL: it did not
    CASE verdict WHEN 'loaded' THEN 'server' WHEN 'told: request' THEN 'request' WHEN 'told: preset' THEN 'preset'
        WHEN 'told: model default' THEN 'model default' WHEN 'told: server' THEN 'server' WHEN 'ignored' THEN 'ignored'
        WHEN 'the same' THEN 'request' WHEN 'measured: request' THEN 'request' WHEN 'llama.cpp' THEN 'request'
        WHEN 'sdk' THEN 'request' WHEN 'left out' THEN 'model default'
        WHEN 'measured: server' THEN CASE WHEN base_value IS NOT NULL THEN 'model default' ELSE 'server' END
        ELSE 'unknown' END AS won,              -- 'request', 'preset', 'model default', 'server' (set there, or when the
                                                -- model was loaded), 'ignored' (the request's), 'unknown'
    CASE verdict WHEN 'loaded' THEN coalesce(effective_value, load_value) WHEN 'ignored' THEN base_value
        WHEN 'measured: server' THEN base_value WHEN 'left out' THEN base_value
        WHEN 'the same' THEN request_value WHEN 'measured: request' THEN request_value
        WHEN 'llama.cpp' THEN request_value WHEN 'sdk' THEN request_value
        WHEN 'implied' THEN NULL WHEN 'contradicted' THEN NULL ELSE effective_value END AS value,     -- in force; NULL: not known
    CASE verdict
        WHEN 'loaded' THEN CASE WHEN effective_value IS NOT NULL THEN 'the answer says so' ELSE load_from END
            || '; it is set when a model is loaded'
            || CASE WHEN request_value IS NULL THEN '' ELSE ', and a request to a loaded model does not change it' END
        WHEN 'load not told' THEN 'not told'
        WHEN 'told: request' THEN 'the answer tells the configuration in force'
            || CASE WHEN base_value IS NOT NULL AND asks_for_base THEN '; the model''s default is the same' ELSE '' END
        WHEN 'told: preset' THEN 'the answer tells the configuration in force, and it is the preset''s'
        WHEN 'told: model default' THEN 'the answer tells the configuration in force, and it is the model''s default'
            || CASE WHEN request_value IS NULL THEN '' ELSE ', not what the request asks for' END
        WHEN 'told: server' THEN 'the answer tells the configuration in force, not where it is from'
            || CASE WHEN request_value IS NULL THEN '' ELSE '; it is not what the request asks for' END
        WHEN 'ignored' THEN ignored_why
        WHEN 'the same' THEN 'the request and the model''s default (' || base_from || ') are the same'
        WHEN 'measured: request' THEN 'measured by proxy-log precedence on '
            || strftime('%Y-%m-%d', found_at_us / 1000000, 'unixepoch') || '; so it is until its server is set otherwise'
        WHEN 'measured: server' THEN 'measured by proxy-log precedence on '
            || strftime('%Y-%m-%d', found_at_us / 1000000, 'unixepoch') || ': the request''s value has no effect'
        WHEN 'contradicted' THEN 'the answer has another length than the request allows or asks for: another limit was in'
            || ' force, or the context window was full'
        WHEN 'llama.cpp' THEN 'llama.cpp documents that a request changes the settings of /props'
        WHEN 'sdk' THEN 'LM Studio''s SDK documents that the options of a call are in force above preset and server'
        WHEN 'implied' THEN 'the request asks for it, and the answer does not tell what was in force; LM Studio''s SDK'
            || ' implies that a request wins, no documentation states it for HTTP: proxy-log precedence finds out'
        WHEN 'left out' THEN 'the request leaves it out; ' || base_from
        ELSE 'not told' END AS how,             -- how that is known, in words
    strftime('%Y-%m-%dT%H:%M:%SZ', base_at_us / 1000000, 'unixepoch') AS base_at    -- UTC, when base_value was told
FROM judged;
