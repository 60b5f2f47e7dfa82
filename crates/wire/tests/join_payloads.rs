//! Join payloads, with every field wrong in turn (docs/protocol.md §3.2, §3.8, §3.9).

use serde_json::{Value, json};
use walcast_wire::{ChannelToken, JoinError, JoinPayload, Replay, Wait, join_reply};

fn parse(payload: &str) -> Result<JoinPayload, JoinError> {
    JoinPayload::parse("room1", serde_json::from_str(payload).expect("valid JSON"))
}

fn join(payload: &Value) -> JoinPayload {
    parse(&payload.to_string()).unwrap_or_else(|error| panic!("{payload}: {error}"))
}

fn reason(payload: &Value) -> String {
    parse(&payload.to_string()).expect_err("a refusal").to_string()
}

#[test]
fn the_payload_of_a_real_client_is_read_whole() {
    let join = join(&json!({
        "config": {
            "broadcast": {"ack": true, "self": true, "replication_ready": true, "version": "x"},
            "presence": {"key": "ana", "enabled": true},
            "postgres_changes": [{"event": "*", "schema": "public", "table": "t", "filter": "id=eq.1"}],
            "private": true,
            "unknown": [],
        },
        "access_token": "a.b.c",
        "version": "2.119.1",
    }));
    assert!(join.broadcast.acknowledge && join.broadcast.receive_own && join.broadcast.replication_ready);
    assert_eq!((join.presence.key.as_deref(), join.presence.enabled), (Some("ana"), true));
    assert!(join.private && !join.legacy);
    assert_eq!(join.bindings.len(), 1);
    assert_eq!(join.token, ChannelToken::Own("a.b.c".to_owned()));
    assert_eq!((join.wait, join.broadcast.replay), (None, None));
    assert_eq!(join.invalid_fields, [""; 0]);
}

#[test]
fn an_empty_config_means_defaults_and_so_does_null_everywhere() {
    let nothing = json!({"broadcast": null, "presence": null, "postgres_changes": null, "private": null,
        "postgres_changes_options": null});
    let inner = json!({"broadcast": {"self": null, "ack": null, "replay": null, "replication_ready": null},
        "presence": {"key": null, "enabled": null}, "postgres_changes": [null, null],
        "postgres_changes_options": {"wait": null, "timeout": null}});
    for config in [json!({}), Value::Null, nothing, inner] {
        let join = join(&json!({ "config": config }));
        assert_eq!(join.broadcast, walcast_wire::BroadcastConfig::default());
        assert_eq!(join.presence, walcast_wire::PresenceConfig::default());
        assert!(!join.private && !join.legacy && join.bindings.is_empty());
        assert_eq!(join.invalid_fields, [""; 0]);
        assert_eq!(join.token, ChannelToken::Socket);
    }
}

#[test]
fn every_field_that_is_wrong_takes_its_default_and_is_named() {
    let wrong_objects = || [json!([]), json!("x"), json!(1), json!(true)];
    let wrong_booleans = || [json!(1), json!("yes"), json!(""), json!([]), json!({})];
    let mut cases: Vec<(&str, Value)> = Vec::new();
    for value in wrong_objects() {
        cases.push(("config.broadcast", json!({"broadcast": value})));
        cases.push(("config.presence", json!({"presence": value})));
        cases.push(("config.postgres_changes_options", json!({"postgres_changes_options": value})));
        cases.push(("config.broadcast.replay", json!({"broadcast": {"replay": value}})));
    }
    for value in [json!({}), json!("x"), json!(1), json!(false)] {
        cases.push(("config.postgres_changes", json!({"postgres_changes": value})));
    }
    for value in wrong_booleans() {
        cases.push(("config.broadcast.self", json!({"broadcast": {"self": value}})));
        cases.push(("config.broadcast.ack", json!({"broadcast": {"ack": value}})));
        cases
            .push(("config.broadcast.replication_ready", json!({"broadcast": {"replication_ready": value}})));
        cases.push(("config.presence.enabled", json!({"presence": {"enabled": value}})));
        let options = json!({"postgres_changes_options": {"wait": value}});
        cases.push(("config.postgres_changes_options.wait", options));
    }
    for value in [json!(true), json!([]), json!({})] {
        cases.push(("config.presence.key", json!({"presence": {"key": value}})));
    }
    for value in [json!(0), json!(-1), json!(1.5), json!("5"), json!(true), json!({})] {
        let options = json!({"postgres_changes_options": {"timeout": value}});
        cases.push(("config.postgres_changes_options.timeout", options));
    }
    for (field, config) in cases {
        let join = join(&json!({ "config": config }));
        assert_eq!(join.invalid_fields, [field], "{config}");
        assert!(!join.broadcast.receive_own && !join.broadcast.acknowledge);
        assert!(!join.broadcast.replication_ready && !join.presence.enabled && !join.private);
        assert_eq!((join.presence.key, join.wait), (None, None));
        assert!(join.bindings.is_empty());
    }
}

#[test]
fn several_wrong_fields_are_all_named_and_the_right_ones_kept() {
    let config = json!({"broadcast": {"self": 1, "ack": "TRUE"}, "presence": [], "private": "True"});
    let join = join(&json!({ "config": config }));
    assert_eq!(join.invalid_fields, ["config.broadcast.self", "config.presence"]);
    assert!(join.broadcast.acknowledge && join.private);
}

#[test]
fn booleans_may_be_words_in_any_letter_case() {
    for (value, expected) in [
        (json!(true), true),
        (json!("true"), true),
        (json!("TRUE"), true),
        (json!("True"), true),
        (json!(false), false),
        (json!("false"), false),
        (json!("False"), false),
    ] {
        let join = join(&json!({"config": {"private": value, "broadcast": {"self": value}}}));
        assert_eq!((join.private, join.broadcast.receive_own), (expected, expected), "{value}");
        assert_eq!(join.invalid_fields, [""; 0]);
    }
}

#[test]
fn a_private_that_is_no_boolean_refuses_the_join() {
    for value in [json!("yes"), json!(1), json!(0), json!(""), json!([true]), json!({})] {
        let reason = reason(&json!({"config": {"private": value}}));
        assert_eq!(reason, format!("InvalidJoinPayload: config.private must be true or false, got {value}"));
    }
    let long = reason(&json!({"config": {"private": "é".repeat(1000)}}));
    assert!(long.len() < 150, "{long}");
}

#[test]
fn what_must_be_an_object_and_is_not_refuses_the_join() {
    for (payload, expected) in [
        (json!([]), "UnknownErrorOnChannel: the join payload must be an object, got a list"),
        (json!("x"), "UnknownErrorOnChannel: the join payload must be an object, got a string"),
        (json!({"config": []}), "UnknownErrorOnChannel: config must be an object, got a list"),
        (json!({"config": "x"}), "UnknownErrorOnChannel: config must be an object, got a string"),
        (json!({"config": 7}), "UnknownErrorOnChannel: config must be an object, got a number"),
        (json!({"config": true}), "UnknownErrorOnChannel: config must be an object, got a boolean"),
    ] {
        assert_eq!(reason(&payload), expected);
    }
    for entry in [json!("x"), json!(7), json!([]), json!(true)] {
        let reason = reason(&json!({"config": {"postgres_changes": [{"schema": "s"}, entry]}}));
        let start = "UnknownErrorOnChannel: an entry of config.postgres_changes can not be read: ";
        assert!(reason.starts_with(start), "{reason}");
    }
}

#[test]
fn bindings_keep_their_order_nulls_are_dropped_and_wrong_ones_do_not_fail_the_join() {
    let payload = r#"{"config":{"postgres_changes":[
        {"event":"*","schema":"public","table":"t"}, null,
        {"schema" : 7},
        {"table":"t","schema":"public","event":"*"}]}}"#;
    let join = parse(payload).unwrap();
    let ids: Vec<_> = join.bindings.iter().map(|binding| binding.id).collect();
    assert_eq!(ids.len(), 3);
    assert_eq!(ids[0], ids[2]);
    assert!(join.bindings[1].target.is_err());
    let expected = format!(
        r#"{{"postgres_changes":[{{"event":"*","schema":"public","table":"t","id":{}}},{{"schema" : 7,"id":{}}},{{"table":"t","schema":"public","event":"*","id":{}}}]}}"#,
        ids[0], ids[1], ids[2]
    );
    assert_eq!(join_reply(&join.bindings), expected);
}

#[test]
fn a_presence_key_is_a_string_or_a_number_and_empty_means_none() {
    for (key, expected) in [
        (json!("ana"), Some("ana")),
        (json!("a\"b\n"), Some("a\"b\n")),
        (json!(""), None),
        (json!(7), Some("7")),
        (json!(-1.5), Some("-1.5")),
        (Value::Null, None),
    ] {
        let join = join(&json!({"config": {"presence": {"key": key}}}));
        assert_eq!(join.presence.key.as_deref(), expected, "{key}");
        assert_eq!(join.invalid_fields, [""; 0]);
    }
}

#[test]
fn the_token_is_chosen_as_the_protocol_has_it() {
    let own = |token: &str| ChannelToken::Own(token.to_owned());
    for (payload, expected) in [
        (json!({}), ChannelToken::Socket),
        (json!({"access_token": "a"}), own("a")),
        (json!({"user_token": "u"}), own("u")),
        (json!({"access_token": "a", "user_token": "u"}), own("u")),
        (json!({"access_token": null, "user_token": "u"}), own("u")),
        (json!({"access_token": false, "user_token": "u"}), own("u")),
        (json!({"access_token": 7, "user_token": "u"}), own("u")),
        (json!({"access_token": "a", "user_token": 7}), own("a")),
        (json!({"access_token": "a", "user_token": null}), own("a")),
        (json!({"access_token": 7, "user_token": []}), ChannelToken::Socket),
        (json!({"access_token": ""}), own("")),
        (json!({"access_token": "sb_publishable_x"}), ChannelToken::Socket),
        (json!({"user_token": "sb_secret_x"}), ChannelToken::Socket),
        (json!({"access_token": "sb_x", "user_token": "u"}), ChannelToken::Socket),
        (json!({"access_token": null, "user_token": "sb_x"}), ChannelToken::Socket),
    ] {
        let mut with_config = payload.clone();
        with_config["config"] = json!({});
        assert_eq!(join(&with_config).token, expected, "{payload}");
        assert_eq!(join(&payload).token, expected, "{payload}");
    }
}

#[test]
fn a_token_does_not_show_in_debug_output() {
    let shown = format!("{:?}", join(&json!({"config": {}, "access_token": "very-secret"})));
    assert!(!shown.contains("very-secret"), "{shown}");
}

#[test]
fn a_join_without_config_reads_the_topic_as_one_binding() {
    for (sub_topic, echoed) in [
        ("public", r#""schema":"public""#),
        ("*", r#""schema":"*""#),
        ("public:t", r#""schema":"public","table":"t""#),
        ("public:t:id=eq.a:b", r#""schema":"public","table":"t","filter":"id=eq.a:b""#),
        ("we \"x\"", r#""schema":"we \"x\"""#),
    ] {
        for payload in ["{}", "null", r#"{"user_token":"u"}"#] {
            let payload: &serde_json::value::RawValue = serde_json::from_str(payload).unwrap();
            let join = JoinPayload::parse(sub_topic, payload).unwrap();
            assert!(join.legacy && !join.private);
            let id = join.bindings[0].id;
            let expected = format!(r#"{{"postgres_changes":[{{{echoed},"id":{id}}}]}}"#);
            assert_eq!(join_reply(&join.bindings), expected);
            assert!(join.bindings[0].target.is_ok());
        }
    }
}

#[test]
fn waiting_is_for_joins_with_bindings_and_its_time_is_limited() {
    let waits = |options: Value, bindings: Value| {
        join(&json!({"config": {"postgres_changes_options": options, "postgres_changes": bindings}})).wait
    };
    let one = || json!([{"schema": "public"}]);
    for (options, expected) in [
        (json!({"wait": true}), Some(15_000)),
        (json!({"wait": "True", "timeout": 500}), Some(500)),
        (json!({"wait": true, "timeout": 20_001}), Some(20_000)),
        (json!({"wait": true, "timeout": 0}), Some(15_000)),
        (json!({"wait": false, "timeout": 500}), None),
        (json!({"timeout": 500}), None),
    ] {
        assert_eq!(waits(options, one()), expected.map(|timeout_ms| Wait { timeout_ms }));
    }
    assert_eq!(waits(json!({"wait": true}), json!([])), None);
    let reason = "PostgresChangesSubscribeTimeout: Timed out after 500ms waiting for the postgres_changes subscription";
    assert_eq!(Wait { timeout_ms: 500 }.timeout_reason(), reason);
}

#[test]
fn a_replay_is_clamped_checked_and_refused_on_public_channels() {
    let asked = |private: bool, replay: Value| {
        join(&json!({"config": {"private": private, "broadcast": {"replay": replay}}}))
    };
    for (replay, limit) in [
        (json!({"since": 5}), 25),
        (json!({"since": 5, "limit": 10}), 10),
        (json!({"since": 5, "limit": 1000}), 25),
        (json!({"since": 5, "limit": -3}), 1),
    ] {
        let join = asked(true, replay);
        assert_eq!(join.broadcast.replay, Some(Replay::Since { unix_ms: 5, limit }));
        assert_eq!(join.replay_refusal(), None);
    }
    for replay in [
        json!({}),
        json!({"limit": 5}),
        json!({"since": "5"}),
        json!({"since": 5.0}),
        json!({"since": 999_999_999_999_999_i64}),
        json!({"since": 18_446_744_073_709_551_615_u64}),
        json!({"since": 5, "limit": "5"}),
    ] {
        let refusal = asked(true, replay).replay_refusal();
        assert_eq!(refusal, Some("UnableToReplayMessages: Replay params are not valid"));
    }
    assert_eq!(asked(true, json!("x")).replay_refusal(), None);
    for replay in [json!({"since": 5}), json!({}), json!("x")] {
        let refusal = asked(false, replay).replay_refusal();
        assert_eq!(refusal, Some("UnableToReplayMessages: Replay is not allowed for public channels"));
    }
    assert_eq!(asked(false, Value::Null).replay_refusal(), None);
}
