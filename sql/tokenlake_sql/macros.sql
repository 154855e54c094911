-- What people ask, and what answers it. A macro's parameter must not be called as a column of a table that it reads, and
-- the columns of events and tokens are called as the lake's owner likes: so the macros that people ask read no table, and
-- those that they hand on to, in a schema of their own, have parameters that begin as no column does.

CREATE OR REPLACE MACRO answers.tokens_before("/*{own}*/user", "/*{own}*/t", "/*{own}*/n", "/*{own}*/available") AS TABLE
SELECT * FROM (
    SELECT e.* /*{masked}*/
    FROM serving_tokens AS e
    WHERE e.user_id = /*{own_user}*/
      AND e.timestamp < "/*{own}*/t"::TIMESTAMPTZ
      AND ("/*{own}*/available" = 'realtime' OR e.ds < "/*{own}*/t"::TIMESTAMPTZ::DATE)
    ORDER BY e.timestamp DESC, e.event_id DESC
    LIMIT "/*{own}*/n"
) AS e
ORDER BY e.timestamp, e.event_id;

CREATE OR REPLACE MACRO answers.events_before("/*{own}*/user", "/*{own}*/t", "/*{own}*/n") AS TABLE
SELECT * FROM (
    SELECT e.* /*{masked}*/
    FROM events AS e
    WHERE e.user_id = /*{own_user}*/ AND e.timestamp < "/*{own}*/t"::TIMESTAMPTZ
    ORDER BY e.timestamp DESC, e.event_id DESC
    LIMIT "/*{own}*/n"
) AS e
ORDER BY e.timestamp, e.event_id;

-- The user's last n tokens strictly before t, oldest first, of the serving
-- version alone. Labels that were not known before t are null. available := 'daily' leaves out the day of t, whose
-- tokens the nightly job had not written yet.
CREATE OR REPLACE MACRO tokens_before("user", t, n := 256, available := 'realtime') AS TABLE
SELECT * FROM answers.tokens_before("user", t, n, available);

-- The user's last n events strictly before t, oldest first, labels as in tokens_before.
CREATE OR REPLACE MACRO events_before("user", t, n := 256) AS TABLE
SELECT * FROM answers.events_before("user", t, n);

-- How far each table reaches, and how many days it lies behind the events.
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

-- What the lake holds of each day with events, for the serving version.
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

-- A label as a query at time t may see it.
CREATE OR REPLACE MACRO known(value, known_at, t) AS CASE WHEN known_at < t::TIMESTAMPTZ THEN value END;

-- The user's newest vector that was available at t, of the embeddings' serving version alone.
CREATE OR REPLACE MACRO embedding_as_of("user", t) AS TABLE
SELECT * FROM serving_embeddings AS e
WHERE e.user_id = /*{user}*/ AND e.available_at <= t::TIMESTAMPTZ
ORDER BY e.available_at DESC
LIMIT 1;

-- The k users that the newest graph links the user to most, heaviest first; with t, the newest
-- graph that was available then. A user whom that graph does not hold has none.
CREATE OR REPLACE MACRO neighbors("user", k := 10, t := NULL) AS TABLE
SELECT e.src, e.dst, e.weight, row_number() OVER (ORDER BY e.weight DESC, e.dst) AS rank, e.version, e.ds
FROM serving_edges AS e
WHERE e.src = /*{user}*/
  AND e.ds = (SELECT max(ds) FROM serving_edges WHERE t IS NULL OR available_at <= t::TIMESTAMPTZ)
ORDER BY rank
LIMIT k;

-- Every index and graph that was built: its kind, its recall@10 against an exact search, its identity.
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
