-- needs: 2.0.0
-- Up to where the events of a project have been pruned: what stands at or before this position may be missing.
alter table projects
    add column pruned_xid xid8   not null default '0',
    add column pruned_id  bigint not null default 0;
