//! What counts as declared: broken files and objects, links, files that are being written.

use std::fs;
use std::os::unix::fs::symlink;

use super::bed::{Bed, TCP_80, service};

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
async fn a_half_written_file_is_not_taken_as_the_truth() {
    use std::io::Write as _;
    let mut bed = Bed::new();
    bed.put(
        "a.yaml",
        &format!("{}---\n{}", service("a", 80), service("b", 80)),
    );
    bed.open().await;
    bed.there("default/b").await;
    let mut file = fs::File::create(bed.manifests.join("a.yaml")).unwrap();
    file.write_all(service("a", 81).as_bytes()).unwrap();
    // Another change makes the store look meanwhile, well within the time that a file has.
    fs::create_dir(bed.manifests.join("sub")).unwrap();
    bed.put("sub/c.yaml", &service("c", 80));
    bed.there("default/c").await;
    let port = |bed: &Bed, name: &str| bed.services[name].service.ports[0].port;
    let both = |bed: &Bed| (port(bed, "default/a"), port(bed, "default/b"));
    assert_eq!(both(&bed), (80, 80));
    file.write_all(format!("---\n{}", service("b", 81)).as_bytes())
        .unwrap();
    drop(file);
    bed.until("all of it", |bed| both(bed) == (81, 81)).await;
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
async fn a_file_that_is_copied_over_another_counts_when_it_is_whole() {
    let mut bed = Bed::new();
    bed.put("a.yaml", &service("a", 80));
    bed.put("b.yaml", &service("b", 80));
    bed.open().await;
    bed.grant("default/a", "192.0.2.1", 30_500).await;
    // As cp(1) and fs::copy do it: emptied, its mode set, and then its content.
    let path = bed.manifests.join("a.yaml");
    let mut file = fs::File::create(&path).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o640);
    file.set_permissions(mode).unwrap();
    // Whoever has seen this has been past the other.
    bed.put("b.yaml", &service("b", 81));
    bed.until("b to change", |bed| {
        bed.services["default/b"].service.ports[0].port == 81
    })
    .await;
    assert_eq!(bed.there("default/a").await.service.ports[0].port, 80);
    std::io::Write::write_all(&mut file, service("a", 82).as_bytes()).unwrap();
    drop(file);
    bed.until("a to change", |bed| {
        bed.services["default/a"].service.ports[0].port == 82
    })
    .await;
    assert!(!bed.there("default/a").await.held.addresses.is_empty());
}
