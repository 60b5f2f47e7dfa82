use walcast_replication::{Authentication, ConnectionSettings, ReplicationError, identify};
use walcast_testkit::{Cluster, ClusterSettings};

const PASSWORD: &str = "p@ß w/ord";

fn as_role(cluster: &Cluster, role: &str) -> ConnectionSettings {
    let mut settings = ConnectionSettings::parse(&cluster.url("postgres")).unwrap();
    role.clone_into(&mut settings.user);
    settings.password = Some(walcast_replication::settings::Password::new(PASSWORD));
    settings
}

#[tokio::test]
async fn every_way_of_logging_in_works_and_is_named() {
    let lines = ["cleartext password", "hashed md5", "scram scram-sha-256", "trusted trust", "banned reject"];
    let cluster = Cluster::start(ClusterSettings {
        host_based_authentication: lines
            .iter()
            .map(|line| line.split_once(' ').unwrap())
            .map(|(role, method)| format!("host all {role} 127.0.0.1/32 {method}"))
            .collect(),
        ..walcast_testkit::database::test_settings()
    })
    .await
    .unwrap();
    let client = cluster.client("postgres").await.unwrap();
    for (role, encryption) in [
        ("cleartext", "scram-sha-256"),
        ("hashed", "md5"),
        ("scram", "scram-sha-256"),
        ("trusted", "md5"),
        ("banned", "md5"),
    ] {
        let sql = format!(
            "SET password_encryption = '{encryption}'; CREATE ROLE {role} LOGIN REPLICATION PASSWORD '{PASSWORD}'"
        );
        client.batch_execute(&sql).await.unwrap();
    }

    for (role, expected) in [
        ("cleartext", Authentication::Cleartext),
        ("hashed", Authentication::Md5),
        ("scram", Authentication::ScramSha256),
        ("trusted", Authentication::Trusted),
    ] {
        let identity = identify(&as_role(&cluster, role)).await.unwrap();
        assert_eq!((identity.authentication, identity.encrypted), (expected, false), "{role}");
        assert_eq!(identity.database, "postgres");
        let mut wrong = as_role(&cluster, role);
        wrong.password = Some(walcast_replication::settings::Password::new("guessed"));
        if expected != Authentication::Trusted {
            let error = identify(&wrong).await.unwrap_err();
            assert!(matches!(error, ReplicationError::WrongPassword { .. }), "{role}: {error}");
        }
    }

    let error = identify(&as_role(&cluster, "banned")).await.unwrap_err().to_string();
    assert!(error.contains("'host postgres banned") && error.contains("pg_reload_conf()"), "{error}");
    let error = identify(&as_role(&cluster, "nobody")).await.unwrap_err();
    assert!(error.is_permanent(), "{error}");
}
