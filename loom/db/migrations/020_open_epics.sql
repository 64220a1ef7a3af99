-- needs: 2.0.0
-- The epics that a project is seen as at a glance. Among many blocked tasks they are not found by the index that both
-- share.
create index tasks_open_epics on tasks (project_id, priority, created_at, id) where status = 'epic' and parent_id is null;
