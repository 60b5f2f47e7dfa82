//! Where the key set comes from (text, file, URL), and when it is read again.
//!
//! A set from a file or URL is read again when a token names a key it does not have, so that a rotated key works at
//! once, and when it is ten minutes old, so that a withdrawn key stops working. Never more often than every ten
//! seconds, whoever asks: tokens come from strangers. A failed read leaves the old keys in place.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use reqwest::Url;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;

use crate::error::KeyError;
use crate::key_set::KeySet;

/// Seconds between two readings of a key set, at least.
const READ_AGAIN_AFTER_SECONDS: f64 = 10.0;
/// Seconds after which a key set is read again although nobody missed a key.
const OLD_AFTER_SECONDS: f64 = 600.0;
/// A key set is a few hundred bytes per key; a longer answer is not one.
const KEY_SET_BYTES_MAX: usize = 256 * 1024;
/// For the whole request, redirects and body included.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const FETCH_REDIRECTS_MAX: usize = 3;

/// Where a JSON Web Key Set is found.
#[derive(Clone, PartialEq, Eq)]
pub enum JwksSource {
    /// The JSON text itself.
    Inline(String),
    /// A file with the JSON text.
    File(PathBuf),
    /// An `http` or `https` address that answers with the JSON text.
    Url(Box<Url>),
}

impl JwksSource {
    /// Tells the three apart: a text that begins with `{` is the set, one with `http://` or `https://` its address,
    /// anything else (`file://` may stand before it) a path.
    pub fn parse(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        if text.starts_with('{') {
            return Ok(Self::Inline(text.to_owned()));
        }
        if text.starts_with("http://") || text.starts_with("https://") {
            let url = Url::parse(text).map_err(|error| KeyError::Url { problem: error.to_string() })?;
            return Ok(Self::Url(Box::new(url)));
        }
        Ok(Self::File(PathBuf::from(text.strip_prefix("file://").unwrap_or(text))))
    }
}

/// Names the source; prints neither keys nor the credentials or query of a URL.
impl fmt::Display for JwksSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => formatter.write_str("given as text"),
            Self::File(path) => write!(formatter, "in {}", path.display()),
            Self::Url(url) => {
                write!(formatter, "at {}{}", url.origin().ascii_serialization(), url.path())
            }
        }
    }
}

impl fmt::Debug for JwksSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "JwksSource({self})")
    }
}

/// The current key set and what is needed to read it again.
pub(crate) struct KeyStore {
    source: JwksSource,
    client: Option<reqwest::Client>,
    current: ArcSwap<Loaded>,
    /// Unix time of the last attempt as the bits of an `f64`; the bits of NaN before the first.
    attempted_at: AtomicU64,
    /// Held while reading, so that many callers who miss a key cause one reading.
    reading: Mutex<()>,
}

/// A key set as it was read at one time.
pub(crate) struct Loaded {
    pub(crate) keys: KeySet,
    /// Unix time in seconds; `None` for what was read before there was a clock, or not at all.
    at: Option<f64>,
}

impl KeyStore {
    /// Reads text and file at once; a URL is fetched when it is first needed or by [`Self::load`].
    pub(crate) fn new(source: JwksSource) -> Result<Self, KeyError> {
        let unreadable = |problem: String| KeyError::Unreadable { origin: source.to_string(), problem };
        let (keys, client) = match &source {
            JwksSource::Inline(json) => (KeySet::parse(json).map_err(unreadable)?, None),
            JwksSource::File(path) => {
                let json = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
                (KeySet::parse(&json).map_err(unreadable)?, None)
            }
            JwksSource::Url(url) => (KeySet::default(), Some(client(url)?)),
        };
        report_unusable(&source, &keys);
        Ok(Self {
            source,
            client,
            current: ArcSwap::from_pointee(Loaded { keys, at: None }),
            attempted_at: AtomicU64::new(f64::NAN.to_bits()),
            reading: Mutex::new(()),
        })
    }

    /// Where the keys come from.
    pub(crate) fn source(&self) -> &JwksSource {
        &self.source
    }

    /// No key is known.
    pub(crate) fn is_empty(&self) -> bool {
        self.current.load().keys.is_empty()
    }

    /// Why keys were left out, in one text.
    pub(crate) fn problems(&self) -> String {
        self.current.load().keys.unusable.join("; ")
    }

    /// The keys as they are known now. Starts a reading in the background when they are old.
    pub(crate) fn current(self: &Arc<Self>, now_unix_seconds: f64) -> Arc<Loaded> {
        let current = self.current.load_full();
        let old = current.at.is_none_or(|at| now_unix_seconds - at > OLD_AFTER_SECONDS);
        // A URL that was never fetched is left to whoever misses a key, and waits for it.
        let fetched_once = current.at.is_some() || matches!(self.source, JwksSource::File(_));
        if old && fetched_once && self.may_read(now_unix_seconds) {
            tokio::spawn(Arc::clone(self).read_unless_changed(Arc::clone(&current), now_unix_seconds));
        }
        current
    }

    /// The keys after `seen` did not have the wanted one: read again unless that happened meanwhile or just before.
    pub(crate) async fn after(self: &Arc<Self>, seen: &Arc<Loaded>, now_unix_seconds: f64) -> Arc<Loaded> {
        // In its own task: a caller who hangs up must not abort the reading others wait for.
        let reading = tokio::spawn(Arc::clone(self).read_unless_changed(Arc::clone(seen), now_unix_seconds));
        if reading.await.is_err() {
            tracing::error!(source = %self.source, "reading the JSON Web Key Set was cut short");
        }
        self.current.load_full()
    }

    /// Reads the set now, whatever is known already.
    pub(crate) async fn load(&self, now_unix_seconds: f64) -> Result<(), KeyError> {
        let _one_at_a_time = self.reading.lock().await;
        self.read_and_keep(now_unix_seconds)
            .await
            .map_err(|problem| KeyError::Unreadable { origin: self.source.to_string(), problem })
    }

    async fn read_unless_changed(self: Arc<Self>, seen: Arc<Loaded>, now_unix_seconds: f64) {
        let _one_at_a_time = self.reading.lock().await;
        if !Arc::ptr_eq(&self.current.load(), &seen) || !self.may_read(now_unix_seconds) {
            return;
        }
        if let Err(problem) = self.read_and_keep(now_unix_seconds).await {
            tracing::warn!(source = %self.source, problem, "the JSON Web Key Set can not be read; the known keys stay");
        }
    }

    async fn read_and_keep(&self, now_unix_seconds: f64) -> Result<(), String> {
        self.attempted_at.store(now_unix_seconds.to_bits(), Ordering::Relaxed);
        let json = match &self.source {
            JwksSource::Inline(_) => return Ok(()),
            JwksSource::File(path) => read_file(path).await?,
            JwksSource::Url(url) => self.fetch(url).await?,
        };
        let keys = KeySet::parse(&json)?;
        report_unusable(&self.source, &keys);
        self.current.store(Arc::new(Loaded { keys, at: Some(now_unix_seconds) }));
        Ok(())
    }

    async fn fetch(&self, url: &Url) -> Result<String, String> {
        let client = self.client.as_ref().ok_or("there is no HTTP client")?;
        // The error's own text repeats the URL, which may hold credentials.
        let explain = |error: reqwest::Error| chain(&error.without_url());
        let mut response = client.get(url.clone()).send().await.map_err(explain)?;
        if !response.status().is_success() {
            return Err(format!("the answer has the status {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(explain)? {
            if body.len() + chunk.len() > KEY_SET_BYTES_MAX {
                return Err("the answer is longer than 256 KiB".to_owned());
            }
            body.extend_from_slice(&chunk);
        }
        String::from_utf8(body).map_err(|_| "the answer is not UTF-8".to_owned())
    }

    fn may_read(&self, now_unix_seconds: f64) -> bool {
        if matches!(self.source, JwksSource::Inline(_)) {
            return false;
        }
        let attempted_at = f64::from_bits(self.attempted_at.load(Ordering::Relaxed));
        // A clock that was set back must not stop rotation until it has caught up.
        attempted_at.is_nan()
            || now_unix_seconds < attempted_at
            || now_unix_seconds - attempted_at >= READ_AGAIN_AFTER_SECONDS
    }
}

fn client(url: &Url) -> Result<reqwest::Client, KeyError> {
    let mut builder = reqwest::Client::builder()
        .timeout(FETCH_TIMEOUT)
        .redirect(reqwest::redirect::Policy::limited(FETCH_REDIRECTS_MAX));
    // A proxy for the outside world does not know this machine's own services.
    if matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]")) {
        builder = builder.no_proxy();
    }
    builder.build().map_err(|error| KeyError::Url { problem: chain(&error) })
}

async fn read_file(path: &std::path::Path) -> Result<String, String> {
    let file = tokio::fs::File::open(path).await.map_err(|error| error.to_string())?;
    let mut json = String::new();
    let limit = KEY_SET_BYTES_MAX as u64 + 1;
    file.take(limit).read_to_string(&mut json).await.map_err(|error| error.to_string())?;
    if json.len() > KEY_SET_BYTES_MAX {
        return Err("the file is longer than 256 KiB".to_owned());
    }
    Ok(json)
}

fn report_unusable(source: &JwksSource, keys: &KeySet) {
    for reason in &keys.unusable {
        tracing::warn!(%source, "left out of the JSON Web Key Set: {reason}");
    }
}

/// An error with all its causes: the outermost of reqwest only says that something failed.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_file_and_url_are_told_apart() {
        assert!(matches!(JwksSource::parse(" {\"keys\":[]}"), Ok(JwksSource::Inline(_))));
        assert!(matches!(JwksSource::parse("https://issuer/keys"), Ok(JwksSource::Url(_))));
        assert!(matches!(JwksSource::parse("file:///etc/jwks.json"), Ok(JwksSource::File(path))
            if path.to_str() == Some("/etc/jwks.json")));
        assert!(matches!(JwksSource::parse("jwks.json"), Ok(JwksSource::File(_))));
        assert!(matches!(JwksSource::parse("http://"), Err(KeyError::Url { .. })));
    }

    #[test]
    fn neither_keys_nor_credentials_are_printed() {
        let inline = JwksSource::parse(r#"{"keys":[{"k":"hidden"}]}"#).unwrap();
        let url = JwksSource::parse("https://user:hidden@issuer.example/keys?apikey=hidden").unwrap();
        for printed in [format!("{inline} {inline:?}"), format!("{url} {url:?}")] {
            assert!(!printed.contains("hidden"), "{printed}");
        }
        assert_eq!(url.to_string(), "at https://issuer.example/keys");
    }

    #[test]
    fn a_missing_file_and_a_text_that_is_no_key_set_stop_the_start() {
        for source in [JwksSource::File("does/not/exist.json".into()), JwksSource::Inline("{}".to_owned())] {
            assert!(matches!(KeyStore::new(source), Err(KeyError::Unreadable { .. })));
        }
    }
}
