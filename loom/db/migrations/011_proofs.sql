-- needs: 2.0.0
-- The paths that a task is about, relative to the root of the repository, and the checks that it is done only with.
alter table tasks
    add column files  text[] not null default '{}',
    add column checks text[] not null default '{}';

-- One row for each time that Loom ran a check, written before it runs and closed after it. It counts for the tree that
-- it ran on; a check that reads history for the one commit (`commit_id`); without either for one claim alone. Without
-- an exit status a closed one proves nothing.
create table proofs (
    project_id  uuid             not null references projects,
    id          bigint           not null generated always as identity,
    task_id     text             collate "C",  -- for whose claim it ran, where it ran for one
    token       bigint,
    tree        text,
    commit_id   text,
    check_name  text             not null,
    check_hash  text             not null,  -- of its command, its environment, and whatever else makes it this check
    agent       text             not null,
    started_at  timestamptz      not null default loom_now(),
    ended_at    timestamptz,
    exit_status integer,
    seconds     double precision,
    tail        text             not null default '',
    flaky       boolean          not null default false,
    primary key (project_id, id),
    foreign key (project_id, task_id) references tasks (project_id, id),
    check ((task_id is null) = (token is null)),
    check (tree is not null or commit_id is not null or task_id is not null),
    check (exit_status is null or ended_at is not null)
);

create index proofs_of_task on proofs (project_id, task_id, token, id) where task_id is not null;
create index proofs_of_tree on proofs (project_id, tree, check_hash) where exit_status = 0 and tree is not null;
create index proofs_of_commit on proofs (project_id, commit_id, check_hash) where exit_status = 0 and commit_id is not null;

-- As before, but a task that names checks is left alone: whether they are proven is looked at under its lock.
create or replace function loom_complete_task(
    project uuid, task text, agent text, token bigint, result jsonb,
    out done tasks, out depends_on text[], out event_xid text, out event_id bigint, out awaited boolean
) language plpgsql as $$
begin
    update tasks t
       set status = 'done', output = result, done_at = loom_now(), lease_expires_at = null,
           version = version + 1, updated_at = loom_now()
     where t.project_id = project and t.id = task and t.status = 'claimed' and t.checks = '{}'
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
