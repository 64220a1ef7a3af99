-- needs: 2.0.0
-- Labels, and what people and agents search for. Words and paths lie in a table of their own, so that claims, renewals
-- and reports, which rewrite a task's row, leave their indexes alone.
alter table tasks add column labels text[] not null default '{}';

create index tasks_labels on tasks using gin (labels) where labels <> '{}';

create table task_texts (
    project_id uuid     not null,
    task_id    text     not null collate "C",
    words      tsvector not null,
    paths      text[]   not null,  -- the task's files, each also with a / behind it, and every directory above them
    primary key (project_id, task_id),
    foreign key (project_id, task_id) references tasks (project_id, id)
);

-- Title before criteria before the rest: what is found in a title stands first.
create function loom_words(title text, done_when text, context jsonb) returns tsvector
language sql immutable parallel safe as $$
    select setweight(to_tsvector('english', title), 'A')
        || setweight(to_tsvector('english', coalesce(left(done_when, 8192), '')), 'B')
        || setweight(to_tsvector('english', left(context::text, 65536)), 'C')
$$;

create function loom_paths(files text[]) returns text[] language sql immutable parallel safe as $$
    select coalesce(array_agg(distinct one), '{}')
      from unnest(files) f(path), lateral string_to_array(path, '/') parts,
           lateral (select path || '/' union all
                    select array_to_string(parts[1:depth], '/') from generate_series(1, cardinality(parts)) depth) s(one)
$$;

create function loom_texts_made() returns trigger language plpgsql as $$
begin
    insert into task_texts (project_id, task_id, words, paths)
    select project_id, id, loom_words(title, done_when, context), loom_paths(files) from made;
    return null;
end
$$;

create function loom_texts_changed() returns trigger language plpgsql as $$
begin
    update task_texts
       set words = loom_words(new.title, new.done_when, new.context), paths = loom_paths(new.files)
     where project_id = new.project_id and task_id = new.id;
    return null;
end
$$;

insert into task_texts (project_id, task_id, words, paths)
select project_id, id, loom_words(title, done_when, context), loom_paths(files) from tasks;

create index task_texts_words on task_texts using gin (words);
create index task_texts_paths on task_texts using gin (paths) where paths <> '{}';

create trigger texts_made after insert on tasks
    referencing new table as made for each statement execute function loom_texts_made();
create trigger texts_changed after update of title, done_when, context, files on tasks
    for each row when ((old.title, old.done_when, old.context, old.files)
                       is distinct from (new.title, new.done_when, new.context, new.files))
    execute function loom_texts_changed();
