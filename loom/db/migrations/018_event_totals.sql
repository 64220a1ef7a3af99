-- needs: 2.0.0
-- What metrics count, kept so that nobody has to count all events again: each is added once, by whoever asks next.
create table metric_cursors (
    project_id uuid   primary key references projects,
    xid        xid8   not null default '0',  -- the last event that was counted
    event_id   bigint not null default 0,
    newest_id  bigint not null default 0,    -- the highest number of one that was
    history    text   not null,              -- of the database in which `xid` means something
    floor      bigint not null default 0     -- events up to this one were counted in an earlier history
);

create table metric_totals (
    project_id uuid             not null references projects,
    metric     text             not null,
    label      text             not null,
    total      double precision not null,
    primary key (project_id, metric, label)
);
