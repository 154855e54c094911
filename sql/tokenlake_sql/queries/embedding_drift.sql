-- Do embeddings drift
-- Each day's user vectors beside the same users' of the day before: their mean cosine, and its tenth percentile. A fall
-- where the checkpoint changes is a change of the encoder; elsewhere it is a change of what users do.
-- $n = 60: how many days

WITH day AS (
    SELECT ds, lag(ds) OVER (ORDER BY ds) AS earlier
    FROM (SELECT DISTINCT ds FROM serving_embeddings ORDER BY ds DESC LIMIT $n::BIGINT)
)
SELECT now.ds,
       any_value(now.checkpoint) AS checkpoint,
       any_value(now.checkpoint) <> any_value(before.checkpoint) AS new_checkpoint,
       count(*) AS users,
       count(before.user_id) AS in_both,
       round(avg(list_cosine_similarity(now.embedding, before.embedding)), 4) AS mean_cosine,
       round(quantile_cont(list_cosine_similarity(now.embedding, before.embedding), 0.1), 4) AS tenth_percentile
FROM day
JOIN serving_embeddings AS now USING (ds)
LEFT JOIN serving_embeddings AS before ON before.ds = day.earlier AND before.user_id = now.user_id
GROUP BY now.ds
ORDER BY now.ds DESC
