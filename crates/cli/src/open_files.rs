//! The limit of open files: every socket is one.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit to `wanted`, or to all that is allowed; the log says what it is where that is less.
pub fn raise(wanted: Option<u64>) {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let allowed = wanted.or(maximum).map(|wanted| maximum.map_or(wanted, |maximum| wanted.min(maximum)));
    if current.is_none() || allowed.is_some_and(|allowed| current >= Some(allowed)) {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: allowed, maximum }) {
        tracing::warn!(%error, ?current, "the limit of open files could not be raised");
    } else if let (Some(wanted), Some(allowed)) = (wanted, allowed)
        && allowed < wanted
    {
        tracing::warn!(wanted, allowed, "fewer open files are allowed than RLIMIT_NOFILE asks for");
    }
}
