-- Three people: Ana and Carla are clients, Bruno is an operator. Each client has a room with Bruno; one is for all.
insert into public.salas (id, nombre) values
  ('00000000-0000-4000-8000-00000000a001', 'Todos'),
  ('00000000-0000-4000-8000-00000000a002', 'Ana y Bruno'),
  ('00000000-0000-4000-8000-00000000a003', 'Carla y Bruno')
on conflict do nothing;

insert into public.sala_miembros (sala_id, usuario_id) values
  ('00000000-0000-4000-8000-00000000a001', '00000000-0000-4000-8000-0000000000a1'),
  ('00000000-0000-4000-8000-00000000a001', '00000000-0000-4000-8000-0000000000b2'),
  ('00000000-0000-4000-8000-00000000a001', '00000000-0000-4000-8000-0000000000c3'),
  ('00000000-0000-4000-8000-00000000a002', '00000000-0000-4000-8000-0000000000a1'),
  ('00000000-0000-4000-8000-00000000a002', '00000000-0000-4000-8000-0000000000b2'),
  ('00000000-0000-4000-8000-00000000a003', '00000000-0000-4000-8000-0000000000c3'),
  ('00000000-0000-4000-8000-00000000a003', '00000000-0000-4000-8000-0000000000b2')
on conflict do nothing;

insert into public.mensajes (id, sala_id, autor_id, cuerpo, editado, reacciones, creado_en) values
  ('00000000-0000-4000-8000-00000000e001', '00000000-0000-4000-8000-00000000a001',
   '00000000-0000-4000-8000-0000000000b2', '¡Hola! Hoy ando por el Centro y Cordón.', false,
   '{"👍": ["00000000-0000-4000-8000-0000000000a1"]}', now() - interval '50 minutes'),
  ('00000000-0000-4000-8000-00000000e002', '00000000-0000-4000-8000-00000000a001',
   '00000000-0000-4000-8000-0000000000c3', 'Perfecto, después te escribo.', false, '{}',
   now() - interval '48 minutes'),
  ('00000000-0000-4000-8000-00000000e003', '00000000-0000-4000-8000-00000000a002',
   '00000000-0000-4000-8000-0000000000a1', '¿Puedes pasar por la farmacia antes de las seis?', true, '{}',
   now() - interval '30 minutes'),
  ('00000000-0000-4000-8000-00000000e004', '00000000-0000-4000-8000-00000000a002',
   '00000000-0000-4000-8000-0000000000b2', 'Sí, salgo en diez minutos.', false, '{}',
   now() - interval '29 minutes'),
  ('00000000-0000-4000-8000-00000000e005', '00000000-0000-4000-8000-00000000a003',
   '00000000-0000-4000-8000-0000000000c3', 'Gracias por el paquete de ayer.', false, '{}',
   now() - interval '20 minutes')
on conflict do nothing;

insert into public.solicitudes (id, cliente_id, operador_id, zona, precio, estado, creado_en) values
  ('00000000-0000-4000-8000-00000000f001', '00000000-0000-4000-8000-0000000000a1', null,
   'Pocitos', 350.00, 'abierta', now() - interval '15 minutes'),
  ('00000000-0000-4000-8000-00000000f002', '00000000-0000-4000-8000-0000000000a1',
   '00000000-0000-4000-8000-0000000000b2', 'Cordón', 280.00, 'tomada', now() - interval '40 minutes'),
  ('00000000-0000-4000-8000-00000000f003', '00000000-0000-4000-8000-0000000000c3', null,
   'Centro', 190.50, 'abierta', now() - interval '5 minutes'),
  ('00000000-0000-4000-8000-00000000f004', '00000000-0000-4000-8000-0000000000c3',
   '00000000-0000-4000-8000-0000000000b2', 'Parque Rodó', 420.00, 'completada', now() - interval '1 day')
on conflict do nothing;

insert into public.notificaciones (id, usuario_id, titulo, cuerpo, leida, creado_en) values
  ('00000000-0000-4000-8000-00000000d001', '00000000-0000-4000-8000-0000000000a1',
   'Solicitud tomada', 'Bruno va en camino a Cordón.', false, now() - interval '35 minutes'),
  ('00000000-0000-4000-8000-00000000d002', '00000000-0000-4000-8000-0000000000b2',
   'Te damos la bienvenida', 'Las solicitudes abiertas aparecen en tu lista.', true, now() - interval '2 days'),
  ('00000000-0000-4000-8000-00000000d003', '00000000-0000-4000-8000-0000000000c3',
   'Solicitud completada', 'Tu pedido de Parque Rodó llegó.', false, now() - interval '23 hours')
on conflict do nothing;
