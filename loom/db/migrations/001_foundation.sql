-- The clock of leases, retries and deadlines. Tests replace it in their own database; nothing else asks for the time.
create function loom_now() returns timestamptz language sql stable parallel safe as 'select now()';

create table projects (
    id            uuid        primary key,
    name          text        not null,
    created_at    timestamptz not null default loom_now(),
    archived_at   timestamptz,
    completed_at  timestamptz,  -- when project.complete was last raised
    history       text,         -- which database history the relay's position belongs to
    history_start bigint        -- events up to this id were written in an earlier history
);

-- One row a task. The counter `waiting` decides `blocked`: dependencies neither done nor waived, plus one while the
-- parent's own is above zero, plus one while an escalation holds the task.
create table tasks (
    project_id       uuid           not null references projects,
    id               text           not null collate "C",
    title            text           not null,
    status           text           not null check (status in ('pending', 'blocked', 'claimed', 'done', 'failed', 'cancelled', 'epic')),
    priority         smallint       not null default 1 check (priority between 0 and 2),
    waiting          integer        not null default 0 check (waiting >= 0),
    attempt          integer        not null default 0 check (attempt >= 0),
    max_attempts     integer        not null check (max_attempts >= 1),
    lease_seconds    double precision,
    lapsed           boolean        not null default false,  -- the newest claim ended by itself
    claim_token      bigint         not null default 0,      -- only ever grows: the fence against late workers
    version          bigint         not null default 1,
    created_at       timestamptz    not null default loom_now(),
    updated_at       timestamptz    not null default loom_now(),
    ready_at         timestamptz(3),                         -- milliseconds, so that Redis can hold the same order in a double
    claimed_at       timestamptz,
    done_at          timestamptz,
    lease_expires_at timestamptz,
    deadline_at      timestamptz,
    retry_at         timestamptz,
    assignee         text,
    parent_id        text collate "C",
    origin_id        text,
    dead_reason      text,
    done_when        text,
    context          jsonb          not null default '{}',
    output           jsonb,
    primary key (project_id, id),
    foreign key (project_id, parent_id) references tasks (project_id, id),
    constraint blocked_tasks_wait check (status <> 'blocked' or waiting > 0),
    constraint startable_tasks_do_not_wait check (status not in ('pending', 'claimed') or waiting = 0),
    constraint claimed_means_leased check ((status = 'claimed') = (lease_expires_at is not null)),
    constraint pending_tasks_have_a_place check (status <> 'pending' or ready_at is not null),
    constraint finished_tasks_have_a_time check ((status in ('done', 'cancelled')) = (done_at is not null))
) with (
    fillfactor = 80,                        -- room for lease renewals, which touch no index
    toast_tuple_target = 256,               -- bulky JSON leaves the row that claims and cascades rewrite
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.05
);

create index tasks_ready on tasks (project_id, priority, ready_at, id desc) where status = 'pending';
create index tasks_waiting on tasks (project_id, priority, id) where status in ('blocked', 'epic');
create index tasks_claimed on tasks (project_id, assignee) where status = 'claimed';
create index tasks_failed on tasks (project_id, retry_at) where status = 'failed';
create index tasks_children on tasks (project_id, parent_id, status) where parent_id is not null;
create index tasks_finished on tasks (project_id, done_at) where done_at is not null;
create unique index tasks_origin on tasks (project_id, origin_id) where origin_id is not null;

create table task_deps (
    project_id   uuid not null,
    task_id      text not null collate "C",
    depends_on   text not null collate "C",
    waived_at    timestamptz,
    waived_by    text,
    waive_reason text,
    primary key (project_id, task_id, depends_on),
    foreign key (project_id, task_id) references tasks (project_id, id),
    foreign key (project_id, depends_on) references tasks (project_id, id),
    check (task_id <> depends_on)
);

create index task_deps_dependents on task_deps (project_id, depends_on, task_id);

-- The audit log, and the outbox of the relay: rows are read in the order (xid, id) once no older transaction can still
-- commit, so that none is skipped. No foreign key: every event would share a lock on its project's row.
create table events (
    project_id uuid        not null,
    xid        xid8        not null default pg_current_xact_id(),
    id         bigint      not null generated always as identity,
    type       text        not null,
    task_id    text        collate "C",
    status     text,
    version    bigint,
    agent      text,
    token      bigint,
    data       jsonb,
    created_at timestamptz not null default loom_now(),
    primary key (project_id, xid, id)
);

create index events_of_task on events (project_id, task_id, id) where task_id is not null;

create table escalations (
    project_id  uuid        not null,
    id          text        not null collate "C",
    task_id     text        not null collate "C",
    kind        text        not null check (kind in ('failure', 'question')),
    message     text        not null,
    raised_by   text,
    raised_at   timestamptz not null default loom_now(),
    attempt     integer     not null,
    resolution  text,
    note        text,
    resolved_by text,
    resolved_at timestamptz,
    primary key (project_id, id),
    foreign key (project_id, task_id) references tasks (project_id, id),
    check ((resolution is null) = (resolved_at is null))
);

create index escalations_open on escalations (project_id, raised_at) where resolved_at is null;
create index escalations_of_task on escalations (project_id, task_id);
create unique index escalations_one_question on escalations (project_id, task_id) where kind = 'question' and resolved_at is null;

create table messages (
    project_id uuid        not null references projects,
    id         bigint      not null generated always as identity,
    sender     text        not null,
    recipient  text        not null,
    thread_id  text        not null,
    body       text        not null,
    created_at timestamptz not null default loom_now(),
    acked_at   timestamptz,
    primary key (project_id, id)
);

create index messages_unread on messages (project_id, recipient, id) where acked_at is null;
create index messages_inbox on messages (project_id, recipient, id);
create index messages_thread on messages (project_id, thread_id, id);

-- Who has acknowledged a message to everybody.
create table message_acks (
    project_id uuid        not null,
    message_id bigint      not null,
    agent      text        not null,
    acked_at   timestamptz not null default loom_now(),
    primary key (project_id, message_id, agent),
    foreign key (project_id, message_id) references messages (project_id, id)
);
