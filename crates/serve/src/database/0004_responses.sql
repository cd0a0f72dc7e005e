-- Responses that a client asked to store. Input and output are JSON.
CREATE TABLE responses (
    id TEXT NOT NULL PRIMARY KEY,
    owner TEXT,
    created INTEGER NOT NULL,
    previous TEXT,
    input TEXT NOT NULL,
    output TEXT NOT NULL
) STRICT;

CREATE INDEX responses_by_time ON responses (created);
