-- How often each label is positive, by week
-- Only labels that are known by now count; `unknown` are still waiting for their window, `unlabelled` are history only.
-- $now = null: the instant of the question (default: this one)

SELECT date_trunc('week', ds)::DATE AS week,
       label,
       count(known(value, known_at, coalesce($now, now()::VARCHAR))) AS labelled,
       sum(known(value, known_at, coalesce($now, now()::VARCHAR))) AS positives,
       round(avg(known(value, known_at, coalesce($now, now()::VARCHAR))), 4) AS rate,
       count(value) - count(known(value, known_at, coalesce($now, now()::VARCHAR))) AS unknown,
       count(*) - count(value) AS unlabelled
FROM labels
GROUP BY ALL
ORDER BY ALL
