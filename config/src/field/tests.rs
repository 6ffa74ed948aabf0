#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;

fn problems_of(value: Value, read: impl FnOnce(&Cursor<'_, '_>)) -> Vec<String> {
    let findings = Findings::default();
    read(&Cursor::root(&value, &findings));
    let (errors, _) = findings.into_parts();
    errors.iter().map(ToString::to_string).collect()
}

#[test]
fn every_problem_is_reported_with_its_path() {
    let found = problems_of(
        json!({"spec": {"ports": [{"port": "abc"}, {"port": 70000, "name": 80}], "on": "yes"}}),
        |root| {
            let spec = root.field("spec");
            for port in spec.field("ports").items() {
                assert_eq!(port.field("port").port(), None);
                assert_eq!(port.field("name").text(), None);
            }
            assert_eq!(spec.field("on").boolean(), None);
        },
    );
    assert_eq!(
        found,
        [
            "spec.ports[0].port: is 'abc', must be a whole number from 1 to 65535",
            "spec.ports[1].port: is 70000, must be a whole number from 1 to 65535",
            "spec.ports[1].name: is 80, must be a text: put it in quotes",
            "spec.on: is 'yes', must be true or false",
        ]
    );
}

#[test]
fn null_counts_as_absent() {
    let found = problems_of(json!({"a": null}), |root| {
        let a = root.field("a");
        assert!(!a.is_present());
        assert_eq!(a.text(), None);
        assert_eq!(a.boolean(), None);
        assert_eq!(a.integer(), None);
        assert_eq!(a.port(), None);
        assert_eq!(a.items().count(), 0);
        assert_eq!(a.field("b").field("c").text(), None);
        assert!(a.text_map().is_empty());
    });
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn annotations_must_be_texts() {
    let found = problems_of(
        json!({"metadata": {"annotations": {"fairway.dev/pool": true, "a": "b"}}}),
        |root| {
            let map = root.field("metadata").field("annotations").text_map();
            assert_eq!(map.len(), 1);
        },
    );
    assert_eq!(
        found,
        ["metadata.annotations[fairway.dev/pool]: is true, must be a text: put it in quotes"]
    );
}

#[test]
fn an_unknown_field_names_its_neighbour() {
    let found = problems_of(json!({"autoasign": 1, "zzz": 2}), |root| {
        root.only(&["autoAssign", "priority"]);
    });
    assert_eq!(
        found,
        [
            "autoasign: is no field of this object; is autoAssign meant?",
            "zzz: is no field of this object; known are autoAssign, priority",
        ]
    );
}

#[test]
fn a_hostile_text_is_shortened_and_escaped_in_messages() {
    let text = format!("\u{1b}[31m{}", "x".repeat(10_000));
    let shown = Shown(&text).to_string();
    assert!(shown.len() < 200, "{shown}");
    assert!(!shown.contains('\u{1b}'), "{shown}");
}

#[test]
fn an_entry_that_is_odd_is_left_out_alone() {
    let value = json!({"list": [{"port": 1}, {"port": "x"}, {"port": 3}]});
    let findings = Findings::default();
    let root = Cursor::root(&value, &findings);
    let list = root.field("list");
    let ports: Vec<u16> = list
        .items()
        .filter_map(|entry| entry.leniently("it is left out", |it| it.field("port").port()))
        .collect();
    assert_eq!(ports, [1, 3]);
    let (errors, warnings) = findings.into_parts();
    assert!(errors.is_empty());
    assert_eq!(
        warnings[0].to_string(),
        "list[1].port: is 'x', must be a whole number from 1 to 65535: it is left out"
    );
}

#[test]
fn whole_numbers_may_be_written_as_floats() {
    let found = problems_of(json!({"a": 80.0, "b": 80.5}), |root| {
        assert_eq!(root.field("a").port(), Some(80));
        assert_eq!(root.field("b").port(), None);
        assert_eq!(root.field("a").integer(), Some(80));
    });
    assert_eq!(
        found,
        ["b: is 80.5, must be a whole number from 1 to 65535"]
    );
}
