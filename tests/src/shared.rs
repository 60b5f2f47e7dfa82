//! One server for all tests of a program that run at the same time.
//!
//! It lives on a runtime of its own, because each test's runtime ends with the test. The last test that uses it stops
//! it and removes its database; one that comes later starts another.

use std::ops::Deref;
use std::sync::{Arc, OnceLock, Weak};

use anyhow::Result;
use tokio::runtime::Runtime;
use tokio::sync::{Mutex, oneshot};
use walcast::serve::ServeSettings;

use crate::World;

/// A world that tests share. Make it a `static`.
pub struct Shared {
    name: &'static str,
    sql: fn() -> String,
    change: fn(&mut ServeSettings),
    current: Mutex<Weak<SharedWorld>>,
}

/// The world while somebody uses it.
pub struct SharedWorld(Option<World>);

impl Shared {
    /// A world with this schema and these settings, started when it is first asked for.
    pub const fn new(name: &'static str, sql: fn() -> String, change: fn(&mut ServeSettings)) -> Shared {
        Shared { name, sql, change, current: Mutex::const_new(Weak::new()) }
    }

    /// The world, for as long as the caller holds it.
    pub async fn world(&self) -> Result<Arc<SharedWorld>> {
        let mut current = self.current.lock().await;
        if let Some(world) = current.upgrade() {
            return Ok(world);
        }
        let (name, sql, change) = (self.name, self.sql, self.change);
        let (done, started) = oneshot::channel();
        std::thread::spawn(move || {
            let world = runtime().block_on(World::with_settings(name, &sql(), change));
            // The test may have given up waiting.
            let _ = done.send(world);
        });
        let world = Arc::new(SharedWorld(Some(started.await??)));
        *current = Arc::downgrade(&world);
        Ok(world)
    }
}

impl Deref for SharedWorld {
    type Target = World;

    fn deref(&self) -> &World {
        self.0.as_ref().expect("taken out by Drop alone")
    }
}

impl Drop for SharedWorld {
    fn drop(&mut self) {
        let Some(World { database, client, server, .. }) = self.0.take() else { return };
        let stopping = std::thread::spawn(move || {
            let stopped = runtime().block_on(server.stop());
            drop((client, database));
            stopped
        });
        if let Ok(Err(error)) = stopping.join() {
            tracing::warn!("the shared server did not stop in order: {error:#}");
        }
    }
}

fn runtime() -> &'static Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| Runtime::new().expect("the system has threads to give"))
}
