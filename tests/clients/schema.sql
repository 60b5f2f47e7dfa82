-- What the client checks read and write: one table of notes that only their owner may see.
-- Applied once to an empty database before walcast starts on it. Safe to apply twice.

do $$
begin
  if not exists (select from pg_roles where rolname = 'anon') then
    create role anon nologin noinherit;
  end if;
  if not exists (select from pg_roles where rolname = 'authenticated') then
    create role authenticated nologin noinherit;
  end if;
exception when duplicate_object or unique_violation then
  null; -- another database of the same cluster made the role in the same moment
end
$$;

create schema if not exists checks;

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

-- The whole old row, so that the policy can judge a DELETE.
alter table checks.notes replica identity full;
alter table checks.notes enable row level security;

drop policy if exists "notes are read by their owner" on checks.notes;
create policy "notes are read by their owner" on checks.notes for select to authenticated
  using (owner = (nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid);

grant usage on schema checks to anon, authenticated;
grant select on checks.notes to authenticated;

do $$
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  if not exists (
    select from pg_publication_tables
    where pubname = 'supabase_realtime' and schemaname = 'checks' and tablename = 'notes'
  ) then
    alter publication supabase_realtime add table checks.notes;
  end if;
end
$$;
