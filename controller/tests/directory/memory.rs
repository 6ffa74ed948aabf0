//! What the store keeps: through restarts, for people, and when it can't be read or written.

use std::fs;

use fairway_config::service::PortKey;
use fairway_controller::{DirectoryStore, OpenError, Store as _, TakeError, WriteOutcome};

use super::bed::{Bed, TCP_80, granted, service, written};

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
async fn a_pools_conditions_keep_their_time_over_a_restart() {
    let bed = Bed::new();
    let pool = |last: u8| {
        format!(
            "apiVersion: fairway.dev/v1alpha1\nkind: AddressPool\nmetadata: {{name: edge}}\n\
             spec: {{addresses: [192.0.2.1-192.0.2.{last}]}}\n"
        )
    };
    bed.put("a.yaml", &service("a", 80));
    bed.put("pool.yaml", &pool(9));
    bed.run(1).await;
    let view = bed.state.join("pools/edge.yaml");
    let text = fs::read_to_string(&view).unwrap();
    let (front, rest) = text.split_once("lastTransitionTime: ").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    let long_ago = "lastTransitionTime: \"2020-01-01T00:00:00Z\"\n";
    fs::write(&view, format!("{front}{long_ago}{rest}")).unwrap();
    // What there is to say of it is another thing now, so its view is written again.
    bed.put("b.yaml", &service("b", 81));
    bed.run(2).await;
    let text = fs::read_to_string(&view).unwrap();
    assert!(text.contains("used: 2"), "{text}");
    assert!(text.contains("2020-01-01T00:00:00Z"), "{text}");
    // And nothing of it is lost where there is nothing new to say.
    bed.run(2).await;
    assert_eq!(fs::read_to_string(&view).unwrap(), text);
}

#[tokio::test]
async fn every_service_gets_a_file_as_an_api_server_would_return_it() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    bed.all_written().await;
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
    bed.all_written().await;
    // Whoever is root may write everywhere: a file where a directory is needed stops them too.
    let place = bed.state.join("services/default");
    fs::rename(&place, bed.state.join("kept")).unwrap();
    fs::write(&place, "").unwrap();
    let stored = bed.there("default/b").await;
    let write = granted(&stored, "192.0.2.2");
    let outcomes = written(bed.store(), vec![write], None).await;
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
    bed.all_written().await;
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
async fn a_second_owner_is_told_who_has_the_state() {
    let mut bed = Bed::new();
    bed.open().await;
    match DirectoryStore::open(bed.settings()) {
        Err(OpenError::State(TakeError::Locked { pid, .. })) => {
            assert_eq!(pid, std::process::id().to_string())
        }
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("two owners"),
    }
    bed.close().await;
    bed.open().await;
}
