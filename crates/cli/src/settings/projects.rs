//! One project, or those that the file lists: what each has, and whether they can be told apart.

use std::collections::HashMap;

use walcast_catalog::janitor::JanitorSettings;
use walcast_engine::BroadcastRules;
use walcast_server::front::{Address, PathPrefix, ProjectId};

use super::error::SettingsError;
use super::file::{ConfigurationFile, ProjectTable};
use super::flags::Flags;
use super::layers::Layers;
use super::{
    ChangeSettings, PresenceSettings, ProjectConfiguration, Purpose, auth_settings, database_settings,
    definitions, limits, replication_settings,
};

/// Every project that is to be served, at least one.
pub(super) fn all(layers: &Layers<'_>, purpose: Purpose) -> Result<Vec<ProjectConfiguration>, SettingsError> {
    let listed = &layers.file.projects;
    // `walcast dev` has a database and keys of its own.
    if listed.is_empty() || purpose == Purpose::Develop {
        if let Some(name) = &layers.flags.project {
            return Err(unknown(name, layers.file));
        }
        return Ok(vec![configuration(
            layers,
            layers.get(&definitions::PROJECT)?,
            Address::Everything,
            purpose,
        )?]);
    }
    let chosen = layers.flags.project.as_deref().map(|name| find(name, layers.file)).transpose()?;
    let chosen: Vec<_> = chosen.map_or_else(|| listed.iter().collect(), |project| vec![project]);
    let projects: Vec<_> =
        chosen.into_iter().map(|table| one(layers, table, purpose)).collect::<Result<_, _>>()?;
    check_apart(&projects)?;
    Ok(projects)
}

/// The project that a command looks at which is for one database: none is listed, it is named, or it is the only one.
pub(super) fn chosen<'a>(
    flags: &Flags,
    file: &'a ConfigurationFile,
) -> Result<Option<&'a ProjectTable>, SettingsError> {
    match (&flags.project, &file.projects[..]) {
        (Some(name), _) => find(name, file).map(Some),
        (None, []) => Ok(None),
        (None, [only]) => Ok(Some(only)),
        (None, _) => Err(SettingsError::ProjectNotChosen { known: names(file) }),
    }
}

/// What is less safe than it could be, one sentence each.
pub(super) fn warnings(first: &ProjectConfiguration, others: &[ProjectConfiguration]) -> Vec<String> {
    let projects: Vec<_> = std::iter::once(first).chain(others).collect();
    let mut warnings = Vec::new();
    for project in &projects {
        if project.auth.allowed_origins.is_empty() {
            warnings.push(format!(
                "{}every page may open a socket: list the pages that may in auth.allowed_origins, or set it to * to \
                 say that this is meant",
                of(project)
            ));
        }
    }
    for (place, one) in projects.iter().enumerate() {
        for other in &projects[place + 1..] {
            let secret = one.auth.jwt_secret.is_some() && one.auth.jwt_secret == other.auth.jwt_secret;
            if secret || (one.auth.jwks.is_some() && one.auth.jwks == other.auth.jwks) {
                warnings.push(format!(
                    "the projects `{}` and `{}` verify tokens with the same key: a token for one is good for the \
                     other",
                    one.id, other.id
                ));
            }
        }
    }
    warnings
}

fn of(project: &ProjectConfiguration) -> String {
    match project.address {
        Address::Everything => String::new(),
        Address::Listed { .. } => format!("the project `{}`: ", project.id),
    }
}

fn one(
    layers: &Layers<'_>,
    table: &ProjectTable,
    purpose: Purpose,
) -> Result<ProjectConfiguration, SettingsError> {
    let layers = Layers { project: Some(table), ..*layers };
    let paths = match &table.paths {
        Some(paths) => paths.clone(),
        None => vec![format!("/{}", table.id).parse::<PathPrefix>().map_err(|problem| {
            let (path, line) = (layers.file.path.clone(), table.line);
            SettingsError::ProjectTable { path, line, problem: Box::new(problem) }
        })?],
    };
    let address = Address::Listed { hosts: table.hosts.clone(), paths };
    configuration(&layers, table.id.clone(), address, purpose).map_err(|problem| SettingsError::Project {
        project: table.id.to_string(),
        problem: Box::new(problem),
    })
}

fn configuration(
    layers: &Layers<'_>,
    id: ProjectId,
    address: Address,
    purpose: Purpose,
) -> Result<ProjectConfiguration, SettingsError> {
    Ok(ProjectConfiguration {
        id,
        address,
        database: database_settings(layers)?,
        auth: auth_settings(layers, purpose)?,
        replication: replication_settings(layers)?,
        janitor: JanitorSettings {
            enabled: layers.find(&definitions::JANITOR)?,
            first_after: layers.get(&definitions::JANITOR_FIRST)?,
            every: layers.get(&definitions::JANITOR_EVERY)?,
        },
        changes: ChangeSettings {
            deletes: layers.get(&definitions::DELETES)?,
            catalog_poll: layers.get(&definitions::CATALOG_POLL)?,
            record_bytes_max: layers.get(&definitions::RECORD_BYTES_MAX)?,
            copy_bytes_max: layers.get(&definitions::COPY_BYTES_MAX)?,
            journal_bytes_max: layers.get(&definitions::JOURNAL_BYTES_MAX)?,
            journal_age: layers.get(&definitions::JOURNAL_AGE)?,
            ticket_validity: layers.get(&definitions::TICKET_VALIDITY)?,
            tickets_max: layers.get(&definitions::TICKETS_MAX)?,
            resume_broadcasts: layers.get(&definitions::RESUME_BROADCASTS)?,
            resume_broadcasts_bytes_max: layers.get(&definitions::RESUME_BROADCASTS_BYTES_MAX)?,
            snapshot_rows_max: layers.get(&definitions::SNAPSHOT_ROWS_MAX)?,
            snapshot_bytes_max: layers.get(&definitions::SNAPSHOT_BYTES_MAX)?,
        },
        limits: limits(layers)?,
        broadcast: broadcast_rules(layers)?,
        presence: PresenceSettings {
            enabled: layers.get(&definitions::PRESENCE_ENABLED)?,
            grace: layers.get(&definitions::PRESENCE_GRACE)?,
            diff: layers.get(&definitions::PRESENCE_DIFF)?,
            payload_bytes_max: layers.get(&definitions::PRESENCE_PAYLOAD_BYTES_MAX)?,
            topic_bytes_max: layers.get(&definitions::PRESENCE_TOPIC_BYTES_MAX)?,
        },
    })
}

/// What holds for the broadcasts of some events.
fn broadcast_rules(layers: &Layers<'_>) -> Result<BroadcastRules, SettingsError> {
    let mut rules = BroadcastRules::default();
    for (event, alike) in layers.find(&definitions::BROADCAST_CONFLATE)?.unwrap_or_default() {
        rules.of_event_mut(&event).conflate = Some(alike);
    }
    for (event, ttl) in layers.find(&definitions::BROADCAST_TTL)?.unwrap_or_default() {
        rules.of_event_mut(&event).ttl = Some(ttl);
    }
    Ok(rules)
}

/// No two projects have the same host, path or slot.
fn check_apart(projects: &[ProjectConfiguration]) -> Result<(), SettingsError> {
    let mut addresses = HashMap::new();
    let mut slots = HashMap::new();
    for project in projects {
        if let Address::Listed { hosts, paths } = &project.address {
            let hosts = hosts.iter().map(|host| format!("host `{host}`"));
            for what in hosts.chain(paths.iter().map(|path| format!("path `{path}`"))) {
                if let Some(one) =
                    addresses.insert(what.clone(), &project.id).filter(|one| **one != project.id)
                {
                    let (one, other) = (one.to_string(), project.id.to_string());
                    return Err(SettingsError::SameAddress { one, other, what });
                }
            }
        }
        for host in &project.database.connection.hosts {
            let (server, slot) = (format!("{:?}:{}", host.endpoint, host.port), &project.replication.slot);
            if let Some(one) = slots.insert((server, slot), &project.id).filter(|one| **one != project.id) {
                return Err(SettingsError::SameSlot {
                    one: one.to_string(),
                    other: project.id.to_string(),
                    slot: slot.clone(),
                    server: project.database.connection.to_string(),
                });
            }
        }
    }
    Ok(())
}

fn find<'a>(name: &str, file: &'a ConfigurationFile) -> Result<&'a ProjectTable, SettingsError> {
    file.projects.iter().find(|project| project.id.as_str() == name).ok_or_else(|| unknown(name, file))
}

fn unknown(name: &str, file: &ConfigurationFile) -> SettingsError {
    let known = if file.projects.is_empty() { "is none".to_owned() } else { format!("are: {}", names(file)) };
    SettingsError::UnknownProject { name: name.to_owned(), known }
}

fn names(file: &ConfigurationFile) -> String {
    file.projects.iter().map(|project| project.id.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::layers::Environment;
    use super::super::{DatabaseSettings, Settings};
    use super::*;

    const FILE: &str = "
[database]
host = \"db\"
user = \"walcast\"
[limits]
max_channels_per_client = 7
[projects.blue]
hosts = [\"live.example.com\"]
[projects.blue.database]
name = \"blue\"
[projects.blue.auth]
jwt_secret = \"blue 9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI\"
suspended = true
[projects.green-2]
paths = [\"/teams/green\"]
[projects.green-2.database]
name = \"green\"
[projects.green-2.auth]
jwt_secret = \"green 9vJm1Tq0cWz4hXs7LkRbYfUe2NgPdAoI\"
allowed_origins = [\"https://green.example\"]
[projects.green-2.limits]
max_channels_per_client = 8
";

    fn resolve_with(flags: &Flags, file: &str) -> Result<Settings, SettingsError> {
        let file = ConfigurationFile::parse(Path::new("walcast.toml"), file)?;
        Settings::resolve(flags, &Environment::new(), &file, Purpose::Serve)
    }

    fn resolve(file: &str) -> Result<Settings, SettingsError> {
        resolve_with(&Flags::default(), file)
    }

    fn refusal(file: &str) -> String {
        resolve(file).expect_err("refused").to_string()
    }

    #[test]
    fn each_project_has_what_it_says_and_inherits_the_rest() {
        let settings = resolve(FILE).unwrap();
        let (blue, [green]) = (&settings.project, &settings.others[..]) else { panic!("two projects") };
        assert_eq!((blue.id.as_str(), green.id.as_str()), ("blue", "green-2"));
        assert_eq!(blue.database.connection.to_string(), "walcast@db:5432/blue");
        assert_eq!(green.database.connection.to_string(), "walcast@db:5432/green");
        assert_eq!((&*blue.replication.slot, &*green.replication.slot), ("walcast_blue", "walcast_green_2"));
        assert_eq!(blue.limits.max_channels_per_client, 7);
        assert_eq!(green.limits.max_channels_per_client, 8);
        assert_eq!((blue.auth.suspended, green.auth.suspended), (true, false));
        let paths = |project: &ProjectConfiguration| match &project.address {
            Address::Listed { paths, .. } => paths.iter().map(ToString::to_string).collect::<Vec<_>>(),
            Address::Everything => Vec::new(),
        };
        assert_eq!((paths(blue), paths(green)), (vec!["/blue".to_owned()], vec!["/teams/green".to_owned()]));
        let [warning] = &settings.warnings[..] else { panic!("{:?}", settings.warnings) };
        assert!(warning.starts_with("the project `blue`: every page may open a socket"), "{warning}");
    }

    #[test]
    fn what_a_project_lacks_is_told_with_its_name() {
        assert!(refusal("[projects.blue]\n").starts_with("the project `blue`: no database is given"));
        let without_key = FILE
            .replace("[projects.blue.auth]\njwt_secret", "[projects.blue.auth]\nclaim_validators = {}\n#");
        assert!(refusal(&without_key).starts_with("the project `blue`: no key verifies tokens"));
        let wrong = FILE.replace("max_channels_per_client = 8", "max_channels_per_client = 0");
        assert!(
            refusal(&wrong)
                .contains("`projects.green-2.limits.max_channels_per_client` in walcast.toml:22: expected")
        );
    }

    #[test]
    fn projects_with_the_same_host_path_or_slot_are_refused() {
        let host = FILE.replace("paths = [", "hosts = [\"LIVE.example.com\"]\npaths = [");
        assert!(
            refusal(&host)
                .starts_with("the projects `blue` and `green-2` both have the host `live.example.com`")
        );
        let path = FILE.replace("/teams/green", "/blue");
        assert!(refusal(&path).contains("both have the path `/blue`"));
        let slot =
            "\n[projects.blue.replication]\nslot = \"one\"\n[projects.green-2.replication]\nslot = \"one\"";
        let refused = refusal(&format!("{FILE}{slot}"));
        assert!(
            refused.contains("both use the replication slot `one` of walcast@db:5432/green"),
            "{refused}"
        );
        assert!(refusal(&FILE.replace("projects.blue", "projects.api")).contains("paths below /api"));
    }

    #[test]
    fn a_part_of_the_connection_is_not_lost_behind_the_url_of_all() {
        let file = FILE.replace("host = \"db\"", "url = \"postgres://ana@db/app\"");
        assert!(
            refusal(&file)
                .contains("`projects.blue.database.name` in walcast.toml:10 means nothing beside the"),
            "{}",
            refusal(&file)
        );
    }

    #[test]
    fn a_shared_key_is_warned_about() {
        let shared = FILE.replace("\"green 9vJ", "\"blue 9vJ");
        let warnings = resolve(&shared).unwrap().warnings;
        assert!(
            warnings.iter().any(|warning| warning.contains("verify tokens with the same key")),
            "{warnings:?}"
        );
    }

    #[test]
    fn one_project_can_be_chosen_by_name() {
        let flags = |name: &str| Flags { project: Some(name.to_owned()), ..Flags::default() };
        let settings = resolve_with(&flags("green-2"), FILE).unwrap();
        assert_eq!((settings.project.id.as_str(), settings.others.len()), ("green-2", 0));
        let refused = resolve_with(&flags("red"), FILE).err().unwrap().to_string();
        assert_eq!(refused, "there is no project `red` in the configuration file; there are: blue, green-2");
        let file = ConfigurationFile::parse(Path::new("walcast.toml"), FILE).unwrap();
        assert!(matches!(chosen(&Flags::default(), &file), Err(SettingsError::ProjectNotChosen { .. })));
        let chosen = chosen(&flags("blue"), &file).unwrap().unwrap();
        assert_eq!(chosen.id.as_str(), "blue");
        let refused = DatabaseSettings::load(&flags("red"), &Environment::new()).err().unwrap().to_string();
        assert!(refused.contains("there is none"), "{refused}");
    }
}
