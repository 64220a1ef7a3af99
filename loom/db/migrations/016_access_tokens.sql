-- needs: 2.0.0
-- Who may come in over HTTP. Of a token only the digest of its secret is kept; `id` is the part that it is found by.
create table access_tokens (
    project_id   uuid        not null references projects,
    id           text        not null collate "C",
    name         text        not null collate "C",
    role         text        not null check (role in ('reader', 'worker', 'planner', 'admin')),
    digest       bytea       not null check (length(digest) = 32),
    created_at   timestamptz not null default loom_now(),
    created_by   text        not null,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    last_used_at timestamptz,
    last_client  text,
    primary key (project_id, id)
);

create unique index access_tokens_by_id on access_tokens (id);
