-- needs: 2.0.0
-- What a tracker called a task, backwards, so that the end of such a name is found as the beginning of something is.
create index tasks_origin_ends on tasks (project_id, reverse(lower(origin_id)) collate "C") where origin_id is not null;
