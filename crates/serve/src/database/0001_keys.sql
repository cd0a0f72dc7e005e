-- API keys. Of a key itself only the SHA-256 is here. Times are milliseconds since 1970.
CREATE TABLE keys (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    digest BLOB NOT NULL CHECK (length(digest) = 32),
    -- JSON arrays of text. No model means any model.
    scopes TEXT NOT NULL,
    models TEXT NOT NULL,
    requests_per_minute INTEGER CHECK (requests_per_minute > 0),
    tokens_per_minute INTEGER CHECK (tokens_per_minute > 0),
    tokens_per_day INTEGER CHECK (tokens_per_day > 0),
    created INTEGER NOT NULL,
    expires INTEGER,
    revoked INTEGER
) STRICT;

-- Two keys in use never have the same name.
CREATE UNIQUE INDEX keys_by_name ON keys (name) WHERE revoked IS NULL;
