//! Whether messages from the database arrive: what the stream says, and what the catalog says of the table.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use walcast_catalog::MessagesInLog;
use walcast_replication::StreamStatus;
use walcast_server::DatabaseMessages;

/// Both in one, until `cancel`.
pub(crate) fn database_messages(
    mut stream: watch::Receiver<StreamStatus>,
    mut table: watch::Receiver<MessagesInLog>,
    cancel: CancellationToken,
) -> watch::Receiver<DatabaseMessages> {
    let (told, state) = watch::channel(DatabaseMessages::Interrupted);
    told.send_replace(both(&stream.borrow_and_update(), *table.borrow_and_update()));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                Ok(()) = stream.changed() => {}
                Ok(()) = table.changed() => {}
            }
            let now = both(&stream.borrow_and_update(), *table.borrow_and_update());
            told.send_if_modified(|before| std::mem::replace(before, now) != now);
        }
    });
    state
}

fn both(stream: &StreamStatus, table: MessagesInLog) -> DatabaseMessages {
    match (table, stream) {
        (MessagesInLog::NoTable, _) => DatabaseMessages::NotInLog(
            "the database has no table realtime.messages; run `walcast install --apply`",
        ),
        (MessagesInLog::NotPublished, _) => DatabaseMessages::NotInLog(
            "realtime.messages is in no publication that is read; the log of the server says why",
        ),
        (MessagesInLog::Carried, StreamStatus::Streaming { .. }) => DatabaseMessages::Arriving,
        (MessagesInLog::Carried, _) => DatabaseMessages::Interrupted,
    }
}
