-- Every day at a glance
-- Events, users, items and tokens of the newest days; `complete` is false where tokens are missing, and a bootstrap
-- day was encoded by a checkpoint that was trained on it, so no evaluation counts it.
-- $n = 31: how many days

SELECT * FROM by_day() ORDER BY ds DESC LIMIT $n::BIGINT
