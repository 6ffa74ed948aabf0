//! The directory store from outside: files go in, changes and files come out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod bed;
mod crash;
mod mounts;
mod order;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use fairway_config::exchange::{Held, Status, Write};
use fairway_config::names::ServiceName;
use fairway_config::net::Protocol;
use fairway_config::service::PortKey;
use fairway_controller::{DirectoryStore, OpenError, Store, WriteOutcome};

use bed::{Bed, service};

const TCP_80: PortKey = PortKey {
    protocol: Protocol::Tcp,
    port: 80,
};

#[tokio::test]
async fn what_a_service_holds_survives_a_restart() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    let before = bed.there("default/a").await;
    bed.close().await;
    // Another order of files and another name.
    fs::rename(bed.manifests.join("a.yaml"), bed.manifests.join("z.yaml")).unwrap();
    bed.put("b.yaml", &service("b", 80));
    bed.open().await;
    let after = bed.there("default/a").await;
    assert_eq!(after.held, before.held);
    assert_eq!(after.first_seen, before.first_seen);
    assert_eq!(after.version, before.version);
    assert_eq!(after.source.as_deref(), Some("z.yaml"));
}

#[tokio::test]
async fn every_service_gets_a_file_as_an_api_server_would_return_it() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    bed.until("all to be written", |bed| {
        bed.store().outstanding().is_empty()
    })
    .await;
    let path = bed.state.join("services/default/a.yaml");
    let text = fs::read_to_string(path).unwrap();
    for line in [
        "nodePort: 30500",
        "targetPort: 80",
        "protocol: TCP",
        "namespace: default",
        "creationTimestamp:",
        "uid:",
        "sessionAffinity: None",
        "a: b",
        "loadBalancer:",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn a_stale_decision_is_refused() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    let stored = bed.there("default/a").await;
    let write = |version| Write::Service {
        name: ServiceName::new("default", "a"),
        version,
        held: Held::default(),
        status: Status::default(),
    };
    let outcomes = bed.store().write(vec![write(stored.version + 1)]).await;
    assert_eq!(outcomes, [WriteOutcome::Refused]);
    let both = vec![write(stored.version), write(stored.version)];
    let outcomes = bed.store().write(both).await;
    assert_eq!(outcomes, [WriteOutcome::Written, WriteOutcome::Refused]);
    // Neither is one that was made from a former spec.
    bed.put("a.yaml", &service("a", 81));
    bed.until("the new spec", |bed| {
        bed.services["default/a"].service.ports[0].port == 81
    })
    .await;
    let outcomes = bed.store().write(vec![write(stored.version + 1)]).await;
    assert_eq!(outcomes, [WriteOutcome::Refused]);
}

#[tokio::test]
async fn a_node_port_stays_with_its_port_or_with_the_ports_name() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    bed.put("a.yaml", &service("a", 8080));
    bed.until("the new spec", |bed| {
        bed.services["default/a"].service.ports[0].port == 8080
    })
    .await;
    let held = &bed.services["default/a"].held;
    let key = PortKey {
        port: 8080,
        ..TCP_80
    };
    assert_eq!(held.node_ports, [(key, 30_500)].into());
}

#[tokio::test]
async fn a_file_that_is_no_yaml_keeps_what_it_declared_also_over_a_restart() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.put("b.yaml", &service("b", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    bed.put("a.yaml", "kind: [Service\n");
    bed.until("the problem", |bed| {
        bed.services["default/a"].source_problem.is_some() && bed.problems().len() == 1
    })
    .await;
    bed.close().await;
    bed.open().await;
    let stored = bed.there("default/a").await;
    assert!(stored.source_problem.is_some());
    assert_eq!(stored.held.node_ports[&TCP_80], 30_500);
    assert_eq!(stored.service.ports[0].port, 80);
    bed.until("the problem again", |bed| bed.problems().len() == 1)
        .await;
    bed.put("a.yaml", &service("a", 80));
    bed.until("it to be mended", |bed| {
        bed.services["default/a"].source_problem.is_none() && bed.problems().is_empty()
    })
    .await;
}

#[tokio::test]
async fn an_object_that_cannot_be_decoded_holds_back_itself_alone() {
    let mut bed = Bed::new();
    bed.put(
        "a.yaml",
        &format!("{}---\n{}", service("a", 80), service("b", 80)),
    );
    bed.open().await;
    let bad = service("a", 80).replace("port: 80", "port: eighty");
    bed.put("a.yaml", &format!("{bad}---\n{}", service("b", 81)));
    bed.until("b to change", |bed| {
        bed.services["default/b"].service.ports[0].port == 81
    })
    .await;
    let stored = bed.there("default/a").await;
    assert_eq!(stored.service.ports[0].port, 80);
    assert!(
        stored
            .source_problem
            .as_deref()
            .unwrap()
            .contains("spec.ports[0].port")
    );
    bed.until("the problem", |bed| bed.problems().len() == 1)
        .await;
}

#[tokio::test]
async fn a_deleted_file_is_released_and_its_traces_go() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.put("b.yaml", &service("b", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    fs::remove_file(bed.manifests.join("a.yaml")).unwrap();
    bed.gone("default/a").await;
    let path = bed.state.join("services/default/a.yaml");
    bed.until("its file to go", |_| !path.exists()).await;
    // Deleted while nobody looked.
    bed.close().await;
    fs::remove_file(bed.manifests.join("b.yaml")).unwrap();
    bed.put("c.yaml", &service("c", 80));
    bed.open().await;
    assert_eq!(bed.services.keys().collect::<Vec<_>>(), ["default/c"]);
}

#[tokio::test]
async fn the_last_file_can_be_deleted_too() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    fs::remove_file(bed.manifests.join("a.yaml")).unwrap();
    bed.gone("default/a").await;
}

#[tokio::test]
async fn a_directory_that_vanishes_releases_nothing() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.put("b.yaml", &service("b", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    let away = bed.manifests.with_file_name("away");
    fs::rename(&bed.manifests, &away).unwrap();
    bed.until("the problem", |bed| {
        bed.services["default/a"].source_problem.is_some() && bed.problems().len() == 1
    })
    .await;
    // Memory stands in for it over a restart.
    bed.close().await;
    bed.open().await;
    assert_eq!(
        bed.there("default/a").await.held.node_ports[&TCP_80],
        30_500
    );
    assert_eq!(bed.services.len(), 2);
    fs::rename(&away, &bed.manifests).unwrap();
    bed.until("all to be well", |bed| {
        bed.problems().is_empty() && bed.services.values().all(|it| it.source_problem.is_none())
    })
    .await;
    assert_eq!(bed.services.len(), 2);
}

#[tokio::test]
async fn an_empty_directory_in_its_place_releases_nothing() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    fs::rename(&bed.manifests, bed.manifests.with_file_name("away")).unwrap();
    fs::create_dir(&bed.manifests).unwrap();
    bed.until("the problem", |bed| {
        bed.problems()
            .iter()
            .any(|it| it.contains("holds no manifests at all"))
    })
    .await;
    // However long it lasts.
    let passes = bed.store().passes();
    bed.until("more looks", |bed| bed.store().passes() > passes + 2)
        .await;
    assert!(bed.services.contains_key("default/a"));
}

#[tokio::test]
async fn what_is_missing_when_it_comes_back_is_held_until_it_is_quiet() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.put("b.yaml", &service("b", 80));
    bed.open().await;
    let half = bed.manifests.with_file_name("half");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("b.yaml"), service("b", 80)).unwrap();
    fs::rename(&bed.manifests, bed.manifests.with_file_name("away")).unwrap();
    fs::rename(&half, &bed.manifests).unwrap();
    bed.until("it to be held", |bed| {
        bed.services["default/a"]
            .source_problem
            .as_deref()
            .is_some_and(|it| it.contains("missing"))
    })
    .await;
    assert!(bed.services.contains_key("default/a"));
    bed.gone("default/a").await;
    assert!(bed.services["default/b"].source_problem.is_none());
    bed.until("no problems", |bed| bed.problems().is_empty())
        .await;
}

#[tokio::test]
async fn the_same_object_in_two_files_is_taken_from_the_first_path() {
    let mut bed = Bed::new();
    bed.put("b.yaml", &service("a", 82));
    bed.open().await;
    bed.put("a.yaml", &service("a", 81));
    bed.until("the first path to win", |bed| {
        bed.services["default/a"].service.ports[0].port == 81
    })
    .await;
    bed.until("both to be named", |bed| {
        bed.problems()
            .iter()
            .any(|it| it.starts_with("b.yaml") && it.contains("a.yaml"))
    })
    .await;
    fs::remove_file(bed.manifests.join("a.yaml")).unwrap();
    bed.until("the other to follow", |bed| {
        bed.services["default/a"].service.ports[0].port == 82
    })
    .await;
    bed.until("no problems", |bed| bed.problems().is_empty())
        .await;
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_when_its_link_is_swapped() {
    let mut bed = Bed::new();
    let data = |name: &str, port| {
        fs::create_dir(bed.manifests.join(name)).unwrap();
        fs::write(bed.manifests.join(name).join("a.yaml"), service("a", port)).unwrap();
    };
    data("..1", 81);
    symlink("..1", bed.manifests.join("..data")).unwrap();
    symlink("..data/a.yaml", bed.manifests.join("a.yaml")).unwrap();
    data("..2", 82);
    bed.open().await;
    assert_eq!(bed.there("default/a").await.service.ports[0].port, 81);
    symlink("..2", bed.manifests.join("..data_tmp")).unwrap();
    fs::rename(
        bed.manifests.join("..data_tmp"),
        bed.manifests.join("..data"),
    )
    .unwrap();
    fs::remove_dir_all(bed.manifests.join("..1")).unwrap();
    bed.until("the other data", |bed| {
        bed.services["default/a"].service.ports[0].port == 82
    })
    .await;
}

#[tokio::test]
async fn a_change_that_follows_another_closely_does_not_wait_for_long() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 1));
    bed.open().await;
    let mut times = Vec::new();
    for port in 2..=60 {
        let next = bed.manifests.join(".next");
        fs::write(&next, service("a", port)).unwrap();
        let began = std::time::Instant::now();
        fs::rename(&next, bed.manifests.join("a.yaml")).unwrap();
        bed.until("the change", |bed| {
            bed.services["default/a"].service.ports[0].port == port
        })
        .await;
        times.push(began.elapsed());
    }
    times.sort();
    assert!(times[30] < Duration::from_millis(40), "{times:?}");
}

#[tokio::test]
async fn a_burst_takes_a_bounded_number_of_passes() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 1));
    bed.open().await;
    let before = bed.store().passes();
    let began = std::time::Instant::now();
    for port in 2..=1000 {
        let next = bed.manifests.join(".next");
        fs::write(&next, service("a", port)).unwrap();
        fs::rename(&next, bed.manifests.join("a.yaml")).unwrap();
        tokio::time::sleep(Duration::from_micros(200)).await;
    }
    bed.until("the last", |bed| {
        bed.services["default/a"].service.ports[0].port == 1000
    })
    .await;
    let passes = bed.store().passes() - before;
    let bound = began.elapsed().as_millis() as u64 / 10 + 3;
    assert!(passes <= bound, "{passes} passes, at most {bound} fit in");
}

#[tokio::test]
async fn a_half_written_file_is_not_taken_as_the_truth() {
    use std::io::Write as _;
    let mut bed = Bed::new();
    bed.put(
        "a.yaml",
        &format!("{}---\n{}", service("a", 80), service("b", 80)),
    );
    bed.open().await;
    let mut file = fs::File::create(bed.manifests.join("a.yaml")).unwrap();
    file.write_all(service("a", 81).as_bytes()).unwrap();
    // Another change makes the store look meanwhile.
    fs::create_dir(bed.manifests.join("sub")).unwrap();
    bed.put("sub/c.yaml", &service("c", 80));
    bed.there("default/c").await;
    assert_eq!(bed.services["default/a"].service.ports[0].port, 80);
    file.write_all(format!("---\n{}", service("b", 81)).as_bytes())
        .unwrap();
    drop(file);
    bed.until("all of it", |bed| {
        bed.services["default/b"].service.ports[0].port == 81
    })
    .await;
    assert_eq!(bed.services["default/a"].service.ports[0].port, 81);
}

#[tokio::test]
async fn a_second_owner_is_told_who_has_the_state() {
    let mut bed = Bed::new();
    bed.open().await;
    match DirectoryStore::open(bed.settings()) {
        Err(OpenError::Locked { pid, .. }) => assert_eq!(pid, std::process::id().to_string()),
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("two owners"),
    }
    bed.close().await;
    bed.open().await;
}

#[tokio::test]
async fn corrupt_memory_is_set_aside_and_what_it_held_is_kept() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    bed.close().await;
    let path = bed.state.join("memory.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, whole.replace("{\"source\":", "{\"sou")).unwrap();
    bed.open().await;
    assert_eq!(
        bed.there("default/a").await.held.node_ports[&TCP_80],
        30_500
    );
    assert!(bed.state.join("memory.corrupt").exists());
    bed.until("it to be said", |bed| {
        bed.problems()
            .iter()
            .any(|it| it.contains("memory.corrupt"))
    })
    .await;
    // It is written anew without what is broken: the next start finds nothing wrong.
    bed.close().await;
    bed.open().await;
    assert_eq!(
        bed.there("default/a").await.held.node_ports[&TCP_80],
        30_500
    );
    assert_eq!(bed.problems(), [""; 0]);
}

#[tokio::test]
async fn views_that_cannot_be_written_hold_up_nothing_and_are_tried_again() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.put("b.yaml", &service("b", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    bed.until("all to be written", |bed| {
        bed.store().outstanding().is_empty()
    })
    .await;
    // Whoever is root may write everywhere: a file where a directory is needed stops them too.
    let place = bed.state.join("services/default");
    fs::rename(&place, bed.state.join("kept")).unwrap();
    fs::write(&place, "").unwrap();
    let stored = bed.there("default/b").await;
    let write = Write::Service {
        name: stored.service.name.clone(),
        version: stored.version,
        held: Held {
            addresses: vec!["192.0.2.2".parse().unwrap()],
            ..Held::default()
        },
        status: Status::default(),
    };
    let outcomes = bed.store().write(vec![write.clone()]).await;
    assert!(
        matches!(outcomes[..], [WriteOutcome::Written]),
        "{outcomes:?}"
    );
    bed.until("it to be said", |bed| !bed.store().outstanding().is_empty())
        .await;
    // Changes go on all the same.
    bed.put("b.yaml", &service("b", 81));
    bed.until("the change", |bed| {
        bed.services["default/b"].service.ports[0].port == 81
    })
    .await;
    fs::remove_file(&place).unwrap();
    fs::rename(bed.state.join("kept"), &place).unwrap();
    bed.until("all to be written", |bed| {
        bed.store().outstanding().is_empty()
    })
    .await;
    bed.close().await;
    bed.open().await;
    let held = bed.there("default/b").await.held.clone();
    assert_eq!(held.addresses.len(), 1);
    let view = fs::read_to_string(place.join("b.yaml")).unwrap();
    assert!(view.contains("port: 81"), "{view}");
}

#[tokio::test]
async fn memory_is_for_fairways_eyes_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    let mode = |path: &str| {
        fs::metadata(bed.state.join(path))
            .unwrap()
            .permissions()
            .mode()
    };
    assert_eq!(mode("memory.jsonl") & 0o777, 0o600);
}

#[tokio::test]
async fn special_files_and_loops_stop_nothing() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    symlink(&bed.manifests, bed.manifests.join("loop")).unwrap();
    let mode = rustix::fs::Mode::RUSR;
    let pipe = bed.manifests.join("pipe.yaml");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    bed.open().await;
    bed.there("default/a").await;
    bed.until("the pipe to be named", |bed| {
        bed.problems()
            .iter()
            .any(|it| it == "pipe.yaml: is a FIFO and not a file")
    })
    .await;
}

#[tokio::test]
async fn two_thousand_services_are_there_in_a_second() {
    let mut bed = Bed::new();
    for n in 0..2000 {
        bed.put(&format!("{n}.yaml"), &service(&format!("s-{n}"), 80));
    }
    let began = std::time::Instant::now();
    bed.open().await;
    assert_eq!(bed.services.len(), 2000);
    eprintln!("first batch after {:?}", began.elapsed());
    let writes = bed.services.values().map(|stored| Write::Service {
        name: stored.service.name.clone(),
        version: stored.version,
        held: Held::default(),
        status: Status::default(),
    });
    let writes: Vec<_> = writes.collect();
    let began = std::time::Instant::now();
    let outcomes = bed.store().write(writes).await;
    assert!(outcomes.iter().all(|it| *it == WriteOutcome::Written));
    eprintln!("statuses written after {:?}", began.elapsed());
    bed.close().await;
    assert_eq!(files(&bed.state.join("services/default")), 2000);
}

fn files(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}
