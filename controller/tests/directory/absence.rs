//! What is released and what is not, when files or the whole directory go.

use std::fs;

use super::bed::{Bed, TCP_80, service};

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
