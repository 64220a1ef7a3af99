-- needs: 2.0.0
-- Finishes the claim that `token` names, or without one that of `agent`, writes its event, and looks whether anything
-- waits for the task. One call, but each statement of it sees what was committed before it: whoever adds an edge holds
-- the task until he commits, so the last one misses none.
create function loom_complete_task(
    project uuid, task text, agent text, token bigint, result jsonb,
    out done tasks, out depends_on text[], out event_xid text, out event_id bigint, out awaited boolean
) language plpgsql as $$
begin
    update tasks t
       set status = 'done', output = result, done_at = loom_now(), lease_expires_at = null,
           version = version + 1, updated_at = loom_now()
     where t.project_id = project and t.id = task and t.status = 'claimed'
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
