-- needs: 2.0.0
-- How browsers come in over HTTP: codes for one use, and the cookies that they are changed for. Of each only the digest
-- is kept, and none outlives the token that it stands for.
create table browser_entries (
    digest     bytea       not null primary key check (length(digest) = 32),
    project_id uuid        not null,
    token_id   text        not null collate "C",
    is_code    boolean     not null,
    expires_at timestamptz not null,
    foreign key (project_id, token_id) references access_tokens
);

create index browser_entries_by_token on browser_entries (project_id, token_id, is_code, expires_at);
