-- What was found out about an escalation: cause, confidence, action, note, question, evidence, the ids of the fix tasks
-- that were made (`fixes`), `depth`, and `left`, why it was left to a person, where it was.
alter table escalations
    add column diagnosed_at timestamptz,
    add column diagnosis    jsonb,
    add constraint diagnosed_means_diagnosis check ((diagnosed_at is null) = (diagnosis is null));

-- Whose fix a task is.
create index escalations_fixes on escalations using gin ((diagnosis -> 'fixes') jsonb_path_ops) where diagnosis is not null;
create index escalations_undiagnosed on escalations (project_id, raised_at) where resolved_at is null and diagnosed_at is null;

-- One row for each time that the supervisor asked a model about an escalation, written before it asks: what it counts
-- against its limits stands whatever comes of it.
create table diagnosis_asks (
    project_id    uuid        not null,
    asked_at      timestamptz not null default loom_now(),
    id            bigint      not null generated always as identity,
    escalation_id text        not null collate "C",
    asked_by      text        not null,
    primary key (project_id, asked_at, id),
    foreign key (project_id, escalation_id) references escalations (project_id, id)
);

create index diagnosis_asks_of_escalation on diagnosis_asks (project_id, escalation_id);
