//! Manifests and state have to be apart, and there have to be manifests.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use fairway_controller::{DirectorySettings, DirectoryStore, OpenError};

use super::bed::{Bed, service};

#[test]
fn a_state_that_is_not_apart_from_the_manifests_is_refused_by_whatever_way_it_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let top = folder.path();
    fs::create_dir_all(top.join("manifests/shop")).unwrap();
    fs::create_dir_all(top.join("elsewhere/state")).unwrap();
    fs::create_dir_all(top.join("linked")).unwrap();
    symlink("manifests", top.join("to-manifests")).unwrap();
    symlink(top.join("manifests/shop"), top.join("to-shop")).unwrap();
    symlink("../elsewhere/state", top.join("linked/mine")).unwrap();
    symlink("../elsewhere", top.join("linked/above")).unwrap();
    symlink("manifests/later", top.join("to-later")).unwrap();
    for (manifests, state) in [
        ("manifests", "manifests"),
        ("manifests", "manifests/"),
        ("manifests", "manifests/state"),
        ("manifests", "manifests/not/yet/there"),
        ("manifests", "manifests/shop/../state"),
        ("manifests", "elsewhere/../manifests/state"),
        ("manifests", "to-manifests/state"),
        ("manifests", "to-shop"),
        ("manifests", "to-later"),
        ("to-manifests", "manifests/state"),
        ("to-manifests/shop/..", "manifests/state"),
        ("elsewhere/state/manifests", "elsewhere/state"),
        ("to-shop", "manifests"),
        ("linked", "elsewhere/state"),
        ("linked", "elsewhere/state/below"),
    ] {
        let opened =
            DirectoryStore::open(DirectorySettings::new(top.join(manifests), top.join(state)));
        match opened {
            Err(error @ OpenError::Nested { .. }) => {
                assert!(error.to_string().contains("--state"), "{error}");
            }
            Err(other) => panic!("{manifests} and {state}: {other}"),
            Ok(_) => panic!("{manifests} and {state} were taken"),
        }
    }
    assert!(!top.join("manifests/state").exists(), "it was made");
    for (manifests, state) in [
        ("manifests", "state"),
        ("manifests", "manifests-state"),
        ("linked", "elsewhere2"),
    ] {
        let settings = DirectorySettings::new(top.join(manifests), top.join(state));
        if let Err(error) = DirectoryStore::open(settings) {
            panic!("{manifests} and {state}: {error}");
        }
    }
}

#[test]
fn relative_paths_are_followed_too() {
    let folder = tempfile::tempdir().unwrap();
    let here = std::env::current_dir().unwrap();
    let up: PathBuf = here.components().skip(1).map(|_| Path::new("..")).collect();
    let below = folder.path().strip_prefix("/").unwrap();
    let relative = up.join(below);
    let opened = DirectoryStore::open(DirectorySettings::new(
        &relative,
        folder.path().join("state"),
    ));
    assert!(matches!(opened, Err(OpenError::Nested { .. })));
}

#[tokio::test]
async fn a_link_into_the_state_that_turns_up_later_is_a_problem_and_is_not_read() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    bed.until("all to be written", |bed| {
        bed.state.join("services/default/a.yaml").exists()
    })
    .await;
    symlink(bed.state.join("services"), bed.manifests.join("services")).unwrap();
    let view = bed.state.join("services/default/a.yaml");
    symlink(view, bed.manifests.join("view.yaml")).unwrap();
    bed.until("both to be named", |bed| {
        let is_named = |name: &str| {
            let problems = bed.problems();
            problems
                .iter()
                .any(|it| it.starts_with(name) && it.contains("own state"))
        };
        is_named("services") && is_named("view.yaml")
    })
    .await;
    // It can still be deleted.
    bed.put("b.yaml", &service("b", 80));
    fs::remove_file(bed.manifests.join("a.yaml")).unwrap();
    bed.gone("default/a").await;
}

#[test]
fn manifests_that_are_not_there_at_the_first_start_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let (manifests, state) = (folder.path().join("manifests"), folder.path().join("state"));
    let open = || DirectoryStore::open(DirectorySettings::new(&manifests, &state));
    assert!(matches!(open(), Err(OpenError::NoManifests { .. })));
    fs::write(&manifests, "").unwrap();
    assert!(matches!(open(), Err(OpenError::NoManifests { .. })));
    fs::remove_file(&manifests).unwrap();
    fs::create_dir(&manifests).unwrap();
    assert!(open().is_ok());
}
