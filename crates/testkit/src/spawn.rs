//! Starting a process that dies with us, however we die.

use std::io;
use std::process::{Child, Command};
use std::sync::{LazyLock, mpsc};
use std::thread;

use rustix::process::Signal;

/// Starts `command` so that it gets `signal` when this process ends, even by SIGKILL (Linux; elsewhere the caller
/// must stop it itself).
///
/// The kernel ties the promise to the *thread* that started the child, so all children are started from one
/// thread that lives as long as the process.
pub(crate) fn spawn_bound(mut command: Command, signal: Signal) -> io::Result<Child> {
    bind_to_parent(&mut command, signal);
    let (answer, answered) = mpsc::channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    SPAWNER.send(Order { command, answer }).map_err(|_| gone())?;
    answered.recv().map_err(|_| gone())?
}

struct Order {
    command: Command,
    answer: mpsc::Sender<io::Result<Child>>,
}

static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
    let (orders, incoming) = mpsc::channel::<Order>();
    // If the thread can not be started the receiver is dropped and every order fails with an error.
    let _ = thread::Builder::new().name("walcast-spawn".into()).spawn(move || {
        while let Ok(mut order) = incoming.recv() {
            let _ = order.answer.send(order.command.spawn());
        }
    });
    orders
});

#[cfg(target_os = "linux")]
fn bind_to_parent(command: &mut Command, signal: Signal) {
    use std::os::unix::process::CommandExt;

    let parent = rustix::process::getpid();
    let bind = move || {
        rustix::process::set_parent_process_death_signal(Some(signal))?;
        // The parent may have died before the line above took effect.
        if rustix::process::getppid() == Some(parent) {
            Ok(())
        } else {
            Err(io::Error::from_raw_os_error(rustix::io::Errno::SRCH.raw_os_error()))
        }
    };
    // SAFETY: the closure runs between fork and exec, where only async-signal-safe functions are allowed: it makes
    // two system calls (prctl, getppid), allocates nothing and takes no lock. The standard library changes user
    // and group before it runs the closure, which matters because that change clears the death signal.
    #[allow(unsafe_code)]
    unsafe {
        command.pre_exec(bind);
    }
}

#[cfg(not(target_os = "linux"))]
fn bind_to_parent(_command: &mut Command, _signal: Signal) {}
