-- Where the time goes
-- Runs of each job and version: how many ended how, and how long the done ones took.

SELECT job,
       version,
       count(*) FILTER (status = 'done') AS done,
       count(*) FILTER (status IN ('failed', 'killed', 'interrupted')) AS broken,
       count(*) FILTER (status = 'skipped') AS skipped,
       round(median(epoch(ended_at - started_at)) FILTER (status = 'done'), 2) AS median_seconds,
       round(max(epoch(ended_at - started_at)) FILTER (status = 'done'), 2) AS longest_seconds,
       round(sum(epoch(ended_at - started_at)), 1) AS all_seconds
FROM runs
GROUP BY ALL
ORDER BY ALL
