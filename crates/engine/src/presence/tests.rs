//! Who is present, step by step and as those see it who follow.

use std::collections::HashSet;

use proptest::prelude::*;
use serde_json::Value;

use super::view::View;
use super::*;

const ROOM_ENOUGH: usize = 10_000;

/// Tracks where there is room; what followers are told of it.
fn track(presence: &mut Presence, channel: u64, key: &str, members: String, reference: &str) -> Option<Diff> {
    track_silently(presence, channel, key, members, reference);
    presence.publish(usize::MAX)
}

/// The same before followers are told.
fn track_silently(presence: &mut Presence, channel: u64, key: &str, members: String, reference: &str) {
    presence.track(ChannelId(channel), key, members, reference.to_owned(), ROOM_ENOUGH).unwrap();
}

/// Untracks; what followers are told of it.
fn untrack(presence: &mut Presence, channel: u64) -> Option<Diff> {
    presence.untrack(ChannelId(channel));
    presence.publish(usize::MAX)
}

fn members(json: &str) -> String {
    meta_members(json).unwrap()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn a_track_joins_an_update_joins_and_leaves_an_untrack_leaves() {
    let mut presence = Presence::default();
    let first = track(&mut presence, 1, "ana", members(r#"{"on":1}"#), "r1").unwrap();
    assert_eq!(
        json(&first.payload),
        json(r#"{"joins":{"ana":{"metas":[{"on":1,"phx_ref":"r1"}]}},"leaves":{}}"#)
    );
    let second = track(&mut presence, 1, "ana", members(r#"{"on":2}"#), "r2").unwrap();
    assert_eq!(
        json(&second.payload),
        json(
            r#"{"joins":{"ana":{"metas":[{"on":2,"phx_ref":"r2","phx_ref_prev":"r1"}]}},
               "leaves":{"ana":{"metas":[{"on":1,"phx_ref":"r1"}]}}}"#
        )
    );
    let third = untrack(&mut presence, 1).unwrap();
    assert_eq!(json(&third.payload)["leaves"]["ana"]["metas"][0]["on"], 2);
    assert!(presence.is_empty());
}

#[test]
fn the_same_payload_again_is_no_diff() {
    let mut presence = Presence::default();
    track(&mut presence, 1, "a", members(r#"{"x":1,"y":2}"#), "r1");
    assert_eq!(track(&mut presence, 1, "a", members(r#"{"y":2, "x":1}"#), "r2"), None);
}

#[test]
fn two_channels_under_one_key_are_two_metas_and_one_may_leave() {
    let mut presence = Presence::default();
    track(&mut presence, 1, "a", String::new(), "r1");
    track(&mut presence, 2, "a", String::new(), "r2");
    assert_eq!(json(&presence.state())["a"]["metas"].as_array().unwrap().len(), 2);
    untrack(&mut presence, 1);
    assert_eq!(json(&presence.state()), json(r#"{"a":{"metas":[{"phx_ref":"r2"}]}}"#));
}

#[test]
fn keys_and_metas_stay_in_the_order_in_which_they_came_whoever_goes_and_changes() {
    let mut presence = Presence::default();
    for (channel, key) in [(1, "b"), (2, "a"), (3, "b"), (4, "c"), (5, "b")] {
        track(&mut presence, channel, key, format!("\"n\":{channel}"), &format!("r{channel}"));
    }
    track(&mut presence, 1, "b", "\"n\":9".to_owned(), "r9");
    untrack(&mut presence, 3);
    untrack(&mut presence, 2);
    track(&mut presence, 2, "a", String::new(), "r6");
    let expected = concat!(
        r#"{"b":{"metas":[{"n":9,"phx_ref":"r9","phx_ref_prev":"r1"},{"n":5,"phx_ref":"r5"}]},"#,
        r#""c":{"metas":[{"n":4,"phx_ref":"r4"}]},"a":{"metas":[{"phx_ref":"r6"}]}}"#
    );
    assert_eq!(&*presence.state(), expected);
    for channel in [1, 2, 4, 5] {
        assert!(untrack(&mut presence, channel).is_some());
    }
    assert!(presence.is_empty() && presence.order.is_empty() && presence.places.is_empty());
}

#[test]
fn a_lost_payload_is_taken_over_once_and_only_by_a_channel_that_has_none() {
    let mut presence = Presence::default();
    let track = |presence: &mut Presence, channel, key| {
        track(presence, channel, key, "\"n\":1".to_owned(), &format!("r{channel}"))
    };
    track(&mut presence, 1, "a");
    track(&mut presence, 2, "a");
    assert!(presence.lose(ChannelId(1)) && !presence.lose(ChannelId(9)));
    assert_eq!(track(&mut presence, 2, "a"), None, "it has one of its own");
    assert!(track(&mut presence, 3, "b").is_some(), "another key");
    assert_eq!(track(&mut presence, 4, "a"), None, "taken over");
    assert_eq!(untrack(&mut presence, 1), None, "it is not the lost one's any more");
    assert!(track(&mut presence, 5, "a").is_some(), "there was one");
    assert!(untrack(&mut presence, 4).is_some());
}

#[test]
fn a_topic_takes_so_many_bytes_and_gets_them_back_whoever_goes_and_changes() {
    let mut presence = Presence::default();
    let long = |length: usize| format!("\"n\":\"{}\"", "x".repeat(length));
    let track = |presence: &mut Presence, channel, length| {
        let tracked = presence.track(ChannelId(channel), "k", long(length), "r".to_owned(), 400);
        presence.publish(usize::MAX);
        tracked
    };
    assert!(track(&mut presence, 1, 100).is_ok());
    assert!(track(&mut presence, 2, 100).is_ok());
    let before = presence.state();
    assert_eq!(track(&mut presence, 3, 200), Err(TopicFull));
    assert_eq!(track(&mut presence, 1, 300), Err(TopicFull), "an update");
    assert!(Arc::ptr_eq(&before, &presence.state()), "nothing has changed, so it is not written again");
    assert!(track(&mut presence, 1, 20).is_ok(), "less than it was");
    assert_eq!(json(&presence.state())["k"]["metas"][0]["n"], "x".repeat(20), "it is written again");
    assert!(track(&mut presence, 3, 100).is_ok());
    for channel in [1, 2, 3] {
        assert!(untrack(&mut presence, channel).is_some());
    }
    assert_eq!((presence.bytes, &*presence.state()), (0, "{}"));
}

#[test]
fn a_client_can_not_forge_the_reference() {
    assert_eq!(members(r#"{"phx_ref":"forged","name":"é\n"}"#), r#""name":"é\n""#);
}

#[test]
fn a_payload_that_is_no_object_is_refused() {
    assert_eq!(meta_members("[1]"), Err(NotAnObject));
}

#[test]
fn whoever_comes_and_goes_between_two_diffs_was_never_there() {
    let mut presence = Presence::default();
    track(&mut presence, 1, "ana", String::new(), "r1");
    track_silently(&mut presence, 2, "bo", String::new(), "r2");
    track_silently(&mut presence, 3, "ana", String::new(), "r3");
    presence.untrack(ChannelId(2));
    presence.untrack(ChannelId(3));
    assert!(!presence.has_changed());
    assert_eq!(presence.publish(usize::MAX), None);
    assert_eq!((presence.keys(), presence.order.len()), (1, 1));
    presence.untrack(ChannelId(1));
    assert_eq!(presence.keys(), 0, "followers have yet to hear of it");
    assert!(!presence.is_empty() && presence.publish(usize::MAX).is_some() && presence.is_empty());
}

#[test]
fn several_updates_between_two_diffs_are_one_from_what_was_shown_to_what_there_is() {
    let mut presence = Presence::default();
    track(&mut presence, 1, "ana", "\"n\":1".to_owned(), "r1");
    track_silently(&mut presence, 1, "ana", "\"n\":2".to_owned(), "r2");
    let diff = track(&mut presence, 1, "ana", "\"n\":3".to_owned(), "r3").unwrap();
    let expected = concat!(
        r#"{"joins":{"ana":{"metas":[{"n":3,"phx_ref":"r3","phx_ref_prev":"r1"}]}},"#,
        r#""leaves":{"ana":{"metas":[{"n":1,"phx_ref":"r1"}]}}}"#
    );
    assert_eq!(diff.payload, expected);
    track_silently(&mut presence, 1, "ana", "\"n\":4".to_owned(), "r4");
    let left = untrack(&mut presence, 1).unwrap();
    assert_eq!(json(&left.payload)["leaves"]["ana"]["metas"][0]["phx_ref"], "r3", "the one that was shown");
    track_silently(&mut presence, 1, "ana", String::new(), "r5");
    let joined = track(&mut presence, 1, "ana", "\"n\":6".to_owned(), "r6").unwrap();
    let expected = r#"{"joins":{"ana":{"metas":[{"n":6,"phx_ref":"r6"}]}},"leaves":{}}"#;
    assert_eq!(joined.payload, expected, "r5 was never shown");
}

#[test]
fn a_diff_has_each_key_once_with_all_its_metas() {
    let mut presence = Presence::default();
    for (channel, key) in [(1, "a"), (2, "b"), (3, "a"), (4, "b")] {
        track_silently(&mut presence, channel, key, String::new(), &format!("r{channel}"));
    }
    let joins = concat!(
        r#"{"joins":{"a":{"metas":[{"phx_ref":"r1"},{"phx_ref":"r3"}]},"#,
        r#""b":{"metas":[{"phx_ref":"r2"},{"phx_ref":"r4"}]}},"leaves":{}}"#
    );
    assert_eq!(presence.publish(usize::MAX).unwrap().payload, joins);
}

#[test]
fn a_state_shows_what_has_been_told_and_the_next_diff_brings_the_rest() {
    let mut presence = Presence::default();
    track(&mut presence, 1, "stays", String::new(), "r1");
    track(&mut presence, 2, "goes", String::new(), "r2");
    track(&mut presence, 3, "changes", "\"n\":1".to_owned(), "r3");
    let told = presence.state();
    presence.untrack(ChannelId(2));
    track_silently(&mut presence, 3, "changes", "\"n\":2".to_owned(), "r4");
    track_silently(&mut presence, 4, "comes", String::new(), "r5");
    assert!(Arc::ptr_eq(&told, &presence.state()), "it is not written again for what nobody has been told");
    let mut view = View::of_state(&json(&presence.state()));
    view.apply(&json(&presence.publish(usize::MAX).unwrap().payload));
    assert_eq!(view, View::of_state(&json(&presence.state())));
    assert_eq!(view.references(), ["r1", "r4", "r5"]);
}

#[test]
fn many_changes_leave_in_diffs_of_a_bounded_length() {
    let mut presence = Presence::default();
    let mut view = View::default();
    for channel in 0..100 {
        track_silently(&mut presence, channel, &format!("k{channel}"), String::new(), &format!("r{channel}"));
    }
    let mut diffs = 0;
    while let Some(diff) = presence.publish(500) {
        assert!(diff.payload.len() < 600, "{}", diff.payload);
        view.apply(&json(&diff.payload));
        diffs += 1;
    }
    assert!((5..15).contains(&diffs), "{diffs}");
    assert_eq!(view.references().len(), 100);
}

/// A step in a topic's life.
#[derive(Clone, Debug)]
enum Step {
    Track {
        channel: u64,
        key: u8,
        members: u8,
    },
    Untrack {
        channel: u64,
    },
    Lose {
        channel: u64,
    },
    /// One begins to follow.
    Follow,
    /// A window ends; the diff takes so many bytes.
    Publish {
        bytes_max: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..8_u64, 0..3_u8, 0..3_u8)
            .prop_map(|(channel, key, members)| Step::Track { channel, key, members }),
        4 => (0..8_u64).prop_map(|channel| Step::Untrack { channel }),
        2 => (0..8_u64).prop_map(|channel| Step::Lose { channel }),
        1 => Just(Step::Follow),
        2 => (1..400_usize).prop_map(|bytes_max| Step::Publish { bytes_max }),
    ]
}

/// Who is present, as one would write it without diffs: channel, key and members in the order in which they came.
#[derive(Default)]
struct Truth {
    present: Vec<(u64, u8, u8)>,
    lost: HashSet<u64>,
}

impl Truth {
    fn track(&mut self, channel: u64, key: u8, members: u8) {
        let own = self.present.iter().position(|&(other, ..)| other == channel);
        let left = || self.present.iter().position(|&(other, of, _)| of == key && self.lost.contains(&other));
        match own.or_else(left) {
            Some(place) => {
                let (lost, key, _) = self.present[place];
                if lost != channel {
                    self.lost.remove(&lost);
                }
                self.present[place] = (channel, key, members);
            }
            None => self.present.push((channel, key, members)),
        }
    }

    fn untrack(&mut self, channel: u64) {
        self.present.retain(|&(other, ..)| other != channel);
        self.lost.remove(&channel);
    }

    /// The members under each key.
    fn shown(&self) -> BTreeMap<String, Vec<Value>> {
        let mut shown: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for &(_, key, members) in &self.present {
            shown.entry(format!("k{key}")).or_default().push(Value::from(members));
        }
        for members in shown.values_mut() {
            members.sort_by_key(Value::to_string);
        }
        shown
    }
}

proptest! {
    #[test]
    fn whatever_happens_and_whenever_windows_end_every_follower_sees_who_is_there(
        steps in prop::collection::vec(step(), 0..120)
    ) {
        let (mut presence, mut truth) = (Presence::default(), Truth::default());
        let mut views: Vec<View> = Vec::new();
        let tell = |presence: &mut Presence, views: &mut Vec<View>, bytes_max| {
            while let Some(Diff { payload }) = presence.publish(bytes_max) {
                for view in views.iter_mut() {
                    view.apply(&json(&payload));
                }
                let state = View::of_state(&json(&presence.state()));
                assert!(views.iter().all(|view| *view == state), "{payload}");
            }
        };
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Track { channel, key, members } => {
                    // One whose connection was lost does nothing any more.
                    if truth.lost.contains(&channel) {
                        continue;
                    }
                    truth.track(channel, key, members);
                    let members = format!("\"n\":{members}");
                    track_silently(&mut presence, channel, &format!("k{key}"), members, &format!("r{number}"));
                }
                Step::Untrack { channel } => {
                    truth.untrack(channel);
                    presence.untrack(ChannelId(channel));
                }
                Step::Lose { channel } => {
                    if presence.lose(ChannelId(channel)) {
                        truth.lost.insert(channel);
                    }
                }
                Step::Follow => views.push(View::of_state(&json(&presence.state()))),
                Step::Publish { bytes_max } => tell(&mut presence, &mut views, bytes_max),
            }
            prop_assert_eq!(presence.keys(), truth.shown().len());
        }
        views.push(View::of_state(&json(&presence.state())));
        tell(&mut presence, &mut views, usize::MAX);
        for view in &views {
            prop_assert_eq!(view.shown("n"), truth.shown());
        }
        for (channel, ..) in truth.present {
            presence.untrack(ChannelId(channel));
        }
        presence.publish(usize::MAX);
        prop_assert!(presence.is_empty() && presence.order.is_empty() && presence.places.is_empty());
        prop_assert_eq!((presence.bytes, presence.has_changed()), (0, false));
    }
}
