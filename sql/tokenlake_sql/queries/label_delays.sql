-- How long labels take to be known
-- Quantiles of the time between an event and the instant from which its label may be seen, in hours.

SELECT label,
       value,
       count(*) AS events,
       round(avg(epoch(known_at - timestamp)) / 3600, 2) AS mean_hours,
       list_transform(quantile_cont(epoch(known_at - timestamp), [0.5, 0.9, 0.99]), lambda q: round(q / 3600, 2)) AS p50_p90_p99
FROM labels
WHERE value IS NOT NULL AND known_at IS NOT NULL
GROUP BY ALL
ORDER BY ALL
