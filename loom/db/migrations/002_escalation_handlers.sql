-- Who is looking at an escalation, and until when that counts: a handler that dies loses nothing.
alter table escalations
    add column handler        text,
    add column handling_until timestamptz;
