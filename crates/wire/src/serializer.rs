//! Which of the two serializers a socket speaks (docs/protocol.md §1.2, §2).

use std::fmt;

/// How messages are written on one socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Serializer {
    /// `vsn=1.0.0`: JSON objects in text frames (docs/protocol.md §2.1).
    V1,
    /// `vsn=2.0.0`: JSON arrays in text frames, and binary frames (docs/protocol.md §2.2, §2.3).
    V2,
}

/// The `vsn` of the handshake names no serializer there is; answered with HTTP 403 and an empty body.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("vsn '{0}' is not supported: connect with vsn=1.0.0 or vsn=2.0.0")]
pub struct UnsupportedVersion(String);

impl Serializer {
    /// Chooses by the query parameter `vsn`: a semantic version that fits `~> 1.0.0` or `~> 2.0.0`; without one it is
    /// [`Serializer::V1`].
    pub fn negotiate(vsn: Option<&str>) -> Result<Self, UnsupportedVersion> {
        let Some(vsn) = vsn else { return Ok(Serializer::V1) };
        match patch_series(vsn) {
            Some((1, 0)) => Ok(Serializer::V1),
            Some((2, 0)) => Ok(Serializer::V2),
            _ => Err(UnsupportedVersion(crate::json_text::shortened(vsn, 40))),
        }
    }
}

impl fmt::Display for Serializer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Serializer::V1 => "1.0.0",
            Serializer::V2 => "2.0.0",
        })
    }
}

/// Major and minor number of a semantic version, or `None` when it is malformed or a pre-release of `x.y.0`, which
/// stands before `x.y.0` and so outside `~> x.y.0`.
fn patch_series(vsn: &str) -> Option<(u32, u32)> {
    let (version, build) = vsn.split_once('+').map_or((vsn, None), |(version, build)| (version, Some(build)));
    let (numbers, prerelease) =
        version.split_once('-').map_or((version, None), |(numbers, prerelease)| (numbers, Some(prerelease)));
    if [build, prerelease].into_iter().flatten().any(|labels| !labels.split('.').all(is_label)) {
        return None;
    }
    let mut parts = numbers.split('.').map(number);
    let (major, minor, patch) = (parts.next()??, parts.next()??, parts.next()??);
    let fits = parts.next().is_none() && (patch > 0 || prerelease.is_none());
    fits.then_some((major, minor))
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

fn number(digits: &str) -> Option<u32> {
    let plain =
        digits.bytes().all(|byte| byte.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    if plain { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_decides_and_none_means_the_first() {
        assert_eq!(Serializer::negotiate(None), Ok(Serializer::V1));
        for vsn in ["1.0.0", "1.0.7", "1.0.1-rc.1", "1.0.0+build"] {
            assert_eq!(Serializer::negotiate(Some(vsn)), Ok(Serializer::V1), "{vsn}");
        }
        assert_eq!(Serializer::negotiate(Some("2.0.0")), Ok(Serializer::V2));
    }

    #[test]
    fn any_other_version_is_refused_and_named() {
        for vsn in [
            "", "1", "1.0", "1.1.0", "2.1.0", "3.0.0", "v1.0.0", "1.0.0.0", "01.0.0", "1.0.0-rc", "1.0.0-",
            "1.0.x",
        ] {
            assert!(Serializer::negotiate(Some(vsn)).is_err(), "{vsn}");
        }
        let error = Serializer::negotiate(Some("9.9.9")).unwrap_err();
        assert!(error.to_string().contains("'9.9.9'"));
    }
}
