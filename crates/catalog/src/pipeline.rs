//! Several requests on one connection without waiting in between.

use futures_util::future::{BoxFuture, maybe_done};

/// Sends the requests of `futures` in their order, then waits for the answers.
///
/// tokio-postgres sends a request when its future is polled for the first time and reads ahead for
/// nobody, so polling each once is what pipelines them (tokio-postgres docs, "Pipelining").
pub(crate) async fn in_order<T>(futures: Vec<BoxFuture<'_, T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.into_iter().map(maybe_done).collect();
    for future in &mut pending {
        let _ = futures_util::poll!(&mut *future);
    }
    let mut answers = Vec::with_capacity(pending.len());
    for mut future in pending {
        (&mut future).await;
        // The line above waits until it is done, and nobody else takes the output.
        answers.extend(std::pin::Pin::new(&mut future).take_output());
    }
    answers
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn every_request_is_sent_before_the_first_answer_is_awaited() {
        let log = Mutex::new(Vec::new());
        let one = |number: usize| {
            let log = &log;
            async move {
                log.lock().unwrap().push(("sent", number));
                tokio::task::yield_now().await;
                log.lock().unwrap().push(("answered", number));
                number
            }
            .boxed()
        };
        let answers = in_order((0..100).map(one).collect()).await;
        assert_eq!(answers, (0..100).collect::<Vec<_>>());
        let log = log.into_inner().unwrap();
        let sent: Vec<_> = (0..100).map(|number| ("sent", number)).collect();
        assert_eq!(log[..100], sent);
    }
}
