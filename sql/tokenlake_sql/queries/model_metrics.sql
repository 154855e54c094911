-- How good the encoders are
-- Metrics of the newest done run of each job, day and version; null is n/a.
-- $name = null: one metric, such as auc (default: all)
-- $n = 100: how many rows

SELECT m.name, m.labels, m.value, r.job, r.version, r.day, m.created_at
FROM metrics AS m
JOIN runs AS r ON r.id = m.run_id
WHERE r.id IN (SELECT max(id) FROM runs WHERE status = 'done' GROUP BY job, version, day)
  AND ($name::VARCHAR IS NULL OR m.name = $name::VARCHAR)
ORDER BY r.day DESC NULLS LAST, r.version, m.name, m.labels
LIMIT $n::BIGINT
