-- One row for each run of a workflow. `definition` is the workflow as it was when the run began, `position` the step that
-- it is at, from 0. Whoever carries it on holds it under a lease, as a task is held; the token, which only grows, fences
-- those that lost it; `process` says which process that is, so that the death of one on the same machine is known before
-- its lease ends. A run that waits, for an answer or for tasks, is held by nobody.
create table workflow_runs (
    project_id       uuid        not null references projects,
    id               text        not null collate "C",
    workflow         text        not null,
    version          text        not null,
    definition       jsonb       not null,
    inputs           jsonb       not null,
    status           text        not null check (status in ('running', 'waiting', 'done', 'failed')),
    position         integer     not null default 0 check (position >= 0),
    error            text,
    agent            text        not null,
    holder           text,
    process          text,
    token            bigint      not null default 0,
    lease_expires_at timestamptz,
    created_at       timestamptz not null default loom_now(),
    updated_at       timestamptz not null default loom_now(),
    finished_at      timestamptz,
    primary key (project_id, id),
    check ((status in ('done', 'failed')) = (finished_at is not null)),
    check (status = 'running' or lease_expires_at is null),
    check ((status = 'failed') = (error is not null))
);

create index workflow_runs_newest on workflow_runs (project_id, created_at desc, id);
create index workflow_runs_open on workflow_runs (project_id, created_at) where status in ('running', 'waiting');

-- What each step of a run came to, written when it begins and when it ends. `attempt` counts how often it was begun;
-- `inputs` are its values as they were then. `wake_at`: when a pause is over.
create table workflow_steps (
    project_id   uuid        not null,
    run_id       text        not null collate "C",
    position     integer     not null,
    step         text        not null,
    type         text        not null,
    status       text        not null check (status in ('running', 'waiting', 'done', 'failed', 'skipped')),
    attempt      integer     not null default 1,
    inputs       jsonb       not null default '{}',
    output       jsonb,
    error        text,
    skill_run_id text        collate "C",
    agent        text        not null,
    started_at   timestamptz not null default loom_now(),
    wake_at      timestamptz,
    deadline_at  timestamptz,
    finished_at  timestamptz,
    primary key (project_id, run_id, position),
    foreign key (project_id, run_id) references workflow_runs (project_id, id),
    check ((status in ('done', 'failed', 'skipped')) = (finished_at is not null)),
    check ((status = 'done') = (output is not null)),
    check ((status = 'failed') = (error is not null))
);
