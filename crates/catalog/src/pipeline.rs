//! Several requests on one connection without waiting in between.

use std::collections::VecDeque;
use std::pin::Pin;

use futures_util::future::{BoxFuture, MaybeDone, maybe_done};

/// Requests that were sent, and whose answers come in the same order.
pub(crate) struct Pipeline<'a, T>(VecDeque<MaybeDone<BoxFuture<'a, T>>>);

impl<'a, T> Pipeline<'a, T> {
    /// Sends the requests in their order.
    ///
    /// tokio-postgres sends a request when its future is polled for the first time and reads ahead for
    /// nobody, so polling each once is what pipelines them (tokio-postgres docs, "Pipelining").
    pub(crate) async fn send(requests: Vec<BoxFuture<'a, T>>) -> Self {
        let mut pending: VecDeque<_> = requests.into_iter().map(maybe_done).collect();
        for request in &mut pending {
            let _ = futures_util::poll!(request);
        }
        Pipeline(pending)
    }

    /// The next answer, or `None` after the last. Cancelled, it has taken none.
    pub(crate) async fn next(&mut self) -> Option<T> {
        let first = self.0.front_mut()?;
        (&mut *first).await;
        // The line above waits until it is done, and nobody else takes the output.
        let answer = Pin::new(first).take_output();
        self.0.pop_front();
        answer
    }
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
        let mut pipeline = Pipeline::send((0..100).map(one).collect()).await;
        let sent: Vec<_> = (0..100).map(|number| ("sent", number)).collect();
        assert_eq!(*log.lock().unwrap(), sent);
        for number in 0..100 {
            assert_eq!(pipeline.next().await, Some(number));
        }
        assert_eq!(pipeline.next().await, None);
    }
}
