-- Who may see and do what. The same rules hold for queries and for what walcast delivers.
--
-- anon may select, as in every Supabase project, but no policy admits it to a row.
grant usage on schema public to anon, authenticated, service_role;
grant select on public.salas, public.sala_miembros, public.mensajes, public.solicitudes, public.notificaciones
  to anon, authenticated;
grant all on public.salas, public.sala_miembros, public.mensajes, public.solicitudes, public.notificaciones
  to service_role;
grant insert (id, sala_id, autor_id, cuerpo), update (cuerpo, editado, borrado, reacciones)
  on public.mensajes to authenticated;
grant insert (id, cliente_id, zona, precio), update (operador_id, estado) on public.solicitudes to authenticated;
grant update (leida) on public.notificaciones to authenticated;

alter table public.salas enable row level security;
alter table public.sala_miembros enable row level security;
alter table public.mensajes enable row level security;
alter table public.solicitudes enable row level security;
alter table public.notificaciones enable row level security;

-- Memberships. A policy that looked for the caller's rooms in this same table would ask itself without end, so
-- everybody sees their own memberships, which is also all that the policies below need.
drop policy if exists "own memberships" on public.sala_miembros;
create policy "own memberships" on public.sala_miembros for select to authenticated
  using (usuario_id = auth.uid());

drop policy if exists "members see their rooms" on public.salas;
create policy "members see their rooms" on public.salas for select to authenticated
  using (exists (
    select from public.sala_miembros as m where m.sala_id = salas.id and m.usuario_id = auth.uid()
  ));

drop policy if exists "members read messages" on public.mensajes;
create policy "members read messages" on public.mensajes for select to authenticated
  using (exists (
    select from public.sala_miembros as m where m.sala_id = mensajes.sala_id and m.usuario_id = auth.uid()
  ));

drop policy if exists "members write messages as themselves" on public.mensajes;
create policy "members write messages as themselves" on public.mensajes for insert to authenticated
  with check (
    autor_id = auth.uid()
    and exists (
      select from public.sala_miembros as m where m.sala_id = mensajes.sala_id and m.usuario_id = auth.uid()
    )
  );

drop policy if exists "authors change their messages" on public.mensajes;
create policy "authors change their messages" on public.mensajes for update to authenticated
  using (autor_id = auth.uid())
  with check (autor_id = auth.uid());

drop policy if exists "clients see their requests" on public.solicitudes;
create policy "clients see their requests" on public.solicitudes for select to authenticated
  using (cliente_id = auth.uid());

drop policy if exists "operators see open requests and their own" on public.solicitudes;
create policy "operators see open requests and their own" on public.solicitudes for select to authenticated
  using (
    (auth.jwt() -> 'app_metadata' ->> 'rol') = 'operador'
    and (estado = 'abierta' or operador_id = auth.uid())
  );

drop policy if exists "clients make requests" on public.solicitudes;
create policy "clients make requests" on public.solicitudes for insert to authenticated
  with check (cliente_id = auth.uid() and operador_id is null and estado = 'abierta');

drop policy if exists "clients cancel open requests" on public.solicitudes;
create policy "clients cancel open requests" on public.solicitudes for update to authenticated
  using (cliente_id = auth.uid() and estado = 'abierta')
  with check (cliente_id = auth.uid() and estado = 'cancelada');

drop policy if exists "operators take and complete requests" on public.solicitudes;
create policy "operators take and complete requests" on public.solicitudes for update to authenticated
  using (
    (auth.jwt() -> 'app_metadata' ->> 'rol') = 'operador'
    and (estado = 'abierta' or (estado = 'tomada' and operador_id = auth.uid()))
  )
  with check (operador_id = auth.uid() and estado in ('tomada', 'completada'));

drop policy if exists "own notifications" on public.notificaciones;
create policy "own notifications" on public.notificaciones for select to authenticated
  using (usuario_id = auth.uid());

drop policy if exists "own notifications are marked as read" on public.notificaciones;
create policy "own notifications are marked as read" on public.notificaciones for update to authenticated
  using (usuario_id = auth.uid())
  with check (usuario_id = auth.uid());
