-- needs: 2.0.0
-- A deferral holds a task like a question, until somebody resolves it; it asks nobody.
alter table escalations
    drop constraint escalations_kind_check,
    add constraint escalations_kind_check check (kind in ('failure', 'question', 'deferred'));

create unique index escalations_one_deferral on escalations (project_id, task_id) where kind = 'deferred' and resolved_at is null;
