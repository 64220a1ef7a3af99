-- Work that has to land on a branch before it is done. An older Loom would renew, finish and give back what the queue
-- holds.

-- The claim whose work lands, equal to claim_token while it stands. What is queued has a lease that does not end.
alter table tasks
    add column landing_token bigint not null default 0,
    add constraint only_what_lands_is_held_for_ever
        check (lease_expires_at is distinct from 'infinity' or landing_token = claim_token);

-- One row a claim that lands. It is changed under the lock of its task's row.
create table landings (
    project_id    uuid        not null,
    id            bigint      not null generated always as identity,
    task_id       text        not null collate "C",
    token         bigint      not null,
    agent         text        not null,
    target        text        not null,
    branch        text        not null,
    state         text        not null default 'begun'
                              check (state in ('begun', 'reported', 'queued', 'landed', 'sent_back', 'dropped')),
    base          text,                               -- where the branch left the target
    commit_id     text,                               -- the branch's tip, proven
    output        jsonb,
    usage         jsonb,
    outside       text[]      not null default '{}',  -- changed, and not among the task's files
    reason        text,                               -- why it was sent back last
    note          text,
    dropped_for   text,
    times_sent    integer     not null default 0,     -- how often it was sent back
    needs_yes     boolean     not null default false,
    approved_by   text,
    approved_at   timestamptz,
    deadline_left double precision,                   -- seconds that the claim had left when it was queued
    begun_at      timestamptz not null default loom_now(),
    reported_at   timestamptz,
    queued_at     timestamptz,
    sent_back_at  timestamptz,
    ended_at      timestamptz,                        -- landed or dropped
    landed_commit text,
    primary key (project_id, id),
    unique (project_id, task_id, token),
    foreign key (project_id, task_id) references tasks (project_id, id),
    constraint queued_landings_have_a_commit check (state <> 'queued' or (commit_id is not null and queued_at is not null)),
    constraint ended_landings_have_a_time check ((state in ('landed', 'dropped')) = (ended_at is not null)),
    constraint landed_means_where check ((state = 'landed') = (landed_commit is not null))
);

create index landings_queued on landings (project_id, queued_at, id) where state = 'queued';
create index landings_landed on landings (project_id, ended_at) where state = 'landed';
create index landings_sent_back on landings (project_id, sent_back_at) where sent_back_at is not null;

-- Written before a target is moved to `commit_id`. It has landed if the commit is an ancestor of the target by then.
create table landing_intents (
    project_id uuid        not null,
    id         bigint      not null generated always as identity,
    landing_id bigint      not null,
    task_id    text        not null collate "C",
    commit_id  text        not null,
    target     text        not null,
    old        text        not null,
    at         timestamptz not null default loom_now(),
    closed_at  timestamptz,
    primary key (project_id, id),
    unique (project_id, landing_id, commit_id),
    foreign key (project_id, landing_id) references landings (project_id, id)
);

create index landing_intents_open on landing_intents (project_id, landing_id) where closed_at is null;

-- Who lands on a target now, so that others need not try. Safety is not from here.
create table landing_leases (
    project_id uuid        not null,
    target     text        not null,
    holder     text        not null,
    until      timestamptz not null,
    primary key (project_id, target)
);

-- What a project lands on instead of what its configuration says.
create table landing_targets (
    project_id uuid        primary key references projects,
    target     text        not null,
    why        text        not null,
    since      timestamptz not null default loom_now()
);

-- As before, but for a claim that lands: what its report means is decided by the rules.
create or replace function loom_complete_task(
    project uuid, task text, agent text, token bigint, result jsonb,
    out done tasks, out depends_on text[], out event_xid text, out event_id bigint, out awaited boolean
) language plpgsql as $$
begin
    update tasks t
       set status = 'done', output = result, done_at = loom_now(), lease_expires_at = null,
           version = version + 1, updated_at = loom_now()
     where t.project_id = project and t.id = task and t.status = 'claimed' and t.checks = '{}'
       and t.landing_token <> t.claim_token
       and (t.claim_token = token or (token is null and t.assignee = agent))
    returning t.* into done;
    if not found then
        return;
    end if;
    insert into events as e (project_id, type, task_id, status, version, agent, token)
    values (project, 'task.done', task, 'done', done.version, agent, done.claim_token)
    returning e.xid::text, e.id into event_xid, event_id;
    depends_on := array(select e.depends_on from task_deps e
                         where e.project_id = project and e.task_id = task order by e.depends_on);
    awaited := exists(select from task_deps e
                       where e.project_id = project and e.depends_on = task and e.waived_at is null);
end
$$;
