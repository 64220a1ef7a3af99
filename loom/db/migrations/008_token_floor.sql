-- needs: 2.0.0
-- The number that the tokens of this timeline are above. A server that was promoted without the last claims of the one
-- before would hand out their tokens again, and take a late report for its own claim's; on its own timeline they begin
-- 2^32 higher. The first timeline begins at 0.
create function loom_token_floor() returns bigint language sql stable parallel safe
as $$
    select ((('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint) - 1) << 32
$$;
