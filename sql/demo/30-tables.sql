-- A market of errands: clients ask (solicitudes), operators on the road take the requests, both chat in rooms (salas).
create table if not exists public.salas (
  id        uuid primary key default gen_random_uuid(),
  nombre    text not null,
  creado_en timestamptz not null default now()
);

create table if not exists public.sala_miembros (
  sala_id    uuid not null references public.salas on delete cascade,
  usuario_id uuid not null,
  primary key (sala_id, usuario_id)
);
create index if not exists sala_miembros_usuario on public.sala_miembros (usuario_id);

create table if not exists public.mensajes (
  id         uuid primary key default gen_random_uuid(),
  sala_id    uuid not null references public.salas on delete cascade,
  autor_id   uuid not null,
  cuerpo     text not null,
  editado    boolean not null default false,
  borrado    boolean not null default false,
  -- Emoji to the people who chose it.
  reacciones jsonb not null default '{}',
  creado_en  timestamptz not null default now()
);
create index if not exists mensajes_sala on public.mensajes (sala_id, creado_en desc);

create table if not exists public.solicitudes (
  id          uuid primary key default gen_random_uuid(),
  cliente_id  uuid not null,
  operador_id uuid,
  zona        text not null,
  precio      numeric(10, 2) not null check (precio > 0),
  estado      text not null default 'abierta'
              check (estado in ('abierta', 'tomada', 'completada', 'cancelada')),
  creado_en   timestamptz not null default now(),
  check ((operador_id is not null) = (estado in ('tomada', 'completada')))
);
create index if not exists solicitudes_cliente on public.solicitudes (cliente_id);
create index if not exists solicitudes_operador on public.solicitudes (operador_id);

create table if not exists public.notificaciones (
  id         uuid primary key default gen_random_uuid(),
  usuario_id uuid not null,
  titulo     text not null,
  cuerpo     text not null,
  leida      boolean not null default false,
  creado_en  timestamptz not null default now()
);
create index if not exists notificaciones_usuario on public.notificaciones (usuario_id, creado_en desc);

-- A DELETE, and an UPDATE that takes a row out of sight, can only be judged by the policies on the whole old row.
-- Rooms are never deleted here and messages are only marked as deleted, but policies may change.
alter table public.sala_miembros replica identity full;
alter table public.mensajes replica identity full;
alter table public.solicitudes replica identity full;
alter table public.notificaciones replica identity full;

-- The client is told when the request moves. It runs as its owner: an operator may not write to others' notifications.
create or replace function public.avisar_cliente() returns trigger
language plpgsql security definer set search_path = '' as $$
begin
  insert into public.notificaciones (usuario_id, titulo, cuerpo)
  values (
    new.cliente_id,
    case new.estado when 'tomada' then 'Solicitud tomada' else 'Solicitud completada' end,
    format('%s, $ %s', new.zona, new.precio)
  );
  return null;
end
$$;
revoke all on function public.avisar_cliente() from public;

drop trigger if exists avisar_cliente on public.solicitudes;
create trigger avisar_cliente
  after update of estado on public.solicitudes
  for each row
  when (old.estado is distinct from new.estado and new.estado in ('tomada', 'completada'))
  execute function public.avisar_cliente();
