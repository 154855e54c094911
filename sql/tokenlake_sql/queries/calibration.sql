-- Do predictions mean what they say
-- Predicted probability against the observed rate, in ten equal parts of each model's predictions. Bootstrap days are
-- left out: their checkpoint was trained on them.
-- $version = null: one version (default: the serving one)

WITH scored AS (
    SELECT p.model, p.label, p.value AS predicted, l.value AS observed,
           ntile(10) OVER (PARTITION BY p.model, p.label ORDER BY p.value) AS part
    FROM predictions AS p
    JOIN labels AS l ON l.event_id = p.event_id AND l.label = p.label AND l.ds = p.ds
    LEFT JOIN plans ON plans.version = p.version AND plans.day = p.ds
    WHERE p.version = coalesce($version::VARCHAR, (SELECT any_value(version) FROM serving_tokens))
      AND l.value IS NOT NULL
      AND NOT coalesce(plans.bootstrap, false)
)
SELECT model, label, part, count(*) AS events, round(avg(predicted), 4) AS predicted, round(avg(observed), 4) AS observed
FROM scored
GROUP BY ALL
ORDER BY ALL
