//! The log: one stream on standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use crate::settings::{LogFormat, LogSettings};

/// Libraries that print request lines, frames or statements at their debug level, where tokens and rows stand.
/// They stay at `info` unless the filter names them.
const QUIET: &[&str] =
    &["h2", "hyper", "hyper_util", "reqwest", "rustls", "tokio_postgres", "tokio_tungstenite", "tungstenite"];

/// The log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// The filter is not one. Settings check it, so this is a mistake of ours.
    #[error("the log filter can not be used")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Somebody has started a log in this process.
    #[error("the log is started twice")]
    Twice(#[from] Box<dyn std::error::Error + Send + Sync>),
}

/// Starts the log of this process. May be called once.
pub fn start(settings: &LogSettings) -> Result<(), LoggingError> {
    let filter = filter(&settings.filter)?;
    let colours = std::io::stderr().is_terminal();
    let writer = BoxMakeWriter::new(std::io::stderr);
    match settings.format {
        LogFormat::Text => {
            subscriber().with_env_filter(filter).with_ansi(colours).with_writer(writer).try_init()
        }
        LogFormat::Json => subscriber()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(writer)
            .json()
            .flatten_event(true)
            .try_init(),
    }?;
    Ok(())
}

fn subscriber() -> tracing_subscriber::fmt::SubscriberBuilder {
    tracing_subscriber::fmt()
}

fn filter(wanted: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    let named = |library: &&&str| {
        let mut targets =
            wanted.split(',').map(|directive| directive.split(['=', '[']).next().unwrap_or(directive));
        targets.any(|target| target.split("::").next() == Some(**library))
    };
    // Only makes libraries quieter: where no more than `info` is wanted of all, that holds.
    let level = wanted.split(',').find(|directive| !directive.contains('='));
    let chatty = matches!(level, Some("trace" | "debug"));
    let quiet: Vec<String> = if chatty {
        QUIET.iter().filter(|library| !named(library)).map(|library| format!("{library}=info")).collect()
    } else {
        Vec::new()
    };
    EnvFilter::try_new(std::iter::once(wanted.to_owned()).chain(quiet).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_that_print_requests_stay_quiet_while_we_debug() {
        let text = filter("debug").unwrap().to_string();
        assert!(text.contains("hyper=info") && text.contains("tungstenite=info"), "{text}");
    }

    #[test]
    fn a_library_that_is_named_speaks() {
        let text = filter("debug,hyper=trace").unwrap().to_string();
        assert!(text.contains("hyper=trace") && !text.contains("hyper=info"), "{text}");
        assert!(text.contains("rustls=info"), "{text}");
    }

    #[test]
    fn a_level_that_is_quieter_than_info_holds_for_all() {
        assert_eq!(filter("error").unwrap().to_string(), "error");
        assert_eq!(filter("off").unwrap().to_string(), "off");
    }
}
