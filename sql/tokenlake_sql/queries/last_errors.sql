-- What went wrong lately
-- Runs that failed, were interrupted or were killed, newest first. `transient` errors may go through when tried again;
-- `mended` says whether a later run of the same job and day was done.
-- $n = 20: how many runs

SELECT r.id, r.job, r.day, r.version, r.status, r.error_kind, r.error_type, r.message, r.ended_at,
       EXISTS (FROM runs AS later WHERE later.job = r.job AND later.id > r.id AND later.status = 'done'
               AND later.day IS NOT DISTINCT FROM r.day AND later.version IS NOT DISTINCT FROM r.version) AS mended
FROM runs AS r
WHERE r.status IN ('failed', 'interrupted', 'killed')
ORDER BY r.id DESC
LIMIT $n::BIGINT
