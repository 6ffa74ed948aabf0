//! File systems that are full, or come and go. Each test runs itself again in a user and mount
//! namespace of its own, where it may mount.

use std::fs;
use std::process::Command;

use fairway_config::exchange::Held;
use fairway_controller::{Store as _, WriteOutcome};
use fairway_namespaces::Namespaces;

use super::bed::{Bed, granted, service, written};

/// Whether this is the run where the test may mount. Outside it makes that run and waits for it.
fn in_namespace(test: &str) -> bool {
    Namespaces::Mount.is_inside(test)
}

fn mount(place: &std::path::Path) {
    let options = ["-t", "tmpfs", "-o", "size=256k", "tmpfs"];
    let status = Command::new("mount").args(options).arg(place).status();
    assert!(status.unwrap().success());
}

#[tokio::test]
async fn a_full_disk_loses_nothing_that_was_there() {
    if !in_namespace("mounts::a_full_disk_loses_nothing_that_was_there") {
        return;
    }
    let mut bed = Bed::new();
    fs::create_dir(&bed.state).unwrap();
    mount(&bed.state);
    bed.put("a.yaml", &service("a", 80));
    // Larger than what is left of a page: what is remembered of it needs room of its own.
    let large = format!("a: {}", "x".repeat(10_000));
    bed.put("b.yaml", &service("b", 80).replace("a: b", &large));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    bed.all_written().await;
    let view = bed.state.join("services/default/a.yaml");
    let before = fs::read_to_string(&view).unwrap();
    let filler = bed.state.join("filler");
    fs::write(&filler, vec![0; 512 << 10]).unwrap_err();

    let stored = bed.there("default/b").await;
    let write = granted(&stored, "192.0.2.2");
    let outcomes = written(bed.store(), vec![write], None).await;
    assert!(matches!(&outcomes[..], [WriteOutcome::Failed(why)] if why.contains("No space")));
    assert_eq!(bed.there("default/b").await.held, Held::default());
    // Another form of a Service takes effect, and what it was stays on disk.
    bed.put("a.yaml", &service("a", 81));
    bed.until("the change and the problem", |bed| {
        bed.services["default/a"].service.ports[0].port == 81
            && bed.problems().iter().any(|it| it.contains("No space"))
    })
    .await;
    assert_eq!(fs::read_to_string(&view).unwrap(), before);

    fs::remove_file(&filler).unwrap();
    bed.until("it to be written", |bed| {
        bed.store().outstanding().is_empty() && bed.problems().is_empty()
    })
    .await;
    bed.grant("default/b", "192.0.2.2", 30_501).await;
    bed.close().await;
    bed.open().await;
    assert_eq!(bed.services["default/a"].held.addresses.len(), 1);
    assert_eq!(bed.services["default/b"].held.addresses.len(), 1);
}

#[tokio::test]
async fn a_mount_that_comes_and_goes_releases_nothing() {
    if !in_namespace("mounts::a_mount_that_comes_and_goes_releases_nothing") {
        return;
    }
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.put("b.yaml", &service("b", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    // Another file system in the place, with half of it.
    mount(&bed.manifests);
    bed.put("b.yaml", &service("b", 81));
    bed.until("the other b, and a held", |bed| {
        bed.services["default/b"].service.ports[0].port == 81
            && bed.services["default/a"].source_problem.is_some()
    })
    .await;
    let status = Command::new("umount").arg(&bed.manifests).status().unwrap();
    assert!(status.success());
    bed.until("both as they were", |bed| {
        bed.services["default/b"].service.ports[0].port == 80
            && bed.services["default/a"].source_problem.is_none()
            && bed.problems().is_empty()
    })
    .await;
    assert_eq!(bed.services["default/a"].held.addresses.len(), 1);
}
