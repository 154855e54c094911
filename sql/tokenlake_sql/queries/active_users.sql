-- The most active users
-- Events, days and span of each user; the last column is the user's share of all events.
-- $n = 20: how many users

SELECT user_id,
       count(*) AS events,
       count(DISTINCT ds) AS days,
       count(DISTINCT item_id) AS items,
       min(timestamp) AS first_event,
       max(timestamp) AS last_event,
       round(count(*) / (SELECT count(*) FROM events), 4) AS share
FROM events
GROUP BY user_id
ORDER BY events DESC, user_id
LIMIT $n::BIGINT
