//! Texts into values. Every error is what was expected, as the end of "expected …".

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::{Map, Value};
use tracing_subscriber::EnvFilter;
use walcast_auth::{JwksSource, Secret};
use walcast_engine::{Alike, Deletes};
use walcast_server::Network;
use walcast_server::front::ProjectId;
use walcast_server::origins::AllowedOrigin;
use walcast_wire::BroadcastOptions;

use super::{LogFormat, SlotLagAction};

/// Any text but the empty one.
pub(super) fn text(text: &str) -> Result<String, String> {
    if text.trim().is_empty() {
        return Err("a text that is not empty".to_owned());
    }
    Ok(text.to_owned())
}

/// Any text but the empty one, not to be shown.
pub(super) fn secret(secret: &str) -> Result<Secret, String> {
    text(secret).map(Secret::new)
}

/// A whole number between two bounds, both included.
pub(super) fn count<const MIN: usize, const MAX: usize>(text: &str) -> Result<usize, String> {
    let found = text.trim().replace('_', "").parse().ok().filter(|number| (MIN..=MAX).contains(number));
    found.ok_or_else(|| format!("a whole number from {MIN} to {MAX}"))
}

/// A count that fits 32 bits.
pub(super) fn count32(text: &str) -> Result<u32, String> {
    count::<1, 1_000_000_000>(text)
        .and_then(|number| u32::try_from(number).map_err(|error| error.to_string()))
}

/// A number per second; 0 means that there is no limit.
pub(super) fn rate(text: &str) -> Result<Option<NonZeroU32>, String> {
    let number = count::<0, 1_000_000_000>(text)?;
    Ok(u32::try_from(number).ok().and_then(NonZeroU32::new))
}

/// Bytes of a request's head; the HTTP library's least is 8,192, and self-hosters have smaller values set.
pub(super) fn header_bytes(text: &str) -> Result<usize, String> {
    count::<1, 1_048_576>(text).map(|bytes| bytes.max(8192))
}

/// A number of open files.
pub(super) fn open_files(text: &str) -> Result<u64, String> {
    count::<64, 1_000_000_000>(text).map(|number| number as u64)
}

/// A TCP port; 0 takes a free one.
pub(super) fn port(text: &str) -> Result<u16, String> {
    text.trim().parse().map_err(|_| "a port number from 0 to 65535".to_owned())
}

/// An IP address to listen on.
pub(super) fn address(text: &str) -> Result<IpAddr, String> {
    match text.trim() {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        text => text.parse().map_err(|_| "an IP address such as 127.0.0.1, 0.0.0.0 or ::".to_owned()),
    }
}

/// Milliseconds, up to an hour.
pub(super) fn milliseconds(text: &str) -> Result<Duration, String> {
    count::<0, 3_600_000>(text)
        .map(|number| Duration::from_millis(number as u64))
        .map_err(|_| "milliseconds as a whole number from 0 to 3600000".to_owned())
}

/// Milliseconds, at least one.
pub(super) fn milliseconds_above_zero(text: &str) -> Result<Duration, String> {
    milliseconds(text)
        .ok()
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "milliseconds as a whole number from 1 to 3600000".to_owned())
}

/// Milliseconds, from a second to a day: partitions are made three days ahead.
pub(super) fn milliseconds_of_days(text: &str) -> Result<Duration, String> {
    count::<1_000, 86_400_000>(text)
        .map(|number| Duration::from_millis(number as u64))
        .map_err(|_| "milliseconds as a whole number from 1000 to 86400000".to_owned())
}

/// Whole seconds, at least one and at most an hour.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    count::<1, 3600>(text)
        .map(|number| Duration::from_secs(number as u64))
        .map_err(|_| "seconds as a whole number from 1 to 3600".to_owned())
}

/// Yes or no, in the words that environments use.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => Err("true or false".to_owned()),
    }
}

/// Names with commas between them, at least one.
pub(super) fn names(text: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> =
        text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    if names.is_empty() { Err("one name or several with commas between them".to_owned()) } else { Ok(names) }
}

/// A project's name.
pub(super) fn project(text: &str) -> Result<ProjectId, String> {
    let expected = |_| "1 to 40 lower-case letters, digits and hyphens, none at the ends".to_owned();
    text.trim().parse().map_err(expected)
}

/// Secret texts with commas between them.
pub(super) fn secrets(text: &str) -> Result<Vec<Secret>, String> {
    names(text).map(|texts| texts.into_iter().map(Secret::new).collect())
}

/// A count that fits 32 bits, or 0 for no limit.
pub(super) fn count32_or_off(text: &str) -> Result<u32, String> {
    count::<0, 1_000_000_000>(text)
        .and_then(|number| u32::try_from(number).map_err(|error| error.to_string()))
}

/// Origins of pages with commas between them, at least one.
pub(super) fn origins(text: &str) -> Result<Vec<AllowedOrigin>, String> {
    let expected = || "origins such as https://app.example.com or https://*.example.com, or *".to_owned();
    names(text).and_then(|texts| texts.iter().map(|text| text.parse().map_err(|_| expected())).collect())
}

/// Events of which the newest broadcast is enough, with commas between them.
pub(super) fn alike(text: &str) -> Result<Vec<(String, Alike)>, String> {
    let expected =
        || "events such as score, or with a member of their payload such as cursor:user".to_owned();
    let one = |text: &String| match text.rsplit_once(':') {
        None => Ok((text.clone(), Alike::Event)),
        Some((event, member)) if !event.is_empty() && !member.is_empty() => {
            Ok((event.to_owned(), Alike::Member(member.to_owned())))
        }
        Some(_) => Err(expected()),
    };
    names(text).map_err(|_| expected())?.iter().map(one).collect()
}

/// Events and for how many milliseconds their broadcasts may wait, with commas between them.
pub(super) fn times_to_live(text: &str) -> Result<Vec<(String, Duration)>, String> {
    let expected =
        || format!("events with milliseconds, 1 to {}, such as gps:60000", BroadcastOptions::TTL_MS_MAX);
    let one = |text: &String| {
        let (event, milliseconds) = text.rsplit_once(':').filter(|(event, _)| !event.is_empty())?;
        Some((event.to_owned(), BroadcastOptions::milliseconds(milliseconds.trim()).ok()?))
    };
    names(text).map_err(|_| expected())?.iter().map(|text| one(text).ok_or_else(expected)).collect()
}

/// Addresses or ranges of addresses with commas between them, at least one.
pub(super) fn networks(text: &str) -> Result<Vec<Network>, String> {
    let expected = || "IP addresses or ranges such as 10.0.0.0/8".to_owned();
    names(text).and_then(|texts| texts.iter().map(|text| text.parse().map_err(|_| expected())).collect())
}

/// A part of a slot's name (PostgreSQL documentation, "Replication Slots").
pub(super) fn slot(text: &str) -> Result<String, String> {
    let name = text.trim();
    let allowed = |character: char| {
        matches!(character, '_') || character.is_ascii_lowercase() || character.is_ascii_digit()
    };
    if (1..=63).contains(&name.len()) && name.chars().all(allowed) {
        return Ok(name.to_owned());
    }
    Err("1 to 63 lower-case letters, digits and underscores".to_owned())
}

/// Whole seconds, an hour at most, or none at all.
pub(super) fn seconds_or_none(text: &str) -> Result<Duration, String> {
    count::<0, 3_600>(text)
        .and_then(|seconds| u64::try_from(seconds).map_err(|error| error.to_string()))
        .map(Duration::from_secs)
}

/// Bytes, or 0 for no limit.
pub(super) fn bytes_or_off(text: &str) -> Result<u64, String> {
    count::<0, 1_125_899_906_842_624>(text)
        .and_then(|bytes| u64::try_from(bytes).map_err(|error| error.to_string()))
}

/// What happens when the slot holds back too much log.
pub(super) fn slot_lag_action(text: &str) -> Result<SlotLagAction, String> {
    match text.trim() {
        "stop" => Ok(SlotLagAction::Stop),
        "drop_and_tell" => Ok(SlotLagAction::DropAndTell),
        _ => Err("stop or drop_and_tell".to_owned()),
    }
}

/// What happens with deletes that can not be judged.
pub(super) fn deletes(text: &str) -> Result<Deletes, String> {
    match text.trim() {
        "private" => Ok(Deletes::Private),
        "compatible" => Ok(Deletes::Compatible),
        _ => Err("private or compatible".to_owned()),
    }
}

/// The form of log lines.
pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text.trim() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err("text or json".to_owned()),
    }
}

/// What is logged: a level in the words of Elixir's logger too, which self-hosters have in their environment, or a
/// filter of tracing-subscriber such as `info,walcast_engine=debug`.
pub(super) fn log_filter(text: &str) -> Result<String, String> {
    let filter = match text.trim().to_ascii_lowercase().as_str() {
        "notice" => "info".to_owned(),
        "warning" => "warn".to_owned(),
        "critical" | "alert" | "emergency" => "error".to_owned(),
        "none" => "off".to_owned(),
        level @ ("trace" | "debug" | "info" | "warn" | "error" | "off") => level.to_owned(),
        // One bare word is a level, and not one of those above; the filter's grammar would take it for a module.
        word if !word.contains(['=', ',']) => return Err(log_levels()),
        _ => text.trim().to_owned(),
    };
    EnvFilter::try_new(&filter).map(|_| filter).map_err(|_| log_levels())
}

fn log_levels() -> String {
    "debug, info, warning, error, off, or a filter such as `info,walcast_engine=debug`".to_owned()
}

/// A JSON object.
pub(super) fn object(text: &str) -> Result<Map<String, Value>, String> {
    serde_json::from_str(text).map_err(|_| "a JSON object such as {\"iss\":\"https://issuer\"}".to_owned())
}

/// Where a key set is.
pub(super) fn jwks(jwks: &str) -> Result<JwksSource, String> {
    JwksSource::parse(&text(jwks)?).map_err(|error| {
        format!("a JSON Web Key Set as {{\"keys\":[…]}}, the path of a file with it, or its URL ({error})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_to_their_bounds() {
        assert_eq!(count::<1, 10>(" 10 "), Ok(10));
        assert_eq!(count::<1, 10_000>("10_000"), Ok(10_000));
        for text in ["0", "11", "-1", "1.5", "", "ten"] {
            assert_eq!(count::<1, 10>(text), Err("a whole number from 1 to 10".to_owned()), "{text}");
        }
        assert_eq!(port("0"), Ok(0));
        assert!(port("65536").is_err());
    }

    #[test]
    fn durations_have_the_unit_of_their_name() {
        assert_eq!(milliseconds("1500"), Ok(Duration::from_millis(1500)));
        assert_eq!(milliseconds("0"), Ok(Duration::ZERO));
        assert!(milliseconds_above_zero("0").is_err());
        assert_eq!(seconds("5"), Ok(Duration::from_secs(5)));
        assert!(seconds("0").is_err());
    }

    #[test]
    fn lists_are_split_at_commas() {
        assert_eq!(names(" a, b ,,c"), Ok(vec!["a".to_owned(), "b".to_owned(), "c".to_owned()]));
        assert!(names(" , ").is_err());
    }

    #[test]
    fn events_have_a_member_or_a_time() {
        let member = |name: &str| Alike::Member(name.to_owned());
        assert_eq!(
            alike("score, cursor:user,a:b:c"),
            Ok(vec![
                ("score".to_owned(), Alike::Event),
                ("cursor".to_owned(), member("user")),
                ("a:b".to_owned(), member("c"))
            ])
        );
        assert_eq!(times_to_live("gps:60000"), Ok(vec![("gps".to_owned(), Duration::from_mins(1))]));
        for text in ["", ",", "cursor:", ":user"] {
            assert!(alike(text).unwrap_err().contains("such as cursor:user"), "{text}");
        }
        for text in ["", "gps", "gps:", ":5", "gps:0", "gps:soon", "gps:1,x"] {
            assert!(times_to_live(text).unwrap_err().contains("such as gps:60000"), "{text}");
        }
    }

    #[test]
    fn only_what_postgres_accepts_names_a_slot() {
        assert!(slot("walcast_1").is_ok());
        for text in ["", "Walcast", "a-b", "ñ", &"a".repeat(64)] {
            assert!(slot(text).is_err(), "{text}");
        }
    }

    #[test]
    fn log_levels_of_both_worlds_and_filters_are_understood() {
        assert_eq!(log_filter("warning").as_deref(), Ok("warn"));
        assert_eq!(log_filter("INFO").as_deref(), Ok("info"));
        assert_eq!(log_filter("info,walcast_engine=debug").as_deref(), Ok("info,walcast_engine=debug"));
        for text in ["loud", "walcast=loud", ""] {
            assert!(log_filter(text).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_and_addresses_accept_the_usual_words() {
        assert_eq!((boolean("True"), boolean("0")), (Ok(true), Ok(false)));
        assert!(boolean("maybe").is_err());
        assert_eq!(address("localhost"), Ok(IpAddr::from([127, 0, 0, 1])));
        assert!(address("example.com").is_err());
    }
}
