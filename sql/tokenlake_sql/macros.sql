-- tokens_before(user, t, n, available): the user's last n tokens strictly before t, oldest first, of the serving
-- version alone. Labels that were not known before t are null. available := 'daily' leaves out the day of t, whose
-- tokens the nightly job had not written yet.
CREATE OR REPLACE MACRO tokens_before("user", t, n := 256, available := 'realtime') AS TABLE
SELECT * FROM (
    SELECT e.* /*{masked}*/
    FROM serving_tokens AS e
    WHERE e.user_id = /*{user}*/
      AND e.timestamp < t::TIMESTAMPTZ
      AND (available = 'realtime' OR e.ds < t::TIMESTAMPTZ::DATE)
    ORDER BY e.timestamp DESC, e.event_id DESC
    LIMIT n
)
ORDER BY timestamp, event_id;

-- events_before(user, t, n): the user's last n events strictly before t, oldest first, labels as in tokens_before.
CREATE OR REPLACE MACRO events_before("user", t, n := 256) AS TABLE
SELECT * FROM (
    SELECT e.* /*{masked}*/
    FROM events AS e
    WHERE e.user_id = /*{user}*/ AND e.timestamp < t::TIMESTAMPTZ
    ORDER BY e.timestamp DESC, e.event_id DESC
    LIMIT n
)
ORDER BY timestamp, event_id;

-- freshness(): how far each table reaches, and how many days it lies behind the events.
CREATE OR REPLACE MACRO freshness() AS TABLE
SELECT "table",
       version,
       count(*) AS rows,
       count(DISTINCT ds) AS days,
       min(ds) AS first_day,
       max(ds) AS last_day,
       max(timestamp) AS last_event,
       (SELECT max(ds) FROM events) - max(ds) AS days_behind
FROM reach
GROUP BY ALL
ORDER BY ALL;

-- by_day(): what the lake holds of each day with events, for the serving version.
CREATE OR REPLACE MACRO by_day() AS TABLE
SELECT ds,
       e.events,
       e.users,
       e.items,
       coalesce(s.tokens, 0) AS tokens,
       e.events = coalesce(s.tokens, 0) AS complete,
       p.checkpoint,
       p.bootstrap,
       ds IN (SELECT day FROM reruns) AS rerun_pending
FROM (SELECT ds, count(*) AS events, count(DISTINCT user_id) AS users, count(DISTINCT item_id) AS items
      FROM events GROUP BY ds) AS e
LEFT JOIN (SELECT ds, count(*) AS tokens, any_value(version) AS version FROM serving_tokens GROUP BY ds) AS s USING (ds)
LEFT JOIN plans AS p ON p.day = ds AND p.version = s.version
ORDER BY ds;

-- known(value, known_at, t): a label as a query at time t may see it.
CREATE OR REPLACE MACRO known(value, known_at, t) AS CASE WHEN known_at < t::TIMESTAMPTZ THEN value END;

-- embedding_as_of(user, t): the user's newest vector that was available at t, of the embeddings' serving version alone.
CREATE OR REPLACE MACRO embedding_as_of("user", t) AS TABLE
SELECT * FROM serving_embeddings AS e
WHERE e.user_id = /*{user}*/ AND e.available_at <= t::TIMESTAMPTZ
ORDER BY e.available_at DESC
LIMIT 1;

-- neighbors(user, k, t): the k users that the newest graph links the user to most, heaviest first; with t, the newest
-- graph that was available then. A user whom that graph does not hold has none.
CREATE OR REPLACE MACRO neighbors("user", k := 10, t := NULL) AS TABLE
SELECT e.src, e.dst, e.weight, row_number() OVER (ORDER BY e.weight DESC, e.dst) AS rank, e.version, e.ds
FROM serving_edges AS e
WHERE e.src = /*{user}*/
  AND e.ds = (SELECT max(ds) FROM serving_edges WHERE t IS NULL OR available_at <= t::TIMESTAMPTZ)
ORDER BY rank
LIMIT k;

-- index_versions(): every index and graph that was built: its kind, its recall@10 against an exact search, its identity.
CREATE OR REPLACE MACRO index_versions() AS TABLE
SELECT name,
       coalesce(stats ->> '$.kind', stats ->> '$.weights') AS kind,
       rows,
       (stats ->> '$."recall@10"')::DOUBLE AS "recall@10",
       created_at AS built_at,
       version,
       checkpoint,
       day,
       version = /*{embeddings}*/ AS serving
FROM index_versions
ORDER BY day, name, version;
