-- A run that a person has cancelled: final, with the reason in `error`.
alter table workflow_runs
    drop constraint workflow_runs_status_check,
    drop constraint workflow_runs_check,
    drop constraint workflow_runs_check2,
    add constraint workflow_runs_status_check check (status in ('running', 'waiting', 'done', 'failed', 'cancelled')),
    add constraint workflow_runs_finished_check check
        ((status in ('done', 'failed', 'cancelled')) = (finished_at is not null)),
    add constraint workflow_runs_error_check check ((status in ('failed', 'cancelled')) = (error is not null));
