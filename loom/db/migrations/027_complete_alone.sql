-- needs: 2.0.0
-- Finishes a claim from which nothing follows, a whole transaction in one statement: the task is in no epic, and nothing
-- waits for it. Whoever adds an edge holds its target FOR SHARE until it commits, and whoever moves a task into an epic
-- its row; so both are looked at once the row is locked, by statements of their own. With any other task nothing
-- happens, and there is no answer.
create function loom_complete_alone(project uuid, task text, agent text, token bigint, result jsonb)
    returns table (done tasks, depends_on text[], event_xid text, event_id bigint, awaited boolean)
    language plpgsql as $$
begin
    perform from tasks t where t.project_id = project and t.id = task and t.parent_id is null for no key update;
    if found and not exists(select from task_deps e
                             where e.project_id = project and e.depends_on = task and e.waived_at is null) then
        return query select * from loom_complete_task(project, task, agent, token, result);
    end if;
end
$$;
