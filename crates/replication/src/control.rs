//! What the one who watches over the slot wants of the stream.

use tokio::sync::watch;

/// Steers the stream of one slot: it reads, unless it is told to pause, or to begin anew with another slot of the same
/// name. Orders may come at any time, also while there is no connection.
#[derive(Debug)]
pub struct SlotControl(watch::Sender<Wanted>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    Reading,
    Paused(String),
    Renewed(String),
}

impl Default for SlotControl {
    fn default() -> Self {
        SlotControl(watch::Sender::new(Wanted::Reading))
    }
}

impl SlotControl {
    /// Ends the session and reads no further until [`SlotControl::resume`]. The slot stays, and PostgreSQL keeps its log.
    pub fn pause(&self, reason: impl Into<String>) {
        self.order(Wanted::Paused(reason.into()));
    }

    /// Takes a pause back; anything else goes on as it is.
    pub fn resume(&self) {
        self.0.send_if_modified(|wanted| {
            let paused = matches!(wanted, Wanted::Paused(_));
            if paused {
                *wanted = Wanted::Reading;
            }
            paused
        });
    }

    /// Drops the slot with the log that it holds back, makes a new one and goes on from there. The consumer is told of
    /// the gap. Until that is done, a second order is none.
    pub fn renew(&self, reason: impl Into<String>) {
        self.order(Wanted::Renewed(reason.into()));
    }

    /// Whether the slot is about to be made anew.
    pub fn is_renewing(&self) -> bool {
        matches!(*self.0.borrow(), Wanted::Renewed(_))
    }

    pub(crate) fn wanted(&self) -> Wanted {
        self.0.borrow().clone()
    }

    /// The slot has been made anew.
    pub(crate) fn renewed(&self) {
        self.0.send_if_modified(|wanted| {
            let renewing = matches!(wanted, Wanted::Renewed(_));
            if renewing {
                *wanted = Wanted::Reading;
            }
            renewing
        });
    }

    /// Waits until something else than reading is wanted.
    pub(crate) async fn interrupted(&self) {
        self.until(|wanted| *wanted != Wanted::Reading).await;
    }

    /// Waits until a pause is over.
    pub(crate) async fn unpaused(&self) {
        self.until(|wanted| !matches!(wanted, Wanted::Paused(_))).await;
    }

    async fn until(&self, holds: impl FnMut(&Wanted) -> bool) {
        // The sender lives as long as this.
        let _ = self.0.subscribe().wait_for(holds).await;
    }

    fn order(&self, order: Wanted) {
        self.0.send_if_modified(|wanted| {
            let changes = *wanted != order && !matches!(wanted, Wanted::Renewed(_));
            if changes {
                *wanted = order;
            }
            changes
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_is_about_to_be_made_anew_takes_no_other_order_before_that_is_done() {
        let control = SlotControl::default();
        control.renew("too far behind");
        control.pause("too late");
        control.resume();
        control.renew("again");
        assert_eq!(control.wanted(), Wanted::Renewed("too far behind".to_owned()));
        control.renewed();
        assert!(!control.is_renewing());
        control.pause("now");
        assert_eq!(control.wanted(), Wanted::Paused("now".to_owned()));
        control.resume();
        assert_eq!(control.wanted(), Wanted::Reading);
    }
}
