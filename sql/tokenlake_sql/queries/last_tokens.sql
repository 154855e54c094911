-- A user's last tokens before a time
-- What a model would read at that instant: strictly earlier tokens of the serving version, newest last.
-- $user = null: the user's id (default: the most recently active one)
-- $before = null: the instant (default: after everything)
-- $n = 10: how many tokens

WITH asked AS (
    SELECT coalesce($user::VARCHAR, (SELECT arg_max(user_id, timestamp)::VARCHAR FROM serving_tokens)) AS "user",
           coalesce($before::TIMESTAMPTZ, 'infinity'::TIMESTAMPTZ) AS before
), last AS (
    SELECT t.user_id, t.timestamp, t.event_id, t.item_id, t.checkpoint, t.token
    FROM serving_tokens AS t, asked
    WHERE t.user_id::VARCHAR = asked."user" AND t.timestamp < asked.before
    ORDER BY t.timestamp DESC, t.event_id DESC
    LIMIT $n::BIGINT
)
SELECT * REPLACE (list_transform(token[:4], lambda x: round(x, 3)) AS token),
       len(token) AS dim,
       round(sqrt(list_dot_product(token, token)), 3) AS norm
FROM last
ORDER BY timestamp, event_id
