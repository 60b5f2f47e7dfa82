//! Who gets which ticket.

use std::time::Duration;

use walcast_wire::{Binding, Ref, Serializer};

use super::*;
use crate::ids::{SessionId, ShardId};
use crate::membership::{Asked, Form, Options};
use crate::topic::Privacy;

const VALIDITY: Duration = Duration::from_mins(2);

fn kept(tickets_max: usize) -> Arc<Tickets> {
    let settings = ResumeSettings {
        ticket_validity: VALIDITY,
        tickets_max,
        scope: "slot".into(),
        broadcast_bytes_max: None,
    };
    let tickets = Tickets::new(settings, Arc::default());
    tickets.pass(Lsn(1_000));
    tickets
}

fn channel_on(topic: &str, subject: &str, table: &str) -> Arc<Membership> {
    let binding = Binding::parse(&format!(r#"{{"table":"{table}"}}"#)).unwrap();
    let (form, values) = Form::new(vec![binding], Privacy::Public, Options::default());
    // Each join has a number of its own.
    let join_ref = Ref::from_text(&ChannelId::fresh().0.to_string());
    let asked = Arc::new(Asked::new(Arc::new(form), topic, &join_ref, &values));
    let membership = Membership::new(SessionId::fresh(), ShardId::new(0), Serializer::V2, asked);
    membership.set_claimant(Claimant::of(Some(subject), ""));
    Arc::new(membership)
}

fn channel() -> Arc<Membership> {
    channel_on("realtime:room", "ana", "notes")
}

/// From where on a join goes on; 1,000 is where the log is.
fn joined(tickets: &Arc<Tickets>, channel: &Arc<Membership>, reference: Reference) -> u64 {
    let claim = tickets.claim(channel, reference, false, None, tickets.handled()).unwrap();
    claim.arrive().0
}

fn counted(tickets: &Tickets) -> [u64; 4] {
    let Counters { tickets_left, tickets_redeemed, tickets_expired, tickets_displaced, .. } =
        &*tickets.counters;
    [tickets_left, tickets_redeemed, tickets_expired, tickets_displaced]
        .map(|counter| counter.load(Ordering::Relaxed))
}

#[tokio::test]
async fn who_has_counted_on_goes_on_where_it_was_and_who_begins_anew_does_not() {
    let tickets = kept(10);
    tickets.leave(&channel(), Lsn(400), 7, None);
    assert_eq!(joined(&tickets, &channel(), 7), 1_000, "a fresh page");
    assert_eq!(joined(&tickets, &channel(), 8), 400);
    assert_eq!(counted(&tickets), [1, 1, 0, 0]);
}

#[tokio::test]
async fn another_person_topic_or_binding_is_another_ticket() {
    let tickets = kept(10);
    tickets.leave(&channel(), Lsn(400), 7, None);
    for other in [
        channel_on("realtime:room", "bo", "notes"),
        channel_on("realtime:hall", "ana", "notes"),
        channel_on("realtime:room", "ana", "rows"),
    ] {
        assert_eq!(joined(&tickets, &other, 9), 1_000);
    }
    assert_eq!(joined(&tickets, &channel(), 9), 400);
}

#[test]
fn without_a_sub_the_token_says_who_it_is() {
    assert_eq!(Claimant::of(Some("ana"), "one"), Claimant::of(Some("ana"), "two"));
    assert_ne!(Claimant::of(None, "one"), Claimant::of(None, "two"));
    assert_ne!(Claimant::of(None, "ana"), Claimant::of(Some("ana"), "ana"));
}

#[tokio::test]
async fn of_several_tabs_none_finds_a_hole_in_whatever_order_they_come_back() {
    // Each has its count and its position; each comes back with the count that follows.
    let tabs = [(5, 300), (50, 700), (500, 500)];
    let orders = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];
    for order in orders {
        let tickets = kept(10);
        for (reference, delivered) in tabs {
            tickets.leave(&channel(), Lsn(delivered), reference, None);
        }
        for place in order {
            let (reference, delivered) = tabs[place];
            let from = joined(&tickets, &channel(), reference + 1);
            assert!(from <= delivered, "tab {place} was at {delivered}, goes on from {from}: {order:?}");
        }
    }
}

#[tokio::test]
async fn a_channel_that_is_lost_again_takes_its_first_ticket_with_it() {
    let tickets = kept(10);
    tickets.leave(&channel(), Lsn(400), 7, None);
    let second = channel();
    assert_eq!(joined(&tickets, &second, 8), 400);
    tickets.leave(&second, Lsn(900), 9, None);
    tickets.ended(second.channel);
    assert_eq!(joined(&tickets, &channel(), 10), 900);
}

#[tokio::test]
async fn a_clean_end_uses_up_the_ticket_and_a_join_that_comes_to_nothing_gives_it_back() {
    let tickets = kept(10);
    tickets.leave(&channel(), Lsn(400), 7, None);
    let lost = channel();
    drop(tickets.claim(&lost, 8, false, None, Lsn(1_000)));
    assert_eq!(tickets.state().claims.len(), 0);
    let second = channel();
    assert_eq!(joined(&tickets, &second, 8), 400);
    tickets.ended(second.channel);
    assert_eq!(joined(&tickets, &channel(), 20), 1_000);
}

#[tokio::test]
async fn a_socket_that_is_not_known_to_be_lost_counts_and_leaves_no_second_ticket() {
    let tickets = kept(10);
    let (dead, second) = (channel(), channel());
    let standing = Some((Lsn(600), Standing { channel: dead.channel, reference: 7, heard: None }));
    let claim = tickets.claim(&second, 8, false, standing, Lsn(1_000)).unwrap();
    assert_eq!(claim.arrive(), Lsn(600));
    tickets.leave(&dead, Lsn(600), 7, None);
    tickets.leave(&second, Lsn(990), 9, None);
    assert_eq!(joined(&tickets, &channel(), 10), 990, "the successor took it along");

    let (dead, second) = (channel(), channel());
    let standing = Some((Lsn(600), Standing { channel: dead.channel, reference: 17, heard: None }));
    drop(tickets.claim(&second, 18, false, standing, Lsn(1_000)));
    second.end();
    tickets.leave(&dead, Lsn(600), 17, None);
    assert_eq!(tickets.state().count, 1, "its successor has ended");
}

#[tokio::test(start_paused = true)]
async fn an_old_ticket_is_counted_and_still_known_so_that_its_client_is_told_of_the_gap() {
    let tickets = kept(10);
    tickets.leave(&channel(), Lsn(400), 7, None);
    tokio::time::advance(VALIDITY + Duration::from_secs(1)).await;
    assert_eq!(joined(&tickets, &channel(), 8), 400, "which the journal does not have any more");
    assert_eq!(counted(&tickets), [1, 1, 1, 0]);
    tickets.leave(&channel(), Lsn(500), 9, None);
    tokio::time::advance(VALIDITY * KNOWN_FACTOR + Duration::from_secs(1)).await;
    assert_eq!(joined(&tickets, &channel(), 10), 1_000);
    let state = tickets.state();
    assert_eq!((state.count, state.tickets.len(), state.order.len()), (0, 0, 0));
}

#[tokio::test]
async fn the_oldest_go_first_when_there_are_too_many() {
    let tickets = kept(2);
    for (topic, delivered) in [("realtime:a", 1), ("realtime:b", 2), ("realtime:c", 3)] {
        tickets.leave(&channel_on(topic, "ana", "notes"), Lsn(delivered), 7, None);
    }
    let from = ["realtime:a", "realtime:b", "realtime:c"]
        .map(|topic| joined(&tickets, &channel_on(topic, "ana", "notes"), 8));
    assert_eq!(from, [1_000, 2, 3]);
    assert_eq!(counted(&tickets)[3], 1);
}

#[tokio::test]
async fn what_is_gone_takes_no_room_for_long() {
    let tickets = kept(10);
    let mut reference = 1;
    for _ in 0..10_000 {
        let next = channel();
        joined(&tickets, &next, reference + 1);
        reference += 1;
        tickets.leave(&next, Lsn(500), reference, None);
    }
    let state = tickets.state();
    assert_eq!((state.count, state.claims.len()), (1, 0));
    assert!(state.order.len() <= REPLACED_SWEEP + 2, "{}", state.order.len());
}

/// Feeds what a process has written to the next one.
fn successor(messages: &[String]) -> (Arc<Tickets>, String) {
    let next = kept(1_000);
    let begin = next.begin();
    next.log_begins(Lsn(100), false);
    for message in messages {
        next.read(message.as_bytes(), true);
    }
    (next, begin)
}

#[tokio::test(start_paused = true)]
async fn a_process_that_stops_hands_its_tickets_to_the_next_one_and_no_token() {
    let first = kept(1_000);
    let begin = first.begin();
    first.read(begin.as_bytes(), true);
    for count in 0..500 {
        let channel = channel_on(&format!("realtime:{count}"), "ana", "notes");
        first.leave(&channel, Lsn(400 + count), 7, None);
    }
    tokio::time::advance(Duration::from_secs(5)).await;
    let mut messages = vec![begin];
    messages.extend(first.hand_over());
    assert!(messages.iter().all(|message| !message.contains("ana") && message.len() < 20_000));
    messages.push("other end".to_owned());
    let (next, begin) = successor(&messages);
    next.read(begin.as_bytes(), true);
    next.known().await;
    for count in [0, 499] {
        let channel = channel_on(&format!("realtime:{count}"), "ana", "notes");
        assert_eq!(joined(&next, &channel, 8), 400 + count);
    }
    let unknown = channel_on("realtime:new", "ana", "notes");
    let from = next.claim(&unknown, 90, true, None, Lsn(1_000)).unwrap().arrive();
    assert_eq!(from, Lsn(1_000), "everything is known");
    // The log is read again over a new connection.
    let before = next.state().count;
    messages.push(begin);
    for message in &messages {
        next.read(message.as_bytes(), true);
    }
    assert_eq!(next.state().count, before);
}

#[tokio::test]
async fn what_was_handed_over_earlier_counts_no_more() {
    let first = kept(10);
    first.leave(&channel(), Lsn(400), 7, None);
    let mut messages = first.hand_over();
    let (second, begin) = successor(&messages);
    second.read(begin.as_bytes(), true);
    messages.push(begin);
    let back = channel();
    assert_eq!(joined(&second, &back, 8), 400);
    second.leave(&back, Lsn(900), 9, None);
    messages.extend(second.hand_over());
    let (third, begin) = successor(&messages);
    third.read(begin.as_bytes(), true);
    assert_eq!(joined(&third, &channel(), 10), 900);
}

#[tokio::test(start_paused = true)]
async fn after_a_process_that_was_killed_who_comes_back_gets_what_there_is_and_a_fresh_page_nothing() {
    let killed = kept(10);
    let (next, begin) = successor(&["slot end".to_owned(), killed.begin()]);
    let other = channel();
    let early = next.claim(&other, 9, true, None, Lsn(1_000)).unwrap().arrive();
    assert_eq!(early, Lsn(100), "whoever can not wait");
    next.read(begin.as_bytes(), true);
    assert_eq!(next.claim(&other, 9, true, None, Lsn(1_000)).unwrap().arrive(), Lsn(100));
    assert_eq!(next.claim(&other, 6, false, None, Lsn(1_000)).unwrap().arrive(), Lsn(1_000));
    tokio::time::advance(VALIDITY + Duration::from_secs(1)).await;
    assert_eq!(next.claim(&other, 9, true, None, Lsn(1_000)).unwrap().arrive(), Lsn(1_000));

    let (first_ever, begin) = successor(&[]);
    first_ever.read(begin.as_bytes(), false);
    assert_eq!(first_ever.claim(&other, 9, true, None, Lsn(1_000)).unwrap().arrive(), Lsn(1_000));
}

#[tokio::test]
async fn what_is_no_message_of_this_slot_changes_nothing() {
    let tickets = kept(10);
    for content in [
        &b""[..],
        b"slot",
        b"slot ",
        b"slot tickets 1:2",
        b"slot tickets x:y:z:1:1",
        b"slot tickets 1:2:3:99999999999:1",
        b"other tickets 1:2:3:4:5",
        b"slot\xff end",
        b"slot begin nobody",
    ] {
        tickets.read(content, true);
    }
    assert_eq!(tickets.state().count, 0);
}
