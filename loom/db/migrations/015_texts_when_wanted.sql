-- needs: 2.0.0
-- Words and paths of tasks are read when somebody looks for some. Who makes and changes tasks says only that they are
-- due, which costs a plan of thousands little.
alter table task_texts alter column words drop not null, alter column paths drop not null;

create index task_texts_due on task_texts (project_id) where words is null;

create or replace function loom_texts_made() returns trigger language plpgsql as $$
begin
    insert into task_texts (project_id, task_id) select project_id, id from made;
    return null;
end
$$;

create or replace function loom_texts_changed() returns trigger language plpgsql as $$
begin
    -- Also where they are due already: whoever is reading the row as it was holds this one.
    update task_texts set words = null, paths = null where project_id = new.project_id and task_id = new.id;
    return null;
end
$$;
