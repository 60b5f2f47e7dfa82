//! From what PostgreSQL says to what the user should do.
//!
//! Several refusals share one SQLSTATE. They are told apart by the name of the server function that refused, which,
//! unlike the message, is not translated.

use crate::error::ReplicationError;
use crate::server_error::ServerError;
use crate::settings::ConnectionSettings;
use crate::sql_text::identifier;

/// The functions of the server that refuse a slot which it has invalidated: up to PostgreSQL 17, and since 18.
const INVALIDATED_BY: [&str; 3] =
    ["StartLogicalReplication", "CreateDecodingContext", "ReplicationSlotAcquire"];

/// A refusal between the first byte and the session being ready.
pub(crate) fn of_login(settings: &ConnectionSettings, error: ServerError) -> ReplicationError {
    let error = Box::new(error);
    let user = settings.user.clone();
    let database = settings.database.clone();
    match error.code.as_str() {
        "28P01" => ReplicationError::WrongPassword { identifier: identifier(&user), user },
        "28000" if error.came_from("ClientAuthentication") => {
            ReplicationError::HostRefused { database, user, error }
        }
        "28000" => ReplicationError::RoleRefused { identifier: identifier(&user), error },
        "3D000" => ReplicationError::MissingDatabase { identifier: identifier(&database), database },
        "42501" if error.came_from("CheckMyDatabase") => ReplicationError::NoConnectPrivilege {
            database: identifier(&database),
            user: identifier(&user),
            error,
        },
        "42501" => ReplicationError::NoReplicationPrivilege { identifier: identifier(&user), user },
        // For a walsender this function counts walsenders; ordinary connections are counted elsewhere.
        "53300" if error.came_from("InitProcess") => ReplicationError::NoFreeWalSender { error },
        "53300" => ReplicationError::NoFreeConnection { error },
        _ => ReplicationError::Server { action: "open a replication session", error },
    }
}

/// A refusal of `CREATE_REPLICATION_SLOT`.
pub(crate) fn of_slot_creation(slot: &str, error: ServerError) -> ReplicationError {
    let error = Box::new(error);
    match error.code.as_str() {
        "53400" => ReplicationError::NoFreeSlot { slot: slot.to_owned() },
        _ => ReplicationError::Server { action: "create the replication slot", error },
    }
}

/// A refusal of `START_REPLICATION`, or an error that ends the stream.
pub(crate) fn of_stream(slot: &str, error: ServerError) -> ReplicationError {
    let error = Box::new(error);
    match error.code.as_str() {
        "55006" => ReplicationError::SlotInUse { slot: slot.to_owned(), pid: None },
        // Only a slot that was invalidated is in a state that forbids decoding from it.
        "55000" if INVALIDATED_BY.iter().any(|routine| error.came_from(routine)) => {
            ReplicationError::SlotLost { slot: slot.to_owned() }
        }
        "42704" if error.came_from("get_publication_oid") || error.message.contains("publication") => {
            ReplicationError::PublicationNotInLog { slot: slot.to_owned(), error }
        }
        _ => ReplicationError::Server { action: "stream changes", error },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(code: &str, routine: &str) -> String {
        let settings = ConnectionSettings::parse("postgres://ana@db/app").unwrap();
        let error = ServerError {
            code: code.to_owned(),
            message: "what the server said".to_owned(),
            routine: Some(routine.to_owned()),
            ..ServerError::default()
        };
        of_login(&settings, error).to_string()
    }

    #[test]
    fn every_refusal_of_a_login_says_what_mends_it() {
        assert!(login("28P01", "auth_failed").contains("ALTER ROLE \"ana\" PASSWORD"));
        assert!(login("28000", "ClientAuthentication").contains("'host app ana"));
        assert!(login("28000", "InitializeSessionUserId").contains("CREATE ROLE \"ana\" LOGIN REPLICATION"));
        assert!(login("3D000", "InitPostgres").contains("CREATE DATABASE \"app\""));
        assert!(login("42501", "CheckMyDatabase").contains("GRANT CONNECT ON DATABASE \"app\" TO \"ana\""));
        assert!(login("42501", "InitPostgres").contains("ALTER ROLE \"ana\" REPLICATION"));
        assert!(login("53300", "InitProcess").contains("max_wal_senders"));
        assert!(login("53300", "InitPostgres").contains("max_connections"));
        assert!(login("57P03", "ProcessStartupPacket").contains("what the server said"));
    }
}
