-- Do tokens drift
-- The mean token of each day of the serving version: its length, and its cosine to the day before. A fall where the
-- checkpoint changes is a change of the encoder; elsewhere it is a change of what users do.
-- $n = 60: how many days

WITH flat AS (
    SELECT ds, checkpoint, unnest(token) AS x, generate_subscripts(token, 1) AS i
    FROM serving_tokens
    WHERE ds IN (SELECT DISTINCT ds FROM serving_tokens ORDER BY ds DESC LIMIT $n::BIGINT)
), coordinate AS (
    SELECT ds, checkpoint, i, avg(x) AS x, count(*) AS tokens FROM flat GROUP BY ALL
), mean AS (
    SELECT ds, checkpoint, any_value(tokens) AS tokens, list(x ORDER BY i) AS token FROM coordinate GROUP BY ALL
)
SELECT ds,
       checkpoint,
       checkpoint <> lag(checkpoint) OVER days AS new_checkpoint,
       tokens,
       round(sqrt(list_dot_product(token, token)), 4) AS mean_length,
       round(list_cosine_similarity(token, lag(token) OVER days), 4) AS cosine_to_previous
FROM mean
WINDOW days AS (ORDER BY ds, checkpoint)
ORDER BY ds DESC, checkpoint DESC
