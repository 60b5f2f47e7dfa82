//! The SQL of the endpoints. Every parameter is sent as text and cast here, so that a bad value is Postgres's own error.
//! None of these looks at who asks: grants and policies do.

/// Everything the page shows at first, in one snapshot. One row.
pub(super) const STATE: &str = "\
select
  (select coalesce(jsonb_agg(to_jsonb(salas) order by nombre), '[]') from public.salas) as salas,
  (select coalesce(jsonb_agg(to_jsonb(recent)), '[]')
   from (select * from public.mensajes order by creado_en desc limit 500) as recent) as mensajes,
  (select coalesce(jsonb_agg(to_jsonb(recent)), '[]')
   from (select * from public.solicitudes order by creado_en desc limit 100) as recent) as solicitudes,
  (select coalesce(jsonb_agg(to_jsonb(recent)), '[]')
   from (select * from public.notificaciones order by creado_en desc limit 50) as recent) as notificaciones";

/// `id` (chosen by the sender, or null), `sala_id`, `cuerpo`. Sent again after a lost answer it adds nothing.
pub(super) const SEND_MESSAGE: &str = "\
insert into public.mensajes (id, sala_id, autor_id, cuerpo)
values (coalesce($1::text::uuid, gen_random_uuid()), $2::text::uuid, auth.uid(), $3::text)
on conflict (id) do nothing
returning *";

/// `id`, `cuerpo`.
pub(super) const EDIT_MESSAGE: &str = "\
update public.mensajes set cuerpo = $2::text, editado = true
where id = $1::text::uuid and not borrado
returning *";

/// `id`. The row stays, its text goes.
pub(super) const DELETE_MESSAGE: &str = "\
update public.mensajes set cuerpo = '', borrado = true
where id = $1::text::uuid
returning *";

/// `zona`, `precio`.
pub(super) const CREATE_REQUEST: &str = "\
insert into public.solicitudes (cliente_id, zona, precio)
values (auth.uid(), $1::text, $2::text::numeric)
returning *";

/// `id`.
pub(super) const TAKE_REQUEST: &str = "\
update public.solicitudes set operador_id = auth.uid(), estado = 'tomada'
where id = $1::text::uuid and estado = 'abierta'
returning *";

/// `id`.
pub(super) const COMPLETE_REQUEST: &str = "\
update public.solicitudes set estado = 'completada'
where id = $1::text::uuid and estado = 'tomada' and operador_id = auth.uid()
returning *";

/// `id`.
pub(super) const CANCEL_REQUEST: &str = "\
update public.solicitudes set estado = 'cancelada'
where id = $1::text::uuid and estado = 'abierta' and cliente_id = auth.uid()
returning *";

/// `id`.
pub(super) const READ_NOTICE: &str = "\
update public.notificaciones set leida = true
where id = $1::text::uuid
returning *";
