-- needs: 2.0.0
-- What has failed lately, for statistics and for what has failed more than once.
create index escalations_failures on escalations (project_id, raised_at, task_id) where kind = 'failure';
