-- needs: 2.0.0
-- Where a target stood when it was looked at last, so that a move of somebody else's is told from a landing.
create table landing_tips (
    project_id uuid not null references projects,
    target     text not null,
    commit_id  text not null,
    primary key (project_id, target)
);
