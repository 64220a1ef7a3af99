-- needs: 2.0.0
-- What a filter looks for and would not find among the rows of its status: epics among what is blocked, what was
-- cancelled among what was done, and who held what. A claim writes none of these, and a report one.
create index tasks_epics on tasks (project_id, priority, id) where status = 'epic';
create index tasks_cancelled on tasks (project_id, done_at, id) where status = 'cancelled';
create index tasks_held_last on tasks (project_id, assignee) where assignee is not null and status in ('pending', 'failed', 'blocked');
create index tasks_finished_by on tasks (project_id, assignee, done_at) where assignee is not null and done_at is not null;
