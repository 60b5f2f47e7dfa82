-- What the client checks read and write, beside what `walcast install --apply` makes: notes and tasks that only their
-- owner may see, and who may do what on private channels. Applied once to a database after the installation and before
-- walcast starts on it. Safe to apply twice.

do $$
declare
  wanted name;
begin
  foreach wanted in array array['anon', 'authenticated', 'staff'] loop
    if exists (select from pg_roles where rolname = wanted) then
      continue;
    end if;
    begin
      execute format('create role %I nologin noinherit', wanted);
    exception when duplicate_object or unique_violation then
      null; -- another database of the same cluster made the role in the same moment
    end;
  end loop;
end
$$;

create schema if not exists checks;
grant usage on schema checks to anon, authenticated;

create or replace function checks.claim(name text) returns text language sql stable as
  $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> name $$;

create table if not exists checks.notes (
  id      bigint generated always as identity primary key,
  owner   uuid not null,
  room    text not null,
  body    text not null,
  number  integer not null default 0,
  tags    text[] not null default '{}',
  details jsonb not null default '{}',
  at      timestamptz not null default now()
);

-- With columns that may be null, and announced by a trigger to the private channel `tasks:<room>`.
create table if not exists checks.tasks (
  id     bigint generated always as identity primary key,
  owner  uuid not null,
  room   text not null,
  title  text,
  number integer,
  done   boolean
);

-- The whole old row, so that the policies can judge a DELETE.
alter table checks.notes replica identity full;
alter table checks.tasks replica identity full;
alter table checks.notes enable row level security;
alter table checks.tasks enable row level security;

drop policy if exists "notes are read by their owner" on checks.notes;
create policy "notes are read by their owner" on checks.notes for select to authenticated
  using (owner = checks.claim('sub')::uuid);
drop policy if exists "tasks are their owner's" on checks.tasks;
create policy "tasks are their owner's" on checks.tasks for all to authenticated
  using (owner = checks.claim('sub')::uuid);

grant select on checks.notes to authenticated;
grant select, insert, update, delete on checks.tasks to authenticated;

-- As whoever writes the row: a policy on realtime.messages must let that role send.
create or replace function checks.announce_task() returns trigger language plpgsql as $$
begin
  perform realtime.broadcast_changes(
    'tasks:' || coalesce(new.room, old.room), tg_op, tg_op, tg_table_name, tg_table_schema, new, old
  );
  return null;
end
$$;
drop trigger if exists announce_task on checks.tasks;
create trigger announce_task after insert or update or delete on checks.tasks
  for each row execute function checks.announce_task();

-- Private channels, by the first part of their names.
grant usage on schema realtime to staff;
grant select, insert on realtime.messages to staff;

drop policy if exists "team: by the claim team" on realtime.messages;
create policy "team: by the claim team" on realtime.messages for all to authenticated
  using (realtime.topic() like 'team:' || checks.claim('team') || ':%');
drop policy if exists "staff: by the role" on realtime.messages;
create policy "staff: by the role" on realtime.messages for all to staff
  using (realtime.topic() like 'staff:%');
drop policy if exists "board: for reading" on realtime.messages;
create policy "board: for reading" on realtime.messages for select to authenticated
  using (realtime.topic() like 'board:%' and extension in ('broadcast', 'presence'));
drop policy if exists "tasks: whoever is signed in" on realtime.messages;
create policy "tasks: whoever is signed in" on realtime.messages for all to authenticated
  using (realtime.topic() like 'tasks:%');

do $$
declare
  wanted name;
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  foreach wanted in array array['notes', 'tasks'] loop
    if not exists (
      select from pg_publication_tables
      where pubname = 'supabase_realtime' and schemaname = 'checks' and tablename = wanted
    ) then
      execute format('alter publication supabase_realtime add table checks.%I', wanted);
    end if;
  end loop;
end
$$;
