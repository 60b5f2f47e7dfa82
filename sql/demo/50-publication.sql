-- The tables whose changes are delivered. A publication that exists keeps what else it has.
do $$
declare
  wanted name;
begin
  if not exists (select from pg_publication where pubname = 'supabase_realtime') then
    create publication supabase_realtime;
  end if;
  foreach wanted in array array['salas', 'sala_miembros', 'mensajes', 'solicitudes', 'notificaciones'] loop
    -- Also true for a publication of all tables, to which none can be added.
    if not exists (
      select from pg_publication_tables
      where pubname = 'supabase_realtime' and schemaname = 'public' and tablename = wanted
    ) then
      execute format('alter publication supabase_realtime add table public.%I', wanted);
    end if;
  end loop;
end
$$;
