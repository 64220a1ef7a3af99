-- needs: 2.0.0
-- How many tasks of a large project were in each status, and how many landings had landed, up to a transaction: what
-- has changed since is told by the events behind it. So nobody counts a million tasks to say how many there are, and
-- whoever claims one writes no more than he did. `counts` is null where there are so few that they are counted.
create table task_counts (
    project_id uuid   primary key references projects,
    history    text   not null,  -- of the database in which `upto` means something
    upto       xid8   not null,  -- events of the transactions before it are counted
    newest_id  bigint not null,  -- the highest number of an event that was there when this was brought forward
    counts     jsonb
);
