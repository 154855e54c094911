-- How exact the indexes are
-- Every index and graph by day: its kind, how many it holds, and its recall@10 against an exact search of a sample.
-- A flat index is exact; a graph has no recall, its kind says what weighs its edges.
-- $n = 30: how many days

SELECT day, name, kind, rows, round("recall@10", 4) AS "recall@10", built_at, checkpoint, version, serving
FROM index_versions()
WHERE day IN (SELECT DISTINCT day FROM index_versions() ORDER BY day DESC LIMIT $n::BIGINT)
ORDER BY day DESC, name, version
