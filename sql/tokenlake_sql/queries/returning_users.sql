-- Do users come back
-- Users by the week of their first event, and how many of them were seen 1, 2, 4 and 8 weeks later.

WITH firsts AS (
    SELECT user_id, min(date_trunc('week', ds)) AS cohort FROM events GROUP BY user_id
), seen AS (
    SELECT DISTINCT e.user_id, f.cohort, date_diff('week', f.cohort, date_trunc('week', e.ds)) AS later
    FROM events AS e JOIN firsts AS f USING (user_id)
)
SELECT cohort::DATE AS first_week,
       count(*) FILTER (later = 0) AS users,
       count(*) FILTER (later = 1) AS after_1,
       count(*) FILTER (later = 2) AS after_2,
       count(*) FILTER (later = 4) AS after_4,
       count(*) FILTER (later = 8) AS after_8
FROM seen
GROUP BY cohort
ORDER BY cohort
