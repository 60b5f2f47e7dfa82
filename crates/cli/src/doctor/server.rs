//! Server, role, connection, slot and publications.

use walcast_catalog::preflight::Failure;
use walcast_catalog::survey::{Slot, Survey};
use walcast_catalog::{identifier, qualified, survey};
use walcast_replication::{Authentication, ConnectionSettings, Identity, identify};

use super::report::{Fact, Finding, Report, Severity};
use super::size::bytes;

/// Log that nobody reads is worth a word from here on, in bytes: more than is kept for the journal of a server that starts
/// again (`replication.trail_bytes_max`, 1 GiB).
const RETAINED_BYTES_LARGE: i64 = 2 << 30;

/// Unpublished tables that are named; there may be hundreds.
const UNPUBLISHED_SHOWN: usize = 10;

/// Says what the survey has found beside the tables.
pub(super) fn examine(survey: &Survey, slot: &str, report: &mut Report) {
    let mut fact = |about, is: String| report.facts.push(Fact { about, is });
    let server = &survey.server;
    let standby = if server.standby { ", a standby" } else { "" };
    fact("server", format!("PostgreSQL {}, wal_level {}{standby}", server.version, server.wal_level));
    fact("role", role(survey));
    fact("slot", slot_state(slot, survey.slot.as_ref()));
    for publication in &survey.publications {
        fact("publication", publication_state(publication));
    }
    let announced =
        if server.announces_catalog_changes { "announced in the log" } else { "found by polling" };
    fact("catalog", format!("changes of policies and grants are {announced}"));
    let findings = &mut report.findings;
    findings.extend(obstacles(survey));
    findings.extend(survey.slot.as_ref().and_then(|found| slot_finding(slot, found)));
    // One that is missing and can not be made by walcast is an obstacle already.
    let known = survey.publications.iter().filter(|one| one.exists || server.creates_publications);
    findings.extend(known.filter_map(publication_finding));
    findings.extend(unpublished_finding(survey));
    findings.extend(settings_notes(survey));
    findings.extend(roles_findings(survey));
}

/// Logs in as the replication connection does, and says how that went.
pub(super) async fn examine_connection(connection: &ConnectionSettings, report: &mut Report) {
    match identify(connection).await {
        Ok(identity) => {
            let is = connection_state(&identity);
            let place =
                report.facts.iter().position(|fact| fact.about == "slot").unwrap_or(report.facts.len());
            report.facts.insert(place, Fact { about: "connection", is });
            if identity.authentication == Authentication::Cleartext && !identity.encrypted {
                report.findings.push(Finding::new(
                    Severity::Warning,
                    "the password goes to PostgreSQL as it is over a connection that is not encrypted: set \
                     sslmode=verify-full in DATABASE_URL, or scram-sha-256 in pg_hba.conf",
                ));
            }
        }
        Err(error) => {
            let sentence = format!("the replication connection can not be opened: {error}");
            report.findings.push(Finding::new(Severity::Obstacle, sentence));
        }
    }
}

fn connection_state(identity: &Identity) -> String {
    let encrypted = if identity.encrypted { "encrypted with TLS" } else { "not encrypted" };
    let authentication = match identity.authentication {
        Authentication::Trusted => "no password asked for",
        Authentication::Cleartext => "the password itself was sent",
        Authentication::Md5 => "password by MD5",
        Authentication::ScramSha256 => "password by SCRAM-SHA-256",
        Authentication::ScramSha256Plus => "password by SCRAM-SHA-256, bound to the certificate",
    };
    format!(
        "{encrypted}, {authentication}; system {}, timeline {}",
        identity.system_identifier, identity.timeline
    )
}

fn role(survey: &Survey) -> String {
    let server = &survey.server;
    let mut rights = Vec::new();
    if server.superuser {
        rights.push("superuser".to_owned());
    } else {
        rights.push(if server.replicates { "may replicate" } else { "may not replicate" }.to_owned());
        if server.bypasses_row_security {
            rights.push("BYPASSRLS".to_owned());
        }
    }
    let assumable: Vec<_> =
        survey.roles.iter().filter(|role| role.assumable).map(|role| role.name.as_str()).collect();
    if !assumable.is_empty() {
        rights.push(format!("may act as {}", assumable.join(", ")));
    }
    format!("{}: {}", server.role, rights.join(", "))
}

fn slot_state(name: &str, slot: Option<&Slot>) -> String {
    let Some(slot) = slot else {
        return format!("{name}: not there yet, walcast makes it when it starts");
    };
    let reader = match slot.active_pid {
        Some(pid) => format!("read by process {pid}"),
        None => "nobody reads it".to_owned(),
    };
    let kept = match slot.retained_bytes {
        Some(kept) => format!("PostgreSQL keeps {} of log for it", bytes(kept)),
        None => "PostgreSQL keeps no log for it".to_owned(),
    };
    let status = slot.wal_status.as_deref().map(|status| format!(" ({status})")).unwrap_or_default();
    format!("{name}: {reader}, {kept}{status}")
}

fn publication_state(publication: &survey::Publication) -> String {
    let name = &publication.name;
    if !publication.exists {
        return format!("{name}: does not exist");
    }
    let tables = match publication.tables {
        1 => "1 table".to_owned(),
        count => format!("{count} tables"),
    };
    format!("{name}: {tables}, publishes {}", publication.publishes.join(", "))
}

/// A slot that is read is as it should be while walcast runs, and its sender is walcast's.
fn obstacles(survey: &Survey) -> Vec<Finding> {
    let active = survey.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some());
    let finding = |failure: &Failure| match failure {
        Failure::SlotInUse { slot, pid } => Some(Finding::new(
            Severity::Note,
            format!(
                "replication slot \"{slot}\" is read by process {pid}: most likely walcast is running; a second one \
                 needs a slot of its own (replication.slot_suffix)"
            ),
        )),
        Failure::NoFreeSender { .. } if active => None,
        other => Some(Finding::new(Severity::Obstacle, other.to_string())),
    };
    survey.failures.iter().filter_map(finding).collect()
}

fn slot_finding(name: &str, slot: &Slot) -> Option<Finding> {
    let drop_slot = format!("SELECT pg_drop_replication_slot('{name}');");
    if slot.wal_status.as_deref() == Some("unreserved") {
        let sentence = format!(
            "replication slot \"{name}\" is about to be lost: PostgreSQL keeps more log than \
             max_slot_wal_keep_size allows"
        );
        let mend = "ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'; SELECT pg_reload_conf();";
        return Some(Finding::new(Severity::Warning, sentence).mended_by(mend));
    }
    if slot.wal_status.as_deref() == Some("lost") {
        let sentence = format!(
            "replication slot \"{name}\" is lost, since PostgreSQL removed the log it needs: walcast makes it anew when \
             it starts, and changes in between are not delivered"
        );
        let mend = "ALTER SYSTEM SET max_slot_wal_keep_size = '100GB'; SELECT pg_reload_conf();";
        return Some(Finding::new(Severity::Warning, sentence).mended_by(mend));
    }
    let retained = slot.retained_bytes.filter(|kept| *kept >= RETAINED_BYTES_LARGE)?;
    if slot.active_pid.is_some() {
        let sentence =
            format!("replication slot \"{name}\" is {} behind: its reader does not keep up", bytes(retained));
        return Some(Finding::new(Severity::Warning, sentence));
    }
    let sentence = format!(
        "replication slot \"{name}\" makes PostgreSQL keep {} of log and nobody reads it: start walcast, or drop \
         the slot and lose these changes",
        bytes(retained)
    );
    Some(Finding::new(Severity::Warning, sentence).mended_by(drop_slot))
}

fn publication_finding(publication: &survey::Publication) -> Option<Finding> {
    let (name, quoted) = (&publication.name, identifier(&publication.name));
    if !publication.exists {
        let sentence = format!(
            "publication \"{name}\" does not exist: walcast creates it, without tables, when it starts"
        );
        let mend = format!("CREATE PUBLICATION {quoted} FOR TABLE …;");
        return Some(Finding::new(Severity::Warning, sentence).mended_by(mend));
    }
    if publication.tables == 0 {
        let sentence = format!("publication \"{name}\" has no tables, so no row change will arrive");
        let mend = format!("ALTER PUBLICATION {quoted} ADD TABLE …;");
        return Some(Finding::new(Severity::Warning, sentence).mended_by(mend));
    }
    let missing: Vec<_> = ["insert", "update", "delete"]
        .into_iter()
        .filter(|statement| !publication.publishes.contains(statement))
        .collect();
    (!missing.is_empty()).then(|| {
        let sentence = format!("publication \"{name}\" leaves out every {}", missing.join(" and every "));
        let mend = format!("ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate');");
        Finding::new(Severity::Note, sentence).mended_by(mend)
    })
}

/// Policies for reading on tables whose changes nobody gets.
fn unpublished_finding(survey: &Survey) -> Option<Finding> {
    let [only] = survey.publications.as_slice() else { return None };
    let names = |name: fn(&str, &str) -> String, last: &str| {
        let shown = survey.unpublished.iter().take(UNPUBLISHED_SHOWN);
        let mut names: Vec<String> = shown.map(|(schema, table)| name(schema, table)).collect();
        if survey.unpublished.len() > UNPUBLISHED_SHOWN {
            names.push(last.to_owned());
        }
        names.join(", ")
    };
    if survey.unpublished.is_empty() || !only.exists {
        return None;
    }
    let sentence = format!(
        "policies for SELECT are on tables that are not published, so nobody gets their changes: {}",
        names(|schema, table| format!("{schema}.{table}"), "and others")
    );
    let mend = format!("ALTER PUBLICATION {} ADD TABLE {};", identifier(&only.name), names(qualified, "…"));
    Some(Finding::new(Severity::Warning, sentence).mended_by(mend))
}

fn settings_notes(survey: &Survey) -> Vec<Finding> {
    let mut notes = Vec::new();
    if survey.server.slot_keeps_at_most == "-1" {
        let sentence = "there is no bound to the log that PostgreSQL keeps for a slot, so that it fills the disk when \
                        walcast stays away";
        let mend = "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf();";
        notes.push(Finding::new(Severity::Note, sentence).mended_by(mend));
    }
    if !survey.server.announces_catalog_changes {
        let sentence = "changed policies and grants take effect at the next poll of the catalog, not at their place \
                        in the log: `walcast install --apply`, as a superuser, adds the event triggers for it";
        notes.push(Finding::new(Severity::Note, sentence));
    }
    notes
}

/// Whom the role of the connection can not speak for.
fn roles_findings(survey: &Survey) -> Vec<Finding> {
    let own = identifier(&survey.server.role);
    let missing = survey.roles.iter().filter(|role| !role.assumable);
    let finding = |role: &survey::TokenRole| {
        let sentence = format!(
            "PostgreSQL can not be asked as role \"{}\", so that changes are withheld from it where a policy or filter \
             has to be asked",
            role.name
        );
        let mend = format!("GRANT {} TO {own};", identifier(&role.name));
        Finding::new(Severity::Warning, sentence).mended_by(mend)
    };
    missing.map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_that_nobody_reads_is_told_once_it_keeps_much() {
        let slot = |retained| Slot {
            active_pid: None,
            wal_status: Some("extended".to_owned()),
            retained_bytes: Some(retained),
        };
        assert_eq!(slot_finding("walcast", &slot(1000)), None);
        let finding = slot_finding("walcast", &slot(3 << 30)).unwrap();
        assert!(finding.sentence.contains("keep 3.0 GiB of log and nobody reads it"), "{finding:?}");
        assert_eq!(finding.mend.as_deref(), Some("SELECT pg_drop_replication_slot('walcast');"));
        assert_eq!(
            slot_state("walcast", Some(&slot(1536))),
            "walcast: nobody reads it, PostgreSQL keeps 1.5 KiB of log for it (extended)"
        );
    }
}
