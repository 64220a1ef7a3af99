-- needs: 2.0.0
-- The first span that was recorded of a task, as a W3C traceparent, so that later attempts are linked to it.
create table task_traces (
    project_id  uuid not null,
    task_id     text not null collate "C",
    traceparent text not null,
    primary key (project_id, task_id),
    foreign key (project_id, task_id) references tasks (project_id, id)
);
