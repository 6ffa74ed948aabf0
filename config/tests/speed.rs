//! Start-up reads everything there is: the time for it is bounded here, generously, so that a
//! change that makes it many times as slow is seen. `cargo test --release -p fairway-config --test
//! speed -- --nocapture` prints the times themselves.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fmt::Write as _;
use std::time::Duration;

use fairway_config::document::documents;
use fairway_config::object::{Object, read};

/// A Service as an API server prints it, managedFields and all: about 2 KB.
fn service(index: usize, indent: &str) -> String {
    let list = include_str!("fixtures/kubectl-list.yaml");
    let start = list
        .find("- apiVersion: v1\n  kind: Service\n  metadata:\n    annotations:\n      kubectl")
        .unwrap();
    let end = start + list[start..].find("- addressType").unwrap();
    let mut text = String::new();
    for (number, line) in list[start..end].lines().enumerate() {
        let line = if number == 0 {
            &line[2..]
        } else {
            line.strip_prefix("  ").unwrap()
        };
        let line = line.replace("name: shop", &format!("name: shop-{index}"));
        let dash = match (indent.is_empty(), number) {
            (true, _) => "",
            (false, 0) => "- ",
            (false, _) => indent,
        };
        writeln!(text, "{dash}{line}").unwrap();
    }
    text
}

fn count(text: &str) -> usize {
    documents(text)
        .unwrap()
        .iter()
        .filter(|document| matches!(read(&document.value).unwrap().object, Object::Service(_)))
        .count()
}

/// How long this thread has been at work: on a busy machine it waits more than it works.
/// The first field of schedstat, nanoseconds (Documentation/scheduler/sched-stats.rst).
fn worked() -> Duration {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux has it");
    let nanoseconds = stat.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect(&stat))
}

#[test]
fn two_thousand_services_are_read_in_no_time() {
    let files: Vec<String> = (0..2000).map(|index| service(index, "")).collect();
    let mut list = String::from("apiVersion: v1\nkind: List\nitems:\n");
    for index in 0..2000 {
        list.push_str(&service(index, "  "));
    }
    let json = {
        let items: Vec<_> = documents(&list)
            .unwrap()
            .into_iter()
            .map(|document| document.value)
            .collect();
        serde_json::json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
    };

    let start = worked();
    assert_eq!(files.iter().map(|text| count(text)).sum::<usize>(), 2000);
    let as_files = worked() - start;
    let start = worked();
    assert_eq!(count(&list), 2000);
    let as_list = worked() - start;
    let start = worked();
    assert_eq!(count(&json), 2000);
    let as_json = worked() - start;
    println!(
        "{} files: {as_files:?}; a List of {} KB: {as_list:?}; the same as JSON: {as_json:?}",
        files.len(),
        list.len() / 1024
    );
    // An optimized build takes a twentieth of it.
    assert!(
        as_files + as_list + as_json < Duration::from_secs(20),
        "{as_files:?} {as_list:?} {as_json:?}"
    );
}
