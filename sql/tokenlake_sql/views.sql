-- Tokens that the lake serves.
CREATE OR REPLACE VIEW serving_tokens AS
SELECT * FROM instance_tokens WHERE version = /*{serving}*/;

-- One row per event and label; a null value has no label, a null known_at is never known.
CREATE OR REPLACE VIEW labels AS
/*{labels}*/;

-- Tables and the days that each of them reaches.
CREATE OR REPLACE VIEW reach AS
SELECT 'events' AS "table", NULL AS version, ds, timestamp FROM events
UNION ALL
SELECT 'instance_tokens', version, ds, timestamp FROM instance_tokens;
