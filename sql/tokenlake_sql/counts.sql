-- Declared aggregations (docs/counts.md). What follows are templates, each filled once for what tokenlake.yaml declares. All
-- instants are whole microseconds: arithmetic on TIMESTAMPTZ would follow the session's time zone.

-- What contributes: events, the instant (us) after which each is seen, and its value; a row for each of its keys.
CREATE OR REPLACE MACRO answers./*{facts}*/() AS TABLE
SELECT f.*
FROM (SELECT /*{keys}*/
             e.event_id,
             epoch_us(e.timestamp) AS ts,
             epoch_us(/*{known}*/) AS known_from,
             /*{value}*/ AS value
      FROM events AS e/*{values}*/) AS f
WHERE f.known_from IS NOT NULL AND f.value IS NOT NULL/*{present}*/;

-- What is seen at any time: each row holds from just after its instant to that of the key's next row.
CREATE OR REPLACE MACRO answers./*{past}*/() AS TABLE
SELECT /*{of_steps}*/
       f.known_from AS since,
       count(*) OVER run AS n,
       sum(f.value) OVER run AS total,
       min(f.value) OVER run AS least,
       max(f.value) OVER run AS greatest,
       max(CASE WHEN /*{matches}*/ THEN f.ts END) OVER run AS newest,
       max({'ts': f.ts, 'id': f.event_id, 'value': f.value}) OVER run AS last
FROM answers./*{facts}*/() AS f
WINDOW run AS (/*{parts}*/ORDER BY f.known_from);

-- The same of a window: an event leaves it again just after it reached the window's age.
CREATE OR REPLACE MACRO answers./*{window}*/() AS TABLE
SELECT /*{of_steps}*/
       f.since,
       sum(f.n) OVER run AS n,
       sum(f.value) OVER run AS total,
       min(CASE WHEN f.n > 0 THEN f.value END) OVER span AS least,
       max(CASE WHEN f.n > 0 THEN f.value END) OVER span AS greatest
FROM (SELECT f.*, f.known_from AS since, 1 AS n
      FROM answers./*{facts}*/() AS f
      WHERE f.known_from < f.ts + /*{width}*/
      UNION ALL
      SELECT f.* REPLACE (-f.value AS value), f.ts + /*{width}*/ AS since, -1 AS n
      FROM answers./*{facts}*/() AS f
      WHERE f.known_from < f.ts + /*{width}*/) AS f
WINDOW run AS (/*{parts}*/ORDER BY f.since),
       span AS (/*{parts}*/ORDER BY f.since RANGE BETWEEN /*{width}*/ - 1 PRECEDING AND CURRENT ROW);

-- Weights as of the start of the event's block of 24 half-lives, in whole 2^-30: their sums are exact, so that what has left
-- leaves nothing behind. An event weighs nothing after 24 half-lives.
CREATE OR REPLACE MACRO answers./*{decay}*/() AS TABLE
SELECT /*{of_steps}*/
       f.block,
       f.since,
       sum(f.n) OVER run AS n,
       sum(f.value) OVER run AS total
FROM (SELECT f.* REPLACE (f.n * f.value AS value), f.known_from AS since
      FROM (SELECT f.*, /*{block}*/ AS block, round(pow(2, (f.ts - /*{block}*/) / /*{half}*/ + 30))::HUGEINT AS n
            FROM answers./*{facts}*/() AS f) AS f
      WHERE f.known_from < f.ts + /*{width}*/
      UNION ALL
      SELECT f.* REPLACE (-f.n * f.value AS value, -f.n AS n), f.ts + /*{width}*/ AS since
      FROM (SELECT f.*, /*{block}*/ AS block, round(pow(2, (f.ts - /*{block}*/) / /*{half}*/ + 30))::HUGEINT AS n
            FROM answers./*{facts}*/() AS f) AS f
      WHERE f.known_from < f.ts + /*{width}*/) AS f
WINDOW run AS (PARTITION BY /*{of_steps}*/ f.block ORDER BY f.since);

-- One number of a query: that of the newest row before it, or of several such rows where a key has several values.
CREATE OR REPLACE MACRO answers./*{column}*/(/*{own_parameters}*/) AS (
    SELECT /*{answer}*/ AS answer
    FROM /*{query}*/ AS q
    ASOF LEFT JOIN answers./*{steps}*/() AS s ON /*{same}*/q.t > s.since
);

-- The least or greatest value of a window, where events may become known late: all of a key's events are looked at.
CREATE OR REPLACE MACRO answers./*{column}*/(/*{own_parameters}*/) AS (
    SELECT /*{answer}*/ AS answer
    FROM /*{query}*/ AS q
    JOIN answers./*{steps}*/() AS s ON /*{same}*/s.known_from < q.t AND s.ts >= q.t - /*{width}*/
);

-- A mean, drawn to that of all events.
CREATE OR REPLACE MACRO answers./*{column}*/(/*{own_parameters}*/) AS (
    SELECT (own.total + 10 * prior.mean) / (own.n + 10) AS answer
    FROM (SELECT /*{total}*/ AS total, /*{n}*/ AS n
          FROM /*{query}*/ AS q
          ASOF LEFT JOIN answers./*{steps}*/() AS s ON /*{same}*/q.t > s.since) AS own,
         (SELECT /*{mean}*/ AS mean
          FROM /*{instant}*/ AS q
          ASOF LEFT JOIN answers./*{everything}*/() AS s ON /*{same_block}*/q.t > s.since) AS prior
);

-- What people call. An argument that is no instant has no answer.
CREATE OR REPLACE MACRO counts./*{column}*/(/*{parameters}*/) AS
CASE WHEN epoch_us(/*{t}*/::TIMESTAMPTZ) IS NOT NULL THEN answers./*{column}*/(/*{parameters}*/) END;
