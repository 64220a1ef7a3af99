-- One row for each time that a skill was run. `expects` is the JSON schema of its answer as it was when the run began,
-- so that an answer that comes later is measured by what its author was shown.
create table skill_runs (
    project_id    uuid             not null references projects,
    id            text             not null collate "C",
    skill         text             not null,
    skill_version text             not null,
    provider      text             not null,
    model         text,
    agent         text             not null,
    status        text             not null check (status in ('open', 'running', 'done', 'failed')),
    inputs        jsonb            not null,
    expects       jsonb            not null,
    output        jsonb,
    error         text,
    asked         integer          not null default 0,  -- how often the model was asked
    input_tokens  bigint,
    output_tokens bigint,
    seconds       double precision,
    created_at    timestamptz      not null default loom_now(),
    finished_at   timestamptz,
    primary key (project_id, id),
    check ((status in ('done', 'failed')) = (finished_at is not null)),
    check ((status = 'done') = (output is not null))
);

create index skill_runs_newest on skill_runs (project_id, created_at desc, id);

-- Plans that were shown and wait for a yes, and what came of those that got it.
create table plans (
    project_id uuid        not null references projects,
    id         text        not null collate "C",
    goal       text        not null,
    plan       jsonb       not null,
    agent      text        not null,
    run_id     text        collate "C",  -- the run of the skill that made it, where one did
    created_at timestamptz not null default loom_now(),
    applied_at timestamptz,
    answer     jsonb,                    -- what was said when it was written
    primary key (project_id, id),
    check ((applied_at is null) = (answer is null))
);
