-- What is popular, and how fast that changes
-- Items of the last days by events, beside their rank in the days before.
-- $days = 28: length of either period
-- $n = 20: how many items

WITH last_day AS (SELECT max(ds) AS ds FROM events),
counts AS (
    SELECT item_id,
           count(*) FILTER (e.ds > l.ds - $days::INTEGER) AS events,
           count(DISTINCT user_id) FILTER (e.ds > l.ds - $days::INTEGER) AS users,
           count(*) FILTER (e.ds <= l.ds - $days::INTEGER) AS before
    FROM events AS e, last_day AS l
    WHERE e.ds > l.ds - 2 * $days::INTEGER
    GROUP BY item_id
)
SELECT item_id,
       events,
       users,
       rank() OVER (ORDER BY events DESC) AS rank,
       CASE WHEN before > 0 THEN rank() OVER (ORDER BY before DESC) END AS rank_before
FROM counts
WHERE events > 0
ORDER BY events DESC, item_id
LIMIT $n::BIGINT
