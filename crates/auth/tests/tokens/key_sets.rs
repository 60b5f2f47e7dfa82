//! Key sets that are fetched and that rotate.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use walcast_auth::{JwksSource, KeyError, TokenError, Verifier, VerifierSettings};

use crate::issuer::{Key, NOW, key_set, payload};

/// An HTTP server with one answer, which counts how often it is asked.
struct Endpoint {
    url: String,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
    /// Each answer takes one permit.
    permits: Arc<Semaphore>,
}

impl Endpoint {
    async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = Self {
            url: format!("http://{}/keys", listener.local_addr().unwrap()),
            answer: Arc::new(Mutex::new((200, key_set(keys)))),
            asked: Arc::default(),
            permits: Arc::new(Semaphore::new(1000)),
        };
        let (answer, asked) = (Arc::clone(&endpoint.answer), Arc::clone(&endpoint.asked));
        let permits = Arc::clone(&endpoint.permits);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    if stream.read_exact(&mut byte).await.is_err() {
                        break;
                    }
                    request.push(byte[0]);
                }
                asked.fetch_add(1, Ordering::SeqCst);
                permits.acquire().await.unwrap().forget();
                let (status, body) = answer.lock().unwrap().clone();
                let head = format!(
                    "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                // A client that has read enough hangs up; that is its right.
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(body.as_bytes()).await;
            }
        });
        endpoint
    }

    fn verifier(&self) -> Verifier {
        let settings = VerifierSettings {
            jwks: Some(JwksSource::parse(&self.url).unwrap()),
            ..VerifierSettings::default()
        };
        Verifier::new(settings).unwrap()
    }

    fn answer_with(&self, status: u16, body: String) {
        *self.answer.lock().unwrap() = (status, body);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn token(key: &Key, id: &str) -> String {
    key.sign(&json!({"alg": "ES256", "kid": id}), &payload())
}

fn unknown(id: &str) -> TokenError {
    TokenError::UnknownKey { kid: id.to_owned() }
}

#[tokio::test]
async fn the_first_token_fetches_the_set_and_the_next_ones_do_not() {
    let key = Key::p256();
    let endpoint = Endpoint::start(&[key.jwk("one")]).await;
    let verifier = endpoint.verifier();
    for _ in 0..3 {
        assert!(verifier.verify(&token(&key, "one"), NOW).await.is_ok());
    }
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test]
async fn a_rotated_key_is_found_after_the_floor_interval_and_not_before() {
    let (old, new) = (Key::p256(), Key::p256());
    let endpoint = Endpoint::start(&[old.jwk("old")]).await;
    let verifier = endpoint.verifier();
    assert!(verifier.verify(&token(&old, "old"), NOW).await.is_ok());
    endpoint.answer_with(200, key_set(&[new.jwk("new")]));

    assert_eq!(verifier.verify(&token(&new, "new"), NOW + 9.9).await.err(), Some(unknown("new")));
    assert_eq!(endpoint.asked(), 1);
    assert!(verifier.verify(&token(&new, "new"), NOW + 10.0).await.is_ok());
    assert_eq!(endpoint.asked(), 2);
    assert_eq!(verifier.verify(&token(&old, "old"), NOW + 10.0).await.err(), Some(unknown("old")));
}

#[tokio::test]
async fn many_callers_who_miss_a_key_cause_one_fetch() {
    let key = Key::p256();
    let endpoint = Endpoint::start(&[key.jwk("one")]).await;
    let verifier = Arc::new(endpoint.verifier());
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let (verifier, token) = (Arc::clone(&verifier), token(&key, "one"));
            tokio::spawn(async move { verifier.verify(&token, NOW).await.is_ok() })
        })
        .collect();
    for caller in callers {
        assert!(caller.await.unwrap());
    }
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test]
async fn a_failed_fetch_keeps_the_known_keys() {
    let key = Key::p256();
    let endpoint = Endpoint::start(&[key.jwk("one")]).await;
    let verifier = endpoint.verifier();
    assert!(verifier.verify(&token(&key, "one"), NOW).await.is_ok());
    for (step, (status, body)) in
        [(500, String::new()), (200, "not JSON".to_owned()), (200, " ".repeat(300_000))]
            .into_iter()
            .enumerate()
    {
        let later = NOW + 20.0 * f64::from(u8::try_from(step).unwrap() + 1);
        endpoint.answer_with(status, body);
        assert_eq!(verifier.verify(&token(&key, "two"), later).await.err(), Some(unknown("two")));
        assert_eq!(endpoint.asked(), step + 2);
        assert!(verifier.verify(&token(&key, "one"), later).await.is_ok());
    }
}

#[tokio::test]
async fn a_caller_who_hangs_up_does_not_stop_the_fetch_others_wait_for() {
    let key = Key::p256();
    let endpoint = Endpoint::start(&[key.jwk("one")]).await;
    endpoint.permits.forget_permits(1000);
    let verifier = Arc::new(endpoint.verifier());
    let verify = |verifier: Arc<Verifier>, token: String| async move { verifier.verify(&token, NOW).await };
    let hasty = tokio::spawn(verify(Arc::clone(&verifier), token(&key, "one")));
    while endpoint.asked() == 0 {
        tokio::task::yield_now().await;
    }
    hasty.abort();
    assert!(hasty.await.unwrap_err().is_cancelled());
    let patient = tokio::spawn(verify(Arc::clone(&verifier), token(&key, "one")));
    endpoint.permits.add_permits(1);
    assert!(patient.await.unwrap().is_ok());
    assert_eq!(endpoint.asked(), 1);
}

#[tokio::test]
async fn a_withdrawn_key_stops_working_once_the_set_is_old() {
    let key = Key::p256();
    let endpoint = Endpoint::start(&[key.jwk("one")]).await;
    let verifier = endpoint.verifier();
    assert!(verifier.verify(&token(&key, "one"), NOW).await.is_ok());
    endpoint.answer_with(200, key_set(&[]));
    let far_future = json!({"role": "anon", "exp": 1_800_000_000});
    let token = key.sign(&json!({"alg": "ES256", "kid": "one"}), &far_future);
    // The first token after ten minutes starts the fetch in the background; nobody waits for it.
    let refused = loop {
        match verifier.verify(&token, NOW + 601.0).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused, unknown("one"));
    assert_eq!(endpoint.asked(), 2);
}

#[tokio::test]
async fn loading_at_the_start_tells_what_is_wrong_with_the_address() {
    let endpoint = Endpoint::start(&[]).await;
    endpoint.answer_with(404, String::new());
    let refused = endpoint.verifier().load_keys(NOW).await.err().unwrap();
    assert!(matches!(refused, KeyError::Unreadable { .. }));
    assert!(refused.to_string().contains("404") && refused.to_string().contains("/keys"), "{refused}");
}

#[tokio::test]
async fn a_set_in_a_file_is_read_at_the_start_and_again_when_a_key_is_missed() {
    let (old, new) = (Key::p256(), Key::p256());
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    std::fs::write(&path, key_set(&[old.jwk("old")])).unwrap();
    let settings =
        VerifierSettings { jwks: Some(JwksSource::File(path.clone())), ..VerifierSettings::default() };
    let verifier = Verifier::new(settings).unwrap();
    assert!(verifier.verify(&token(&old, "old"), NOW).await.is_ok());
    std::fs::write(&path, key_set(&[new.jwk("new")])).unwrap();
    assert!(verifier.verify(&token(&new, "new"), NOW + 20.0).await.is_ok());
}
