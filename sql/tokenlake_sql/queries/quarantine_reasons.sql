-- Why rows were refused
-- Quarantined rows by reason and source, with one of them as an example.

SELECT reason, source, count(*) AS rows, min(row_number) AS first_row, max(ingested_at) AS last_seen,
       arg_min("row", row_number) AS example
FROM quarantine
GROUP BY ALL
ORDER BY rows DESC, reason, source
