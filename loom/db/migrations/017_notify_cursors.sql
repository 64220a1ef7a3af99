-- needs: 2.0.0
-- How far each place where people are told of a project has been told. A place is what its user calls it, and a digest
-- of where it leads.
create table notify_cursors (
    project_id uuid        not null references projects,
    receiver   text        not null,
    since      text        not null,            -- what has been told, as waits write it
    last_id    bigint      not null,            -- the newest event there was then
    history    text        not null,            -- of the database in which `since` means something
    floor      bigint      not null default 0,  -- events up to this one were written in an earlier history
    holder     text,                            -- who tells it now, until `held_until`
    process    text,
    held_until timestamptz,
    told_at    timestamptz,
    failures   integer     not null default 0,  -- since it was told last
    retry_at   timestamptz,
    error      text,
    digest_of  date,                            -- the newest day that its digest tells of
    primary key (project_id, receiver)
);
