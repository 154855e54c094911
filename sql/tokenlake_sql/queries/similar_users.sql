-- Whom is a user like, and what do they share
-- The user's heaviest edges in the newest graph, or in the newest that was available at $at: what both met by then, how
-- much of that the neighbour met in all, and some of the shared items, the most recent of the neighbour's first.
-- $user = null: the user's id (default: the most recently active one of the newest graph)
-- $at = null: an instant (default: after everything)
-- $n = 10: how many neighbours

WITH time AS (
    SELECT coalesce($at::TIMESTAMPTZ, 'infinity'::TIMESTAMPTZ) AS t
), newest AS (
    SELECT src, dst, weight, ds, available_at
    FROM serving_edges
    WHERE ds = (SELECT max(ds) FROM serving_edges, time WHERE available_at <= t)
), asked AS (
    SELECT coalesce($user::VARCHAR, (
        SELECT arg_max(user_id, timestamp)::VARCHAR FROM events WHERE user_id IN (SELECT src FROM newest)
    )) AS "user"
), linked AS (
    SELECT newest.* FROM newest, asked WHERE src::VARCHAR = asked."user" ORDER BY weight DESC, dst LIMIT $n::BIGINT
), met AS (
    SELECT user_id, item_id, max(timestamp) AS last
    FROM events
    WHERE user_id IN (SELECT src FROM linked UNION SELECT dst FROM linked)
      AND timestamp < (SELECT max(available_at) FROM linked)
    GROUP BY ALL
)
SELECT dst AS neighbor,
       round(weight, 4) AS weight,
       count(mine.item_id) AS shared,
       count(*) AS neighbor_items,
       list(theirs.item_id ORDER BY theirs.last DESC, theirs.item_id) FILTER (mine.item_id IS NOT NULL)[:5] AS some_shared,
       linked.ds
FROM linked
JOIN met AS theirs ON theirs.user_id = linked.dst
LEFT JOIN met AS mine ON mine.user_id = linked.src AND mine.item_id = theirs.item_id
GROUP BY dst, weight, linked.ds
ORDER BY weight DESC, dst
