"""Django Channels with its in-memory layer, served by Daphne. Speaks the protocol `plain` of `walcast bench`."""

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="bench",
    ALLOWED_HOSTS=["*"],
    CHANNEL_LAYERS={
        # The usual capacity of 100 messages drops what a burst brings.
        "default": {"BACKEND": "channels.layers.InMemoryChannelLayer", "CONFIG": {"capacity": 100_000}}
    },
)
django.setup()

from channels.generic.websocket import AsyncWebsocketConsumer  # noqa: E402
from channels.routing import ProtocolTypeRouter  # noqa: E402


class Consumer(AsyncWebsocketConsumer):
    groups = []

    async def receive(self, text_data=None, bytes_data=None):
        rest = text_data[1:]
        if text_data[0] == "s":
            self.groups = [*self.groups, rest]
            await self.channel_layer.group_add(rest, self.channel_name)
            await self.send("ok")
        else:
            topic, payload = rest.split(" ", 1)
            await self.channel_layer.group_send(topic, {"type": "relay", "text": payload})

    async def relay(self, event):
        await self.send(event["text"])


application = ProtocolTypeRouter({"websocket": Consumer.as_asgi()})
