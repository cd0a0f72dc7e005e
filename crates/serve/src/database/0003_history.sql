-- Conversations. `number` is for joins; the world sees `id`, which is random.
CREATE TABLE conversations (
    number INTEGER NOT NULL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    -- The id of a key; none for whoever needs none.
    owner TEXT,
    title TEXT NOT NULL,
    model TEXT NOT NULL,
    created INTEGER NOT NULL,
    updated INTEGER NOT NULL,
    -- What its messages take.
    bytes INTEGER NOT NULL
) STRICT;

CREATE INDEX conversations_by_owner ON conversations (owner, updated, id);

-- Messages are a tree: an edited message has the parent of the one that it replaces. Ids count from 1 in each
-- conversation.
CREATE TABLE messages (
    number INTEGER NOT NULL PRIMARY KEY,
    conversation INTEGER NOT NULL REFERENCES conversations (number) ON DELETE CASCADE,
    id INTEGER NOT NULL,
    parent INTEGER,
    role TEXT NOT NULL,
    content TEXT NOT NULL,
    time INTEGER NOT NULL,
    -- JSON.
    parameters TEXT NOT NULL,
    tokens INTEGER,
    -- JSON.
    timings TEXT NOT NULL,
    UNIQUE (conversation, id),
    FOREIGN KEY (conversation, parent) REFERENCES messages (conversation, id)
) STRICT;

CREATE INDEX messages_by_parent ON messages (conversation, parent);

-- Words of titles and messages. What is deleted is overwritten.
CREATE VIRTUAL TABLE title_words USING fts5 (
    title, content = 'conversations', content_rowid = 'number', tokenize = 'unicode61 remove_diacritics 2'
);
INSERT INTO title_words (title_words, rank) VALUES ('secure-delete', 1);

CREATE TRIGGER title_added AFTER INSERT ON conversations BEGIN
    INSERT INTO title_words (rowid, title) VALUES (new.number, new.title);
END;
CREATE TRIGGER title_changed AFTER UPDATE OF title ON conversations BEGIN
    INSERT INTO title_words (title_words, rowid, title) VALUES ('delete', old.number, old.title);
    INSERT INTO title_words (rowid, title) VALUES (new.number, new.title);
END;
CREATE TRIGGER title_deleted AFTER DELETE ON conversations BEGIN
    INSERT INTO title_words (title_words, rowid, title) VALUES ('delete', old.number, old.title);
END;

CREATE VIRTUAL TABLE message_words USING fts5 (
    content, content = 'messages', content_rowid = 'number', tokenize = 'unicode61 remove_diacritics 2'
);
INSERT INTO message_words (message_words, rank) VALUES ('secure-delete', 1);

CREATE TRIGGER message_added AFTER INSERT ON messages BEGIN
    INSERT INTO message_words (rowid, content) VALUES (new.number, new.content);
END;
CREATE TRIGGER message_deleted AFTER DELETE ON messages BEGIN
    INSERT INTO message_words (message_words, rowid, content) VALUES ('delete', old.number, old.content);
END;
