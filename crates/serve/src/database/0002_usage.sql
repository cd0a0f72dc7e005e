-- One row a request.
CREATE TABLE usage (
    time INTEGER NOT NULL,
    key_id TEXT,
    model TEXT NOT NULL,
    adapter TEXT,
    endpoint TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_prompt_tokens INTEGER NOT NULL,
    generated_tokens INTEGER NOT NULL,
    finish TEXT,
    duration_ms INTEGER NOT NULL,
    status INTEGER NOT NULL
) STRICT;

CREATE INDEX usage_by_time ON usage (time);
CREATE INDEX usage_by_key ON usage (key_id, time);
