-- Who has an embedding
-- For each day with events: users embedded at its end, and which share of the day's own users and events had a vector of
-- an earlier day to be served by (the others were cold).
-- $n = 60: how many days

WITH day AS (
    SELECT DISTINCT ds FROM events ORDER BY ds DESC LIMIT $n::BIGINT
), first AS (
    SELECT user_id, min(ds) AS ds FROM serving_embeddings GROUP BY user_id
), active AS (
    SELECT e.ds, e.user_id, count(*) AS events, coalesce(any_value(first.ds) < e.ds, false) AS warm
    FROM events AS e JOIN day USING (ds) LEFT JOIN first ON first.user_id = e.user_id
    GROUP BY e.ds, e.user_id
), embedded AS (
    SELECT ds, count(*) AS users, any_value(checkpoint) AS checkpoint FROM serving_embeddings GROUP BY ds
)
SELECT ds,
       embedded.checkpoint,
       coalesce(any_value(embedded.users), 0) AS embedded_users,
       count(*) AS active_users,
       round(avg(warm::INT), 4) AS warm_users,
       round(sum(events) FILTER (warm) / sum(events), 4) AS warm_events
FROM active LEFT JOIN embedded USING (ds)
GROUP BY ds, embedded.checkpoint
ORDER BY ds DESC
