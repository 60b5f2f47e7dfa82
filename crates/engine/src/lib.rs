//! The engine: shards, sessions, topics, broadcast, presence, and the matcher of changes to subscriptions.
