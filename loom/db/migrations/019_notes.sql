-- Notes are messages whose recipient is a task. They are found by their words, as the rest of a task is.
create function loom_note_written() returns trigger language plpgsql as $$
begin
    update task_texts set words = null, paths = null where project_id = new.project_id and task_id = new.recipient;
    return null;
end
$$;

create trigger note_written after insert on messages
    for each row when (new.recipient ~ '^loom-[0-9a-f]{8}$') execute function loom_note_written();
