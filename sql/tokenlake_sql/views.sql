-- Tokens that the lake serves.
CREATE OR REPLACE VIEW serving_tokens AS
SELECT * FROM instance_tokens WHERE version = /*{serving}*/;

-- User vectors of the embeddings' one version that the config names; those of two versions are never comparable.
CREATE OR REPLACE VIEW serving_embeddings AS
SELECT * FROM user_embeddings WHERE version = /*{embeddings}*/;

-- Edges of similar users of that version, and since when each could be used: the start of the day after.
CREATE OR REPLACE VIEW serving_edges AS
SELECT *, (ds + 1)::TIMESTAMP AT TIME ZONE 'UTC' AS available_at FROM edges WHERE version = /*{embeddings}*/;

-- One row per event and label; a null value has no label, a null known_at is never known.
CREATE OR REPLACE VIEW labels AS
/*{labels}*/;

-- Tables and the days that each of them reaches.
CREATE OR REPLACE VIEW reach AS
SELECT 'events' AS "table", NULL AS version, ds, timestamp FROM events
UNION ALL
SELECT 'instance_tokens', version, ds, timestamp FROM instance_tokens
UNION ALL
SELECT 'user_embeddings', version, ds, NULL FROM user_embeddings
UNION ALL
SELECT 'item_embeddings', version, ds, NULL FROM item_embeddings
UNION ALL
SELECT 'edges', version, ds, NULL FROM edges;
