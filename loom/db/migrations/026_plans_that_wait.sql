-- needs: 2.0.0
-- Plans that wait for a person, found among those that had their answer. One that a workflow has made waits there: the
-- workflow asks about it.
alter table plans add column of_workflow boolean not null default false;
update plans p set of_workflow = true
  from workflow_steps s
 where s.project_id = p.project_id and s.output ->> 'plan_id' = p.id;
create index plans_newest on plans (project_id, created_at) where not of_workflow;
